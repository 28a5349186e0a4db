//! Turns sockets and mDNS into typed events. Uses the protocol and nothing above.

pub mod discovery;
pub mod interfaces;
pub mod signaling;
