//! WebSockets of tests.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use handout::protocol::identity::Identity;
use handout::protocol::rendezvous::{DeviceSays, Hello, ServerSays};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// What a test waits for at most.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// Why there is no socket: a status, and where else to go.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub location: Option<String>,
}

impl Socket {
    pub async fn open(url: &str, path: &str, token: &str) -> Result<Self, Refused> {
        let url = format!("ws{}{path}", url.strip_prefix("http").unwrap());
        let mut request = url.into_client_request().unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("Authorization", bearer);
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(answer)) => Err(Refused {
                status: answer.status().as_u16(),
                location: answer
                    .headers()
                    .get("location")
                    .map(|place| place.to_str().unwrap().to_owned()),
            }),
            Err(error) => panic!("{error}"),
        }
    }

    /// A device's socket, after its proof.
    pub async fn of_device(url: &str, token: &str, identity: &Identity) -> Self {
        let mut socket = Self::open(url, "/api/devices/socket", token).await.unwrap();
        let ServerSays::Challenge { nonce } = socket.hear().await else {
            panic!("no challenge");
        };
        let hello = Hello::new(identity, "Test", &nonce.0);
        socket.say(&DeviceSays::Hello(hello)).await;
        let welcome = socket.hear().await;
        assert!(matches!(welcome, ServerSays::Welcome(_)), "{welcome:?}");
        socket
    }

    pub async fn say(&mut self, says: &DeviceSays) {
        self.send(Message::text(serde_json::to_string(says).unwrap()))
            .await
            .unwrap();
    }

    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        let sent = tokio::time::timeout(PATIENCE, self.0.send(message)).await;
        sent.expect("room to send")
    }

    /// The next message, besides pings.
    pub async fn next(&mut self) -> Option<Message> {
        // Pings come for as long as there is nothing else.
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let next = tokio::time::timeout_at(end, self.0.next()).await;
            match next.expect("a message in time")?.ok()? {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return Some(message),
            }
        }
    }

    pub async fn hear(&mut self) -> ServerSays {
        let message = self.next().await.expect("a message");
        let text = message.to_text().unwrap();
        serde_json::from_str(text).unwrap_or_else(|_| panic!("{text:?}"))
    }

    /// The end, from the other side; what came before it is left out.
    pub async fn ends(&mut self) -> Option<CloseFrame> {
        loop {
            match self.next().await {
                Some(Message::Close(frame)) => return frame,
                Some(_) => {}
                None => return None,
            }
        }
    }

    pub async fn close(mut self) {
        let _ = self.0.close(None).await;
        while self.next().await.is_some() {}
    }
}

/// Runs a test of sockets.
pub fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work);
}
