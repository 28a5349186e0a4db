use super::*;
use crate::protocol::id::DeviceId;

/// 2026-11-21T08:00:00Z
const NOW: u64 = 1_795_248_000;

fn entry(n: u8) -> Entry {
    Entry::Revoked {
        device: DeviceId::of_key(&[n; 32]),
    }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_default())
        .collect()
}

fn noted(dir: &Path, entries: std::ops::Range<u8>) -> Audit {
    let mut audit = Audit::new(dir);
    entries.for_each(|n| audit.note(entry(n), NOW));
    audit
}

#[test]
fn lines_are_numbered_dated_and_chained_also_over_processes() {
    let dir = tempfile::tempdir().unwrap();
    noted(dir.path(), 0..2);
    noted(dir.path(), 2..3);
    let path = dir.path().join(NAME);
    let written = lines(&path);
    assert_eq!(written.len(), 3);
    for (n, line) in written.iter().enumerate() {
        assert_eq!(line["seq"], n as u64 + 1);
        assert_eq!(line["time"], "2026-11-21T08:00:00Z");
        assert_eq!(line["what"], "revoked");
    }
    let text = fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap();
    assert_eq!(written[0]["prev"], "");
    assert_eq!(written[1]["prev"], hash(first.as_bytes()));
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    let found = check(dir.path()).unwrap();
    assert_eq!((found.lines, found.wrong, found.last), (3, 0, 3));
}

#[test]
fn a_line_cut_anywhere_is_closed_and_marked_and_eats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    noted(dir.path(), 0..3);
    let path = dir.path().join(NAME);
    let whole = fs::read(&path).unwrap();
    let begin = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap()
        + 1;
    for cut in begin..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        noted(dir.path(), 7..9);
        let found = check(dir.path()).unwrap();
        assert_eq!(found.wrong, 0, "cut at {cut}: {:?}", found.faults);
        let torn = cut > begin && cut < whole.len() - 1;
        assert_eq!(found.torn, u64::from(torn), "cut at {cut}");
        let written = lines(&path);
        let revoked = written.iter().filter(|line| line["what"] == "revoked");
        let kept = if cut >= whole.len() - 1 { 3 } else { 2 };
        assert_eq!(revoked.count(), kept + 2, "cut at {cut}");
        if torn {
            assert_eq!(written[3]["what"], "torn");
            assert_eq!(written[3]["bytes"], cut - begin);
        }
    }
}

#[test]
fn a_line_that_was_changed_taken_out_or_put_in_is_found() {
    let dir = tempfile::tempdir().unwrap();
    noted(dir.path(), 0..6);
    let path = dir.path().join(NAME);
    let text = fs::read_to_string(&path).unwrap();
    let all: Vec<&str> = text.lines().collect();
    let write = |lines: &[&str]| fs::write(&path, lines.join("\n") + "\n").unwrap();
    let changed = all[2].replace("revoked", "revoked_");
    let mut lines = all.clone();
    lines[2] = &changed;
    write(&lines);
    let found = check(dir.path()).unwrap();
    assert_eq!((found.wrong, found.faults[0].line), (1, 4));
    lines = all.clone();
    lines.remove(3);
    write(&lines);
    assert!(check(dir.path()).unwrap().wrong > 0);
    lines = all.clone();
    lines.insert(3, all[3]);
    write(&lines);
    assert!(check(dir.path()).unwrap().wrong > 0);
    lines = all.clone();
    lines[3] = "{\"seq\":4}";
    write(&lines);
    assert!(check(dir.path()).unwrap().wrong > 0);
    write(&all[1..]);
    assert_eq!(
        check(dir.path()).unwrap().wrong,
        0,
        "older ones may be gone"
    );
}

#[test]
fn a_long_or_old_file_becomes_an_older_one_and_no_line_is_lost_within_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut audit = Audit::new(dir.path());
    audit.limit(AuditLimits {
        max_size: 1000,
        max_age: 3600,
        keep: 100,
    });
    (0..60).for_each(|n| audit.note(entry(n), NOW));
    let found = check(dir.path()).unwrap();
    assert_eq!((found.lines, found.wrong, found.last), (60, 0, 60));
    assert!(found.files > 10, "{}", found.files);
    // By age, and also after the next start.
    let files = found.files;
    let mut audit = Audit::new(dir.path());
    audit.limit(AuditLimits {
        max_size: 1 << 20,
        max_age: 3600,
        keep: 3,
    });
    audit.note(entry(1), NOW + 3600);
    assert_eq!(check(dir.path()).unwrap().files, files);
    audit.note(entry(1), NOW + 3601);
    let found = check(dir.path()).unwrap();
    assert_eq!((found.files, found.wrong, found.last), (4, 0, 62));
    for n in 1..=3 {
        assert!(older(dir.path(), n).exists());
    }
    assert!(!older(dir.path(), 4).exists());
}

#[test]
fn an_interrupted_rotation_is_made_good_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let small = AuditLimits {
        max_size: 400,
        max_age: u64::MAX,
        keep: 10,
    };
    let mut audit = Audit::new(dir.path());
    audit.limit(small);
    (0..9).for_each(|n| audit.note(entry(n), NOW));
    // The power was cut after the first file had been moved away, before there was a new one.
    let free = (1..).find(|n| !older(dir.path(), *n).exists()).unwrap();
    for n in (1..free).rev() {
        fs::rename(older(dir.path(), n), older(dir.path(), n + 1)).unwrap();
    }
    fs::rename(dir.path().join(NAME), older(dir.path(), 1)).unwrap();
    let mut audit = Audit::new(dir.path());
    audit.limit(small);
    (0..9).for_each(|n| audit.note(entry(n), NOW));
    let found = check(dir.path()).unwrap();
    assert_eq!((found.lines, found.wrong, found.last), (18, 0, 18));
}

#[test]
fn what_the_disk_does_not_take_waits_in_order_and_what_is_too_much_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut audit = Audit::new(&state);
    for _ in 0..MAX_WAITING + 5 {
        audit.note(entry(1), NOW);
    }
    assert_eq!(audit.behind(), MAX_WAITING as u64 + 5);
    fs::create_dir(&state).unwrap();
    audit.catch_up(NOW);
    assert_eq!(audit.behind(), 0);
    let written = lines(&state.join(NAME));
    assert_eq!(written.len(), MAX_WAITING + 1);
    assert_eq!(written[MAX_WAITING]["what"], "lost");
    assert_eq!(written[MAX_WAITING]["lines"], 5);
    // A file that somebody has moved away is begun anew, and the chain goes on.
    fs::rename(state.join(NAME), older(&state, 1)).unwrap();
    audit.note(entry(2), NOW);
    let found = check(&state).unwrap();
    assert_eq!((found.files, found.wrong), (2, 0));
    assert_eq!(found.last, MAX_WAITING as u64 + 2);
}

#[test]
fn what_others_named_is_harmless_in_the_log_and_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut audit = Audit::new(dir.path());
    let evil = format!(
        "\u{1b}[2J\u{9b}1m\u{202e}\n\"}}\u{7f}Größe{}",
        "x".repeat(100_000)
    );
    audit.note(Entry::reloaded(false, &evil), NOW);
    let text = fs::read_to_string(dir.path().join(NAME)).unwrap();
    assert_eq!(text.lines().count(), 1);
    let body = text.trim_end_matches('\n');
    assert!(
        !body.chars().any(|c| c.is_control() || c == '\u{202e}'),
        "{body:?}"
    );
    assert!(text.contains("Größe") && text.len() < 1000);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let kept = line["text"].as_str().unwrap();
    assert!(kept.starts_with("\u{1b}[2J\u{9b}1m\u{202e}\n\"}\u{7f}Größe"));
}
