//! Devices that are here: who is, who wants to know of whom, and what they say to each other.

mod others;
mod places;
mod seats;
mod socket;

use std::time::Duration;

use super::Shared;
use super::routes::To;
use super::store::Mail;
use crate::protocol::id::DeviceId;
use crate::protocol::rendezvous::ServerSays;
pub(super) use others::{alive, attend};
use places::Delivery;
pub(super) use places::Devices;
pub(super) use seats::Limits;
pub(super) use socket::{UNREAD, open, pings};

/// Messages that may wait for a device.
pub(super) const ROOM: usize = 256;

/// How often is looked again who is there, for those to whom something may be wrong.
const AGAIN: Duration = Duration::from_secs(5);

/// Gives a signal to a device, wherever its socket is.
async fn send(shared: &Shared, from: &DeviceId, to: DeviceId, signal: serde_json::Value) {
    let here = shared.devices.give(
        &to,
        ServerSays::Signal {
            from: from.clone(),
            signal: signal.clone(),
        },
    );
    let arrived = match here {
        Delivery::Done => Ok(true),
        Delivery::Full => Ok(false),
        Delivery::NotHere => {
            let mail = Mail {
                to: to.clone(),
                from: from.clone(),
                signal: Some(signal),
            };
            shared.store.mail(&shared.devices.ours, &mail).await
        }
    };
    match arrived {
        Ok(true) => {
            shared.metrics.mails.inc();
            return;
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "a signal between devices is lost"),
    }
    shared.devices.undeliverable(from, to);
}

/// Tells a device what it does not know yet of those of its list.
async fn tell_presence(shared: &Shared, device: &DeviceId, number: u64) {
    let Some(question) = shared.devices.question(device, number) else {
        return;
    };
    let ours = &shared.devices.ours;
    let elsewhere = shared.store.elsewhere(ours, &question.rest()).await;
    if let Err(error) = &elsewhere {
        tracing::warn!(%error, "who is at other servers is not known now");
    }
    let elsewhere = elsewhere.as_ref().ok();
    shared.devices.answer(device, number, &question, elsewhere);
}

/// Looks again who is there, for those to whom something may be wrong, for as long as the process
/// runs: not at once, or two who cannot reach each other would keep this server busy.
pub(super) async fn look_again(shared: To) {
    loop {
        tokio::time::sleep(AGAIN).await;
        for (device, number) in shared.devices.doubting() {
            tell_presence(&shared, &device, number).await;
        }
    }
}
