//! The client's side of a rendezvous: where it is, who we are there, and its WebSockets.

mod http;
pub mod mail;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Error as SocketError};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

/// Most bytes of a message that a rendezvous passes on: one piece of a relayed link, or one
/// signaling message with what is around it.
const MAX_MESSAGE: usize = 192 * 1024;
/// How long it may take until a WebSocket is open.
const OPENING: Duration = Duration::from_secs(15);
/// Bytes of a file with a token.
const MAX_TOKEN: u64 = 16 * 1024;
/// What is shown of an answer that refuses.
const MAX_REASON: usize = 300;

/// Said of a server that speaks of something else.
const NO_RENDEZVOUS: &str = "what answers there is no rendezvous";

/// An open WebSocket to a rendezvous.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A rendezvous, and who we are there.
#[derive(Clone)]
pub struct Server {
    /// `http://host:port/path` or `https://…`, without a slash at its end.
    url: Arc<str>,
    /// Read each time that it is needed: tokens end, and whoever renews one writes the file.
    token_file: Arc<Path>,
    tls: Option<Arc<ClientConfig>>,
    /// What tells us from others with the same user's token. Not secret.
    client: Option<Arc<str>>,
    agent: ureq::Agent,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish()
    }
}

/// Why a rendezvous cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Not the address of one.
    #[error("{0:?} is not the address of a rendezvous: it looks like https://host[:port][/path]")]
    Url(String),
    /// There is no token that could be shown.
    #[error("{} holds no token for the rendezvous: {fault}; whoever runs it makes one with \
             `handout rendezvous token`", path.display())]
    Token {
        /// The file that should hold it.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// The certificates cannot be read.
    #[error("the certificates for the rendezvous cannot be used: {0}")]
    Certificates(String),
    /// No connection, or none that stays.
    #[error("the rendezvous {url} cannot be reached: {reason}")]
    Unreachable {
        /// Which.
        url: Arc<str>,
        /// Why, for people.
        reason: String,
    },
    /// It answered, and said no.
    #[error("the rendezvous {url} refuses: {reason} (HTTP {status})")]
    Refused {
        /// Which.
        url: Arc<str>,
        /// The HTTP status.
        status: u16,
        /// What it said, for people; not made harmless.
        reason: String,
    },
}

impl Server {
    /// A rendezvous at `url` for the holder of the token in `token_file`. `ca` has certificates in
    /// PEM that are believed in place of those of the public authorities.
    ///
    /// # Errors
    /// [`ServerError`] for what cannot be an address or certificates.
    pub fn new(url: &str, token_file: &Path, ca: Option<&[u8]>) -> Result<Self, ServerError> {
        let url = url.trim().trim_end_matches('/');
        let host = (url.strip_prefix("http://")).or_else(|| url.strip_prefix("https://"));
        let fits = |host: &str| {
            !host.is_empty()
                && !host.starts_with(['/', ':'])
                && host
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"?#@\\".contains(&b))
        };
        if !host.is_some_and(fits) {
            return Err(ServerError::Url(url.to_owned()));
        }
        let tls = url.starts_with("https://").then(|| tls(ca)).transpose()?;
        Ok(Self {
            url: url.into(),
            token_file: token_file.into(),
            tls: tls.map(Arc::new),
            client: client(),
            agent: http::agent(ca)?,
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What our signals say of who among the clients of one user posts them; nothing where the
    /// system gave no randomness.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// Who we are there, as the header `Authorization` says it. A secret.
    ///
    /// # Errors
    /// [`ServerError::Token`].
    pub fn authorization(&self) -> Result<String, ServerError> {
        let told = |fault: String| ServerError::Token {
            path: self.token_file.to_path_buf(),
            fault,
        };
        let mut text = String::new();
        File::open(&self.token_file)
            .and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
            .map_err(|error| told(error.to_string()))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(told(
                "it must have one line of visible ASCII characters".to_owned(),
            ));
        }
        Ok(format!("Bearer {token}"))
    }

    /// Opens a WebSocket at a path that begins with a slash. Where several servers share the work,
    /// one may name the other that has the partner: that is followed once.
    ///
    /// # Errors
    /// [`ServerError::Unreachable`] and [`ServerError::Refused`].
    pub async fn socket(&self, path: &str) -> Result<Socket, ServerError> {
        let first = format!("{}{path}", self.url);
        let mut bearer = HeaderValue::from_str(&self.authorization()?).map_err(|error| {
            let path = self.token_file.to_path_buf();
            let fault = error.to_string();
            ServerError::Token { path, fault }
        })?;
        bearer.set_sensitive(true);
        match self.open(&first, bearer.clone()).await {
            Err(SocketError::Http(answer)) if answer.status() == StatusCode::TEMPORARY_REDIRECT => {
                let elsewhere = location(&answer);
                // The token never leaves an encrypted way for one that is not, and the other server
                // is asked for the same.
                let safe = |to: &&str| {
                    (to.starts_with("https://") || self.tls.is_none()) && to.ends_with(path)
                };
                match elsewhere.filter(safe) {
                    Some(to) => self
                        .open(to, bearer)
                        .await
                        .map_err(|error| self.told(error)),
                    None => Err(self.told(SocketError::Http(answer))),
                }
            }
            opened => opened.map_err(|error| self.told(error)),
        }
    }

    async fn open(&self, url: &str, bearer: HeaderValue) -> Result<Socket, SocketError> {
        let address = url.replacen("http", "ws", 1);
        let mut request = address.into_client_request()?;
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            // Each message goes out when it is there: what waits is counted by whoever sends.
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_MESSAGE);
        let connector = self.tls.clone().map(Connector::Rustls);
        let opening = tokio_tungstenite::connect_async_tls_with_config(
            request,
            Some(limits),
            true,
            connector,
        );
        let late = || SocketError::Io(std::io::ErrorKind::TimedOut.into());
        let (socket, _) = timeout(OPENING, opening).await.map_err(|_| late())??;
        Ok(socket)
    }

    fn told(&self, error: SocketError) -> ServerError {
        let url = Arc::clone(&self.url);
        match error {
            SocketError::Http(answer) => {
                let body = answer.body().as_deref().unwrap_or_default();
                ServerError::Refused {
                    url,
                    status: answer.status().as_u16(),
                    reason: reason(body),
                }
            }
            error => {
                let reason = match &error {
                    SocketError::Io(error) => broken(error),
                    error => error.to_string(),
                };
                ServerError::Unreachable { url, reason }
            }
        }
    }
}

/// Random, so that no two programs have the same.
fn client() -> Option<Arc<str>> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(HEXLOWER.encode(&bytes).into())
}

/// Why there is no connection, for people.
fn broken(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or_else(|| error.to_string(), tls_fault)
}

/// The same where TLS fails.
fn tls_fault(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it speaks no TLS: does its address begin with http://?".to_owned()
        }
        // The latter where an authority of that name is believed, and is another one.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "nobody who is believed here has signed its certificate; rendezvous.ca_file may name a \
             file with the certificate of who has"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEndEntity") =>
        {
            "its certificate is that of an authority, which no server may show: it needs one of its \
             own, signed by that authority"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(why) => format!("its certificate is not believed: {why}"),
        error => format!("TLS: {error}"),
    }
}

/// What an answer says why it refuses: its JSON's message, else its text, on one line. A page is
/// nothing that a rendezvous answers.
fn reason(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json
        .as_ref()
        .and_then(|json| json.pointer("/error/message")?.as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    if text.trim_start().starts_with('<') {
        return NO_RENDEZVOUS.to_owned();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_REASON).collect()
}

fn location(answer: &Response<Option<Vec<u8>>>) -> Option<&str> {
    let to = answer.headers().get(header::LOCATION)?.to_str().ok()?;
    ["http://", "https://"]
        .iter()
        .any(|s| to.starts_with(s))
        .then_some(to)
}

fn tls(ca: Option<&[u8]>) -> Result<ClientConfig, ServerError> {
    let mut roots = RootCertStore::empty();
    if ca.is_none() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let told = |error: &dyn std::fmt::Display| ServerError::Certificates(error.to_string());
    for certificate in CertificateDer::pem_slice_iter(ca.unwrap_or_default()) {
        let certificate = certificate.map_err(|error| told(&error))?;
        roots.add(certificate).map_err(|error| told(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| told(&error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What a WebSocket's end says, for people; not made harmless.
pub(super) fn why_closed(error: Option<&tungstenite::Error>) -> String {
    match error {
        None => "the rendezvous closed the connection".to_owned(),
        Some(error) => format!("the connection to the rendezvous broke: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_somebody_refuses_is_short_and_no_page() {
        let ours = br#"{"error": {"code": "x", "message": "the token\n has expired"}}"#;
        assert_eq!(reason(ours), "the token has expired");
        assert_eq!(reason(b" not\n\nhere\n"), "not here");
        assert_eq!(reason(&[b'a'; 1000]).len(), MAX_REASON);
        for page in ["<!DOCTYPE html>\n<title>404</title>", "\n<html>"] {
            assert_eq!(reason(page.as_bytes()), NO_RENDEZVOUS);
        }
    }

    #[test]
    fn only_what_can_be_an_address_and_a_token_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let server = |url: &str| Server::new(url, &file, None);
        for url in [
            "http://host:8080/",
            "https://host/base",
            "http://[::1]:8080",
        ] {
            assert!(server(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "host:8080",
            "ftp://host",
            "http://",
            "http:///x",
            "http://u@h",
            "http://h?x",
        ] {
            let error = server(url).unwrap_err();
            assert!(matches!(error, ServerError::Url(_)), "{url}: {error}");
        }
        let pem = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let error = Server::new("https://host", &file, Some(pem)).unwrap_err();
        assert!(matches!(error, ServerError::Certificates(_)), "{error}");

        let server = server("http://host").unwrap();
        let authorization = || server.authorization();
        assert!(
            authorization()
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
        for token in ["", " ", "a b", "a\nb", "ä"] {
            std::fs::write(&file, token).unwrap();
            let error = authorization().unwrap_err();
            assert!(
                error.to_string().contains("visible ASCII"),
                "{token:?}: {error}"
            );
        }
        std::fs::write(&file, "abc.def\n").unwrap();
        assert_eq!(authorization().unwrap(), "Bearer abc.def");
    }
}
