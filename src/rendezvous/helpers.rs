//! The STUN and TURN servers that clients are told of: those of the settings, and our own.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::StartError;
use super::tokens::{self, unix_now};
use super::turn::{self, Quota, Running, TurnOptions, TurnTotals};
use crate::config::{Settings, TurnServe};
use crate::protocol::ice::IceKind;
use crate::protocol::rendezvous::{IceServer, IceServers};
use crate::protocol::turn::TurnCredential;

/// Bytes of the shortest secret.
const MIN_SECRET: usize = 16;

/// What is told, and the server behind it.
pub(super) struct Helpers {
    /// Of the settings. Credentials of ours are not given away.
    others: Vec<IceServer>,
    own: Option<Own>,
}

struct Own {
    running: Running,
    secret: Vec<u8>,
    lasts: Duration,
}

impl Helpers {
    /// Starts our own server, where there is to be one.
    pub(super) async fn start(settings: &Settings) -> Result<Self, StartError> {
        let stun = settings.network.ice_servers.iter();
        let stun = stun.filter(|url| url.kind == IceKind::Stun);
        let others = stun.map(|url| IceServer {
            urls: vec![url.to_string()],
            username: None,
            credential: None,
        });
        let own = match settings.turn.bind {
            Some(bind) => Some(Own::start(&settings.turn, bind).await?),
            None => None,
        };
        Ok(Self {
            others: others.collect(),
            own,
        })
    }

    /// What one user is told. The number stands for the user in the credential, which goes over
    /// the net in the clear.
    pub(super) fn of(&self, user: i64) -> IceServers {
        let mut told = IceServers {
            ice_servers: self.others.clone(),
            ttl: 0,
        };
        if let Some(own) = &self.own {
            let at = own.running.public_addr();
            let expires = unix_now().saturating_add(own.lasts.as_secs());
            let credential = TurnCredential::new(&own.secret, &user.to_string(), expires);
            told.ttl = own.lasts.as_secs();
            told.ice_servers.push(IceServer {
                urls: vec![format!("stun:{at}")],
                username: None,
                credential: None,
            });
            told.ice_servers.push(IceServer {
                urls: vec![format!("turn:{at}?transport=udp")],
                username: Some(credential.username),
                credential: Some(credential.credential),
            });
        }
        told
    }

    /// What our own server has done; nothing where there is none.
    pub(super) fn totals(&self) -> Option<TurnTotals> {
        self.own.as_ref().map(|own| own.running.totals())
    }
}

impl Own {
    async fn start(serve: &TurnServe, bind: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::Turn {
            address: bind,
            source,
        };
        let secret = match &serve.secret_file {
            Some(path) => read_secret(path).map_err(failed)?,
            None => {
                let mut secret = vec![0; 32];
                getrandom::fill(&mut secret).map_err(|error| failed(error.into()))?;
                secret
            }
        };
        let options = TurnOptions {
            bind,
            public: serve.public_address,
            ports: serve.ports.range(),
            secret: secret.clone(),
            quota: Quota {
                per_user: serve.user_allocations,
                in_all: serve.max_allocations,
                bytes_per_day: serve.user_day,
            },
            allow_private: serve.allow_private,
        };
        Ok(Self {
            running: turn::start(options).await.map_err(failed)?,
            secret,
            lasts: serve.credentials_for,
        })
    }
}

fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    let wrong = |what: String| io::Error::other(format!("{}: {what}", path.display()));
    let bytes = tokens::read(path).map_err(wrong)?;
    let secret = bytes.trim_ascii();
    if secret.len() < MIN_SECRET {
        return Err(wrong(format!(
            "it has less than {MIN_SECRET} characters, which can be guessed"
        )));
    }
    Ok(secret.to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_read_or_that_is_too_long_or_too_short_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |secret: &str, mode: u32| {
            std::fs::write(&path, secret).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_secret(&path)
        };
        let secret = "0123456789abcdef";
        let taken = read(&format!("{secret}\n"), 0o600).unwrap();
        assert_eq!(taken, secret.as_bytes());
        for (secret, mode, why) in [
            (secret, 0o644, "chmod"),
            (&*"x".repeat(4097), 0o600, "more than"),
            ("short", 0o600, "less than"),
        ] {
            let error = read(secret, mode).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_secret(&path).is_err());
    }
}
