//! The STUN and TURN servers that clients are told of: those of the settings, and our own.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::StartError;
use super::tokens::unix_now;
use super::turn::{self, Quota, Running, TurnOptions, TurnTotals};
use crate::config::{Settings, TurnServe};
use crate::protocol::ice::IceKind;
use crate::protocol::rendezvous::{IceServer, IceServers};
use crate::protocol::turn::TurnCredential;

/// Bytes of a file with the secret.
const MAX_SECRET: u64 = 4096;
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
    let mut text = String::new();
    let file = std::fs::File::open(path)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    file.take(MAX_SECRET).read_to_string(&mut text)?;
    let secret = text.trim();
    if secret.len() < MIN_SECRET {
        let path = path.display();
        let text = format!("{path} has less than {MIN_SECRET} characters, which can be guessed");
        return Err(io::Error::other(text));
    }
    Ok(secret.as_bytes().to_vec())
}
