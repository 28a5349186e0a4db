//! The heads of bundles that have arrived, kept in the state folder: with one, and the digest in
//! the transfer's record, a bundle that is offered again is recognised without reading its files.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::stat_digest;
use crate::protocol::id::BundleId;
use crate::protocol::manifest::{Head, MAX_HEAD};

/// Bytes of all heads together; the oldest go.
const MAX_BYTES: u64 = 256 << 20;

/// A folder of heads, each under its bundle's id.
#[derive(Debug, Clone)]
pub struct HeadShelf(PathBuf);

impl HeadShelf {
    /// The shelf in this folder, which is made when the first head comes.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    fn path(&self, bundle: &BundleId) -> PathBuf {
        self.0.join(bundle.to_string())
    }

    /// Keeps a head. Not synced: losing one only means that its bundle is not recognised.
    pub fn put(&self, bundle: &BundleId, head: &Head) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let temporary = self.path(bundle).with_extension("new");
        fs::write(&temporary, head.encode())?;
        fs::rename(&temporary, self.path(bundle))?;
        self.bound(MAX_BYTES)
    }

    /// Lets the oldest go until all have at most so many bytes.
    fn bound(&self, most: u64) -> io::Result<()> {
        let mut heads = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let about = entry.metadata()?;
            heads.push((about.modified()?, about.len(), entry.path()));
        }
        heads.sort();
        let mut bytes: u64 = heads.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in heads {
            if bytes <= most {
                break;
            }
            fs::remove_file(path)?;
            bytes -= size;
        }
        Ok(())
    }

    /// A head that is kept.
    pub fn get(&self, bundle: &BundleId) -> Option<Head> {
        let path = self.path(bundle);
        if fs::metadata(&path).ok()?.len() > MAX_HEAD as u64 {
            return None;
        }
        Head::decode(&fs::read(path).ok()?).ok()
    }

    /// True when the bundle lies at `path` with exactly the sizes and times of this digest.
    pub fn is_unchanged(&self, bundle: &BundleId, path: &Path, stat: &[u8; 32]) -> bool {
        self.get(bundle)
            .and_then(|head| stat_digest(path, &head).ok())
            .is_some_and(|now| now == *stat)
    }

    /// Removes the heads of all other bundles.
    pub fn retain(&self, bundles: &HashSet<BundleId>) {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let kept = name.to_str().and_then(|name| name.parse().ok());
            if kept.is_none_or(|bundle| !bundles.contains(&bundle)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_heads_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = HeadShelf::new(folder.path().to_owned());
        let begin = std::time::SystemTime::now();
        for n in 0..10_u8 {
            let path = shelf.path(&BundleId([n; 32]));
            fs::write(&path, [n; 100]).unwrap();
            let file = fs::File::options().append(true).open(path).unwrap();
            let at = begin + std::time::Duration::from_secs(n.into());
            file.set_modified(at).unwrap();
        }
        shelf.bound(350).unwrap();
        for n in 0..10 {
            let there = shelf.path(&BundleId([n; 32])).exists();
            assert_eq!(there, n >= 7, "{n}");
        }
        shelf.bound(350).unwrap();
        assert!(shelf.path(&BundleId([7; 32])).exists());
    }

    #[test]
    fn a_bundle_is_recognised_until_it_is_touched_or_its_head_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        fs::write(&file, b"hello").unwrap();
        let head = super::super::scan(std::slice::from_ref(&file), &Default::default())
            .unwrap()
            .head;
        let bundle = crate::protocol::manifest::bundle_id(&head.encode());
        let shelf = HeadShelf::new(folder.path().join("heads"));
        let stat = stat_digest(&file, &head).unwrap();
        assert!(!shelf.is_unchanged(&bundle, &file, &stat));
        shelf.put(&bundle, &head).unwrap();
        assert!(shelf.is_unchanged(&bundle, &file, &stat));
        shelf.retain(&HashSet::from([bundle]));
        assert!(shelf.is_unchanged(&bundle, &file, &stat));
        fs::write(&file, b"hello there").unwrap();
        assert!(!shelf.is_unchanged(&bundle, &file, &stat));
        shelf.retain(&HashSet::new());
        assert_eq!(
            fs::read_dir(folder.path().join("heads")).unwrap().count(),
            0
        );
    }
}
