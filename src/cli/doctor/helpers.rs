//! Whether STUN and TURN servers answer, by asking them what a link would.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Finding, Level};
use crate::actors::service;
use crate::config::Settings;
use crate::net::ice;
use crate::net::link::{Link, LinkEvent};
use crate::protocol::candidate::{Candidate, CandidateKind};
use crate::protocol::ice::{IceKind, IceServer};
use crate::protocol::turn::{binding_answer, binding_request};

/// How long one of them may take: a link has found another way by then.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a STUN server is asked within that: datagrams get lost.
const TIMES: u32 = 3;

const ABOUT: &str = "stun";

/// Asks each one that is known. Nothing is said where there are none.
pub async fn look(settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    let (servers, fault) = service::path_helpers(settings).await;
    if let Some(fault) = fault {
        let todo = "see that the rendezvous runs and the token holds (rendezvous.url, \
                    rendezvous.token_file)";
        let what = format!("the rendezvous does not name its STUN and TURN servers: {fault}");
        found.push(Finding::new(Level::Warning, ABOUT, what).todo(todo));
    }
    for server in &servers {
        found.push(match ask(settings, server).await {
            Ok(what) => Finding::fine(ABOUT, format!("{}: {what}", server.url)),
            Err(why) => {
                let what = format!("{}: {why}", server.url);
                Finding::new(Level::Warning, ABOUT, what).todo(
                    "see that it runs and that UDP gets there and back; without it, devices behind \
                     NATs may not find a way to each other",
                )
            }
        });
    }
    found
}

async fn ask(settings: &Settings, server: &IceServer) -> Result<String, String> {
    let url = &server.url;
    let looked_up = tokio::time::timeout(PATIENCE, ice::addresses(&url.host, url.port)).await;
    let addresses = match looked_up {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(format!("its name has no address: {error}")),
        Err(_) => return Err("nobody says what address its name has".to_owned()),
    };
    let at = addresses.first().ok_or("its name has no address")?;
    match url.kind {
        IceKind::Stun => {
            let seen = stun(*at).map_err(|error| error.to_string())?;
            let seen = seen.ok_or_else(|| format!("no answer within {} s", PATIENCE.as_secs()))?;
            Ok(format!("answers, and sees this device at {seen}"))
        }
        IceKind::Turn => turn(settings, server).await,
    }
}

fn stun(at: SocketAddr) -> std::io::Result<Option<SocketAddr>> {
    let any: IpAddr = match at {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(at)?;
    socket.set_read_timeout(Some(PATIENCE / TIMES))?;
    let mut id = [0; 12];
    getrandom::fill(&mut id)?;
    let mut buffer = [0; 1500];
    for _ in 0..TIMES {
        socket.send(&binding_request(id))?;
        if let Ok(length) = socket.recv(&mut buffer)
            && let Some(seen) = binding_answer(&buffer[..length], id)
        {
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

async fn turn(settings: &Settings, server: &IceServer) -> Result<String, String> {
    let options = service::link_options_for(settings, server.clone());
    let made = Link::offer(&options, None).await;
    let (_link, _, mut events) = made.map_err(|error| error.to_string())?;
    let given = async {
        while let Some(event) = events.recv().await {
            if let LinkEvent::Candidate(line) = event
                && let Ok(candidate) = Candidate::parse(&line)
                && candidate.kind == CandidateKind::Relay
            {
                return true;
            }
        }
        false
    };
    match tokio::time::timeout(PATIENCE, given).await {
        Ok(true) => Ok("answers, and passes packets on for this device".to_owned()),
        _ => Err(format!(
            "gives no address within {} s: it does not answer, or does not take the credential",
            PATIENCE.as_secs()
        )),
    }
}
