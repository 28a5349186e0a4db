//! What a device may do, as far as we are concerned: decided per device and per group.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A set of permissions. On the wire and in files it is a list of words, `["send","receive"]`;
/// words of later versions are left out when it is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<&'static str>")]
pub struct Roles(u8);

impl Roles {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// It may send bundles to us.
    pub const SEND: Self = Self(1);
    /// It may receive bundles from us.
    pub const RECEIVE: Self = Self(2);
    /// It may pass on to us, and take from us, chunks of a bundle whose origin introduced us.
    pub const RELAY: Self = Self(4);
    /// It may introduce other receivers of its own bundles to us.
    pub const INTRODUCE: Self = Self(8);
    /// What a device gets where nothing else is said.
    pub const ALL: Self = Self(15);

    const WORDS: [(&'static str, Self); 4] = [
        ("send", Self::SEND),
        ("receive", Self::RECEIVE),
        ("relay", Self::RELAY),
        ("introduce", Self::INTRODUCE),
    ];

    /// True when everything in `needed` is in this set.
    pub fn allow(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// Everything that is in one of the two.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The words, in a fixed order.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS
            .into_iter()
            .filter(move |(_, role)| self.allow(*role))
            .map(|(word, _)| word)
    }
}

/// Not a list of roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a role: use send, receive, relay, introduce, all or none, with commas between"
)]
pub struct UnknownRole(pub String);

impl FromStr for Roles {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        text.split(',')
            .map(str::trim)
            .try_fold(Self::NONE, |roles, word| {
                let known = Self::WORDS.iter().find(|(known, _)| *known == word);
                match (known, word) {
                    (Some((_, role)), _) => Ok(roles.union(*role)),
                    (None, "all") => Ok(Self::ALL),
                    (None, "none") => Ok(roles),
                    _ => Err(UnknownRole(word.to_owned())),
                }
            })
    }
}

impl From<Vec<String>> for Roles {
    fn from(words: Vec<String>) -> Self {
        let known = |word: &String| Self::WORDS.iter().find(|(known, _)| known == word);
        let roles = words.iter().filter_map(known).map(|(_, role)| *role);
        roles.fold(Self::NONE, Self::union)
    }
}

impl From<Roles> for Vec<&'static str> {
    fn from(roles: Roles) -> Self {
        roles.words().collect()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            roles => f.write_str(&roles.words().collect::<Vec<_>>().join(",")),
        }
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_as_they_are_written_and_unknown_words_give_nothing() {
        for bits in 0..16 {
            let roles = Roles(bits);
            assert_eq!(roles.to_string().parse(), Ok(roles));
            let json = serde_json::to_string(&roles).unwrap();
            assert_eq!(serde_json::from_str::<Roles>(&json).unwrap(), roles);
        }
        assert_eq!(
            serde_json::from_str::<Roles>(r#"["send","fly"]"#).unwrap(),
            Roles::SEND
        );
        assert!("send,fly".parse::<Roles>().is_err());
    }

    #[test]
    fn a_set_allows_what_is_in_it_and_nothing_else() {
        let roles = Roles::SEND.union(Roles::RELAY);
        assert!(roles.allow(Roles::SEND) && roles.allow(roles));
        assert!(!roles.allow(Roles::RECEIVE) && !roles.allow(Roles::ALL));
    }
}
