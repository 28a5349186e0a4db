//! The data plane: one session per link, with its pump in each direction. No actor and no
//! mailbox is on the way of a chunk.

mod assembly;
mod credit;
mod exchange;
mod guest;
mod help;
mod incoming;
mod neighbours;
mod outgoing;
mod pacing;
mod patience;
mod plain;
mod progress;
mod reception;
mod serving;
mod session;
mod sink_worker;

pub use outgoing::SendJob;
pub use pacing::Pacer;
pub use plain::{Begun, Pace, PlainFailure, PlainTerms, receive_plain, send_no, send_plain};
pub use progress::Progress;
pub use reception::{BundleKey, Receptions, RelayEvent};
pub use session::{
    Checkpointing, Handled, OfferReply, PairStep, PairThen, SessionCommand, SessionError,
    SessionEvent, SessionOptions, Standing, Stop, TransferEnd, run,
};
