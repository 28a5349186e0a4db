//! The receive policy: what is taken, from whom, how much of it, and where it goes.
//!
//! [`Policy::terms_for`] says what holds for a device, [`Terms::consider`] decides about an offer,
//! and [`Terms::check_head`] about what only the bundle's head tells.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::manifest::{Head, Kind};
use super::message::Code;
use super::names::{folded, printable};
use super::transfer::TransferState;

/// Unfinished transfers from one device; offers beyond it are refused.
pub const MAX_UNFINISHED: usize = 256;
/// Questions that may wait for a person.
pub const MAX_QUESTIONS: usize = 64;
/// Of these, from one device.
pub const MAX_QUESTIONS_OF_ONE: usize = 8;
/// Longest part of a name or list in a reason, in characters.
const MAX_SHOWN: usize = 80;

/// What happens to offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// They are taken when everything else fits.
    Accept,
    /// A person is asked.
    Ask,
    /// They are refused.
    Refuse,
}

/// What happens when something of the bundle's name is in the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collision {
    /// The bundle becomes `name (2)`.
    KeepBoth,
    /// It takes the place of what is there, which is removed. Only a file replaces a file, and
    /// only a folder a folder.
    Overwrite,
    /// The bundle is not taken.
    Refuse,
}

/// Patterns for file names: `*.pdf`, `exam-??.docx`, `*.{jpg,png}`. Case does not count.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    words: Vec<String>,
    set: Arc<GlobSet>,
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Patterns {}

impl Patterns {
    /// Patterns from their text; `None` when one is empty, is no pattern, or has a `/`, which no
    /// name has.
    pub fn new(words: Vec<String>) -> Option<Self> {
        let mut builder = GlobSetBuilder::new();
        for word in &words {
            if word.is_empty() || word.contains('/') {
                return None;
            }
            builder.add(Glob::new(&folded(word)).ok()?);
        }
        let set = Arc::new(builder.build().ok()?);
        Some(Self { words, set })
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// True when the name of a file fits one of them.
    pub fn fit(&self, name: &str) -> bool {
        self.set.is_match(folded(name))
    }
}

/// Declares what can be said for all devices, and the same with every part optional for a rule.
macro_rules! terms {
    ($($(#[$doc:meta])* $field:ident: $type:ty,)*) => {
        /// What holds for one device.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Terms {
            $($(#[$doc])* pub $field: $type,)*
        }

        /// What a rule says instead; the rest stays as it is.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Changes {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        impl Terms {
            fn change(&mut self, changes: &Changes) {
                $(if let Some(value) = &changes.$field {
                    self.$field.clone_from(value);
                })*
            }
        }
    };
}

terms! {
    /// Whether offers are taken.
    mode: Mode,
    /// Names of files that are taken; empty for all.
    types: Patterns,
    /// Names of files that are not taken, whatever `types` says.
    refuse_types: Patterns,
    /// Bytes of the largest file; `None` for any.
    max_file: Option<u64>,
    /// Bytes of the largest bundle.
    max_bundle: u64,
    /// Most files in a bundle.
    max_files: u32,
    /// Bytes that one device may send within the period; `None` for any.
    quota: Option<u64>,
    /// Bytes that all devices together may send within the period; `None` for any.
    quota_total: Option<u64>,
    /// How long what has arrived counts.
    quota_period: Duration,
    /// The folder that bundles go into, absolute.
    destination: PathBuf,
    /// What happens when something has the bundle's name.
    collision: Collision,
    /// Bytes that stay free on that disk.
    reserve: u64,
    /// Earlier versions of a series that are kept.
    keep_versions: u32,
    /// What is run after a verified arrival: a program by its absolute path, and its arguments
    /// with their places; empty for nothing.
    run: Vec<String>,
    /// How long that may take.
    run_timeout: Duration,
}

/// Other terms for some devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Device ids, names of devices, and groups; empty for everybody, where it names broadcasts.
    pub who: Vec<String>,
    /// Names of broadcasts that it is for; empty for all. They are what the sender says.
    pub broadcasts: Vec<String>,
    /// What holds for them.
    pub changes: Changes,
}

/// A device, as rules name it.
#[derive(Debug, Clone, Default)]
pub struct Whom<'a> {
    /// Its id.
    pub id: &'a str,
    /// Names that this side has given it. What a device calls itself must not be among them.
    pub names: Vec<&'a str>,
    /// Groups that it is in.
    pub groups: Vec<&'a str>,
    /// What it calls the broadcast; the bundle, where it has no broadcast.
    pub broadcast: &'a str,
}

impl Whom<'_> {
    /// Whether one of these words is an id, a name or a group of it.
    pub fn is_one_of(&self, words: &[String]) -> bool {
        words.iter().any(|word| {
            let word = word.as_str();
            word == self.id || self.names.contains(&word) || self.groups.contains(&word)
        })
    }
}

/// The terms of all devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For devices that no rule names.
    pub defaults: Terms,
    /// Rules, in the order of the config file.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// What holds for a device and a broadcast. The first rule that names the device itself counts
    /// most, then the first one that names a group of it, then one that names nobody; of each kind
    /// one for this broadcast counts more than one for all. What one leaves open, the next says,
    /// and the defaults in the end.
    pub fn terms_for(&self, whom: &Whom<'_>) -> Terms {
        let nobody = |rule: &Rule| rule.who.is_empty();
        let group = |rule: &Rule| rule.who.iter().any(|word| whom.groups.contains(&&**word));
        let device = |rule: &Rule| {
            let names = |word: &String| word == whom.id || whom.names.contains(&&**word);
            rule.who.iter().any(names)
        };
        let kinds: [&dyn Fn(&Rule) -> bool; 3] = [&nobody, &group, &device];
        let mut terms = self.defaults.clone();
        for fits in kinds {
            let for_all = |rule: &&Rule| rule.broadcasts.is_empty() && fits(rule);
            let for_this = |rule: &&Rule| {
                let named = rule.broadcasts.iter().any(|name| name == whom.broadcast);
                named && fits(rule)
            };
            let first = [
                self.rules.iter().find(for_all),
                self.rules.iter().find(for_this),
            ];
            for rule in first.into_iter().flatten() {
                terms.change(&rule.changes);
            }
        }
        terms
    }

    /// The longest time for which a transfer may count towards a quota; `None` when there is none.
    pub fn longest_period(&self) -> Option<Duration> {
        let rules = self.rules.iter().map(|rule| &rule.changes);
        let quotas = rules
            .clone()
            .flat_map(|changes| [changes.quota, changes.quota_total])
            .flatten()
            .chain([self.defaults.quota, self.defaults.quota_total]);
        quotas.flatten().next()?;
        let periods = rules.filter_map(|changes| changes.quota_period);
        periods.chain([self.defaults.quota_period]).max()
    }
}

/// What is offered.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The bundle's name.
    pub name: &'a str,
    /// One file or a folder.
    pub kind: Kind,
    /// Bytes in all.
    pub size: u64,
    /// Number of files.
    pub files: u32,
    /// Whether it is known.
    pub standing: Standing,
}

/// What is known of an offered bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    New,
    /// It was accepted before, and is not finished.
    Begun,
    /// A person is being asked.
    Asked,
    /// A person has said yes.
    Approved,
}

/// Why something is not taken, for programs and for the people on both sides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The word on the wire.
    pub code: Code,
    /// The reason.
    pub reason: String,
}

/// What becomes of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken.
    Accept,
    /// A person decides.
    Ask,
    /// It is not taken.
    Refuse(Refusal),
}

/// An incoming transfer other than the one in question, as quotas see it.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// It is from the device in question.
    pub same_device: bool,
    /// A person is being asked about it.
    pub asked: bool,
    /// Where it stands.
    pub state: &'a TransferState,
    /// Bytes in all.
    pub size: u64,
    /// Bytes that have arrived.
    pub arrived: u64,
    /// When the state last changed, in Unix seconds.
    pub changed: u64,
}

/// What was taken before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes from the device in question that count.
    pub device: u64,
    /// Bytes from all devices that count.
    pub all: u64,
    /// Unfinished transfers from the device.
    pub unfinished: usize,
    /// Questions that wait for a person.
    pub questions: usize,
    /// Of these, about offers of the device.
    pub questions_of_device: usize,
}

impl Usage {
    /// Adds up transfers. Of complete ones, and of the part of failed ones that arrived, those
    /// of the last `period` count; unfinished ones count in full, however old; cancelled ones,
    /// whose parts are removed, do not. `now` is in Unix seconds.
    pub fn of<'a>(taken: impl IntoIterator<Item = Taken<'a>>, period: Duration, now: u64) -> Self {
        let mut usage = Self::default();
        let since = now.saturating_sub(period.as_secs());
        for one in taken {
            let bytes = match one.state {
                TransferState::Cancelled { .. } => 0,
                TransferState::Complete if one.changed >= since => one.size,
                TransferState::Failed { .. } if one.changed >= since => one.arrived,
                state if state.is_final() => 0,
                _ => one.size,
            };
            usage.all = usage.all.saturating_add(bytes);
            let asked = one.asked && !one.state.is_final();
            usage.questions += usize::from(asked);
            if one.same_device {
                usage.device = usage.device.saturating_add(bytes);
                usage.unfinished += usize::from(!one.state.is_final());
                usage.questions_of_device += usize::from(asked);
            }
        }
        usage
    }
}

impl Terms {
    /// Decides about an offer, as far as START_TRANSFER tells of it.
    pub fn consider(&self, offer: &Offer<'_>, usage: &Usage) -> Verdict {
        if let Err(refusal) = self.allow(offer, usage) {
            return Verdict::Refuse(refusal);
        }
        let asks = self.mode == Mode::Ask && offer.standing != Standing::Approved;
        if !asks {
            return Verdict::Accept;
        }
        let full =
            usage.questions >= MAX_QUESTIONS || usage.questions_of_device >= MAX_QUESTIONS_OF_ONE;
        if full && offer.standing != Standing::Asked {
            let reason = "too many offers wait for a person at the receiver: offer it later";
            return Verdict::Refuse(refusal(Code::Busy, reason.to_owned()));
        }
        Verdict::Ask
    }

    fn allow(&self, offer: &Offer<'_>, usage: &Usage) -> Result<(), Refusal> {
        if self.mode == Mode::Refuse {
            let reason = "the receiver's policy takes nothing from this sender".to_owned();
            return Err(refusal(Code::Declined, reason));
        }
        self.check_bundle(offer.size, u64::from(offer.files))?;
        if offer.kind == Kind::File {
            self.check_file(offer.name, offer.size)?;
        }
        if offer.standing == Standing::New && usage.unfinished >= MAX_UNFINISHED {
            let reason =
                "too many transfers from this sender are unfinished: finish or cancel some";
            return Err(refusal(Code::Busy, reason.to_owned()));
        }
        let limits = [
            (self.quota, usage.device, "the sender's quota"),
            (self.quota_total, usage.all, "the quota of all senders"),
        ];
        for (quota, used, whose) in limits {
            let Some(quota) = quota else { continue };
            if used.saturating_add(offer.size) > quota {
                let left = quota.saturating_sub(used);
                let period = time(self.quota_period);
                let reason = format!(
                    "the bundle has {} bytes, and of {whose} of {quota} bytes in {period} only \
                     {left} are left",
                    offer.size
                );
                return Err(refusal(Code::Quota, reason));
            }
        }
        Ok(())
    }

    /// Decides about what the head of a bundle says of its files. To be called before anything of
    /// the bundle is written.
    pub fn check_head(&self, head: &Head) -> Result<(), Refusal> {
        let sizes = head.files.iter().map(|file| file.size);
        let size = sizes.fold(0, u64::saturating_add);
        self.check_bundle(size, head.files.len() as u64)?;
        for file in &head.files {
            let name = file.path.components().next_back().unwrap_or_default();
            self.check_file(name, file.size)?;
        }
        Ok(())
    }

    /// Decides about one file of this name and size that this side has asked for.
    pub fn check_single(&self, name: &str, size: u64) -> Result<(), Refusal> {
        self.check_bundle(size, 1)?;
        self.check_file(name, size)
    }

    fn check_bundle(&self, size: u64, files: u64) -> Result<(), Refusal> {
        if size > self.max_bundle {
            let most = self.max_bundle;
            let reason =
                format!("the bundle has {size} bytes, and the receiver takes at most {most}");
            return Err(refusal(Code::Quota, reason));
        }
        if files > u64::from(self.max_files) {
            let most = self.max_files;
            let reason =
                format!("the bundle has {files} files, and the receiver takes at most {most}");
            return Err(refusal(Code::Quota, reason));
        }
        Ok(())
    }

    fn check_file(&self, name: &str, size: u64) -> Result<(), Refusal> {
        let shown = || cut(name);
        if self.refuse_types.fit(name) {
            let reason = format!(
                "the receiver's policy does not take files like {:?}",
                shown()
            );
            return Err(refusal(Code::Declined, reason));
        }
        if !self.types.is_empty() && !self.types.fit(name) {
            let only = cut(&self.types.words.join(", "));
            let reason = format!(
                "the receiver takes only {only}, and {:?} is not one",
                shown()
            );
            return Err(refusal(Code::Declined, reason));
        }
        if let Some(most) = self.max_file.filter(|&most| size > most) {
            let reason = format!(
                "the file {:?} has {size} bytes, and the receiver takes at most {most}",
                shown()
            );
            return Err(refusal(Code::Quota, reason));
        }
        Ok(())
    }
}

fn refusal(code: Code, reason: String) -> Refusal {
    Refusal { code, reason }
}

/// Harmless, and short enough that the rest of the reason is read too.
fn cut(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn time(period: Duration) -> String {
    let seconds = period.as_secs();
    let units = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let fits = |(unit, _): &&(u64, &str)| seconds > *unit && seconds.is_multiple_of(*unit);
    match units.iter().find(fits) {
        Some((unit, word)) => format!("{} {word}", seconds / unit),
        None => format!("{seconds} seconds"),
    }
}

#[cfg(test)]
mod tests;
