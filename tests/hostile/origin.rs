//! Origins: devices that may send to us, and misuse it.

use std::path::Path;

use handout::actors::service::Mode;
use handout::protocol::message::{Decision, Message};

use crate::bundle::Bundle;
use crate::nodes::device::Device;
use crate::nodes::{Running, files_below};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// A receiver that lets these devices in.
fn receiver(folder: &Path, devices: &[&Device]) -> Running {
    let may: Vec<_> = devices
        .iter()
        .map(|device| device.id().to_string())
        .collect();
    Running::start(
        folder,
        Mode::Receive,
        &[("trust.authorized", may.join(","))],
    )
}

#[test]
fn a_true_bundle_made_by_hand_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::new(7);
    let node = receiver(folder.path(), &[&device]);
    let id = node.id.clone();
    runtime().block_on(async {
        let wire = device.connect(&id, node.port).await.unwrap();
        let bundle = Bundle::new(&device.identity, 1, "true.bin", 300_000, 1);
        wire.say(&bundle.offer()).await;
        let accepted = wire.wait_for(|message| match message {
            Message::StartTransferAcknowledged(ack) => Some(ack.status),
            _ => None,
        });
        assert_eq!(accepted.await, Some(Decision::Accepted));
        for frame in bundle.all_frames() {
            assert!(wire.send(frame).await);
        }
        wire.say(&bundle.end()).await;
        let complete = wire.wait_for(|message| match message {
            Message::TransferComplete { root, .. } => root,
            _ => None,
        });
        assert_eq!(complete.await, Some(bundle.root().0));
        let arrived = files_below(&node.received);
        let arrived: Vec<_> = arrived
            .iter()
            .filter(|path| path.ends_with("true.bin"))
            .collect();
        assert_eq!(arrived.len(), 1);
        assert!(std::fs::read(arrived[0]).unwrap() == bundle.content);
    });
}
