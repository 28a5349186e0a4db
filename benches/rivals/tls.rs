//! TLS 1.3 on TCP: one connection to each receiver.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::carrier::{Error, client_config, fill, pour, server_config};

pub async fn send(folder: &Path, source: &Path, receivers: u16) -> Result<(), Error> {
    let acceptor = TlsAcceptor::from(Arc::new(server_config(folder)?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("port {}", listener.local_addr()?.port());
    let mut streams = Vec::new();
    for _ in 0..receivers {
        streams.push(acceptor.accept(listener.accept().await?.0).await?);
    }
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        let source = source.to_owned();
        tasks.spawn(async move {
            pour(&source, &mut stream).await?;
            stream.shutdown().await?;
            // The receiver closes when it has everything, and writes nothing before that.
            if stream.read(&mut [0]).await? != 0 {
                return Err("the receiver wrote something".into());
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

pub async fn receive(folder: &Path, target: &Path, port: u16) -> Result<(), Error> {
    let connector = TlsConnector::from(Arc::new(client_config(folder)?));
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut stream = connector
        .connect(ServerName::try_from("localhost")?, stream)
        .await?;
    fill(&mut stream, target).await?;
    stream.shutdown().await?;
    Ok(())
}
