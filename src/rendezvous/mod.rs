//! The rendezvous: a server by which devices of different networks find each other.

pub mod turn;
