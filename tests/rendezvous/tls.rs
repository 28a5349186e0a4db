//! A rendezvous behind a proxy with TLS, as the world reaches one.

use std::sync::Arc;

use handout::net::rendezvous::{Server as Client, ServerError};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::server::{DEVICE, Server};
use super::sockets::run;

/// A proxy for the server at `url`; its own address, and its certificate in PEM.
async fn proxy(url: &str) -> (String, String) {
    proxy_with(url, false).await
}

/// The same; where it shows the certificate of an authority, one that says so.
async fn proxy_with(url: &str, authority: bool) -> (String, String) {
    let mut asked = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if authority {
        asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let signing = rcgen::KeyPair::generate().unwrap();
    let made = asked.self_signed(&signing).unwrap();
    let key = PrivateKeyDer::try_from(signing.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = url.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                // Who does not believe the certificate ends it here.
                if let Ok(mut front) = acceptor.accept(stream).await {
                    let mut back = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut front, &mut back).await;
                }
            });
        }
    });
    (format!("https://localhost:{port}"), made.pem())
}

#[test]
fn calls_and_sockets_go_over_tls_to_whom_the_certificate_is_of_and_to_nobody_else() {
    let server = Server::start(&[]);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, server.token("lab", DEVICE)).unwrap();
    run(async {
        let (url, pem) = proxy(&server.url).await;
        let client = Client::new(&url, &file, Some(pem.as_bytes())).unwrap();
        client.ice_servers().await.unwrap();
        client.socket("/api/devices/socket").await.unwrap();

        // Another authority, the public ones, another name, a certificate of an authority itself,
        // and a server that speaks no TLS.
        let foreign = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let foreign = foreign.cert.pem();
        let elsewhere = url.replace("localhost", "127.0.0.1");
        let (authority, itself) = proxy_with(&server.url, true).await;
        let without = server.url.replacen("http", "https", 1);
        for (url, ca, why) in [
            (&url, Some(foreign.as_bytes()), "has signed"),
            (&url, None, "has signed"),
            (&elsewhere, Some(pem.as_bytes()), "not valid for name"),
            (&authority, Some(itself.as_bytes()), "of an authority"),
            (&without, None, "speaks no TLS"),
        ] {
            let client = Client::new(url, &file, ca).unwrap();
            let call = client.ice_servers().await.unwrap_err();
            assert!(matches!(call, ServerError::Unreachable { .. }), "{call}");
            assert!(call.to_string().contains(why), "{call}");
            let socket = client.socket("/api/devices/socket").await.unwrap_err();
            assert!(
                matches!(socket, ServerError::Unreachable { .. }),
                "{socket}"
            );
            assert!(socket.to_string().contains(why), "{socket}");
        }
    });
}
