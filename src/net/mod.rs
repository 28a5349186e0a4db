//! Sockets, mDNS and WebRTC, turned into typed events.

pub mod dht;
pub mod discovery;
pub mod ice;
pub mod interfaces;
pub mod link;
pub mod plain;
pub mod rendezvous;
pub mod runtime;
pub mod signaling;
