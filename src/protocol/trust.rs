//! The trust book: whether a device may do something, what, and why. The one place that answers
//! it, from a person's decisions, the config file, groups, rosters and changed keys. What a
//! person revoked stays out whatever else says that it may in, until a person authorizes it again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::DeviceId;
use super::identity::PublicKey;
use super::names::printable;
use super::roles::Roles;
use super::roster::{Roster, RosterError};

mod following;

pub use following::NotFollowed;

/// Longest name of a group, in bytes.
pub const MAX_GROUP_NAME: usize = 64;
/// Most members that a person can put into one group.
pub const MAX_MEMBERS: usize = 1000;
/// Why a device is not let in of which nothing was ever said, or nothing that still counts.
pub const NOTHING_SAID: &str = "nothing authorizes it";
/// Most devices that are let in for one purpose at once.
const MAX_VOUCHED: usize = 1000;
/// Most changes of key that are followed from one id to the next.
const MAX_MOVES: usize = 64;

/// Our lasting decision that a device may exchange bundles with us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The device.
    pub device: DeviceId,
    /// Its name for people, as it was when the decision was made.
    pub name: String,
    /// Its public key, where known: then [`DeviceId::of_key`] of it is `device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// When the decision was made, in Unix seconds.
    pub since: u64,
    /// Who decided.
    pub by: GrantedBy,
    /// When it ends, in Unix seconds; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// What it may do; `None` for what its groups say, and without groups everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
    /// Which invite, roster or earlier id it came through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
}

impl Authorization {
    /// True while it has not expired. `now` is in Unix seconds.
    pub fn is_valid_at(&self, now: u64) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

/// Who made a decision about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantedBy {
    /// A person at this device.
    Person,
    /// The config file.
    Config,
    /// A code that people compared on both screens.
    Code,
    /// A PIN that was shown on one side and typed on the other.
    Pin,
    /// An invite.
    Invite,
    /// A roster that an admin signed.
    Roster,
    /// Its earlier key, which was authorized.
    Rotation,
    /// A way that only later versions know.
    #[serde(other)]
    Other,
}

impl GrantedBy {
    /// True when a person at this device meant this very device, and so may take back what a
    /// person revoked.
    pub fn is_personal(self) -> bool {
        matches!(self, Self::Person | Self::Code | Self::Pin)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Person => "by a person",
            Self::Config => "by the config file",
            Self::Code => "by a compared code",
            Self::Pin => "by a PIN",
            Self::Invite => "by an invite",
            Self::Roster => "by a roster",
            Self::Rotation => "by its earlier key",
            Self::Other => "in a way that this version does not know",
        }
    }
}

/// A named set of devices. That a device is in it does not let it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its members.
    pub members: Vec<DeviceId>,
    /// What its members may do where nothing is said about them; `None` says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
}

/// Not the name of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the name of a group: 1 to {MAX_GROUP_NAME} bytes without control characters, \
     commas and slashes, not `all`, and no @ or space at its beginning"
)]
pub struct BadGroupName(pub String);

/// Checks the name of a group.
///
/// # Errors
/// [`BadGroupName`] for one that is too long, not harmless on a screen, or that `--to` would
/// take for something else.
pub fn check_group_name(name: &str) -> Result<(), BadGroupName> {
    let fits = (1..=MAX_GROUP_NAME).contains(&name.len())
        && printable(name) == name
        && name.trim() == name
        && !name.contains([',', '/'])
        && !name.starts_with('@')
        && name != "all";
    fits.then_some(()).ok_or_else(|| {
        let shown = printable(name).chars().take(80).collect();
        BadGroupName(shown)
    })
}

/// The highest version of an admin's rosters for a group that was ever taken: nothing older is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The admin.
    pub admin: DeviceId,
    /// The group.
    pub group: String,
    /// The version.
    pub version: u64,
    /// SHA-256 of what was signed.
    #[serde(with = "digest_text")]
    pub digest: [u8; 32],
}

impl Floor {
    /// That of a roster.
    pub fn of(roster: &Roster) -> Self {
        Self {
            admin: roster.admin.clone(),
            group: roster.group.clone(),
            version: roster.terms.version,
            digest: roster.digest,
        }
    }

    /// True when it is about this admin's rosters for this group.
    pub fn is_of(&self, roster: &Roster) -> bool {
        self.admin == roster.admin && self.group == roster.group
    }
}

mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::protocol::identity::{b64, unb64};

    pub(super) fn serialize<S: Serializer>(digest: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&b64(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        unb64(&String::deserialize(from)?)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| D::Error::custom("not 32 bytes in b64"))
    }
}

/// One purpose for which a device was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purpose(u64);

/// That a device is let in for one purpose, by this process alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// What it may do.
    pub roles: Roles,
    /// Until when, in Unix seconds.
    pub until: u64,
    /// Why, for people.
    pub why: String,
}

/// Why a device is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground<'a> {
    /// A decision about this device.
    Decision(&'a Authorization),
    /// The config file names it.
    Config,
    /// A roster names it.
    Roster(&'a Roster),
    /// It is vouched for.
    Vouched(&'a Vouched),
}

impl Ground<'_> {
    /// When it ends, in Unix seconds; `None` for never.
    pub fn expires(&self) -> Option<u64> {
        match self {
            Self::Decision(entry) => entry.expires,
            Self::Config => None,
            Self::Roster(roster) => Some(roster.terms.expires),
            Self::Vouched(vouched) => Some(vouched.until),
        }
    }
}

impl fmt::Display for Ground<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decision(entry) => match &entry.via {
                // A device that a person let in may have shown an invite besides.
                Some(via) if !entry.by.is_personal() => {
                    write!(f, "{} ({})", entry.by.words(), printable(via))
                }
                _ => f.write_str(entry.by.words()),
            },
            Self::Config => f.write_str(GrantedBy::Config.words()),
            Self::Roster(roster) => write!(
                f,
                "by roster {} of {}, version {}",
                roster.group,
                roster.admin.short(),
                roster.terms.version
            ),
            Self::Vouched(vouched) => f.write_str(&printable(&vouched.why)),
        }
    }
}

/// How a roster that may be taken stands to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is news.
    New,
    /// This very one is in force already.
    Known,
}

/// Everything that the book is made from.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    /// Decisions about devices.
    pub authorizations: Vec<Authorization>,
    /// Devices that a person revoked.
    pub revoked: Vec<DeviceId>,
    /// Devices that the config file names, with a name for people.
    pub configured: Vec<(DeviceId, Option<String>)>,
    /// Admins whose rosters the config file takes.
    pub admins: Vec<DeviceId>,
    /// Groups.
    pub groups: Vec<Group>,
    /// Groups that the config file declares.
    pub declared: Vec<Group>,
    /// Rosters in force.
    pub rosters: Vec<Roster>,
    /// The highest version of each.
    pub floors: Vec<Floor>,
    /// Earlier ids of devices, each with the next one.
    pub moves: Vec<(DeviceId, DeviceId)>,
}

/// An admin, by its first id, and a group.
type RosterKey = (DeviceId, String);

/// Whom we trust, with what, and why.
#[derive(Debug)]
pub struct TrustBook {
    ours: DeviceId,
    authorizations: HashMap<DeviceId, Authorization>,
    revoked: HashSet<DeviceId>,
    configured: HashMap<DeviceId, Option<String>>,
    admins: HashSet<DeviceId>,
    groups: BTreeMap<String, Group>,
    /// Those of the config file: they are never kept, so that the file alone says what they are.
    declared: BTreeMap<String, Group>,
    rosters: BTreeMap<RosterKey, Roster>,
    floors: BTreeMap<RosterKey, Floor>,
    /// With the number of purposes that each is let in for.
    vouched: HashMap<DeviceId, Vec<(Purpose, Vouched)>>,
    /// How many there have been.
    purposes: u64,
    /// From an id that is no longer used to the one after it, and back.
    next: HashMap<DeviceId, DeviceId>,
    earlier: HashMap<DeviceId, DeviceId>,
}

impl TrustBook {
    /// The book of the device `ours`.
    pub fn new(ours: DeviceId, pages: Pages) -> Self {
        let mut book = Self {
            ours,
            authorizations: HashMap::new(),
            revoked: pages.revoked.into_iter().collect(),
            configured: pages.configured.into_iter().collect(),
            admins: pages.admins.into_iter().collect(),
            groups: BTreeMap::new(),
            declared: BTreeMap::new(),
            rosters: BTreeMap::new(),
            floors: BTreeMap::new(),
            vouched: HashMap::new(),
            purposes: 0,
            next: HashMap::new(),
            earlier: HashMap::new(),
        };
        book.declare(pages.declared);
        for (old, new) in pages.moves {
            book.link(old, new);
        }
        for entry in pages.authorizations {
            book.authorizations.insert(entry.device.clone(), entry);
        }
        for mut group in pages.groups {
            // A change of key may have been put down, and the group not yet.
            let members = group.members.iter().map(|id| book.current(id).clone());
            let each: BTreeSet<_> = members.collect();
            let moved = !group.members.iter().all(|id| each.contains(id));
            if moved {
                group.members = each.into_iter().collect();
            }
            book.groups.insert(group.name.clone(), group);
        }
        for floor in pages.floors {
            book.put_floor(floor);
        }
        for roster in pages.rosters {
            book.put_roster(roster);
        }
        book
    }

    /// The id that a device has now.
    pub fn current<'a>(&'a self, device: &'a DeviceId) -> &'a DeviceId {
        walk(&self.next, device).last().unwrap_or(device)
    }

    /// The first id that a device had here.
    fn first<'a>(&'a self, device: &'a DeviceId) -> &'a DeviceId {
        walk(&self.earlier, device).last().unwrap_or(device)
    }

    /// The device's id and those that it had before.
    pub fn all_ids<'a>(&'a self, device: &'a DeviceId) -> impl Iterator<Item = &'a DeviceId> {
        std::iter::once(device).chain(walk(&self.earlier, device))
    }

    /// True for our own id and our earlier ones.
    pub fn is_ours(&self, device: &DeviceId) -> bool {
        *self.current(device) == self.ours
    }

    /// What the config file says about devices and admins takes the place of what it said.
    pub fn configure(
        &mut self,
        configured: Vec<(DeviceId, Option<String>)>,
        admins: Vec<DeviceId>,
    ) {
        self.configured = configured.into_iter().collect();
        self.admins = admins.into_iter().collect();
    }

    /// The grounds on which a device is let in; none when it is not. `now` is in Unix seconds.
    pub fn grounds(&self, device: &DeviceId, now: u64) -> Vec<Ground<'_>> {
        if self.is_shut_out(device) {
            return Vec::new();
        }
        let decision = self
            .authorizations
            .get(device)
            .filter(|entry| entry.is_valid_at(now));
        let configured = self
            .all_ids(device)
            .any(|id| self.configured.contains_key(id));
        let mut grounds: Vec<_> = decision.map(Ground::Decision).into_iter().collect();
        grounds.extend(configured.then_some(Ground::Config));
        grounds.extend(self.rosters_of(device, now).map(|(r, _)| Ground::Roster(r)));
        grounds.extend(self.purposes_of(device, now).map(Ground::Vouched));
        grounds
    }

    /// True where nothing but a person can let the device in: its owner was told to stay out, or
    /// this is an id that it has given up.
    pub fn is_shut_out(&self, device: &DeviceId) -> bool {
        self.next.contains_key(device) || self.is_revoked(device) || self.is_ours(device)
    }

    /// True when a person has revoked it, and none has authorized it since.
    pub fn is_revoked(&self, device: &DeviceId) -> bool {
        self.all_ids(device).any(|id| self.revoked.contains(id))
    }

    fn rosters_of(
        &self,
        device: &DeviceId,
        now: u64,
    ) -> impl Iterator<Item = (&Roster, Option<Roles>)> {
        self.rosters
            .values()
            .filter(move |roster| roster.is_valid_at(now))
            .filter_map(move |roster| {
                let member = self.all_ids(device).find_map(|id| roster.members.get(id))?;
                Some((roster, member.roles))
            })
    }

    /// Lets a device in for one purpose: nothing else follows from it, and it ends by itself. What a
    /// person revoked stays out.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn vouch(
        &mut self,
        device: DeviceId,
        vouched: Vouched,
        now: u64,
    ) -> Result<Purpose, String> {
        if self.is_shut_out(&device) {
            return Err(self.why_not(&device, now));
        }
        self.vouched.retain(|_, purposes| {
            purposes.retain(|(_, vouched)| now < vouched.until);
            !purposes.is_empty()
        });
        if self.vouched.values().map(Vec::len).sum::<usize>() >= MAX_VOUCHED {
            return Err(format!(
                "devices are let in for {MAX_VOUCHED} purposes already"
            ));
        }
        self.purposes += 1;
        let purpose = Purpose(self.purposes);
        let purposes = self.vouched.entry(device).or_default();
        purposes.push((purpose, vouched));
        Ok(purpose)
    }

    /// That purpose is over; others may still hold.
    pub fn unvouch(&mut self, device: &DeviceId, purpose: Purpose) {
        if let Some(purposes) = self.vouched.get_mut(device) {
            purposes.retain(|(of, _)| *of != purpose);
            if purposes.is_empty() {
                self.vouched.remove(device);
            }
        }
    }

    /// The devices that are let in for one purpose.
    pub fn vouched(&self, now: u64) -> impl Iterator<Item = &DeviceId> {
        let devices = self.vouched.keys();
        devices.filter(move |device| self.is_vouched(device, now))
    }

    /// Whether it is one of these.
    pub fn is_vouched(&self, device: &DeviceId, now: u64) -> bool {
        self.purposes_of(device, now).next().is_some()
    }

    /// What a device may do for the purposes for which it is let in, and for nothing else.
    pub fn roles_for_purposes(&self, device: &DeviceId, now: u64) -> Roles {
        match self.is_shut_out(device) {
            true => Roles::NONE,
            false => self
                .purposes_of(device, now)
                .fold(Roles::NONE, |roles, vouched| roles.union(vouched.roles)),
        }
    }

    fn purposes_of(&self, device: &DeviceId, now: u64) -> impl Iterator<Item = &Vouched> {
        let purposes = self.vouched.get(device).into_iter().flatten();
        let all = purposes.map(|(_, vouched)| vouched);
        all.filter(move |vouched| now < vouched.until)
    }

    /// True when a device may have a link with us at all.
    pub fn lets_in(&self, device: &DeviceId, now: u64) -> bool {
        self.is_member(device, now) || (!self.is_shut_out(device) && self.is_vouched(device, now))
    }

    /// True when it is let in for more than a purpose.
    pub fn is_member(&self, device: &DeviceId, now: u64) -> bool {
        !self.is_shut_out(device) && self.is_known(device, now)
    }

    /// Whether anything but being vouched for lets a device in that is not shut out.
    fn is_known(&self, device: &DeviceId, now: u64) -> bool {
        let decided = self.authorizations.get(device);
        decided.is_some_and(|entry| entry.is_valid_at(now))
            || self
                .all_ids(device)
                .any(|id| self.configured.contains_key(id))
            || self.rosters_of(device, now).next().is_some()
    }

    /// What a device may do: what was said about it, else what is said in any of its groups and
    /// rosters, else everything. Nothing when it is not let in, or only for a purpose.
    pub fn roles(&self, device: &DeviceId, now: u64) -> Roles {
        match self.is_member(device, now) {
            true => self.lasting_roles(device, now),
            false => Roles::NONE,
        }
    }

    fn lasting_roles(&self, device: &DeviceId, now: u64) -> Roles {
        let decided = self.authorizations.get(device);
        let own = decided
            .filter(|entry| entry.is_valid_at(now))
            .and_then(|entry| entry.roles);
        let by_hand = self.groups.values();
        let by_hand = by_hand.filter(|group| group.members.contains(device));
        let in_groups = by_hand
            .chain(self.declared_of(device))
            .filter_map(|group| group.roles);
        let in_rosters = self.rosters_of(device, now).filter_map(|(_, roles)| roles);
        own.or_else(|| in_groups.chain(in_rosters).reduce(Roles::union))
            .unwrap_or(Roles::ALL)
    }

    /// Why a device is let in, and until when (Unix seconds; `None` for ever), for people; or why
    /// it is not.
    pub fn why(&self, device: &DeviceId, now: u64) -> (String, Option<u64>) {
        let grounds = self.grounds(device, now);
        if grounds.is_empty() {
            return (self.why_not(device, now), None);
        }
        let said: Vec<_> = grounds.iter().map(Ground::to_string).collect();
        let ends: Option<Vec<u64>> = grounds.iter().map(Ground::expires).collect();
        (
            said.join("; "),
            ends.and_then(|ends| ends.into_iter().max()),
        )
    }

    fn why_not(&self, device: &DeviceId, now: u64) -> String {
        if let Some(next) = self.next.get(device) {
            return format!("it has a new key, and with it the id {next}");
        }
        if self.is_revoked(device) {
            return "its authorization was revoked".to_owned();
        }
        let expired = self.authorizations.get(device);
        if expired.is_some_and(|entry| !entry.is_valid_at(now)) {
            return "its authorization has expired".to_owned();
        }
        let named = |roster: &&Roster| {
            self.all_ids(device)
                .any(|id| roster.members.contains_key(id))
        };
        match self.rosters.values().find(named) {
            Some(roster) => format!("roster {} has expired", roster.group),
            None => NOTHING_SAID.to_owned(),
        }
    }

    /// Every device that is let in, in order.
    pub fn all_let_in(&self, now: u64) -> Vec<DeviceId> {
        let members = self.rosters.values().flat_map(|r| r.members.keys());
        let named = self.authorizations.keys().chain(self.configured.keys());
        let all: BTreeSet<_> = named.chain(members).map(|id| self.current(id)).collect();
        all.into_iter()
            .filter(|id| self.lets_in(id, now))
            .cloned()
            .collect()
    }

    /// Every device that a person has decided about, the revoked ones too.
    pub fn decided(&self) -> impl Iterator<Item = &DeviceId> {
        self.authorizations.keys().chain(&self.revoked)
    }

    /// The decision about a device, expired or not.
    pub fn authorization(&self, device: &DeviceId) -> Option<&Authorization> {
        self.authorizations.get(device)
    }

    /// What decisions, the config file or a roster call a device.
    pub fn name_of(&self, device: &DeviceId) -> Option<&str> {
        let decided = self.authorizations.get(device).map(|e| e.name.as_str());
        let configured = self
            .all_ids(device)
            .find_map(|id| self.configured.get(id)?.as_deref());
        let in_rosters = self.rosters.values().find_map(|roster| {
            let member = self.all_ids(device).find_map(|id| roster.members.get(id))?;
            Some(member.name.as_str()).filter(|name| !name.is_empty())
        });
        decided
            .filter(|name| !name.is_empty())
            .or(configured)
            .or(in_rosters)
    }

    /// Takes a decision. It takes back a revocation only when a person made it, and else changes
    /// nothing and returns false.
    pub fn authorize(&mut self, entry: Authorization) -> bool {
        if self.is_revoked(&entry.device) && !entry.by.is_personal() {
            return false;
        }
        let ids: Vec<_> = self.all_ids(&entry.device).cloned().collect();
        for id in ids {
            self.revoked.remove(&id);
        }
        // A person may also mean an id that was given up.
        if let Some(new) = self.next.remove(&entry.device) {
            self.earlier.remove(&new);
        }
        self.authorizations.insert(entry.device.clone(), entry);
        true
    }

    /// Notes a device's key, where it is not known yet: the decision with it.
    pub fn note_key(&mut self, device: &DeviceId, key: PublicKey) -> Option<Authorization> {
        let entry = self.authorizations.get_mut(device)?;
        if entry.key.is_some() || key.device_id() != *device {
            return None;
        }
        entry.key = Some(key);
        Some(entry.clone())
    }

    /// A person takes back whatever lets a device in.
    pub fn revoke(&mut self, device: &DeviceId) {
        self.authorizations.remove(device);
        self.revoked.insert(device.clone());
    }

    /// All decisions about devices, those that have expired too.
    pub fn authorizations(&self) -> impl Iterator<Item = &Authorization> {
        self.authorizations.values()
    }

    /// Forgets what was decided about a device; that it was revoked stays.
    pub fn forget(&mut self, device: &DeviceId) {
        self.authorizations.remove(device);
    }

    /// A group that a person made.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    /// The group of that name in the config file.
    pub fn declared(&self, name: &str) -> Option<&Group> {
        self.declared.get(name)
    }

    /// What members of a group may do where nothing else is said about them; nothing where neither
    /// a person nor the config file says it.
    pub fn group_roles(&self, name: &str) -> Option<Roles> {
        let said = [self.group(name), self.declared(name)];
        let said = said.into_iter().flatten().filter_map(|group| group.roles);
        said.reduce(Roles::union)
    }

    /// Puts the groups of the config file in the place of those that it had before.
    pub fn declare(&mut self, groups: Vec<Group>) {
        let named = groups.into_iter().map(|group| (group.name.clone(), group));
        self.declared = named.collect();
    }

    /// The groups of the config file that name a device, by any of its ids.
    fn declared_of(&self, device: &DeviceId) -> impl Iterator<Item = &Group> {
        let ids: Vec<DeviceId> = self.all_ids(device).cloned().collect();
        let groups = self.declared.values();
        groups.filter(move |group| group.members.iter().any(|id| ids.contains(id)))
    }

    /// The names of all groups, those of the config file and of rosters too.
    pub fn group_names(&self) -> BTreeSet<&str> {
        let of_rosters = self.rosters.keys().map(|(_, group)| group.as_str());
        of_rosters
            .chain(self.groups.keys().map(String::as_str))
            .chain(self.declared.keys().map(String::as_str))
            .collect()
    }

    /// Puts a group in the place of the one of its name.
    pub fn put_group(&mut self, group: Group) {
        self.groups.insert(group.name.clone(), group);
    }

    /// Forgets a group and its rosters, not their versions. Returns the rosters.
    pub fn remove_group(&mut self, name: &str) -> Vec<Roster> {
        self.groups.remove(name);
        let of_group = self.rosters.extract_if(.., |(_, group), _| group == name);
        of_group.map(|(_, roster)| roster).collect()
    }

    /// The groups of a device, in order.
    pub fn groups_of(&self, device: &DeviceId, now: u64) -> Vec<String> {
        let by_hand = self.groups.values();
        let by_hand = by_hand.filter(|group| group.members.contains(device));
        let mut names: BTreeSet<_> = by_hand.map(|group| group.name.clone()).collect();
        names.extend(self.declared_of(device).map(|group| group.name.clone()));
        names.extend(self.rosters_of(device, now).map(|(r, _)| r.group.clone()));
        names.into_iter().collect()
    }

    /// The devices of a group, let in or not, in order; `None` where there is no such group.
    pub fn members(&self, group: &str, now: u64) -> Option<Vec<DeviceId>> {
        let by_hand = self.groups.get(group);
        let declared = self.declared.get(group);
        let rosters: Vec<_> = self.rosters_for(group).collect();
        if by_hand.is_none() && declared.is_none() && rosters.is_empty() {
            return None;
        }
        let listed = rosters.iter().filter(|roster| roster.is_valid_at(now));
        let listed = listed.flat_map(|roster| roster.members.keys());
        let by_hand = by_hand.into_iter().chain(declared);
        let by_hand = by_hand.flat_map(|group| &group.members);
        let all: BTreeSet<_> = by_hand.chain(listed).map(|id| self.current(id)).collect();
        let others = all.into_iter().filter(|id| !self.is_ours(id));
        Some(others.cloned().collect())
    }

    /// The rosters of a group, expired or not.
    pub fn rosters_for<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Roster> {
        let all = self.rosters.values();
        all.filter(move |roster| roster.group == group)
    }

    fn roster_key(&self, admin: &DeviceId, group: &str) -> RosterKey {
        (self.first(admin).clone(), group.to_owned())
    }

    /// The highest version of an admin's rosters for a group that was taken.
    pub fn floor(&self, admin: &DeviceId, group: &str) -> Option<&Floor> {
        self.floors.get(&self.roster_key(admin, group))
    }

    /// Whether a roster may be taken. `named` is the admin that the person names; `skew` is how
    /// far clocks may differ, in seconds.
    ///
    /// # Errors
    /// See [`RosterError`]: the admin is unknown, the roster is over, from the future, older than
    /// one that was taken, or another one of the same version.
    pub fn admit(
        &self,
        roster: &Roster,
        named: Option<&DeviceId>,
        now: u64,
        skew: u64,
    ) -> Result<Admission, RosterError> {
        let admin = &roster.admin;
        if let Some(named) = named.filter(|named| *named != admin) {
            return Err(RosterError::OtherAdmin {
                named: named.clone(),
                actual: admin.clone(),
            });
        }
        let floor = self.floor(admin, &roster.group);
        let pinned = floor.is_some()
            || self.is_ours(admin)
            || self.all_ids(admin).any(|id| self.admins.contains(id));
        if self.is_revoked(admin) || !(pinned || named.is_some()) {
            return Err(RosterError::UnknownAdmin {
                admin: admin.clone(),
                group: roster.group.clone(),
            });
        }
        let terms = roster.terms;
        if !roster.is_valid_at(now) {
            return Err(RosterError::Expired(now - terms.expires));
        }
        if terms.issued > now.saturating_add(skew) {
            return Err(RosterError::FromTheFuture(terms.issued - now));
        }
        match floor {
            Some(floor) if terms.version < floor.version => Err(RosterError::RolledBack {
                version: terms.version,
                seen: floor.version,
            }),
            Some(floor) if terms.version == floor.version && roster.digest != floor.digest => {
                Err(RosterError::Forked(terms.version))
            }
            _ => {
                let here = self.rosters.get(&self.roster_key(admin, &roster.group));
                let known = here.is_some_and(|here| here.digest == roster.digest);
                Ok(if known {
                    Admission::Known
                } else {
                    Admission::New
                })
            }
        }
    }

    /// Puts a roster that was admitted in the place of the one before it.
    pub fn put_roster(&mut self, roster: Roster) {
        let key = self.roster_key(&roster.admin, &roster.group);
        let floor = self.floors.get(&key);
        // An admin who changed his key may have left one under the old key.
        if floor.is_none_or(|floor| floor.version <= roster.terms.version) {
            self.put_floor(Floor::of(&roster));
            self.rosters.insert(key, roster);
        }
    }

    /// Notes a version, unless a higher one is known.
    pub fn put_floor(&mut self, floor: Floor) {
        let key = self.roster_key(&floor.admin, &floor.group);
        let higher = self.floors.get(&key);
        if higher.is_none_or(|higher| higher.version <= floor.version) {
            self.floors.insert(key, floor);
        }
    }

    fn link(&mut self, old: DeviceId, new: DeviceId) {
        self.earlier.insert(new.clone(), old.clone());
        self.next.insert(old, new);
    }

    /// All groups that a person made.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }
}

/// The ids that follow `from`, at most so many that a circle ends.
fn walk<'a>(
    links: &'a HashMap<DeviceId, DeviceId>,
    from: &'a DeviceId,
) -> impl Iterator<Item = &'a DeviceId> {
    std::iter::successors(links.get(from), |id| links.get(*id)).take(MAX_MOVES)
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
