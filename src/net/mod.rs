//! Sockets, mDNS and WebRTC, turned into typed events.

pub mod link;
pub mod runtime;
