//! Names that are made of texts from somebody else.

use super::{BundlePath, is_invisible};

/// Longest part of a text that a name keeps, in bytes.
const MOST: usize = 80;

/// One name for a file or folder, of any text: what no system allows in names becomes `_`, and so
/// does what would hide it, lead elsewhere, or make an option of it. Different texts may become the
/// same name.
pub fn safe_component(text: &str) -> String {
    let mut safe = String::new();
    for c in text.trim_matches([' ', '.']).chars() {
        let bad = c.is_control() || is_invisible(c) || "/\\:*?\"<>|{}".contains(c);
        let c = if bad { '_' } else { c };
        if safe.len() + c.len_utf8() > MOST {
            break;
        }
        safe.push(c);
    }
    let mut safe = safe.trim_matches([' ', '.']).to_owned();
    if safe.starts_with('-') {
        safe.replace_range(..1, "_");
    }
    match BundlePath::single(safe.as_str()) {
        Ok(_) => safe,
        // A name of a device such as CON, or one that is ours.
        Err(_) => match BundlePath::single(format!("_{safe}")) {
            Ok(path) => path.as_str().to_owned(),
            Err(_) => "_".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_becomes_one_name_that_leads_nowhere_and_hides_nothing() {
        for (text, name) in [
            ("Ada", "Ada"),
            ("Ms Müller, 3b", "Ms Müller, 3b"),
            ("..", "_"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("/etc", "_etc"),
            (".bashrc", "bashrc"),
            ("-rf", "_rf"),
            ("", "_"),
            ("\u{200b}", "_"),
            ("CON", "_CON"),
            ("a\u{202e}b\nc", "a_b_c"),
            ("C:\\x", "C__x"),
            ("{device}", "_device_"),
        ] {
            assert_eq!(safe_component(text), name, "{text:?}");
        }
        for text in [
            "é".repeat(500),
            "a/".repeat(500),
            ". ".repeat(100),
            ".handout".into(),
        ] {
            let name = safe_component(&text);
            assert!(BundlePath::single(name.as_str()).is_ok(), "{name:?}");
            assert!(
                name.len() <= MOST && !name.starts_with(['.', '-']),
                "{name:?}"
            );
        }
    }
}
