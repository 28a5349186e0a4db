//! `pause`, `resume`, `cancel`, `accept`, `refuse`: steering transfers.

use super::Failure;
use super::args::Which;
use super::session::{Context, ask, ask_service};
use super::view::Plain;
use crate::actors::api::Request;
use crate::actors::service::Mode;

/// Stops a transfer or broadcast for now.
pub fn pause(context: &Context, Which { id: what }: Which) -> Result<u8, Failure> {
    steer(context, Request::Pause { what })
}

/// Goes on with it.
pub fn resume(context: &Context, Which { id: what }: Which) -> Result<u8, Failure> {
    steer(context, Request::Resume { what })
}

/// Stops it for good.
pub fn cancel(context: &Context, Which { id: what }: Which) -> Result<u8, Failure> {
    steer(context, Request::Cancel { what })
}

/// Takes an offer that waits for a person.
pub fn accept(context: &Context, Which { id: what }: Which) -> Result<u8, Failure> {
    steer(context, Request::Accept { what })
}

/// Does not take it.
pub fn refuse(context: &Context, Which { id: what }: Which) -> Result<u8, Failure> {
    steer(context, Request::Refuse { what })
}

/// Has the service read its settings again.
pub fn reload(context: &Context) -> Result<u8, Failure> {
    let mut view = Plain::new(&context.screen);
    let answer = ask_service(context, Request::Reload, &mut view)?;
    if answer.is_none() {
        context.needs_state()?;
    }
    answer.ok_or_else(|| {
        let state = context.settings.state.dir.display();
        Failure::Other(format!(
            "no service runs on {state}, so there is nothing to reload: `handout config check` \
             says whether the settings are in order"
        ))
    })
}

fn steer(context: &Context, request: Request) -> Result<u8, Failure> {
    ask(context, Mode::Offline, request, Plain::new(&context.screen))
}
