use super::*;
use crate::protocol::identity::Identity;

/// Long enough that only a hang runs into it.
const PATIENCE: Duration = Duration::from_secs(60);

/// An id that no other test, and no other run of this one, uses at the same time.
fn fresh_id() -> DeviceId {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    Identity::from_seed(&seed).device_id()
}

const RUN: RunId = RunId([7; 8]);

fn advert(id: &DeviceId, port: u16) -> Advert {
    Advert {
        device_id: id.clone(),
        name: "Room 12 / 3".into(),
        device_type: DeviceType::Mobile,
        run: RUN,
        port,
        addresses: Vec::new(),
    }
}

fn on_loopback(advert: Option<Advert>) -> (Discovery, mpsc::Receiver<DiscoveryEvent>) {
    let interfaces = Selection::Loopback;
    Discovery::start(DiscoveryOptions { advert, interfaces }).unwrap()
}

async fn until_found(events: &mut mpsc::Receiver<DiscoveryEvent>, id: &DeviceId) -> PeerAdvert {
    let search = async {
        loop {
            match events.recv().await.unwrap() {
                DiscoveryEvent::Found(peer) if peer.id == *id => return peer,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, search).await.unwrap()
}

async fn until_lost(events: &mut mpsc::Receiver<DiscoveryEvent>, id: &DeviceId) {
    let search =
        async { while events.recv().await.unwrap() != DiscoveryEvent::Lost(id.clone()) {} };
    timeout(PATIENCE, search).await.unwrap();
}

#[tokio::test]
async fn two_devices_find_each_other_and_a_goodbye_takes_one_away() {
    let (a, b) = (fresh_id(), fresh_id());
    let (discovery_a, mut seen_by_a) = on_loopback(Some(advert(&a, 4001)));
    let (discovery_b, mut seen_by_b) = on_loopback(Some(advert(&b, 4002)));
    let found = until_found(&mut seen_by_a, &b).await;
    assert_eq!(
        found,
        PeerAdvert {
            id: b.clone(),
            name: "Room 12 / 3".into(),
            device_type: DeviceType::Mobile,
            addrs: vec![SocketAddr::from(([127, 0, 0, 1], 4002))],
            proto: 1,
            run: Some(RUN),
        }
    );
    until_found(&mut seen_by_b, &a).await;
    discovery_b.stop().await;
    until_lost(&mut seen_by_a, &b).await;
    drop(discovery_a);
}

/// One id on two machines: whoever comes second gets another name, and everybody sees a copy.
#[tokio::test]
async fn a_second_machine_with_the_same_id_is_seen_by_others_and_by_the_first() {
    let id = fresh_id();
    let (_looking, mut seen) = on_loopback(None);
    let (_first, mut seen_by_first) = on_loopback(Some(advert(&id, 4004)));
    until_found(&mut seen, &id).await;
    let other = RunId([8; 8]);
    let copy = Advert {
        run: other,
        ..advert(&id, 4005)
    };
    let (second, _events) = on_loopback(Some(copy));
    for events in [&mut seen, &mut seen_by_first] {
        let search = async {
            loop {
                match events.recv().await.unwrap() {
                    DiscoveryEvent::Copy { advert, .. } if advert.id == id => return advert.run,
                    // It may take the name over: then it is the run that differs.
                    DiscoveryEvent::Found(advert) if advert.run == Some(other) => {
                        return advert.run;
                    }
                    _ => {}
                }
            }
        };
        assert_eq!(timeout(PATIENCE, search).await.unwrap(), Some(other));
    }
    second.stop().await;
}

#[tokio::test]
async fn dropping_it_says_goodbye_as_well() {
    let b = fresh_id();
    let (_discovery, mut events) = on_loopback(None);
    let (discovery_b, _events_b) = on_loopback(Some(advert(&b, 4003)));
    until_found(&mut events, &b).await;
    drop(discovery_b);
    until_lost(&mut events, &b).await;
}

#[tokio::test]
async fn when_the_daemon_is_gone_it_says_so_instead_of_falling_silent() {
    let (discovery, mut events) = on_loopback(None);
    discovery.daemon.shutdown().unwrap();
    let stopped =
        async { while !matches!(events.recv().await, Some(DiscoveryEvent::Stopped(_))) {} };
    timeout(PATIENCE, stopped).await.unwrap();
}

fn service(instance: &str, port: u16, addresses: &str, txt: &[(&str, &str)]) -> ResolvedService {
    let info = ServiceInfo::new(SERVICE_TYPE, instance, "x.local.", addresses, port, txt);
    info.unwrap().as_resolved_service()
}

#[test]
fn adverts_of_strangers_are_told_from_ours() {
    let ours = [("txtvers", "1"), ("id", "abc")];
    let read = |instance, port, addresses, txt: &[(&str, &str)]| {
        read_advert(&service(instance, port, addresses, txt), false)
    };
    let (copy, number) = read("Peer-abc (2)", 7, "10.0.0.1", &ours).unwrap();
    assert_eq!((copy.id.as_str(), number), ("abc", 2));
    let (good, number) = read("Peer-abc", 7, "10.0.0.1", &ours).unwrap();
    assert_eq!(number, 1);
    assert_eq!(
        (good.id.as_str(), good.name.as_str(), good.proto),
        ("abc", "abc", 1)
    );
    let strangers = [
        read("Printer", 7, "10.0.0.1", &ours),
        read("Peer-abd", 7, "10.0.0.1", &ours),
        read("Peer-abc (1)", 7, "10.0.0.1", &ours),
        read("Peer-abc (x)", 7, "10.0.0.1", &ours),
        read("Peer-abc(2)", 7, "10.0.0.1", &ours),
        read("Peer-abc", 7, "10.0.0.1", &[("id", "abc")]),
        read("Peer-abc", 7, "10.0.0.1", &[("txtvers", "1")]),
        read(
            "Peer-abc",
            7,
            "10.0.0.1",
            &[("txtvers", "2"), ("id", "abc")],
        ),
        read("Peer-abc", 0, "10.0.0.1", &ours),
        read("Peer-abc", 7, "127.0.0.1,0.0.0.0,224.0.0.1", &ours),
    ];
    for (n, stranger) in strangers.iter().enumerate() {
        assert!(stranger.is_err(), "{n}: {stranger:?}");
    }
}

#[test]
fn names_and_addresses_of_an_advert_are_made_harmless_and_bounded() {
    let many: Vec<String> = (1..100).map(|n| format!("10.0.0.{n}")).collect();
    let txt = [
        ("txtvers", "1"),
        ("id", "abc"),
        ("name", "a\x1b[2Jb"),
        ("type", "toaster"),
        ("proto", "x"),
        ("run", "\x1b[2J"),
    ];
    let (read, _) = read_advert(&service("Peer-abc", 7, &many.join(","), &txt), false).unwrap();
    assert_eq!(read.name, "a\u{fffd}[2Jb");
    assert_eq!(read.addrs.len(), MAX_ADDRESSES);
    assert_eq!((read.device_type, read.proto), (DeviceType::Desktop, 1));
    assert_eq!(read.run, None);
}

#[test]
fn instance_names_of_any_shape_are_read_without_panic() {
    assert_eq!(
        id_of("Peer-abc._fileshare._tcp.local."),
        Some(("abc".parse().unwrap(), 1))
    );
    assert_eq!(
        id_of("Peer-abc (12)._FileShare._TCP.local."),
        Some(("abc".parse().unwrap(), 12))
    );
    for name in [
        "",
        ".",
        "Peer-",
        "Peer-._fileshare._tcp.local.",
        "Peer-é._fileshare._tcp.local.",
        "Peer-abc (99999999999)._fileshare._tcp.local.",
        "Peer- (2)._fileshare._tcp.local.",
        "é_fileshare._tcp.local.",
        "Peer-abc_fileshare._tcp.local.",
        "Peer-abc._other._tcp.local.",
    ] {
        assert_eq!(id_of(name), None, "{name}");
    }
}

#[test]
fn an_id_too_long_for_a_dns_label_is_refused_before_anything_starts() {
    let long: DeviceId = "a".repeat(56).parse().unwrap();
    let refused = service_info(&advert(&long, 1), &Selection::All);
    assert_eq!(refused.err(), Some(DiscoveryError::LongId(long)));
}
