//! Finding out what of a partial bundle is really on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::sink::Sink;
use super::tree::{self, Open};
use crate::protocol::chunkset::ChunkSet;
use crate::protocol::manifest::{ChunkHash, ChunkSpan};

impl Sink {
    /// Finds the chunks that are on the disk, and returns all that are known to be.
    ///
    /// Chunks of `checkpoint` are trusted where their file is long enough: they were durable when
    /// it was recorded. All others are read and verified, so that what was written after the last
    /// checkpoint is not lost; regions that were never written cost nothing. Without a
    /// checkpoint everything is verified. Chunks whose page is not known count as missing.
    pub fn recover(&mut self, checkpoint: Option<&ChunkSet>) -> &ChunkSet {
        let count = self.layout.chunk_count();
        if self.finished.is_some() {
            self.have = ChunkSet::full(count);
            return &self.have;
        }
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.count() == count);
        let mut buffer = Vec::new();
        for file in 0..self.head.files.len() {
            if self.layout.file_chunks(file).is_empty() {
                continue;
            }
            match self.recover_file(file, checkpoint, &mut buffer) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let path = self.path_of(file);
                    tracing::warn!(?path, %error, "a partial file cannot be read; it is received again");
                }
            }
        }
        &self.have
    }

    fn recover_file(
        &mut self,
        file: usize,
        checkpoint: Option<&ChunkSet>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let path = self.head.files[file].path.clone();
        let opened = tree::file_at(self.tree()?, &path, Open::Read)?;
        let end = opened.metadata()?.len();
        for index in self.layout.file_chunks(file) {
            let Some(span) = self.layout.chunk(index) else {
                continue;
            };
            if span.offset + u64::from(span.len) > end {
                break;
            }
            let Some(expected) = self.pages.hash(index) else {
                continue;
            };
            let recorded = checkpoint.is_some_and(|checkpoint| checkpoint.contains(index));
            let trusted = recorded && self.pages.is_first(self.layout.page_of(index));
            if trusted || (is_data(&opened, span)? && read(&opened, span, buffer)? == expected) {
                self.have.insert(index);
            } else {
                self.have.remove(index);
            }
        }
        Ok(())
    }
}

fn read(file: &File, span: ChunkSpan, buffer: &mut Vec<u8>) -> io::Result<ChunkHash> {
    buffer.resize(span.len as usize, 0);
    file.read_exact_at(buffer, span.offset)?;
    Ok(ChunkHash::of(buffer))
}

/// Whether anything was ever written where the chunk belongs. Where the file system does not
/// know, it says that there was.
fn is_data(file: &File, span: ChunkSpan) -> io::Result<bool> {
    match rustix::fs::seek(file, SeekFrom::Data(span.offset)) {
        Ok(at) => Ok(at < span.offset + u64::from(span.len)),
        Err(Errno::NXIO) => Ok(false),
        Err(_) => Ok(true),
    }
}
