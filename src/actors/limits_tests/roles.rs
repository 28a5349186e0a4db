//! The role to receive.

use super::super::api::{Event, exit};
use super::outsider::{Line, outsider};
use super::{authorize, events_of, node_with_file, on_this_thread, send, start};
use crate::protocol::message::Message;
use crate::protocol::roles::Roles;

#[test]
fn a_device_that_may_not_receive_gets_nothing_by_its_id_its_group_or_all() {
    let (_folder, file, node) = node_with_file();
    let device = outsider().device_id();
    on_this_thread(async {
        events_of(&node, authorize(&device, Roles::SEND, Some("class"))).await;
        for to in [device.as_str(), "all", "@class"] {
            let answer = events_of(&node, send(&file, to)).await;
            let begun = |event: &Event| matches!(event, Event::Broadcast { .. });
            assert!(!answer.iter().any(begun), "{to}: {answer:?}");
        }
    });
}

#[test]
fn a_device_that_may_no_longer_receive_is_not_handed_what_waits_for_it() {
    let (_folder, file, node) = node_with_file();
    let device = outsider().device_id();
    on_this_thread(async {
        events_of(&node, authorize(&device, Roles::RECEIVE, None)).await;
        let mut sending = node.node.ask(send(&file, device.as_str()));
        loop {
            match sending.recv().await.unwrap() {
                Event::Transfer(_) | Event::Broadcast { .. } => break,
                _ => {}
            }
        }
        events_of(&node, authorize(&device, Roles::SEND, None)).await;
        // It comes, and is not offered anything.
        let line = Line::to(&node).await;
        loop {
            match sending.recv().await.unwrap() {
                Event::End { code } => {
                    assert_eq!(code, exit::UNAUTHORIZED);
                    break;
                }
                event => assert!(!format!("{event:?}").contains("Offered"), "{event:?}"),
            }
        }
        line.say(&start(1)).await;
        let answer = line.hear().await;
        assert!(
            matches!(answer, Some(Message::StartTransferAcknowledged(_))),
            "{answer:?}"
        );
    });
}
