//! placeholder
use super::args::Demo;
pub(super) fn run(_: &super::Context, _: &Demo) -> Result<u8, super::Failure> { Ok(1) }
