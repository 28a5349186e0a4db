//! Files: finding what to send, reading and hashing it, and writing what comes, verified and
//! never outside its destination.

mod cache;
pub mod scan;
pub mod source;

pub use scan::{Scan, ScanError, SkipReason, scan, scan_as};
pub use source::{Chunk, SignedPage, Source, SourceError};
