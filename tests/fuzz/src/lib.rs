//! The program's protocol layer, and what the fuzzer does with it.

#[path = "../../../src/protocol/mod.rs"]
pub mod protocol;
pub mod targets;
