//! `run`: the service.

use super::Failure;
use super::receive::serve;
use super::session::Context;
use crate::actors::service::Mode;

/// Serves until stopped.
pub fn run(context: &Context) -> Result<u8, Failure> {
    serve(context, Mode::Run, false, None)
}
