//! `[notify]`: telling people that something is done, or has failed.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::reader::Reader;
use super::shapes::{Shape, text};

/// Longest address of a webhook, in bytes.
const MAX_URL: usize = 2048;

/// `[notify]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Of what is told.
    pub on: Vec<Occasion>,
    /// Whether the desktop shows it.
    pub desktop: bool,
    /// Where it is posted to; nothing for nowhere. Checked: https, or http to one of `http_hosts`.
    pub webhook: Option<String>,
    /// Hosts that may be told without encryption.
    pub http_hosts: Vec<String>,
    /// The file with what authorizes us there.
    pub secret_file: Option<PathBuf>,
    /// How long one try may take.
    pub timeout: Duration,
    /// How often it is tried again.
    pub retries: u32,
}

/// What is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Occasion {
    /// Everybody has a broadcast, or a bundle has arrived.
    Done,
    /// Somebody does not have it and will not get it, or a bundle has not arrived.
    Failed,
    /// A device has come in.
    Joined,
}

impl Occasion {
    /// The word of the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Joined => "joined",
        }
    }
}

impl FromStr for Occasion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Done, Self::Failed, Self::Joined];
        all.into_iter()
            .find(|occasion| occasion.as_str() == text)
            .ok_or(())
    }
}

/// The scheme and host of a URL; nothing when it is none that we call.
fn parts(url: &str) -> Option<(&str, &str)> {
    let fits = url.len() <= MAX_URL && url.bytes().all(|b| b.is_ascii_graphic());
    let (scheme, rest) = url.split_once("://").filter(|_| fits)?;
    let authority = rest.split(['/', '?', '#']).next()?;
    // A name and password would reach logs.
    if authority.contains('@') || authority.contains('\\') {
        return None;
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some((scheme, host))
}

impl Notify {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let url = Shape::new(
            "a URL that begins with https:// or http://, without a password in it",
            |value| {
                let url = text(value)?.trim();
                match parts(url) {
                    _ if url.is_empty() => Some(None),
                    Some(("https" | "http", _)) => Some(Some(url.to_owned())),
                    _ => None,
                }
            },
        );
        let notify = Self {
            on: r.list("notify.on", "\"done\", \"failed\" or \"joined\""),
            desktop: r.boolean("notify.desktop"),
            webhook: r.shaped("notify.webhook", &url),
            http_hosts: r.list("notify.http_hosts", "names or addresses of hosts"),
            secret_file: r.path("notify.secret_file"),
            timeout: r.duration("notify.timeout", ["1s", "1m"]),
            retries: r.number("notify.retries", 0..=20),
        };
        let plain = notify.webhook.as_deref().and_then(parts);
        let plain = plain.filter(|(scheme, _)| *scheme == "http");
        if let Some((_, host)) = plain
            && !notify.http_hosts.iter().any(|known| known == host)
        {
            let allowed = "https://, or http:// to one of notify.http_hosts".to_owned();
            let got = format!("http:// to {host:?}");
            r.wrong("notify.webhook", "notify.webhook", allowed, got);
        }
        notify
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_url_is_what_is_called_and_nothing_else() {
        assert_eq!(parts("https://a.example/x?y"), Some(("https", "a.example")));
        assert_eq!(parts("http://[::1]:80/x"), Some(("http", "::1")));
        assert_eq!(parts("http://localhost:9?x"), Some(("http", "localhost")));
        for bad in [
            "localhost",
            "http://",
            "http:///x",
            "http://a@b/",
            "http://localhost\\@evil/",
            "http://a b/",
            "http://[::1",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
