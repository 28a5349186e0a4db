//! Where the HTTP API listens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::shapes::{Shape, text};
use super::surroundings::Surroundings;

/// Where the HTTP API listens: never where another machine could reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAddress {
    /// A loopback address; port 0 for any.
    Tcp(SocketAddr),
    /// A socket in the file system, absolute.
    Unix(PathBuf),
}

impl ApiAddress {
    /// As it is written in a file; relative paths start at the folder of that.
    pub(super) fn shape<'a>(
        surroundings: &'a Surroundings,
        file: Option<&'a Path>,
    ) -> Shape<'a, Option<Self>> {
        let allowed = "empty, a loopback address with its port such as \"127.0.0.1:7070\" or \
                       \"[::1]:7070\", or \"unix:/path\"; other machines reach it through a proxy \
                       or a tunnel only";
        Shape::new(allowed, move |value| {
            let written = text(value)?.trim();
            if written.is_empty() {
                return Some(None);
            }
            if let Some(path) = written.strip_prefix("unix:") {
                let in_file = file.filter(|file| value.origin() == file.to_str());
                let base = in_file.and_then(Path::parent);
                let base = base.unwrap_or(&surroundings.current_dir);
                let path = surroundings.absolute(path, base)?;
                return (!path.as_os_str().is_empty()).then_some(Some(Self::Unix(path)));
            }
            let address: SocketAddr = written.parse().ok()?;
            address
                .ip()
                .is_loopback()
                .then_some(Some(Self::Tcp(address)))
        })
    }
}
