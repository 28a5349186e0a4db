//! `[rendezvous.serve]`: being a rendezvous.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::shapes::{Shape, text};
use super::units::Network;

const KIB: u64 = 1 << 10;
const MANY: u64 = 1_000_000;

/// Where a rendezvous keeps its sessions.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A file; where nothing is said, `rendezvous.db` in the state folder.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server, by its URL, which may hold a password.
    Postgres(String),
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

/// `[rendezvous.serve]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RendezvousServe {
    /// The address to listen on.
    pub bind: SocketAddr,
    /// Where sessions are kept.
    pub database: Database,
    /// Where others reach this very server.
    pub public_url: Option<String>,
    /// The file with the secret of tokens, absolute; nothing for a key of its own.
    pub secret_file: Option<PathBuf>,
    /// What tokens must be for.
    pub audience: String,
    /// Whose word about addresses counts.
    pub proxies: Vec<Network>,
    /// How long a session lasts after the last that its parties said in it or asked.
    pub session_for: Duration,
    /// How long it is on record after that.
    pub keep_for: Duration,
    /// Open sessions of one user.
    pub max_sessions: u32,
    /// Signals of one session.
    pub max_signals: u32,
    /// Requests of one user in a second.
    pub user_rate: u32,
    /// Requests from one address in a second.
    pub address_rate: u32,
    /// Open connections.
    pub max_connections: usize,
    /// Those from one address.
    pub address_connections: usize,
    /// Devices whose sockets are open.
    pub max_devices: usize,
    /// Open sockets of one user's devices.
    pub user_devices: usize,
    /// Open relayed links.
    pub max_relays: usize,
    /// Those of one user.
    pub user_relays: usize,
    /// Bytes of one relayed link.
    pub relay_bytes: u64,
    /// Bytes of one user's relayed links in a day.
    pub relay_day: u64,
}

impl RendezvousServe {
    pub(super) fn read(r: &mut Reader<'_>, state: &std::path::Path) -> Self {
        let bind = r.parsed(
            "rendezvous.serve.bind",
            "an address with a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"",
        );
        let database = database(r, state);
        let serve = Self {
            bind,
            database,
            public_url: r.shaped("rendezvous.serve.public_url", &public_url()),
            secret_file: r.path("rendezvous.serve.secret_file"),
            audience: r.shaped("rendezvous.serve.audience", &audience()),
            proxies: r.list(
                "rendezvous.serve.proxies",
                "networks such as 10.0.0.0/8 or 192.0.2.1/32",
            ),
            session_for: r.duration("rendezvous.serve.session_for", ["10s", "1d"]),
            keep_for: r.duration("rendezvous.serve.keep_for", ["1m", "3650d"]),
            max_sessions: r.number("rendezvous.serve.max_sessions", 1..=MANY),
            max_signals: r.number("rendezvous.serve.max_signals", 8..=10_000),
            user_rate: r.number("rendezvous.serve.user_rate", 1..=MANY),
            address_rate: r.number("rendezvous.serve.address_rate", 1..=MANY),
            max_connections: r.number("rendezvous.serve.max_connections", 16..=MANY),
            address_connections: r.number("rendezvous.serve.address_connections", 1..=MANY),
            max_devices: r.number("rendezvous.serve.max_devices", 1..=MANY),
            user_devices: r.number("rendezvous.serve.user_devices", 1..=MANY),
            max_relays: r.number("rendezvous.serve.max_relays", 0..=100_000),
            user_relays: r.number("rendezvous.serve.user_relays", 1..=100_000),
            relay_bytes: r.size("rendezvous.serve.relay_bytes", 64 * KIB..=u64::MAX),
            relay_day: r.size("rendezvous.serve.relay_day", 64 * KIB..=u64::MAX),
        };
        let all = ("rendezvous.serve.max_connections", serve.max_connections);
        r.in_order(("rendezvous.serve.max_devices", serve.max_devices), all);
        r.in_order(
            (
                "rendezvous.serve.address_connections",
                serve.address_connections,
            ),
            all,
        );
        serve
    }
}

/// A URL that may hold a password is neither shown nor quoted in complaints.
fn database(r: &mut Reader<'_>, state: &std::path::Path) -> Database {
    let (surroundings, file) = (r.surroundings, r.file);
    let shape = Shape::new("text", |value| {
        let path = super::shapes::path(surroundings, file);
        let written = text(value)?.trim().to_owned();
        let inner = written.strip_prefix("sqlite:").map(|path| {
            config::Value::new(
                value.origin().map(str::to_owned).as_ref(),
                config::ValueKind::String(path.to_owned()),
            )
        });
        Some((
            written,
            inner.and_then(|inner| (path.parse)(&inner)).flatten(),
        ))
    });
    let (written, path) = r.shaped("rendezvous.serve.database", &shape);
    let fallback = state.join("rendezvous.db");
    if written.is_empty() {
        r.explain(&format!("sqlite:{}", fallback.display()));
        return Database::Sqlite(fallback);
    }
    if let Some(path) = path {
        r.explain(&format!("sqlite:{}", path.display()));
        return Database::Sqlite(path);
    }
    r.explain(&without_password(&written));
    if written.starts_with("postgres://") || written.starts_with("postgresql://") {
        return Database::Postgres(written);
    }
    r.wrong(
        "rendezvous.serve.database",
        "rendezvous.serve.database",
        "empty, \"sqlite:/path\" or \"postgres://user@host/name\"".to_owned(),
        "something else".to_owned(),
    );
    Database::Sqlite(fallback)
}

/// A URL with `***` in the place of its password.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    // A password may also be among the parameters.
    let rest = rest.split('?').next().unwrap_or_default();
    let shown = match rest.rsplit_once('@') {
        Some((user, place)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{place}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    format!("{scheme}://{shown}")
}

fn public_url() -> Shape<'static, Option<String>> {
    let allowed = "empty, or a URL such as \"https://two.example.org\" without a path";
    Shape::new(allowed, |value| {
        let url = text(value)?.trim().trim_end_matches('/');
        if url.is_empty() {
            return Some(None);
        }
        let rest = url.strip_prefix("https://");
        let host = rest.or_else(|| url.strip_prefix("http://"))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        (!host.is_empty() && host.len() <= 255 && host.chars().all(fits))
            .then(|| Some(url.to_owned()))
    })
}

fn audience() -> Shape<'static, String> {
    Shape::new("1 to 255 visible ASCII characters", |value| {
        let word = text(value)?;
        let fits = (1..=255).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| word.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_a_database_is_shown() {
        for (url, shown) in [
            ("postgres://u:p@h/d", "postgres://u:***@h/d"),
            ("postgres://u:p@x@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h/d?password=p", "postgres://u@h/d"),
            ("postgres://h:5432/d", "postgres://h:5432/d"),
            ("mysql:p", "***"),
        ] {
            assert_eq!(without_password(url), shown, "{url}");
        }
    }
}
