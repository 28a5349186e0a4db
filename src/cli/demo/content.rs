//! What the demo sends, and whether it arrived: looked at from outside, without the program's own
//! transfer code.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes that are written or read at once.
const PIECE: usize = 1 << 20;

/// A folder that is removed with everything in it when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one where the system has its temporary files.
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("handout-demo-{}", hex(&random::<8>()?)));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the demo's folder stays");
        }
    }
}

/// Writes a file of random bytes, giving way in between.
pub async fn write_random(path: &Path, size: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut random = blake3::Hasher::new_keyed(&random::<32>()?).finalize_xof();
    let mut piece = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        random.fill(&mut piece[..part]);
        file.write_all(&piece[..part])?;
        left -= part as u64;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Bytes of a file, or of all files in a folder; links are not followed.
pub fn size_of(path: &Path) -> io::Result<u64> {
    let kind = fs::symlink_metadata(path)?;
    if !kind.is_dir() {
        return Ok(if kind.is_file() { kind.len() } else { 0 });
    }
    let mut size = 0;
    for entry in fs::read_dir(path)? {
        size += size_of(&entry?.path())?;
    }
    Ok(size)
}

/// Bytes that may still be written where a path is.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// BLAKE3 of a file; of a folder, over the paths and hashes of all files in it.
pub fn digest(path: &Path) -> io::Result<blake3::Hash> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return digest_file(path);
    }
    let mut files = Vec::new();
    collect(path, path, &mut files)?;
    files.sort();
    let mut all = blake3::Hasher::new();
    for relative in files {
        let name = relative.as_os_str().as_encoded_bytes();
        all.update(&(name.len() as u64).to_le_bytes());
        all.update(name);
        all.update(digest_file(&path.join(&relative))?.as_bytes());
    }
    Ok(all.finalize())
}

fn digest_file(path: &Path) -> io::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hash = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize()),
            read => hash.update(&piece[..read]),
        };
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file()
            && let Ok(relative) = path.strip_prefix(root)
        {
            files.push(relative.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_trees_have_equal_digests_and_a_flipped_byte_shows() {
        let (one, two) = (Scratch::new().unwrap(), Scratch::new().unwrap());
        for root in [one.path(), two.path()] {
            fs::create_dir(root.join("in")).unwrap();
            fs::write(root.join("in/a"), "hello").unwrap();
            fs::write(root.join("b"), "").unwrap();
        }
        assert_eq!(digest(one.path()).unwrap(), digest(two.path()).unwrap());
        assert_eq!(size_of(one.path()).unwrap(), 5);
        fs::write(two.path().join("in/a"), "hellO").unwrap();
        assert_ne!(digest(one.path()).unwrap(), digest(two.path()).unwrap());
        let gone = one.path().to_owned();
        drop(one);
        assert!(!gone.exists());
    }
}
