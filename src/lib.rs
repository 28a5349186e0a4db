//! Handout gives a file to a whole room: one machine sends, many authorized machines receive,
//! over WebRTC data channels.
//!
//! Layers, each using only those below it (a test holds them to it):
//!
//! ```text
//! cli                      the program's verbs
//! web                      HTTP for other programs of this machine
//! rendezvous               the server on which devices of different networks meet
//! actors                   the control plane: discovery, signaling, peers, coordinator, store
//! dataplane                one pump per link: chunks from source to channel, channel to sink
//! net  content  store  config    sockets and WebRTC; files; sled; settings
//! protocol                 pure: messages, state machines, trust; no clock, socket or disk
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod actors;
pub mod cli;
pub mod config;
pub mod content;
pub mod dataplane;
pub mod net;
pub mod protocol;
pub mod rendezvous;
pub mod store;
pub mod web;
