//! Files: finding what to send, reading and hashing it, and writing what comes, verified and
//! never outside its destination.

mod cache;
mod commit;
mod download;
pub mod generate;
mod hashes;
mod heads;
mod pages;
mod pool;
mod reader;
mod recover;
mod reuse;
mod scan;
mod sink;
mod sink_error;
mod source;
mod staging;
mod tree;
mod versions;
mod watch;
mod withheld;

pub use commit::{Finished, check_name, stat_digest};
pub use download::Download;
pub use heads::HeadShelf;
pub use pages::PageOutcome;
pub use reader::ChunkReader;
pub use reuse::{Abandoned, Before, Earlier, Reuse, Step};
pub use scan::{Scan, ScanError, SkipReason, scan, scan_as};
pub use sink::{RootOutcome, Sink, check_space, free_space};
pub use sink_error::SinkError;
pub use source::{Chunk, SignedPage, Source, SourceError};
pub use staging::{discard_partial, find_partial};
pub use versions::{
    Listed, RollBackError, check_version, earlier_versions, list, make_room, renumber, roll_back,
    takes_place,
};
pub use watch::{NotTaken, Watch, look, take};
pub use withheld::{MADE, Withheld};
