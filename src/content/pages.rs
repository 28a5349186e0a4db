//! The pages of a bundle that is being received: in memory, and appended to a file so that a
//! receiver can check after a crash what it has, without asking anyone.
//!
//! A record is `page u32, flags u8, length u32`, the origin's signature (64 bytes) and the page's
//! bytes. Of two records of one page the later counts. Whatever does not verify is not believed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use cap_std::fs::Dir;

use super::source::SignedPage;
use super::tree::{self, Open};
use crate::protocol::id::{BundleId, Root};
use crate::protocol::identity::{PublicKey, Signature};
use crate::protocol::manifest::{
    ChunkHash, HASH_BYTES, Layout, PAGE_CHUNKS, Page, page_digest, page_statement, root_of,
};

const FILE: &str = "pages";
const HEADER: usize = 9;
const LONGEST: usize = HEADER + 64 + PAGE_CHUNKS as usize * HASH_BYTES;
/// The page came in place of another one: chunks that were recorded before are to be verified.
const REPLACED: u8 = 1;

struct Known {
    page: Page,
    digest: [u8; 32],
    signature: Signature,
    replaced: bool,
}

/// What a page changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOutcome {
    /// It was not known before.
    New,
    /// It was.
    Known,
    /// Another one was: the origin made the bundle again. These chunks are now missing that were
    /// there before.
    Replaced {
        /// Ascending.
        lost: Vec<u32>,
    },
}

pub(super) struct PageLog {
    file: File,
    end: u64,
    records: usize,
    unsynced: bool,
    pages: Vec<Option<Known>>,
}

impl PageLog {
    /// Opens the log in a staging folder. Every page is verified again, and a torn end dropped.
    pub(super) fn open(
        staging: &Dir,
        layout: &Layout,
        bundle: &BundleId,
        key: &PublicKey,
    ) -> io::Result<Self> {
        let file = tree::file(staging, FILE, Open::Create)?;
        let count = layout.page_count() as usize;
        let mut log = Self {
            file,
            end: 0,
            records: 0,
            unsynced: false,
            pages: (0..count).map(|_| None).collect(),
        };
        let limit = (most_records(count) + 1) * LONGEST;
        let stored = tree::read_small(staging, FILE, limit as u64)?.unwrap_or_default();
        while let Some((number, flags, signature, bytes)) =
            record(&stored[log.end as usize..], layout)
        {
            log.end += (HEADER + 64 + bytes.len()) as u64;
            log.records += 1;
            let digest = page_digest(bytes);
            let signed = key
                .verify(&page_statement(bundle, number, &digest), &signature)
                .is_ok();
            if let (true, Ok(page)) = (
                signed,
                Page::decode(number, layout.page_bytes(number), bytes),
            ) {
                let known = &mut log.pages[number as usize];
                let differs = known
                    .as_ref()
                    .is_some_and(|known| known.digest != digest || known.replaced);
                let replaced = differs || flags & REPLACED != 0;
                *known = Some(Known {
                    page,
                    digest,
                    signature,
                    replaced,
                });
            }
        }
        if log.file.metadata()?.len() != log.end {
            log.file.set_len(log.end)?;
        }
        Ok(log)
    }

    /// The hashes of a chunk, if its page is known.
    pub(super) fn hash(&self, index: u32) -> Option<ChunkHash> {
        let known = self.pages.get((index / PAGE_CHUNKS) as usize)?.as_ref()?;
        known
            .page
            .hashes
            .get((index % PAGE_CHUNKS) as usize)
            .copied()
    }

    /// Whether a record of the chunk made in an earlier run can be about this page.
    pub(super) fn is_first(&self, page: u32) -> bool {
        matches!(self.pages.get(page as usize), Some(Some(known)) if !known.replaced)
    }

    /// A page that is known, as it came.
    pub(super) fn signed(&self, number: u32) -> Option<SignedPage> {
        let known = self.pages.get(number as usize)?.as_ref()?;
        Some(SignedPage {
            number,
            bytes: known.page.encode().into(),
            signature: known.signature,
        })
    }

    /// The pages that are not known.
    pub(super) fn missing(&self) -> Vec<u32> {
        (0..)
            .zip(&self.pages)
            .filter(|(_, page)| page.is_none())
            .map(|(number, _)| number)
            .collect()
    }

    /// The root of the pages; `None` while one is missing.
    pub(super) fn root(&self, bundle: &BundleId) -> Option<Root> {
        let digests: Option<Vec<_>> = self
            .pages
            .iter()
            .map(|page| Some(page.as_ref()?.digest))
            .collect();
        Some(root_of(bundle, digests?))
    }

    /// Takes a page whose signature has been checked. Chunks that differ from those of the page
    /// before come back as lost, whether they are there or not.
    pub(super) fn put(
        &mut self,
        staging: &Dir,
        page: Page,
        bytes: &[u8],
        signature: Signature,
    ) -> io::Result<PageOutcome> {
        let digest = page_digest(bytes);
        let at = page.number as usize;
        let (outcome, replaced) = match &self.pages[at] {
            None => (PageOutcome::New, false),
            Some(known) if known.digest == digest => return Ok(PageOutcome::Known),
            Some(known) => {
                let pairs = known.page.hashes.iter().zip(&page.hashes);
                let first = page.number * PAGE_CHUNKS;
                let lost = (first..)
                    .zip(pairs)
                    .filter(|(_, (a, b))| a != b)
                    .map(|(index, _)| index)
                    .collect();
                (PageOutcome::Replaced { lost }, true)
            }
        };
        if self.records >= most_records(self.pages.len()) {
            self.compact(staging)?;
        }
        self.append(&record_bytes(page.number, replaced, &signature, bytes))?;
        self.pages[at] = Some(Known {
            page,
            digest,
            signature,
            replaced,
        });
        Ok(outcome)
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        // After a failed write the end stays where it was, and the next record goes over it.
        self.file.write_all_at(record, self.end)?;
        self.end += record.len() as u64;
        self.records += 1;
        self.unsynced = true;
        Ok(())
    }

    /// Writes the log anew without the pages that were replaced, so that an origin that keeps
    /// changing its mind does not fill the disk.
    fn compact(&mut self, staging: &Dir) -> io::Result<()> {
        let mut all = Vec::new();
        for known in self.pages.iter().flatten() {
            all.extend(record_bytes(
                known.page.number,
                known.replaced,
                &known.signature,
                &known.page.encode(),
            ));
        }
        tree::replace(staging, FILE, &all)?;
        self.file = tree::file(staging, FILE, Open::Write)?;
        self.end = all.len() as u64;
        self.records = self.pages.iter().flatten().count();
        Ok(())
    }

    /// Makes the pages durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }
}

fn most_records(pages: usize) -> usize {
    2 * pages + 16
}

fn record_bytes(number: u32, replaced: bool, signature: &Signature, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 64 + bytes.len());
    out.extend_from_slice(&number.to_be_bytes());
    out.push(if replaced { REPLACED } else { 0 });
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(&signature.0);
    out.extend_from_slice(bytes);
    out
}

/// The record at the beginning of `stored`; `None` where there is no whole one.
fn record<'a>(stored: &'a [u8], layout: &Layout) -> Option<(u32, u8, Signature, &'a [u8])> {
    let (number, rest) = stored.split_first_chunk::<4>()?;
    let (&flags, rest) = rest.split_first()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (signature, rest) = rest.split_first_chunk::<64>()?;
    let (number, len) = (
        u32::from_be_bytes(*number),
        u32::from_be_bytes(*len) as usize,
    );
    if len == 0 || len != layout.page_bytes(number) {
        return None;
    }
    Some((number, flags, Signature(*signature), rest.get(..len)?))
}
