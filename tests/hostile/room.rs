//! What the tests of hostile devices have in common: nodes that are watched, and what must hold
//! afterwards.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use handout::actors::api::{Event, Request};
use handout::actors::service::{Mode, Node};
use handout::protocol::id::DeviceId;
use handout::protocol::message::Code;
use handout::protocol::transfer::TransferState;
use tokio::sync::Notify;

use crate::nodes::{Running, contains, files_below};

/// A test that waits longer than this for something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// False content holds this; nothing that is written does.
pub const MARK: &[u8; 16] = b"\xfe<a falsehood!>\xef";

/// Content of this size that must never be written.
pub fn false_bytes(size: usize) -> Vec<u8> {
    MARK.iter().copied().cycle().take(size).collect()
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// Everything that a node has told so far.
#[derive(Clone, Default)]
pub struct Told(Arc<(Mutex<Vec<Event>>, Notify)>);

impl Told {
    /// Watches a node from now on. To be called within a runtime.
    pub fn by(node: &Node) -> Self {
        let told = Self::default();
        let (mut events, keep) = (node.ask(Request::Watch), told.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                keep.0.0.lock().unwrap().push(event);
                keep.0.1.notify_waiters();
            }
        });
        told
    }

    /// The first of what was, or will be, told about a device that fits.
    pub async fn find<T>(
        &self,
        what: &str,
        about: &DeviceId,
        take: impl Fn(&Event) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                let more = self.0.1.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                let found = self.0.0.lock().unwrap().iter().find_map(&take);
                if let Some(found) = found {
                    return found;
                }
                more.await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => {
                let told: Vec<_> = self
                    .0
                    .0
                    .lock()
                    .unwrap()
                    .iter()
                    .map(|e| format!("{e:?}"))
                    .collect();
                let told: Vec<_> = told.iter().filter(|e| e.contains(about.as_str())).collect();
                panic!("{what} was not told, but {told:#?}")
            }
        }
    }

    /// Why the link with a device was ended.
    pub async fn dropped(&self, device: &DeviceId) -> String {
        self.find("the end of a link", device, |event| match event {
            Event::NotConnected { device_id, reason } if device_id == device => {
                Some(reason.clone())
            }
            _ => None,
        })
        .await
    }

    /// Waits until a transfer with a device is complete.
    pub async fn completed(&self, device: &DeviceId) {
        self.find("that it has everything", device, |event| match event {
            Event::Transfer(info) if info.device_id == *device => {
                (info.state == TransferState::Complete).then_some(())
            }
            _ => None,
        })
        .await;
    }

    /// How a transfer with a device failed.
    pub async fn failed(&self, device: &DeviceId) -> (Code, String) {
        self.find("a failure", device, |event| match event {
            Event::Transfer(info) if info.device_id == *device => match &info.state {
                TransferState::Failed { code, reason } => Some((*code, reason.clone())),
                _ => None,
            },
            _ => None,
        })
        .await
    }
}

/// A node that sends, and knows these others at these ports.
pub fn sender(folder: &Path, peers: &[(DeviceId, u16)], more: &[(&str, String)]) -> Running {
    let addresses = peers
        .iter()
        .map(|(id, port)| format!("{id}@127.0.0.1:{port}"));
    let may = peers.iter().map(|(id, _)| id.to_string());
    let own = [
        (
            "discovery.static_peers",
            addresses.collect::<Vec<_>>().join(","),
        ),
        ("trust.authorized", may.collect::<Vec<_>>().join(",")),
    ];
    Running::start(folder, Mode::Send, &[&own[..], more].concat())
}

/// No file that is anywhere below holds anything false.
pub fn nothing_false_below(folder: &Path) {
    for file in files_below(folder) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert!(!contains(&bytes, MARK), "{} is false", file.display());
    }
}

/// The files that have their final names.
pub fn finished_below(folder: &Path) -> Vec<String> {
    let staging = folder.join(".handout");
    let mut names: Vec<_> = files_below(folder)
        .into_iter()
        .filter(|path| !path.starts_with(&staging))
        .map(|path| path.strip_prefix(folder).unwrap().display().to_string())
        .collect();
    names.sort();
    names
}

/// A line of `/proc/self/status`: memory in KiB, or a count.
pub fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line
        .unwrap()
        .trim_start_matches(':')
        .split_whitespace()
        .next();
    number.unwrap().parse().unwrap()
}
