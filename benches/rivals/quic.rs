//! QUIC: one connection and one stream to each receiver.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use tokio::task::JoinSet;

use super::carrier::{Error, client_config, fill, pour, server_config};

/// What Handout asks of its sockets too; the stock 208 KiB lose bursts.
const SOCKET_BUFFER: usize = 4 << 20;
const WINDOW: u32 = 8 << 20;

pub async fn send(folder: &Path, source: &Path, receivers: u16) -> Result<(), Error> {
    let crypto = QuicServerConfig::try_from(server_config(folder)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport());
    let endpoint = endpoint(Some(config))?;
    println!("port {}", endpoint.local_addr()?.port());
    let mut connections = Vec::new();
    for _ in 0..receivers {
        connections.push(
            endpoint
                .accept()
                .await
                .ok_or("the endpoint closed")?
                .await?,
        );
    }
    let mut tasks = JoinSet::new();
    for connection in connections {
        let source = source.to_owned();
        tasks.spawn(async move {
            let mut stream = connection.open_uni().await?;
            pour(&source, &mut stream).await?;
            stream.finish()?;
            connection.closed().await; // the receiver closes when it has everything
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    endpoint.wait_idle().await;
    Ok(())
}

pub async fn receive(folder: &Path, target: &Path, port: u16) -> Result<(), Error> {
    let crypto = QuicClientConfig::try_from(client_config(folder)?)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    let endpoint = endpoint(None)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connection = endpoint.connect_with(config, address, "localhost")?.await?;
    let mut stream = connection.accept_uni().await?;
    fill(&mut stream, target).await?;
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.stream_receive_window(WINDOW.into());
    config.receive_window(WINDOW.into());
    config.send_window(WINDOW.into());
    Arc::new(config)
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint, Error> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let reference = socket2::SockRef::from(&socket);
    reference.set_recv_buffer_size(SOCKET_BUFFER)?;
    reference.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}
