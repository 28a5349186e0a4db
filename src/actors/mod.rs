//! The control plane: actix actors with small synchronous handlers. No byte of a file passes
//! through them.

pub mod api;
pub mod control;
mod coordinator;
pub mod dht;
mod discovery;
pub mod health;
pub mod manager;
pub mod metrics;
mod network;
mod peer;
mod program;
pub mod provider;
pub mod report;
pub mod service;
mod signaling;
mod store;
mod telling;

#[cfg(test)]
mod door_tests;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod swarm_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trust_tests;
#[cfg(test)]
mod version_tests;
