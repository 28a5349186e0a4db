use super::*;
use proptest::prelude::*;

#[test]
fn paths_that_leave_the_bundle_or_mean_something_else_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "../x",
        "C:",
        "C:/x",
        "C:x",
        "\\\\host\\share",
        "//host/share",
        "a\\b",
        "..\\x",
        "a\0b",
        "a\nb",
        "a\u{1b}[2Jb",
        "a\u{85}b",
        "file.txt:stream",
        "a.",
        "a ",
        "a./b",
        "a /b",
        "CON",
        "con",
        "nul.txt",
        "Aux.tar.gz",
        "COM1",
        "com9.x",
        "LPT¹",
        "com².txt",
        "COM³",
        "x/PRN/y",
        "NUL .txt",
        "CONIN$",
        ".handout",
        ".handout-2",
        "a/.Handout/b",
        ".hand\u{200c}out",
        "HANDOU~1",
        "HA3F2C~1",
        ".\u{200d}.",
        "a/.\u{feff}",
        "\u{200b}",
    ] {
        assert!(BundlePath::new(bad).is_err(), "{bad:?} was taken");
    }
    for long in ["x".repeat(256), "é".repeat(128), "a/".repeat(512) + "a"] {
        assert!(
            BundlePath::new(long.clone()).is_err(),
            "{} bytes were taken",
            long.len()
        );
    }
}

#[test]
fn ordinary_names_of_all_languages_are_taken() {
    for good in [
        "a",
        "a.txt",
        "Übung 3/Lösung.pdf",
        "宿題/三.txt",
        "..a",
        "a..b",
        "...x",
        ".hidden",
        "COM",
        "COM10",
        "COM0",
        "console",
        "hallo~1",
        "ha3f2c~x",
        "nulls.txt",
        "🎒.zip",
        "What? *really*.txt",
        &"x".repeat(255),
    ] {
        assert!(BundlePath::new(good).is_ok(), "{good:?} was refused");
    }
    assert_eq!(BundlePath::single("a/b"), Err(NameError::NotOneName));
}

#[test]
fn nothing_that_moves_a_cursor_or_turns_text_around_is_printed() {
    assert_eq!(
        printable("a\u{1b}[2J\u{202e}gpj.exe\r\n\u{9b}\u{feff}"),
        r"a\u{1b}[2J\u{202e}gpj.exe\u{d}\u{a}\u{9b}\u{feff}"
    );
    assert_eq!(printable("Übung 🎒 三"), "Übung 🎒 三");
}

#[test]
fn of_a_long_text_only_the_beginning_is_repeated() {
    assert_eq!(brief("a\u{1b}b"), r"a\u{1b}b");
    assert_eq!(brief(&"é".repeat(120)), "é".repeat(120));
    assert_eq!(brief(&"é".repeat(121)), "é".repeat(120) + "…");
    assert_eq!(passage(&"a\n".repeat(300)), "a\\u{a}".repeat(300));
    assert_eq!(passage(&"é".repeat(2001)), "é".repeat(2000) + "…");
}

#[test]
fn names_that_differ_in_case_or_in_how_letters_are_written_fold_to_one() {
    for (a, b) in [
        ("Straße", "STRASSE"),
        ("ẞ", "ss"),
        ("ſ", "S"),
        ("\u{e9}", "e\u{301}"),
        ("\u{c9}", "e\u{301}"),
        ("\u{212b}", "a\u{30a}"),
        ("\u{ac00}", "\u{1100}\u{1161}"),
        ("\u{1e69}", "s\u{307}\u{323}"),
        ("ΟΔΟΣ", "οδος"),
        ("ﬁ", "FI"),
        ("a\u{200d}b", "ab"),
        ("❤\u{fe0f}", "❤"),
    ] {
        assert_eq!(folded(a), folded(b), "{a:?} and {b:?}");
    }
    for (a, b) in [("a", "b"), ("e", "é"), ("1", "¹"), ("a", "ａ")] {
        assert_ne!(folded(a), folded(b), "{a:?} and {b:?}");
    }
}

#[test]
fn folding_is_the_same_for_every_way_to_write_a_character() {
    // Beyond are only unassigned and private characters, ideographs, and tags.
    for c in '\0'..='\u{1ffff}' {
        let (it, fold) = (c.to_string(), folded(&c.to_string()));
        assert_eq!(folded(&fold), fold, "{c:?}");
        let forms: [String; 4] = [
            it.nfd().collect(),
            it.nfc().collect(),
            c.to_lowercase().collect(),
            c.to_uppercase().collect(),
        ];
        assert!(forms.iter().all(|form| folded(form) == fold), "{c:?}");
    }
}

#[test]
fn names_are_taken_in_whatever_form_of_unicode_they_come() {
    for name in ["\u{e9}", "e\u{301}", "\u{212b}", "\u{1100}\u{1161}"] {
        assert_eq!(BundlePath::new(name).unwrap().as_str(), name);
    }
}

proptest! {
    #[test]
    fn whatever_is_taken_stays_below_its_folder(path in "[a-zA-Z0-9./\\\\: ¹é-]{0,40}") {
        if let Ok(path) = BundlePath::new(path) {
            let joined = std::path::Path::new("root").join(path.as_str());
            prop_assert!(joined.components().skip(1).all(|c| matches!(c, std::path::Component::Normal(_))));
            prop_assert_eq!(joined.components().count(), 1 + path.components().count());
        }
    }

    #[test]
    fn printable_text_has_no_control_characters(text in any::<String>()) {
        prop_assert!(!printable(&text).chars().any(|c| c.is_control() || is_invisible(c)));
    }
}
