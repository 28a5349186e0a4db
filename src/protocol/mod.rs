//! The protocol, pure: no clock, no socket, no disk, no async runtime. docs/PROTOCOL.md is its
//! specification; state machines take `now` and inputs and return outputs.

pub mod candidate;
pub mod chunkset;
pub mod clones;
pub mod conduct;
pub mod destination;
pub mod exchange;
pub mod frame;
pub mod framer;
pub mod handshake;
pub mod hours;
pub mod id;
pub mod identity;
pub mod introduction;
pub mod invite;
pub mod manifest;
pub mod message;
pub mod names;
pub mod negotiation;
pub mod pairing;
pub mod peers;
pub mod plan;
pub mod policy;
pub mod proof;
pub mod rate;
pub mod replay;
pub mod roles;
pub mod roster;
pub mod rotation;
pub mod sdp;
pub mod series;
pub mod signal;
pub mod transfer;
pub mod trust;
pub mod vouching;
pub mod window;
