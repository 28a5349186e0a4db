//! What can go wrong while a bundle is received.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::protocol::manifest::{HeadError, PageError};
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::policy::Refusal;
use crate::protocol::series::Series;

/// Why a sink did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The bundle's head is not acceptable.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The head says something else than START_TRANSFER did.
    #[error("the bundle's head does not fit what was offered")]
    OtherThanOffered,
    /// A page or chunk before the head.
    #[error("the bundle's head has not come yet")]
    NoHead,
    /// The origin's key does not hash to its id.
    #[error("the bundle is not the one that was offered, or its key is not that of its origin")]
    KeyMismatch,
    /// Another sink of this or another process receives the same bundle into the same folder.
    #[error("the same bundle is already being received in {path:?}")]
    InUse {
        /// The staging folder.
        path: PathBuf,
    },
    /// The disk, or its file system, failed or refused.
    #[error("{path:?}: {source}")]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A link where a file or folder of ours should be. It was not followed.
    #[error(
        "{path:?} is, or lies behind, a link or something else that is no folder; move it away and try again"
    )]
    Link {
        /// Where.
        path: PathBuf,
    },
    /// No room, or above the user's quota on the disk.
    #[error(
        "the disk is full: {needed} bytes are needed and {free} are free; make room and try again"
    )]
    DiskFull {
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// There is no chunk of this number.
    #[error("the bundle has no chunk {0}")]
    NoSuchChunk(u32),
    /// There is no page of this number.
    #[error("the bundle has no page {0}")]
    NoSuchPage(u32),
    /// A page of the wrong size.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A page or root that the origin did not sign.
    #[error("the signature of {what} is not the origin's")]
    Signature {
        /// What was signed: a page or the root.
        what: String,
    },
    /// A chunk whose page has not come.
    #[error("chunk {index} came before page {page}, which vouches for it")]
    PageUnknown {
        /// The chunk.
        index: u32,
        /// Its page.
        page: u32,
    },
    /// A chunk of the wrong length.
    #[error("chunk {index} must have {expected} bytes, not {got}")]
    Length {
        /// The chunk.
        index: u32,
        /// Bytes that it must have.
        expected: u32,
        /// Bytes that came.
        got: usize,
    },
    /// A chunk that was damaged by accident: its XXH3 differs.
    #[error("chunk {index} was damaged on its way")]
    Corrupt {
        /// The chunk.
        index: u32,
    },
    /// A chunk that is a lie: its XXH3 fits and its BLAKE3 does not.
    #[error("chunk {index} is not what the origin signed")]
    False {
        /// The chunk.
        index: u32,
    },
    /// Chunks are missing.
    #[error("{missing} chunks are still missing")]
    Unfinished {
        /// How many.
        missing: u32,
    },
    /// The root has not been checked yet.
    #[error("the origin's root of the bundle has not come, or does not fit")]
    NotVerified,
    /// A run was interrupted while what came took the place of something, and neither of the two
    /// is where it was left.
    #[error("{path:?} may be what was to be replaced: move it to where it belongs, and try again")]
    Replaced {
        /// What lies in the staging folder.
        path: PathBuf,
    },
    /// The receive policy does not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An older version of a series than the one that is here.
    #[error("it is older than what the receiver has: {series}, and version {here} is there")]
    Older {
        /// What was offered.
        series: Series,
        /// The version that is here.
        here: u64,
    },
    /// A version that a person went back from.
    #[error("a person at the receiver went back from {series}; a newer one is taken")]
    RolledBack {
        /// What was offered.
        series: Series,
    },
    /// Something of that name is in the destination, and the policy neither keeps both nor
    /// replaces it. The reason is told to the sender, who need not know where that is.
    #[error(
        "something called {:?} is already at the receiver, and was not touched",
        printable(&path.file_name().unwrap_or_default().to_string_lossy())
    )]
    Exists {
        /// What is there.
        path: PathBuf,
    },
}

impl SinkError {
    /// The word for it on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Head(HeadError::Version(_)) => Code::Unsupported,
            Self::Head(_)
            | Self::NoHead
            | Self::OtherThanOffered
            | Self::NoSuchChunk(_)
            | Self::NoSuchPage(_)
            | Self::PageUnknown { .. }
            | Self::Length { .. }
            | Self::Page(_)
            | Self::Unfinished { .. } => Code::BadRequest,
            Self::KeyMismatch
            | Self::Signature { .. }
            | Self::Corrupt { .. }
            | Self::False { .. }
            | Self::NotVerified => Code::Integrity,
            Self::InUse { .. } => Code::Busy,
            Self::DiskFull { .. } => Code::DiskFull,
            Self::Io { .. } | Self::Link { .. } | Self::Replaced { .. } => Code::DiskError,
            Self::Refused(refusal) => refusal.code,
            Self::Exists { .. } | Self::Older { .. } | Self::RolledBack { .. } => Code::Declined,
        }
    }

    /// True when whoever sent it is to blame, and not this device.
    pub fn is_senders_fault(&self) -> bool {
        matches!(
            self,
            Self::NoSuchChunk(_)
                | Self::NoSuchPage(_)
                | Self::PageUnknown { .. }
                | Self::Length { .. }
                | Self::Page(_)
                | Self::Signature { .. }
                | Self::Corrupt { .. }
                | Self::False { .. }
        )
    }

    /// True when no origin that follows the protocol sends such a thing, and none that has made
    /// the bundle anew either.
    pub fn is_lie(&self) -> bool {
        self.is_senders_fault()
            || matches!(
                self,
                Self::OtherThanOffered | Self::NoHead | Self::KeyMismatch | Self::NotVerified
            )
    }

    /// What the system said about `path`; a full disk comes back with numbers, which `room`
    /// gives as bytes needed and bytes free.
    pub(super) fn of_io(path: &Path, source: io::Error, room: impl FnOnce() -> (u64, u64)) -> Self {
        let is = |errno: Errno| source.raw_os_error() == Some(errno.raw_os_error());
        if is(Errno::NOSPC) || is(Errno::DQUOT) {
            let (needed, free) = room();
            return Self::DiskFull { needed, free };
        }
        let path = path.to_owned();
        if is(Errno::LOOP) || is(Errno::NOTDIR) {
            Self::Link { path }
        } else {
            Self::Io { path, source }
        }
    }
}
