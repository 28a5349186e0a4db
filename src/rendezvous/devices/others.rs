//! Several servers on one database: what they tell each other of their devices.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::places::{Delivery, Inner};
use super::tell_presence;
use crate::protocol::id::DeviceId;
use crate::protocol::rendezvous::ServerSays;
use crate::rendezvous::Shared;
use crate::rendezvous::relay::part;
use crate::rendezvous::routes::To;
use crate::rendezvous::store::{Here, Mail, Refused};

/// How often is looked for signals of other servers, where nothing was told of any.
const LOOK: Duration = Duration::from_secs(5);

/// A sign of life for other servers. Where they took this one for gone, they are told again what is
/// here.
pub(in crate::rendezvous) async fn alive(shared: &Shared) -> Result<(), Refused> {
    let ours = &shared.devices.ours;
    let here = || Here {
        devices: shared.devices.all(),
        relays: shared.relays.keys(),
    };
    let told = shared.store.alive(ours, &shared.public_url, here).await?;
    let Some(Here { devices, relays }) = told else {
        return Ok(());
    };
    if !devices.is_empty() || !relays.is_empty() {
        tracing::warn!("other servers took this one for gone; they are told again what is here");
    }
    // Some may have left while that was written.
    for (device, number) in devices {
        if !shared.devices.inner().is_at(&device, number) {
            shared.store.device_left(ours, &device, number).await?;
        }
    }
    for relay in relays {
        part(shared, &relay).await;
    }
    Ok(())
}

/// Takes up what other servers tell, for as long as the process runs.
pub(in crate::rendezvous) async fn attend(shared: To, mut words: mpsc::Receiver<String>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.bus.missed() => missed(&shared).await,
            _ = look.tick() => mails(&shared).await,
            word = words.recv() => match word {
                Some(word) => told(&shared, &word).await,
                None => return,
            }
        }
    }
}

/// Takes up what another server has told: a device that came or went (`d`), or signals for devices
/// here (`m`).
async fn told(shared: &Shared, word: &str) {
    match word.split_at_checked(1) {
        Some(("d", device)) => {
            if let Ok(device) = device.parse()
                && let Err(error) = moved(shared, &device).await
            {
                tracing::warn!(%error, "where a device is now is not known");
                shared.devices.doubt(&device);
            }
        }
        Some(("m", there)) if there == shared.devices.ours.as_str() => mails(shared).await,
        _ => {}
    }
}

async fn moved(shared: &Shared, device: &DeviceId) -> Result<(), Refused> {
    let devices = &shared.devices;
    let number = |inner: &Inner| inner.here.get(device).map(|place| place.number);
    let (before, watched) = {
        let inner = devices.inner();
        (number(&inner), inner.watchers.contains_key(device))
    };
    if before.is_none() && !watched {
        return Ok(());
    }
    let elsewhere = shared.store.elsewhere(&devices.ours, &[device]).await?;
    let elsewhere = elsewhere.contains(device);
    let mut inner = devices.inner();
    match (number(&inner), elsewhere) {
        // Its newer socket is there. One that came here in the meantime is newer still.
        (Some(now), true) if Some(now) == before => {
            inner.remove(device);
            inner.tell_watchers(device, true);
        }
        (Some(_), _) => {}
        (None, present) => inner.tell_watchers(device, present),
    }
    Ok(())
}

/// Hands on what has come for devices here. What fails with one of them holds up no other.
async fn mails(shared: &Shared) {
    let ours = &shared.devices.ours;
    loop {
        let taken = match shared.store.take_mails(ours).await {
            Ok(taken) if taken.is_empty() => return,
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "signals of other servers are late");
                return;
            }
        };
        for mail in taken {
            deliver(shared, mail).await;
        }
    }
}

async fn deliver(shared: &Shared, mail: Mail) {
    let Mail { to, from, signal } = mail;
    let Some(signal) = signal else {
        shared.devices.undeliverable(&to, from);
        return;
    };
    let says = ServerSays::Signal {
        from: from.clone(),
        signal,
    };
    if shared.devices.give(&to, says) == Delivery::Done {
        return;
    }
    // It has just gone, or does not read. Its sender is told on the way back.
    let back = Mail {
        to: from,
        from: to,
        signal: None,
    };
    if let Err(error) = shared.store.mail(&shared.devices.ours, &back).await {
        tracing::warn!(%error, "a signal between devices is lost");
    }
}

/// Words were missed: everything that they may have said is looked up.
async fn missed(shared: &Shared) {
    mails(shared).await;
    for (device, number) in shared.devices.all() {
        tell_presence(shared, &device, number).await;
    }
}
