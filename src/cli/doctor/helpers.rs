//! Whether what helps devices of other networks to each other answers: the rendezvous, STUN and TURN
//! servers, by asking them what a link would, and the DHT.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Finding, Level};
use crate::actors::{dht, service};
use crate::config::Settings;
use crate::net::dht::Dht;
use crate::net::ice;
use crate::net::link::{Link, LinkEvent};
use crate::net::rendezvous::ServerError;
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
    let (servers, answer) = service::path_helpers(settings).await;
    found.extend(answer.map(|answer| rendezvous(settings, answer)));
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
    if settings.dht.enabled {
        found.push(dht(settings).await);
    }
    found
}

/// What the rendezvous said, or why it said nothing.
fn rendezvous(settings: &Settings, answer: Result<(), ServerError>) -> Finding {
    let about = "rendezvous";
    let Err(error) = answer else {
        let url = settings.rendezvous.url.as_deref().unwrap_or_default();
        return Finding::fine(about, format!("{url} answers, and takes the token"));
    };
    let todo = match &error {
        ServerError::Token { .. }
        | ServerError::Refused {
            status: 401 | 403, ..
        } => {
            "get a token from whoever runs the rendezvous (`handout rendezvous token`), and write \
             it into the file that rendezvous.token_file names"
        }
        ServerError::Certificates(_) => "mend the file that rendezvous.ca_file names",
        ServerError::Url(_) | ServerError::Unreachable { .. } | ServerError::Refused { .. } => {
            "see that it runs, that no firewall is in the way, and that rendezvous.url has its \
             host, port and path, and https:// where it speaks TLS, else http://"
        }
    };
    Finding::new(Level::Problem, about, error.to_string()).todo(todo)
}

/// Whether a node of the DHT answers.
async fn dht(settings: &Settings) -> Finding {
    let about = "dht";
    let options = dht::options(settings);
    // It looks names up.
    let started = tokio::task::spawn_blocking(move || Dht::start(&options)).await;
    let why = match started {
        Ok(Ok(dht)) if dht.answers().await => return Finding::fine(about, "nodes of it answer"),
        Ok(Ok(_)) => "no node of it answers".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Finding::new(Level::Warning, about, why).todo(
        "see that UDP gets out and back, or name nodes that can be reached (dht.bootstrap); without \
         it, devices of other networks do not find this one by the DHT",
    )
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
