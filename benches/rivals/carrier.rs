//! What the rivals share: how their processes are started, and how bytes meet files.
//!
//! The sender listens; it starts when all receivers are connected. Files are read and written with
//! plain blocking calls: they are in memory, and a thread pool would cost the rivals more.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::process::{Process, Usage};
use super::{Contestant, Job, Outcome, ROLE};

/// Anything that may go wrong in a rival.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The bytes read and written at once.
const PIECE: usize = 256 * 1024;
const LIMIT: Duration = Duration::from_secs(600);

/// A rival over the carrier of this name (`play` knows them).
pub struct Rival {
    /// `quic` or `tls`.
    pub carrier: &'static str,
}

impl Contestant for Rival {
    fn name(&self) -> &'static str {
        self.carrier
    }

    fn run(&self, job: &Job<'_>) -> Result<Outcome, String> {
        let start = |role: &str, file: &Path, number: u16| {
            let program = std::env::current_exe().map_err(|e| e.to_string())?;
            let mut command = Command::new(program);
            command.args([ROLE, role, self.carrier]);
            command.args([job.folder, file]).arg(number.to_string());
            Process::start(format!("the {} {role}", self.carrier), &mut command)
        };
        let begin = Instant::now();
        let mut sender = start("sender", job.source, job.receivers as u16)?;
        let (_, port) = sender.wait_for(LIMIT, |line| line.strip_prefix("port ")?.parse().ok())?;
        let files: Vec<PathBuf> = (0..job.receivers)
            .map(|n| job.folder.join(format!("{n}.bin")))
            .collect();
        let mut receivers = files
            .iter()
            .map(|file| start("receiver", file, port))
            .collect::<Result<Vec<_>, _>>()?;
        let mut times = Vec::new();
        for word in ["first", "done"] {
            for receiver in &mut receivers {
                times.push(
                    receiver
                        .wait_for(LIMIT, |line| (line == word).then_some(()))?
                        .0,
                );
                sender.sample();
            }
        }
        let (first, last) = (times[..job.receivers].iter().min(), times.iter().max());
        let (Some(&first), Some(&last)) = (first, last) else {
            return Err("there are no receivers".to_owned());
        };
        let mut all = Usage::default();
        for receiver in receivers {
            let usage = receiver.finish(LIMIT)?;
            all.cpu += usage.cpu;
            all.peak = all.peak.max(usage.peak);
        }
        Ok(Outcome {
            data: last - first,
            wall: last - begin,
            sender: sender.finish(LIMIT)?,
            receivers: all,
            files,
        })
    }
}

/// Writes a file to a stream.
pub async fn pour(file: &Path, stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), Error> {
    let (mut file, mut piece) = (File::open(file)?, vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&piece[..read]).await?;
    }
}

/// Writes a stream to a file until its end, and says when it begins and ends.
pub async fn fill(stream: &mut (impl AsyncRead + Unpin), file: &Path) -> Result<(), Error> {
    let (mut file, mut piece) = (File::create(file)?, vec![0; PIECE]);
    let mut begun = false;
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        if !begun {
            begun = true;
            println!("first");
        }
        file.write_all(&piece[..read])?;
    }
    drop(file);
    println!("done");
    Ok(())
}

/// A fresh certificate for `localhost`, left in the folder for the receivers.
pub fn server_config(folder: &Path) -> Result<rustls::ServerConfig, Error> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let certificate = made.cert.der().clone();
    std::fs::write(folder.join("certificate.der"), &certificate)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(config)
}

/// Trusts the certificate that the sender left in the folder, and no other.
pub fn client_config(folder: &Path) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(
        folder.join("certificate.der"),
    )?))?;
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
