//! What a person or a program can ask of a running node, and what it answers: the types of the
//! local API, as JSON lines. Every request is answered by any number of events and then one
//! [`Event::End`].

mod event;
mod info;
mod request;

pub use event::Event;
pub use info::{
    CloneInfo, GroupInfo, Introducer, InviteInfo, Mistake, PeerInfo, PlanInfo, PlanReceiver,
    Receiver, RosterInfo, TransferInfo, VersionInfo,
};
pub use request::{GroupRequest, PairWay, Request};

/// The program's exit codes.
pub mod exit {
    /// All delivered.
    pub const OK: u8 = 0;
    /// Something went wrong.
    pub const ERROR: u8 = 1;
    /// Usage or config.
    pub const USAGE: u8 = 2;
    /// Some receivers failed.
    pub const SOME_FAILED: u8 = 3;
    /// Not authorized.
    pub const UNAUTHORIZED: u8 = 4;
    /// No receiver before the deadline.
    pub const NO_RECEIVER: u8 = 5;
    /// Integrity.
    pub const INTEGRITY: u8 = 6;
    /// Disk or quota.
    pub const DISK: u8 = 7;
    /// Interrupted.
    pub const INTERRUPTED: u8 = 130;
}
