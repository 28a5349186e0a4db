//! A version of a series on its way to its place.

use std::io;
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use data_encoding::HEXLOWER;
use rustix::io::Errno;

use super::super::commit::{Finished, inode_of};
use super::super::sink::Sink;
use super::super::sink_error::SinkError;
use super::super::staging::{DATA, HEAD};
use super::super::tree;
use super::{Next, Version, Versions};
use crate::protocol::id::Root;
use crate::protocol::manifest::MAX_HEAD;
use crate::protocol::names::BundlePath;
use crate::protocol::policy::Collision;
use crate::protocol::series::Series;

/// A whole bundle that has no place yet.
pub(in super::super) struct Whole<'a> {
    pub(in super::super) staged: &'a Path,
    pub(in super::super) root: Root,
    pub(in super::super) stat: [u8; 32],
}

/// What of the series lies where the new version is to go.
pub(in super::super) enum Own {
    /// Nothing, or something that a person has changed: the policy for collisions decides.
    Nothing,
    /// The version before, untouched, under this name.
    Replaced(String),
    /// The same content, untouched.
    Same(PathBuf),
}

/// The switch from one version to the next.
pub(in super::super) struct Placing {
    versions: Versions,
    number: u64,
    keep: u32,
    next: Option<Next>,
    /// An untouched version that another name than its own is taken for.
    renamed: Option<Version>,
}

impl Sink {
    /// As [`Sink::commit`], for a version of a series; of the earlier ones, `keep` stay.
    pub fn commit_version(
        &mut self,
        collision: Collision,
        series: &Series,
        keep: u32,
    ) -> Result<Finished, SinkError> {
        if let Some(finished) = &self.finished {
            return Ok(finished.clone());
        }
        let origin = self.key.device_id();
        let versions = Versions::make(&self.dest_path, &origin, &series.name);
        let versions = versions.map_err(|error| self.io(&self.dest_path, error))?;
        if let Some(refusal) = versions.refuses(series) {
            return Err(refusal);
        }
        let mut placing = Placing {
            versions,
            number: series.version,
            keep,
            next: None,
            renamed: None,
        };
        self.commit_into(collision, Some(&mut placing))
    }
}

impl Placing {
    pub(in super::super) fn folder(&self) -> &str {
        self.versions.folder()
    }

    /// Looks what lies where the bundle is to go.
    pub(in super::super) fn begin(&mut self, sink: &Sink, whole: Whole<'_>) -> io::Result<Own> {
        let top = sink.head.name.clone();
        let untouched = self.versions.untouched()?;
        if let Some((current, _)) = &untouched
            && current.root == whole.root
            && current.bundle == sink.bundle()
        {
            let path = self.versions.dest_path.join(current.name.as_str());
            self.versions.renumber(self.number, &whole.root)?;
            return Ok(Own::Same(path));
        }
        if let (None, Some(current)) = (&untouched, self.versions.current())
            && inode_of(&sink.dest, current.name.as_str())?.is_some()
        {
            tracing::warn!(
                path = ?sink.dest_path.join(current.name.as_str()),
                "was changed here since it came, and so is not replaced by its next version"
            );
        }
        let head = tree::read_small(&sink.staging.dir, HEAD, MAX_HEAD as u64 + 1)?;
        self.versions
            .put_head(self.number, &head.unwrap_or_default())?;
        let inode = inode_of(&sink.data, top.as_str())?;
        let inode =
            inode.ok_or_else(|| io::Error::other(format!("{:?} vanished", whole.staged)))?;
        let (same_name, renamed) = match untouched {
            Some((current, inode)) if current.called == top => (Some((current, inode)), None),
            Some((current, _)) => (None, Some(current)),
            None => (None, None),
        };
        self.renamed = renamed;
        let version = Version {
            version: self.number,
            called: top.clone(),
            name: top.clone(),
            kind: sink.head.kind,
            bundle: sink.bundle(),
            root: whole.root,
            size: sink.layout.total_size(),
            stat: HEXLOWER.encode(&whole.stat),
            aside: 0,
        };
        let staging = sink.staging_path.file_name().unwrap_or_default();
        let staging = staging.to_string_lossy().into_owned();
        let own = match &same_name {
            Some((current, _)) => Own::Replaced(current.name.as_str().to_owned()),
            None => Own::Nothing,
        };
        // Of one version only one content is kept: the last.
        let replaces = same_name.filter(|(current, _)| current.version != self.number);
        self.next = Some(Next {
            version,
            from: vec![staging, DATA.to_owned()],
            top: top.as_str().to_owned(),
            inode,
            replaces,
            held: None,
        });
        Ok(own)
    }

    /// Says that it is about to get this name.
    pub(in super::super) fn announce(&mut self, name: &str) -> io::Result<()> {
        let Some(next) = &mut self.next else {
            return Ok(());
        };
        next.version.name = BundlePath::single(name).map_err(io::Error::other)?;
        self.versions.announce(next.clone())
    }

    pub(in super::super) fn exchange(&mut self, from: &Dir, name: &str) -> Result<(), Errno> {
        let top = self.next.as_ref().map(|next| next.top.clone());
        self.versions.exchange(from, &top.unwrap_or_default(), name)
    }

    /// It has its name: what it replaced is put aside, and the oldest are let go.
    pub(in super::super) fn end(&mut self) -> io::Result<()> {
        self.versions.settle()?;
        if let Some(old) = self.renamed.take() {
            self.versions.keep_renamed(&old)?;
        }
        self.versions.prune(self.keep)
    }
}
