use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(n: u8) -> DeviceId {
    DeviceId::of_key(&[n; 32])
}

fn run(n: u8) -> RunId {
    RunId([n; 8])
}

fn place(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// We are the device 0, in its run 100.
fn watch() -> (Clones, Instant) {
    let now = Instant::now();
    (Clones::new(now, id(0), run(100)), now)
}

#[test]
fn two_runs_that_take_turns_on_links_are_a_clone_and_are_told_of_once() {
    let (mut clones, now) = watch();
    let mut link = |n: u8| clones.on_link(now, &id(1), run(n), Some(place(n)));
    assert_eq!(link(1), None);
    assert_eq!(link(2), None, "it may have started again");
    let alarm = link(1).expect("what has ended does not come back");
    assert!(alarm.proven);
    assert_eq!(alarm.places, [place(1), place(2)]);
    assert_eq!(link(2), None, "no news");
    assert!(clones.alarm(&id(1)).is_some() && clones.alarm(&id(2)).is_none());
}

#[test]
fn a_device_that_starts_again_and_again_is_no_clone() {
    let (mut clones, mut now) = watch();
    for n in 1..=50 {
        for _ in 0..3 {
            assert_eq!(clones.on_link(now, &id(1), run(n), Some(place(n))), None);
            assert_eq!(clones.on_advert(now, &id(1), run(n), 1, [place(n)]), None);
            now += SECOND;
        }
        assert_eq!(clones.tick(now), (vec![], vec![]));
    }
    assert_eq!(clones.devices[&id(1)].len(), MAX_RUNS);
}

#[test]
fn adverts_of_a_run_that_was_killed_may_linger() {
    let (mut clones, now) = watch();
    assert_eq!(clones.on_advert(now, &id(1), run(1), 1, []), None);
    let later = now + SECOND * 60;
    assert_eq!(clones.on_advert(later, &id(1), run(2), 1, []), None);
    assert_eq!(clones.on_link(later, &id(1), run(2), None), None);
    // A cache that has both brings them up in any order, for a moment.
    for n in 1..9 {
        let at = later + SECOND * n;
        assert_eq!(clones.on_advert(at, &id(1), run(1), 1, []), None);
        assert_eq!(clones.on_advert(at, &id(1), run(2), 1, []), None);
        assert_eq!(clones.tick(at).0, []);
    }
    assert_eq!(clones.tick(later + GRACE * 2).0, []);
}

#[test]
fn a_run_that_is_advertised_again_after_another_took_its_place_is_a_clone() {
    let (mut clones, now) = watch();
    clones.on_advert(now, &id(1), run(1), 1, [place(1)]);
    clones.on_advert(now + SECOND, &id(1), run(2), 1, [place(2)]);
    let later = now + SECOND + GRACE;
    let alarm = clones.on_advert(later, &id(1), run(1), 1, [place(1)]);
    assert!(!alarm.expect("both are there").proven);
    // A link makes sure of it, and that is news.
    clones.on_link(later, &id(1), run(1), None);
    clones.on_link(later, &id(1), run(2), None);
    let alarm = clones.on_link(later, &id(1), run(1), None);
    assert!(alarm.expect("it is proven now").proven);
}

#[test]
fn two_names_for_one_device_are_a_clone_once_both_have_stayed() {
    let (mut clones, now) = watch();
    clones.on_advert(now, &id(1), run(1), 1, [place(1)]);
    let later = now + SECOND * 100;
    clones.on_advert(later, &id(1), run(2), 2, [place(2)]);
    assert_eq!(clones.tick(later + GRACE - SECOND).0, []);
    let (raised, _) = clones.tick(later + GRACE);
    assert_eq!(raised[0].places, [place(1), place(2)]);
    // One goes: the alarm ends when nothing has spoken for it for long enough.
    clones.on_advert_gone(&id(1), 2);
    let quiet = later + GRACE + QUIET;
    assert_eq!(clones.tick(quiet - SECOND), (vec![], vec![]));
    assert_eq!(clones.tick(quiet), (vec![], vec![id(1)]));
    assert!(clones.alarm(&id(1)).is_none());
}

#[test]
fn an_instance_that_goes_in_time_was_a_leftover() {
    let (mut clones, now) = watch();
    clones.on_advert(now, &id(1), run(1), 1, []);
    clones.on_advert(now + SECOND, &id(1), run(2), 2, []);
    clones.on_advert_gone(&id(1), 1);
    assert_eq!(clones.tick(now + GRACE * 3).0, []);
}

#[test]
fn one_machine_with_many_addresses_and_names_is_no_clone() {
    let (mut clones, now) = watch();
    for n in 1..40 {
        let at = now + GRACE * n;
        let place = place(n as u8);
        clones.on_advert(at, &id(1), run(1), n % 3 + 1, [place]);
        clones.on_advert(at, &id(0), run(100), n % 3 + 1, [place]);
        clones.on_link(at, &id(1), run(1), Some(place));
        assert_eq!(clones.tick(at), (vec![], vec![]));
    }
}

#[test]
fn a_device_notices_its_own_clone() {
    let (mut clones, now) = watch();
    for n in [1, 2] {
        let (mut clones, later) = (Clones::new(now, id(0), run(100)), now + SECOND * 60);
        assert_eq!(clones.on_advert(later, &id(0), run(7), n, [place(7)]), None);
        assert_eq!(clones.tick(later + GRACE - SECOND).0, []);
        let (raised, _) = clones.tick(later + GRACE);
        assert_eq!(raised[0].device, id(0));
    }
    // Its own earlier run, whose goodbye is on its way.
    clones.on_advert(now, &id(0), run(99), 1, []);
    clones.on_advert_gone(&id(0), 1);
    assert_eq!(clones.tick(now + GRACE * 2).0, []);
}

#[test]
fn what_is_remembered_is_bounded_and_our_own_run_stays() {
    let (mut clones, now) = watch();
    for n in 0..MAX_DEVICES as u32 + 100 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        clones.on_advert(now, &DeviceId::of_key(&key), run(1), 1, []);
    }
    assert_eq!(clones.devices.len(), MAX_DEVICES);
    for n in 0..200u8 {
        clones.on_advert(
            now,
            &id(0),
            RunId([n, 1, 1, 1, 1, 1, 1, 1]),
            1,
            (0..9).map(place),
        );
    }
    let own = &clones.devices[&id(0)];
    assert_eq!(own.len(), MAX_RUNS);
    assert!(own.iter().any(|seen| seen.run == run(100)));
    assert!(own.iter().all(|seen| seen.places.len() <= MAX_PLACES));
    clones.forget(&id(0));
    assert_eq!(clones.on_link(now, &id(0), run(1), None), None);
}
