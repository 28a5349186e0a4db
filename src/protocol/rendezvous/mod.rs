//! What is said to a rendezvous and by it: sessions and their signals over HTTP, and the messages
//! of a device's socket. Pure types, their limits and their checks, for both sides.

mod socket;

#[cfg(test)]
mod tests;

use super::ice::{self, MAX_SERVERS};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::DeviceId;
pub use socket::{DeviceSays, Hello, HelloError, Nonce, ServerSays};

/// The audience of tokens where the settings name no other.
pub const AUDIENCE: &str = "handout-rendezvous";
/// Bytes of a request's body.
pub const MAX_BODY: usize = 64 << 10;
/// Bytes of the JSON text in [`Initiate::parameters`].
pub const MAX_PARAMETERS: usize = 16 << 10;
/// Bytes of one signal's data.
pub const MAX_SIGNAL: usize = 48 << 10;
/// Bytes of a request's type.
pub const MAX_TYPE: usize = 64;
/// Types that a list of sessions may be asked for by.
pub const MAX_TYPES: usize = 16;
/// Bytes of [`SignalPost::client`].
pub const MAX_CLIENT: usize = 64;
/// Bytes of a file's name or media type.
pub const MAX_NAME: usize = 255;
/// The longest wait of a long poll, in seconds.
pub const MAX_WAIT: u64 = 30;
/// Bytes of a message on a device's socket.
pub const MAX_SOCKET_MESSAGE: usize = 68 << 10;
/// Bytes of a signal between two devices, as JSON.
pub const MAX_MAIL: usize = 64 << 10;
/// Devices that one socket may watch.
pub const MAX_WATCHED: usize = 1000;
/// Bytes of one message on a relayed link.
pub const MAX_RELAYED: usize = 256 << 10;

/// What a token's holder may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum ClientType {
    /// Type 1: provides data.
    Provider = 1,
    /// Type 2: asks for data.
    Requester = 2,
    /// Type 3: a device of ours, which uses its socket, relayed links and ICE servers alone.
    Device = 3,
}

/// A number that is no client type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client type must be 1 (provides data), 2 (asks for data) or 3 (a device), not {0}")]
pub struct UnknownClientType(pub u8);

impl TryFrom<u8> for ClientType {
    type Error = UnknownClientType;
    fn try_from(number: u8) -> Result<Self, UnknownClientType> {
        match number {
            1 => Ok(Self::Provider),
            2 => Ok(Self::Requester),
            3 => Ok(Self::Device),
            other => Err(UnknownClientType(other)),
        }
    }
}

impl From<ClientType> for u8 {
    fn from(kind: ClientType) -> Self {
        kind as Self
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whose it is.
    pub sub: String,
    /// For which rendezvous.
    pub aud: String,
    /// When it was made, in Unix seconds.
    #[serde(default)]
    pub iat: u64,
    /// From when it holds, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Until when it holds, in Unix seconds.
    pub exp: u64,
    /// What its holder may do.
    pub client_type: ClientType,
}

/// `POST /api/ice/initiate`: somebody asks for data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initiate {
    /// What kind of data, such as `spectrum`.
    pub request_type: String,
    /// A text that is a JSON object.
    pub parameters: String,
    /// What the file may be called; empty where that is open.
    #[serde(default)]
    pub file_name: String,
    /// Bytes; 0 where they are not known.
    #[serde(default)]
    pub file_size: u64,
    /// Its media type; empty where that is open.
    #[serde(default)]
    pub file_type: String,
    /// Where the requester is a Handout device: its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
}

/// Why something said to a rendezvous is not taken. The texts hold nothing that was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The type of a request.
    #[error("request_type must be 1 to {MAX_TYPE} characters of A-Z a-z 0-9 . _ -")]
    RequestType,
    /// The parameters' length.
    #[error("parameters may have {MAX_PARAMETERS} bytes at most")]
    ParametersTooLong,
    /// The parameters are no JSON object.
    #[error("parameters must be a text that is a JSON object")]
    Parameters,
    /// A file's name.
    #[error("file_name may have {MAX_NAME} bytes at most, and no slash or control character")]
    FileName,
    /// A file's media type.
    #[error("file_type may have {MAX_NAME} bytes at most, and no control character")]
    FileType,
    /// A file's size.
    #[error("file_size must be from 0 to {}", i64::MAX)]
    FileSize,
    /// A session's id.
    #[error("session_id must be the id of a session: 32 hex digits in five groups")]
    SessionId,
    /// The type of a signal.
    #[error("signal_type must be offer, answer or candidate")]
    SignalType,
    /// A signal's data.
    #[error("signal_data must have 1 to {MAX_SIGNAL} bytes")]
    SignalData,
    /// What tells a user's clients apart.
    #[error("client must be 1 to {MAX_CLIENT} characters of A-Z a-z 0-9 _ -")]
    Client,
    /// A relayed link's id.
    #[error("a relay id must have 26 to 64 characters of a-z and 2-7")]
    RelayId,
}

impl Initiate {
    /// Checks every member against its limits.
    pub fn check(&self) -> Result<(), Unfit> {
        let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let kind = &self.request_type;
        if kind.is_empty() || kind.len() > MAX_TYPE || !kind.bytes().all(word) {
            return Err(Unfit::RequestType);
        }
        if self.parameters.len() > MAX_PARAMETERS {
            return Err(Unfit::ParametersTooLong);
        }
        match serde_json::from_str(&self.parameters) {
            Ok(Value::Object(_)) if !self.parameters.contains('\0') => {}
            _ => return Err(Unfit::Parameters),
        }
        let name = &self.file_name;
        if name.len() > MAX_NAME || name.chars().any(|c| c.is_control() || c == '/') {
            return Err(Unfit::FileName);
        }
        if self.file_type.len() > MAX_NAME || self.file_type.chars().any(char::is_control) {
            return Err(Unfit::FileType);
        }
        if i64::try_from(self.file_size).is_err() {
            return Err(Unfit::FileSize);
        }
        Ok(())
    }
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// It waits for somebody who provides the data.
    Pending,
    /// Somebody does, and has sent signals.
    Claimed,
    /// The requester has answered the offer.
    Answered,
    /// A word of a newer rendezvous.
    #[serde(other)]
    Other,
}

impl SessionStatus {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Answered => "answered",
            Self::Other => "other",
        }
    }
}

/// One request, as the rendezvous tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id: a UUID.
    pub session_id: String,
    /// The number of the user who asks.
    pub initiator_user_id: String,
    /// The number of the user who provides; empty until one does.
    #[serde(default)]
    pub target_user_id: String,
    /// What is asked for.
    pub request_type: String,
    /// A text that is a JSON object.
    pub parameters: String,
    /// How it stands.
    pub status: SessionStatus,
    /// What the file may be called; empty where that is open.
    #[serde(default)]
    pub file_name: String,
    /// Its media type; empty where that is open.
    #[serde(default)]
    pub file_type: String,
    /// When it began, RFC 3339 in UTC.
    #[serde(default)]
    pub created_at: String,
    /// Where the requester is a Handout device: its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
}

/// What a signal of a session carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalType {
    /// An SDP offer.
    Offer,
    /// The SDP answer to it.
    Answer,
    /// One ICE candidate.
    Candidate,
}

impl SignalType {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Answer => "answer",
            Self::Candidate => "candidate",
        }
    }

    /// The reverse of [`Self::as_str`].
    pub fn of(word: &str) -> Option<Self> {
        [Self::Offer, Self::Answer, Self::Candidate]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// `POST /api/ice/signal`: one party says something to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalPost {
    /// In which session.
    pub session_id: String,
    /// What it is.
    pub signal_type: SignalType,
    /// The offer, answer or candidate, usually JSON; the rendezvous does not look into it.
    pub signal_data: String,
    /// What tells this client from others of the same user: random, the same for as long as it
    /// runs. Clients that have no use for it leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

impl SignalPost {
    /// Checks every member against its limits.
    pub fn check(&self) -> Result<(), Unfit> {
        check_session_id(&self.session_id)?;
        let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        let fits =
            |client: &String| (1..=MAX_CLIENT).contains(&client.len()) && client.bytes().all(word);
        if !self.client.as_ref().is_none_or(fits) {
            return Err(Unfit::Client);
        }
        let data = &self.signal_data;
        match data.is_empty() || data.len() > MAX_SIGNAL || data.contains('\0') {
            true => Err(Unfit::SignalData),
            false => Ok(()),
        }
    }
}

/// One signal, as the rendezvous tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalInfo {
    /// Its number; later ones are higher.
    pub id: i64,
    /// Of which session.
    pub session_id: String,
    /// What it is.
    pub signal_type: SignalType,
    /// What was posted, unchanged.
    pub signal_data: String,
    /// The number of the user who posted it.
    pub from_client_id: String,
    /// The number of the user whom it is for; empty while nobody provides.
    pub to_client_id: String,
}

/// Checks that a text can be the id of a session: a UUID in its usual form.
pub fn check_session_id(text: &str) -> Result<(), Unfit> {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let fits = |(at, c): (usize, u8)| match dash(at) {
        true => c == b'-',
        false => matches!(c, b'0'..=b'9' | b'a'..=b'f'),
    };
    match text.len() == 36 && text.bytes().enumerate().all(fits) {
        true => Ok(()),
        false => Err(Unfit::SessionId),
    }
}

/// Checks that a text can be the id of a relayed link.
pub fn check_relay_id(text: &str) -> Result<(), Unfit> {
    let fits = |c: u8| matches!(c, b'a'..=b'z' | b'2'..=b'7');
    match (26..=64).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(()),
        false => Err(Unfit::RelayId),
    }
}

/// `GET /api/ice/servers`: what helps two devices to a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServers {
    /// STUN and TURN servers.
    pub ice_servers: Vec<IceServer>,
    /// How long the credentials hold, in seconds.
    pub ttl: u64,
}

impl IceServers {
    /// Those that are of use here: over UDP, at most [`MAX_SERVERS`].
    pub fn usable(self) -> Vec<ice::IceServer> {
        let servers = self.ice_servers.into_iter().flat_map(|server| {
            let (username, credential) = (server.username, server.credential);
            let urls = server.urls.into_iter().filter_map(|url| url.parse().ok());
            urls.map(move |url| ice::IceServer {
                url,
                username: username.clone().unwrap_or_default(),
                credential: credential.clone().unwrap_or_default(),
            })
        });
        servers.take(MAX_SERVERS).collect()
    }
}

/// A STUN or TURN server, as WebRTC's own API writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:host:port`, `turn:host:port?transport=udp`.
    pub urls: Vec<String>,
    /// TURN: as whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// TURN: by which password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// What went wrong, as a rendezvous says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What.
    pub error: ErrorInfo,
    /// The number of the request, which is in the rendezvous's log.
    pub request_id: String,
}

/// The words for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}
