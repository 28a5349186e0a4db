//! Decisions of the receive policy.

use proptest::prelude::*;

use super::*;
use crate::protocol::manifest::{DEFAULT_CHUNK_SIZE, FileEntry};
use crate::protocol::names::BundlePath;
use crate::protocol::transfer::Side;

fn patterns(words: &[&str]) -> Patterns {
    Patterns::new(words.iter().map(|word| (*word).to_owned()).collect()).unwrap()
}

fn terms() -> Terms {
    Terms {
        mode: Mode::Accept,
        types: Patterns::default(),
        refuse_types: Patterns::default(),
        max_file: None,
        max_bundle: 1000,
        max_files: 10,
        quota: None,
        quota_total: None,
        quota_period: Duration::from_secs(3600),
        destination: "/in".into(),
        collision: Collision::KeepBoth,
        reserve: 0,
        keep_versions: 1,
        run: Vec::new(),
        run_timeout: Duration::from_secs(60),
    }
}

fn offer(name: &str, size: u64) -> Offer<'_> {
    Offer {
        name,
        kind: Kind::File,
        size,
        files: 1,
        standing: Standing::New,
    }
}

fn head(files: &[(&str, u64)]) -> Head {
    let entry = |&(path, size): &(&str, u64)| FileEntry {
        path: BundlePath::new(path).unwrap(),
        size,
        exec: false,
    };
    Head {
        name: BundlePath::new("lesson").unwrap(),
        kind: Kind::Folder,
        chunk_size: DEFAULT_CHUNK_SIZE,
        files: files.iter().map(entry).collect(),
        dirs: Vec::new(),
    }
}

fn code_of(verdict: Verdict) -> Option<Code> {
    match verdict {
        Verdict::Refuse(refusal) => Some(refusal.code),
        _ => None,
    }
}

#[test]
fn what_start_transfer_tells_is_decided_at_once() {
    let none = Usage::default();
    let pdf = Terms {
        types: patterns(&["*.pdf", "*.docx"]),
        refuse_types: patterns(&["secret*"]),
        max_file: Some(500),
        ..terms()
    };
    let folder = Offer {
        kind: Kind::Folder,
        files: 11,
        ..offer("lesson.exe", 10)
    };
    let table = [
        (offer("a.pdf", 500), None),
        (offer("A.PDF", 0), None),
        (offer("a.exe", 10), Some(Code::Declined)),
        (offer("pdf", 10), Some(Code::Declined)),
        (offer("Secret.pdf", 10), Some(Code::Declined)),
        (offer("a.pdf", 501), Some(Code::Quota)),
        (folder, Some(Code::Quota)),
        // What a folder holds is not known yet.
        (
            Offer {
                files: 10,
                ..folder
            },
            None,
        ),
    ];
    for (offer, expected) in table {
        assert_eq!(code_of(pdf.consider(&offer, &none)), expected, "{offer:?}");
    }
    let over = terms().consider(&offer("a", 1001), &none);
    assert_eq!(code_of(over), Some(Code::Quota));
    let refuse = Terms {
        mode: Mode::Refuse,
        ..terms()
    };
    let refused = refuse.consider(&offer("a", 0), &none);
    assert_eq!(code_of(refused), Some(Code::Declined));
}

#[test]
fn the_files_of_a_folder_are_judged_one_by_one_when_the_head_is_there() {
    let pdf = Terms {
        types: patterns(&["*.pdf"]),
        max_file: Some(500),
        ..terms()
    };
    let code = |files: &[(&str, u64)]| pdf.check_head(&head(files)).err().map(|r| r.code);
    assert_eq!(code(&[("a.pdf", 1), ("deep/in/B.Pdf", 500)]), None);
    assert_eq!(
        code(&[("a.pdf", 1), ("x.pdf/setup.exe", 1)]),
        Some(Code::Declined)
    );
    assert_eq!(code(&[("a.pdf", 501)]), Some(Code::Quota));
    assert_eq!(
        code(&[("a.pdf", 500), ("b.pdf", 400), ("c.pdf", 101)]),
        Some(Code::Quota)
    );
    let many: Vec<String> = (0..11).map(|n| format!("{n}.pdf")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), 0)).collect();
    assert_eq!(code(&many), Some(Code::Quota));
    let refusal = pdf.check_head(&head(&[("setup\u{202e}.exe", 1)]));
    let reason = refusal.unwrap_err().reason;
    assert!(
        reason.contains("only *.pdf") && reason.contains("setup"),
        "{reason}"
    );
    assert!(!reason.contains('\u{202e}'));
}

#[test]
fn patterns_that_are_none_or_could_never_fit_are_refused() {
    for bad in ["", "[", "a/b", "/*.pdf", "{a"] {
        assert!(Patterns::new(vec![bad.to_owned()]).is_none(), "{bad}");
    }
    let fits = patterns(&["*.{JPG,png}", "exam-??.doc[x]", "Ünal*"]);
    for name in ["a.jpg", "B.PNG", "EXAM-01.DOCX", "ünal.txt"] {
        assert!(fits.fit(name), "{name}");
    }
    assert!(!fits.fit("exam-1.docx") && !fits.fit("a.jpg.exe"));
}

#[test]
fn a_rule_for_a_broadcast_counts_more_than_one_for_all_of_them() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let rule = |who: &[&str], broadcasts: &[&str], max_files| Rule {
        who: words(who),
        broadcasts: words(broadcasts),
        changes: Changes {
            max_files: Some(max_files),
            ..Changes::default()
        },
    };
    let policy = Policy {
        defaults: terms(),
        rules: vec![
            rule(&[], &["maps"], 1),
            rule(&["staff"], &[], 2),
            rule(&["staff"], &["maps", "plans"], 3),
            rule(&["abc"], &["plans"], 4),
            rule(&["abc"], &[], 5),
        ],
    };
    let most = |id, groups: &[&'static str], broadcast| {
        let whom = Whom {
            id,
            names: Vec::new(),
            groups: groups.to_vec(),
            broadcast,
        };
        policy.terms_for(&whom).max_files
    };
    assert_eq!(most("x", &[], "films"), 10);
    assert_eq!(most("x", &[], "maps"), 1);
    assert_eq!(most("x", &["staff"], "films"), 2);
    assert_eq!(most("x", &["staff"], "maps"), 3);
    assert_eq!(most("abc", &["staff"], "maps"), 5);
    assert_eq!(most("abc", &["staff"], "plans"), 4);
}

#[test]
fn a_rule_for_the_device_counts_more_than_one_for_its_group_and_leaves_the_rest_to_it() {
    let rule = |who: &[&str], changes: Changes| Rule {
        who: who.iter().map(|word| (*word).to_owned()).collect(),
        broadcasts: Vec::new(),
        changes,
    };
    let quota = |bytes| Changes {
        quota: Some(Some(bytes)),
        ..Changes::default()
    };
    let asks = Changes {
        mode: Some(Mode::Ask),
        quota: Some(Some(1)),
        max_bundle: Some(5),
        ..Changes::default()
    };
    let policy = Policy {
        defaults: terms(),
        rules: vec![
            rule(&["class-3b"], asks),
            rule(&["class-3b", "staff"], quota(2)),
            rule(&["other", "Teacher's laptop"], quota(3)),
            rule(&["abc"], quota(4)),
        ],
    };
    let whom = |id, names: &[&'static str], groups: &[&'static str]| {
        policy.terms_for(&Whom {
            id,
            names: names.to_vec(),
            groups: groups.to_vec(),
            broadcast: "maps",
        })
    };
    assert_eq!(whom("xyz", &[], &[]), policy.defaults);
    let pupil = whom("xyz", &[], &["class-3b"]);
    assert_eq!(
        (pupil.mode, pupil.quota, pupil.max_bundle),
        (Mode::Ask, Some(1), 5)
    );
    assert_eq!(whom("xyz", &[], &["staff", "class-3b"]).quota, Some(1));
    let teacher = whom("xyz", &["Teacher's laptop"], &["class-3b"]);
    assert_eq!(
        (teacher.mode, teacher.quota, teacher.max_bundle),
        (Mode::Ask, Some(3), 5)
    );
    // Of two rules for the device, the first of the file.
    assert_eq!(whom("abc", &["Teacher's laptop"], &[]).quota, Some(3));
    assert_eq!(whom("abc", &[], &[]).quota, Some(4));
}

fn taken(state: &TransferState) -> Taken<'_> {
    Taken {
        same_device: true,
        asked: false,
        state,
        size: 100,
        arrived: 30,
        changed: 10_000,
    }
}

#[test]
fn quotas_count_what_has_come_what_is_coming_and_nothing_that_is_gone() {
    let (code, reason) = (Code::Other, String::new());
    let failed = TransferState::Failed { code, reason };
    let (by, reason) = (Side::Ours, String::new());
    let cancelled = TransferState::Cancelled { by, code, reason };
    let hour = Duration::from_secs(3600);
    let device = |one: Taken<'_>, now| Usage::of([one], hour, now).device;
    assert_eq!(device(taken(&TransferState::Complete), 13_600), 100);
    assert_eq!(device(taken(&TransferState::Complete), 13_601), 0);
    assert_eq!(device(taken(&failed), 13_600), 30);
    assert_eq!(device(taken(&failed), 13_601), 0);
    assert_eq!(device(taken(&TransferState::Pending), 1 << 40), 100);
    assert_eq!(device(taken(&TransferState::Active), 13_600), 100);
    assert_eq!(device(taken(&cancelled), 13_600), 0);

    let other = Taken {
        same_device: false,
        ..taken(&TransferState::Complete)
    };
    let usage = Usage::of([taken(&TransferState::Complete), other], hour, 10_000);
    assert_eq!((usage.device, usage.all), (100, 200));
    let terms = Terms {
        quota: Some(300),
        quota_total: Some(350),
        ..terms()
    };
    assert_eq!(terms.consider(&offer("a", 150), &usage), Verdict::Accept);
    let Verdict::Refuse(refusal) = terms.consider(&offer("a", 151), &usage) else {
        panic!()
    };
    assert_eq!(refusal.code, Code::Quota);
    assert!(refusal.reason.contains("only 150 are left"), "{refusal}");
    let alone = Usage { all: 100, ..usage };
    assert_eq!(
        code_of(terms.consider(&offer("a", 201), &alone)),
        Some(Code::Quota)
    );
}

#[test]
fn questions_and_unfinished_transfers_have_an_end() {
    let asks = Terms {
        mode: Mode::Ask,
        ..terms()
    };
    let standing = |standing| Offer {
        standing,
        ..offer("a", 1)
    };
    let none = Usage::default();
    assert_eq!(asks.consider(&standing(Standing::New), &none), Verdict::Ask);
    assert_eq!(
        asks.consider(&standing(Standing::Begun), &none),
        Verdict::Ask
    );
    assert_eq!(
        asks.consider(&standing(Standing::Approved), &none),
        Verdict::Accept
    );
    // A person's yes does not set the limits aside.
    let large = Offer {
        size: 1001,
        ..standing(Standing::Approved)
    };
    assert_eq!(code_of(asks.consider(&large, &none)), Some(Code::Quota));
    for full in [
        Usage {
            questions: MAX_QUESTIONS,
            ..none
        },
        Usage {
            questions_of_device: MAX_QUESTIONS_OF_ONE,
            ..none
        },
    ] {
        let new = asks.consider(&standing(Standing::New), &full);
        assert_eq!(code_of(new), Some(Code::Busy));
        assert_eq!(
            asks.consider(&standing(Standing::Asked), &full),
            Verdict::Ask
        );
    }
    let busy = Usage {
        unfinished: MAX_UNFINISHED,
        ..none
    };
    let new = terms().consider(&standing(Standing::New), &busy);
    assert_eq!(code_of(new), Some(Code::Busy));
    assert_eq!(
        terms().consider(&standing(Standing::Begun), &busy),
        Verdict::Accept
    );
}

#[test]
fn times_are_told_in_the_unit_that_fits() {
    let told = |seconds| time(Duration::from_secs(seconds));
    assert_eq!(told(7 * 86_400), "7 days");
    assert_eq!(told(86_400), "24 hours");
    assert_eq!(told(3600), "60 minutes");
    assert_eq!(told(61), "61 seconds");
}

fn file() -> impl Strategy<Value = (String, u64)> {
    // No letters of which Windows makes names of devices: those are no paths at all.
    ("[abxyzABXYZ]{1,6}\\.(pdf|PDF|exe|txt)", 0..600u64)
}

proptest! {
    #[test]
    fn a_head_is_taken_exactly_when_each_file_alone_and_the_whole_are(
        files in proptest::collection::vec(file(), 0..12)
    ) {
        let terms = Terms {
            types: patterns(&["*.pdf", "*.txt"]),
            refuse_types: patterns(&["a*"]),
            max_file: Some(500),
            ..terms()
        };
        let alone = |(name, size): &(String, u64)| {
            terms.consider(&offer(name, *size), &Usage::default()) == Verdict::Accept
        };
        let listed: Vec<_> = files.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        let whole = files.len() <= 10 && files.iter().map(|(_, size)| size).sum::<u64>() <= 1000;
        let taken = terms.check_head(&head(&listed)).is_ok();
        prop_assert_eq!(taken, whole && files.iter().all(alone));
    }

    #[test]
    fn a_quota_is_never_exceeded_by_what_is_accepted(sizes in proptest::collection::vec(0..400u64, 0..30)) {
        let terms = Terms { quota: Some(1000), ..terms() };
        let mut accepted = Vec::new();
        for size in sizes {
            let before = accepted.iter().map(|&size| Taken { size, ..taken(&TransferState::Pending) });
            let usage = Usage::of(before, terms.quota_period, 10_000);
            if terms.consider(&offer("a", size), &usage) == Verdict::Accept {
                accepted.push(size);
            }
        }
        prop_assert!(accepted.iter().sum::<u64>() <= 1000);
    }

    #[test]
    fn no_name_and_no_size_makes_a_reason_long_or_harmful(name in "\\PC{0,300}", size: u64) {
        let terms = Terms { types: patterns(&["*.pdf"]), quota: Some(5), ..terms() };
        if let Verdict::Refuse(refusal) = terms.consider(&offer(&name, size), &Usage::default()) {
            prop_assert!(!refusal.reason.chars().any(char::is_control));
            prop_assert!(refusal.reason.chars().count() <= 256);
        }
    }
}
