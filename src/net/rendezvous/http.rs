//! The calls of a rendezvous: asking for data, finding who asks, and the signals between the two.
//!
//! The HTTP client blocks, so each call has a thread of the runtime's for as long as it takes.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{NO_RENDEZVOUS, Server, ServerError, broken, reason, tls_fault};
use crate::protocol::provider::is_name;
use crate::protocol::rendezvous::{
    IceServers, Initiate, MAX_TYPES, MAX_WAIT, SessionInfo, SignalInfo, SignalPost,
};

/// How long a call may take, besides what it asks the server to wait.
const CALL: Duration = Duration::from_secs(20);
/// Bytes of an answer.
const MAX_ANSWER: u64 = 16 << 20;

/// What makes the calls. `ca` has certificates in PEM, which are then the only ones believed.
pub(super) fn agent(ca: Option<&[u8]>) -> Result<ureq::Agent, ServerError> {
    let told = |error: &dyn std::fmt::Display| ServerError::Certificates(error.to_string());
    let roots = match ca {
        None => RootCerts::WebPki,
        Some(pem) => {
            let mut roots = Vec::new();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let der = certificate.map_err(|error| told(&error))?;
                roots.push(Certificate::from_der(&der).to_owned());
            }
            RootCerts::new_with_certs(&roots)
        }
    };
    let config = ureq::Agent::config_builder()
        // The token is for this server, and for none that it may name.
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .user_agent(concat!("handout/", env!("CARGO_PKG_VERSION")));
    Ok(config.build().new_agent())
}

/// What a call says.
enum Call {
    Get,
    Post(String),
    Delete,
}

impl Server {
    /// Asks for data: a new session.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn initiate(&self, request: &Initiate) -> Result<SessionInfo, ServerError> {
        self.call("/api/ice/initiate", json(request), 0).await
    }

    /// The sessions that wait for somebody who provides the data, of these types; more types than
    /// can be asked for are all. Where there is none, the server waits so many seconds for one.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn sessions(
        &self,
        types: &[String],
        wait: u64,
    ) -> Result<Vec<SessionInfo>, ServerError> {
        let wait = wait.min(MAX_WAIT);
        let mut path = format!("/api/ice/sessions?wait={wait}");
        // Their letters mean nothing else in an address.
        if types.len() <= MAX_TYPES && types.iter().all(|name| is_name(name)) {
            path.push_str(&format!("&request_type={}", types.join(",")));
        }
        self.call(&path, Call::Get, wait).await
    }

    /// Says something to the other party of a session.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn signal(&self, signal: &SignalPost) -> Result<(), ServerError> {
        let answer: serde_json::Value = self.call("/api/ice/signal", json(signal), 0).await?;
        drop(answer);
        Ok(())
    }

    /// Ends a session for both parties.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn end(&self, session_id: &str) -> Result<(), ServerError> {
        let path = format!("/api/ice/sessions/{session_id}");
        let answer: serde_json::Value = self.call(&path, Call::Delete, 0).await?;
        drop(answer);
        Ok(())
    }

    /// What the other party of a session has said after the signal with this number. Where that is
    /// nothing, the server waits so many seconds for something.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn signals(
        &self,
        session_id: &str,
        after: i64,
        wait: u64,
    ) -> Result<Vec<SignalInfo>, ServerError> {
        let wait = wait.min(MAX_WAIT);
        let path = format!("/api/ice/signals/{session_id}?after={after}&wait={wait}");
        self.call(&path, Call::Get, wait).await
    }

    /// What helps to a connection there.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn ice_servers(&self) -> Result<IceServers, ServerError> {
        self.call("/api/ice/servers", Call::Get, 0).await
    }

    async fn call<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        call: Call,
        wait: u64,
    ) -> Result<T, ServerError> {
        let (server, address) = (self.clone(), format!("{}{path}", self.url));
        let blocking = move || server.answer(&address, call, wait);
        match tokio::task::spawn_blocking(blocking).await {
            Ok(answer) => answer,
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn answer<T: DeserializeOwned>(
        &self,
        address: &str,
        call: Call,
        wait: u64,
    ) -> Result<T, ServerError> {
        let bearer = self.authorization()?;
        let limit = Some(CALL + Duration::from_secs(wait));
        let sent = match call {
            Call::Get => {
                let request = self.agent.get(address).header("Authorization", &bearer);
                request.config().timeout_global(limit).build().call()
            }
            Call::Delete => {
                let request = self.agent.delete(address).header("Authorization", &bearer);
                request.config().timeout_global(limit).build().call()
            }
            Call::Post(body) => {
                let request = self.agent.post(address).header("Authorization", &bearer);
                let request = request.header("Content-Type", "application/json");
                request.config().timeout_global(limit).build().send(&body)
            }
        };
        let mut answer = sent.map_err(|error| self.unreachable(&why(&error)))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER);
        let body = body
            .read_to_vec()
            .map_err(|error| self.unreachable(&why(&error)))?;
        if !status.is_success() {
            return Err(ServerError::Refused {
                url: self.url.clone(),
                status: status.as_u16(),
                reason: reason(&body),
            });
        }
        serde_json::from_slice(&body).map_err(|_| self.unreachable(&NO_RENDEZVOUS))
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> ServerError {
        ServerError::Unreachable {
            url: self.url.clone(),
            reason: reason.to_string(),
        }
    }
}

fn why(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => broken(error),
        ureq::Error::Rustls(error) => tls_fault(error),
        error => error.to_string(),
    }
}

fn json(value: &impl Serialize) -> Call {
    // What is sent is made of texts and numbers, which are always JSON.
    Call::Post(serde_json::to_string(value).unwrap_or_default())
}

impl ServerError {
    /// Whether the same may succeed a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Url(_) | Self::Token { .. } | Self::Certificates(_) => false,
        }
    }
}
