//! Devices that are let in, speak the wire of the protocol, and turn bad. Whole nodes, real
//! WebRTC, over loopback: nothing false is written or passed on, the liar is named and dropped,
//! and everybody else is served as if nothing had happened.

#[path = "../nodes/mod.rs"]
mod nodes;

mod bundle;
mod origin;
mod receiver;
mod relay;
mod room;
mod vouch;
