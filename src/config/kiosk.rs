//! `[kiosk]`: a device that lets others in by itself.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::shapes::{Shape, text};
use crate::protocol::invite::MAX_USES;
use crate::protocol::roles::Roles;
use crate::protocol::trust::{MAX_MEMBERS, check_group_name};

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// `[kiosk]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kiosk {
    /// Whether an invite stands.
    pub invite: bool,
    /// Where its secret is from; nothing for one that the state folder keeps.
    pub secret_file: Option<PathBuf>,
    /// Whether a PIN stands, and which.
    pub pin: KioskPin,
    /// The file with the PIN, where it is from one.
    pub pin_file: Option<PathBuf>,
    /// How often the PIN changes, or its tries come back.
    pub pin_every: Duration,
    /// The group of those who come.
    pub group: String,
    /// What they may do.
    pub roles: Roles,
    /// How many may come in a day.
    pub per_day: u32,
    /// For how long they are let in.
    pub stay: Duration,
    /// The folder of the files that tell how to come in; nothing for one in the state folder.
    pub show: Option<PathBuf>,
}

/// Which PIN stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KioskPin {
    /// None.
    Off,
    /// A random one, which changes.
    Rotate,
    /// That of a file.
    File,
}

impl Kiosk {
    /// True when the device lets others in by itself.
    pub fn is_open(&self) -> bool {
        self.invite || self.pin != KioskPin::Off
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let group = Shape::new("the name of a group, such as \"visitors\"", |value| {
            let name = text(value)?;
            check_group_name(name).is_ok().then(|| name.to_owned())
        });
        let kiosk = Self {
            invite: r.boolean("kiosk.invite"),
            secret_file: r.path("kiosk.secret_file"),
            pin: r.choice(
                "kiosk.pin",
                &[
                    ("off", KioskPin::Off),
                    ("rotate", KioskPin::Rotate),
                    ("file", KioskPin::File),
                ],
            ),
            pin_file: r.path("kiosk.pin_file"),
            pin_every: r.duration("kiosk.pin_every", ["1m", "7d"]),
            group: r.shaped("kiosk.group", &group),
            roles: r.parsed(
                "kiosk.roles",
                "send, receive, relay, introduce, all or none, with commas between",
            ),
            per_day: r.number("kiosk.per_day", 1..=u64::from(MAX_USES)),
            stay: r.duration("kiosk.stay", ["1m", "365d"]),
            show: r.path("kiosk.show"),
        };
        if kiosk.pin == KioskPin::File && kiosk.pin_file.is_none() {
            let allowed = "a file with six digits, since kiosk.pin is \"file\"".to_owned();
            r.wrong("kiosk.pin", "kiosk.pin_file", allowed, "\"\"".to_owned());
        }
        let days = kiosk.stay.as_secs().div_ceil(DAY) + 1;
        if kiosk.is_open() && u64::from(kiosk.per_day) * days > MAX_MEMBERS as u64 {
            let allowed = format!(
                "so short that kiosk.per_day devices a day are at most {MAX_MEMBERS} at once"
            );
            let got = format!("{} devices a day for {} days", kiosk.per_day, days - 1);
            r.wrong("kiosk.stay", "kiosk.stay", allowed, got);
        }
        kiosk
    }
}
