//! What a sink must not believe.

use super::*;

#[test]
fn a_page_that_replaces_another_takes_back_what_it_no_longer_vouches_for() {
    let dir = tempfile::tempdir().unwrap();
    let old = Origin::folder();
    let mut new = Origin::folder();
    new.files[0][CHUNK + 1] ^= 0xff;
    let mut sink = old.open(dir.path());
    old.send(&mut sink, 0..70);
    let checkpoint = sink.checkpoint().unwrap();
    let (bytes, signature) = new.page(0);
    let outcome = sink.put_page(0, &bytes, &signature).unwrap();
    assert_eq!(outcome, PageOutcome::Replaced { lost: vec![1] });
    assert_eq!(
        sink.put_page(0, &bytes, &signature).unwrap(),
        PageOutcome::Known
    );
    assert_eq!(
        sink.check_root(&old.root().0, &old.root().1).unwrap(),
        RootOutcome::Differs
    );
    drop(sink);
    // The record from before the change is not believed about the page that changed.
    let mut sink = new.open(dir.path());
    assert_eq!(
        sink.recover(Some(&checkpoint))
            .iter_missing()
            .collect::<Vec<_>>(),
        [1]
    );
    new.send_missing(&mut sink);
    new.assert_at(&new.finish(sink).path);
}

#[test]
fn an_origin_that_keeps_changing_its_mind_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut origin = Origin::file("f", content(1, 100));
    let mut sink = origin.open(dir.path());
    for turn in 0..200 {
        origin.files[0][0] = turn;
        origin.send_pages(&mut sink);
    }
    let pages = origin.staging(dir.path()).join("pages");
    assert!(fs::metadata(&pages).unwrap().len() < 20 * (9 + 64 + 40));
    drop(sink);
    let mut sink = origin.open(dir.path());
    origin.send_missing(&mut sink);
    origin.assert_at(&origin.finish(sink).path);
}

#[test]
fn nothing_of_a_false_chunk_reaches_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let mut sink = origin.open(dir.path());
    assert!(matches!(
        sink.write_chunk(0, origin.chunk(0)),
        Err(SinkError::PageUnknown { index: 0, page: 0 })
    ));
    // An origin whose XXH3 fits and whose BLAKE3 does not: as close as a lie can get.
    let (mut bytes, _) = origin.page(0);
    bytes[5] ^= 1;
    let said = page_statement(&sink.bundle(), 0, &page_digest(&bytes));
    let signature = origin.identity.sign(&said);
    sink.put_page(0, &bytes, &signature).unwrap();
    let lie = sink.write_chunk(0, origin.chunk(0)).unwrap_err();
    assert!(matches!(lie, SinkError::False { index: 0 }));
    assert_eq!(lie.code(), Code::Integrity);
    let mut damaged = origin.chunk(1).to_vec();
    damaged[9] ^= 1;
    assert!(matches!(
        sink.write_chunk(1, &damaged),
        Err(SinkError::Corrupt { index: 1 })
    ));
    assert!(matches!(
        sink.write_chunk(1, &damaged[1..]),
        Err(SinkError::Length { .. })
    ));
    assert!(matches!(
        sink.write_chunk(70, &damaged),
        Err(SinkError::NoSuchChunk(70))
    ));
    assert!(names_in(&origin.staging(dir.path()).join(DATA)).is_empty());
    assert!(sink.have().is_empty());
}

#[test]
fn pages_and_roots_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    let mut other = Origin::folder();
    other.identity = Identity::from_seed(&[6; 32]);
    let mut sink = origin.open(dir.path());
    let (bytes, signature) = origin.page(0);
    let (_, false_signature) = other.page(0);
    assert!(matches!(
        sink.put_page(0, &bytes, &false_signature),
        Err(SinkError::Signature { .. })
    ));
    assert!(matches!(
        sink.put_page(1, &bytes, &signature),
        Err(SinkError::Page(_))
    ));
    assert!(matches!(
        sink.put_page(2, &bytes, &signature),
        Err(SinkError::NoSuchPage(2))
    ));
    assert!(matches!(
        sink.put_page(0, &bytes[40..], &signature),
        Err(SinkError::Page(_))
    ));
    origin.send(&mut sink, 0..70);
    let (root, signature) = other.root();
    assert!(matches!(
        sink.check_root(&root, &signature),
        Err(SinkError::Signature { .. })
    ));
    assert!(matches!(
        sink.finish(Collision::KeepBoth),
        Err(SinkError::NotVerified)
    ));
    let key = other.identity.public_key();
    let stolen = Sink::open(
        dir.path(),
        &origin.identity.device_id(),
        &key,
        TransferId([1; 16]),
        &origin.bytes,
    );
    assert!(matches!(stolen, Err(SinkError::KeyMismatch)));
}

#[test]
fn links_on_the_way_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let origin = Origin::folder();
    // The staging folder itself.
    symlink(outside.path(), dir.path().join(STAGING)).unwrap();
    assert!(matches!(
        origin.try_open(dir.path()),
        Err(SinkError::Link { .. })
    ));
    fs::remove_file(dir.path().join(STAGING)).unwrap();
    // A folder of the bundle, and a file of it.
    let mut sink = origin.open(dir.path());
    let tree = origin.staging(dir.path()).join("data/lesson");
    fs::create_dir_all(&tree).unwrap();
    symlink(outside.path(), tree.join("bin")).unwrap();
    fs::create_dir(tree.join("Übung")).unwrap();
    fs::write(outside.path().join("victim"), "safe").unwrap();
    symlink(outside.path().join("victim"), tree.join("Übung/三 🎒.bin")).unwrap();
    origin.send_pages(&mut sink);
    for index in [0, 10] {
        assert!(matches!(
            sink.write_chunk(index, origin.chunk(index)),
            Err(SinkError::Link { .. })
        ));
    }
    assert!(sink.recover(None).is_empty());
    drop(sink);
    // The state files.
    let meta = origin.staging(dir.path()).join(META);
    fs::remove_file(&meta).unwrap();
    symlink(outside.path().join("victim"), &meta).unwrap();
    assert!(origin.try_open(dir.path()).is_err());
    assert_eq!(names_in(outside.path()), ["victim"]);
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"safe");
}

#[test]
fn a_head_with_a_path_that_leads_out_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::from_seed(&[4; 32]);
    for evil in ["../../evil", "/tmp/evil", "a/../../../evil", "..\\\\evil"] {
        let head = format!(
            r#"{{"v":1,"name":"x","kind":"folder","chunk_size":65536,"files":[{{"path":"{evil}","size":1}}]}}"#
        );
        let key = identity.public_key();
        let opened = Sink::open(
            dir.path(),
            &key.device_id(),
            &key,
            TransferId([1; 16]),
            head.as_bytes(),
        );
        assert_eq!(opened.err().unwrap().code(), Code::BadRequest);
    }
    assert!(names_in(dir.path()).is_empty());
}
