//! `[rendezvous]`: meeting devices of other networks at a rendezvous.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::shapes::{Shape, text};

/// Longest address of a rendezvous, in bytes.
const MAX_URL: usize = 2048;

/// `[rendezvous]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Where the rendezvous is; nothing for none.
    pub url: Option<String>,
    /// The file with what says who we are there.
    pub token_file: Option<PathBuf>,
    /// A file with certificates that are believed in place of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Whether authorized devices can reach this one there for as long as it runs.
    pub register: bool,
    /// Whether links may go through it where WebRTC fails.
    pub relay: bool,
    /// How long WebRTC is tried before that.
    pub fallback_after: Duration,
}

impl Meeting {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let url = Shape::new(
            "a URL that begins with https:// or http://, without a password or a question mark",
            |value| {
                let url = text(value)?.trim();
                let rest = (url.strip_prefix("https://")).or_else(|| url.strip_prefix("http://"));
                let fits = |rest: &str| {
                    let graphic = |b| u8::is_ascii_graphic(&b) && !b"@?#\\".contains(&b);
                    url.len() <= MAX_URL
                        && !rest.starts_with(['/', ':'])
                        && !rest.is_empty()
                        && rest.bytes().all(graphic)
                };
                match rest {
                    None if url.is_empty() => Some(None),
                    Some(rest) if fits(rest) => Some(Some(url.to_owned())),
                    _ => None,
                }
            },
        );
        let meeting = Self {
            url: r.shaped("rendezvous.url", &url),
            token_file: r.path("rendezvous.token_file"),
            ca_file: r.path("rendezvous.ca_file"),
            register: r.boolean("rendezvous.register"),
            relay: r.boolean("rendezvous.relay"),
            fallback_after: r.duration("rendezvous.fallback_after", ["1s", "10m"]),
        };
        if meeting.url.is_some() && meeting.token_file.is_none() {
            let allowed = "a file with a token, since rendezvous.url is set".to_owned();
            let got = "\"\"".to_owned();
            r.wrong("rendezvous.url", "rendezvous.token_file", allowed, got);
        }
        meeting
    }
}
