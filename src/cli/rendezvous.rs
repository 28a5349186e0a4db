//! `rendezvous`: be a server on which devices and programs meet; make tokens for it.

use std::time::Duration;

use serde_json::json;

use super::Failure;
use super::args::{NewToken, RendezvousVerb};
use super::session::{Context, Interrupts};
use crate::actors::api::{Event, exit};
use crate::protocol::names::printable;
use crate::protocol::rendezvous::Claims;
use crate::rendezvous::tokens::{KEY_FILE, Keys, MAX_SUBJECT, is_subject, unix_now};
use crate::rendezvous::{self, StartError};

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Key(_) => Self::Usage(error.to_string()),
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Serves until stopped, or makes a token.
pub fn run(context: &Context, what: Option<RendezvousVerb>) -> Result<u8, Failure> {
    match what {
        None => serve(context),
        Some(RendezvousVerb::Token(new)) => token(context, new),
    }
}

fn serve(context: &Context) -> Result<u8, Failure> {
    let screen = &context.screen;
    let system = actix_rt::System::new();
    system.block_on(async {
        let mut interrupts = Interrupts::of_service()?;
        let served = rendezvous::start(&context.settings).await?;
        match screen.is_json() {
            true => screen.object(&json!({ "event": "listening", "url": served.url }))?,
            false => screen.result(&format!("listening on {}", served.url))?,
        }
        let (ready, gone) = (
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Stopping,
        );
        let _ = sd_notify::notify(&[ready]);
        interrupts.next().await;
        let _ = sd_notify::notify(&[gone]);
        screen.note("ending");
        served.stop().await;
        if screen.is_json() {
            screen.object(&Event::End { code: exit::OK })?;
        }
        Ok(exit::OK)
    })
}

fn token(context: &Context, new: NewToken) -> Result<u8, Failure> {
    let (settings, screen) = (&context.settings, &context.screen);
    if !is_subject(&new.subject) {
        return Err(Failure::Usage(format!(
            "--subject must have 1 to {MAX_SUBJECT} bytes without control characters"
        )));
    }
    if new.life < Duration::from_secs(1) {
        return Err(Failure::Usage("--for must be at least 1s".to_owned()));
    }
    rendezvous::make_state(&settings.state.dir)?;
    let (serve, key) = (
        &settings.rendezvous_serve,
        settings.state.dir.join(KEY_FILE),
    );
    let makes = serve.secret_file.is_none() && !key.exists();
    let keys = Keys::load(serve, &settings.state.dir);
    let keys = keys.map_err(StartError::from)?;
    if makes {
        screen.warn(&printable(&format!(
            "there was no key of tokens, so one was made: {}; a rendezvous with another --state, or \
             of another user, does not take this token",
            key.display()
        )));
    }
    let now = unix_now();
    let claims = Claims {
        sub: new.subject,
        aud: keys.audience().to_owned(),
        iat: now,
        nbf: None,
        exp: now.saturating_add(new.life.as_secs()),
        client_type: new.client_type,
    };
    let token = keys.sign(&claims);
    let token =
        token.map_err(|why| Failure::Other(format!("the token cannot be signed: {why}")))?;
    match screen.is_json() {
        true => {
            screen.object(&json!({
                "event": "token",
                "token": token,
                "subject": claims.sub,
                "client_type": claims.client_type,
                "expires": claims.exp,
            }))?;
            screen.object(&Event::End { code: exit::OK })?;
        }
        false => screen.result(&token)?,
    }
    Ok(exit::OK)
}
