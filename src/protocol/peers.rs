//! The devices seen on the network now: a bounded table, fed by hints.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::id::{DeviceId, RunId};

/// Most addresses kept of one peer.
pub const MAX_ADDRESSES: usize = 16;
/// Most bytes of a device's name for people.
pub const MAX_NAME: usize = 64;

/// A name that a stranger gave itself, made harmless for terminals, pages and logs: one line of
/// at most [`MAX_NAME`] bytes, without control characters and without the invisible ones that
/// turn the direction of text around.
pub fn display_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.trim().chars() {
        let hidden = matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        let c = if c.is_control() || hidden {
            '\u{fffd}'
        } else {
            c
        };
        if out.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        out.push(c);
    }
    out.truncate(out.trim_end().len());
    out
}

/// What kind of device a peer says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceType {
    /// A computer that stands or lies somewhere.
    #[default]
    Desktop,
    /// A phone or tablet.
    Mobile,
}

impl DeviceType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Mobile => "mobile",
        }
    }

    /// Reads the word; anything but `mobile` is a desktop.
    pub fn from_word(word: &str) -> Self {
        match word {
            "mobile" => Self::Mobile,
            _ => Self::Desktop,
        }
    }
}

/// What a device says about itself on the network. A hint: nothing follows from it but where to
/// try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAdvert {
    /// Who it says it is.
    pub id: DeviceId,
    /// Its name for people, made harmless.
    pub name: String,
    /// What it says it is.
    pub device_type: DeviceType,
    /// Where its signaling listener is, at most [`MAX_ADDRESSES`].
    pub addrs: Vec<SocketAddr>,
    /// Version of the protocol it speaks.
    pub proto: u32,
    /// This start of its program.
    pub run: Option<RunId>,
}

/// Where we know a peer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The config file names its address. Never evicted, never expires.
    Static,
    /// It showed itself.
    Discovered,
    /// A note of it was found. Only of devices that are authorized.
    Noted,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEntry {
    /// What it says about itself.
    pub advert: PeerAdvert,
    /// Where we know it from.
    pub source: Source,
    /// Whether it is authorized, as far as the table was told.
    pub authorized: bool,
    /// When it last showed itself.
    pub seen: Instant,
    /// The addresses that the config file gives it.
    configured: Vec<SocketAddr>,
    /// The addresses that its newest note gives it.
    noted: Vec<SocketAddr>,
}

/// What an [`PeerTable::upsert`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upserted {
    /// It was not there before. Another peer may have had to go for it.
    Added {
        /// The peer that was evicted.
        evicted: Option<DeviceId>,
    },
    /// It moved: connections to its old addresses may be dead.
    AddressesChanged,
    /// Its name, type or version changed.
    Changed,
    /// Nothing new.
    Unchanged,
    /// The table is full of peers that matter more.
    Refused,
}

/// The peers seen now, at most so many.
#[derive(Debug, Clone)]
pub struct PeerTable {
    peers: HashMap<DeviceId, PeerEntry>,
    max_peers: usize,
}

impl PeerTable {
    /// A table of at most `max_peers` discovered peers; static ones come on top.
    pub fn new(max_peers: usize) -> Self {
        Self {
            peers: HashMap::new(),
            max_peers,
        }
    }

    /// Adds a peer, or brings it up to date. When the table is full, the stranger that was seen
    /// longest ago makes room; only for an authorized newcomer may that be an authorized peer.
    pub fn upsert(
        &mut self,
        now: Instant,
        mut advert: PeerAdvert,
        source: Source,
        authorized: bool,
    ) -> Upserted {
        advert.addrs.sort_unstable();
        advert.addrs.dedup();
        advert.addrs.truncate(MAX_ADDRESSES);
        if let Some(entry) = self.peers.get_mut(&advert.id) {
            entry.seen = now;
            entry.authorized = authorized;
            // A static peer that is also discovered keeps the addresses from the config file.
            match source {
                Source::Static => {
                    entry.source = Source::Static;
                    entry.configured = advert.addrs.clone();
                }
                Source::Discovered => {
                    if entry.source == Source::Noted {
                        entry.source = Source::Discovered;
                    }
                    let lists = [&entry.configured, &advert.addrs, &entry.noted];
                    advert.addrs = joined(lists);
                }
                // Notes come by [`Self::note`].
                Source::Noted => return Upserted::Unchanged,
            }
            let moved = entry.advert.addrs != advert.addrs;
            let changed = entry.advert != advert;
            entry.advert = advert;
            return match (moved, changed) {
                (true, _) => Upserted::AddressesChanged,
                (false, true) => Upserted::Changed,
                (false, false) => Upserted::Unchanged,
            };
        }
        let mut evicted = None;
        let discovered = |e: &PeerEntry| e.source == Source::Discovered;
        let count = self.peers.values().filter(|e| discovered(e)).count();
        if source == Source::Discovered && count >= self.max_peers {
            let victim = self
                .peers
                .values()
                .filter(|e| discovered(e) && (authorized || !e.authorized))
                .min_by_key(|e| (e.authorized, e.seen))
                .map(|e| e.advert.id.clone());
            let Some(id) = victim else {
                return Upserted::Refused;
            };
            self.peers.remove(&id);
            evicted = Some(id);
        }
        let configured = match source {
            Source::Static => advert.addrs.clone(),
            Source::Discovered | Source::Noted => Vec::new(),
        };
        let entry = PeerEntry {
            configured,
            noted: Vec::new(),
            advert,
            source,
            authorized,
            seen: now,
        };
        self.peers.insert(entry.advert.id.clone(), entry);
        Upserted::Added { evicted }
    }

    /// Adds what a note says of an authorized device, in place of what an earlier one said.
    pub fn note(&mut self, now: Instant, id: &DeviceId, addrs: Vec<SocketAddr>) -> Upserted {
        let Some(entry) = self.peers.get_mut(id) else {
            let addrs = joined([&addrs]);
            let advert = PeerAdvert {
                id: id.clone(),
                name: String::new(),
                device_type: DeviceType::Desktop,
                addrs: addrs.clone(),
                proto: 1,
                run: None,
            };
            let entry = PeerEntry {
                advert,
                source: Source::Noted,
                authorized: true,
                seen: now,
                configured: Vec::new(),
                noted: addrs,
            };
            self.peers.insert(id.clone(), entry);
            return Upserted::Added { evicted: None };
        };
        let old = std::mem::replace(&mut entry.noted, addrs);
        let mut others = entry.advert.addrs.clone();
        others.retain(|at| entry.configured.contains(at) || !old.contains(at));
        let all = joined([&others, &entry.noted]);
        if entry.source == Source::Noted {
            entry.seen = now;
        }
        match entry.advert.addrs == all {
            true => Upserted::Unchanged,
            false => {
                entry.advert.addrs = all;
                Upserted::AddressesChanged
            }
        }
    }

    /// Takes out those that only a note has told of, and no newer one for `max_age`.
    pub fn forget_notes(&mut self, now: Instant, max_age: Duration) -> Vec<DeviceId> {
        let old = |e: &PeerEntry| {
            e.source == Source::Noted && now.saturating_duration_since(e.seen) > max_age
        };
        let gone = self.peers.extract_if(|_, entry| old(entry));
        gone.map(|(id, _)| id).collect()
    }

    /// Tells the table of a new decision about a device.
    pub fn set_authorized(&mut self, id: &DeviceId, authorized: bool) {
        if let Some(entry) = self.peers.get_mut(id) {
            entry.authorized = authorized;
        }
    }

    /// A device has another id from now on: what the config file says of the old one's addresses
    /// holds for the new one.
    pub fn follow(&mut self, old: &DeviceId, new: &DeviceId) {
        let Some(mut moved) = self.peers.remove(old) else {
            return;
        };
        if let Some(entry) = self.peers.get_mut(new) {
            if moved.source == Source::Static {
                entry.source = Source::Static;
                entry.configured = moved.configured;
                entry.advert.addrs.extend(&entry.configured);
                entry.advert.addrs.sort_unstable();
                entry.advert.addrs.dedup();
                entry.advert.addrs.truncate(MAX_ADDRESSES);
            }
            return;
        }
        moved.advert.id = new.clone();
        moved.advert.run = None;
        self.peers.insert(new.clone(), moved);
    }

    /// Takes out a peer that said goodbye; true when it was there. Static ones stay.
    pub fn remove(&mut self, id: &DeviceId) -> bool {
        match self.peers.get_mut(id) {
            // It may be on another network now, where its note leads.
            Some(entry) if entry.source == Source::Discovered && !entry.noted.is_empty() => {
                entry.source = Source::Noted;
                entry.advert.addrs = entry.noted.clone();
                entry.advert.run = None;
                true
            }
            Some(entry) if entry.source == Source::Discovered => self.peers.remove(id).is_some(),
            _ => false,
        }
    }

    /// Takes out the discovered peers that have not shown themselves for `max_age`.
    pub fn expire(&mut self, now: Instant, max_age: Duration) -> Vec<DeviceId> {
        let old = |e: &PeerEntry| {
            e.source == Source::Discovered && now.saturating_duration_since(e.seen) > max_age
        };
        let gone = self.peers.extract_if(|_, entry| old(entry));
        gone.map(|(id, _)| id).collect()
    }

    /// One peer.
    pub fn get(&self, id: &DeviceId) -> Option<&PeerEntry> {
        self.peers.get(id)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &PeerEntry> {
        self.peers.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// True when nobody is there.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

/// All of them in this order, each once, at most [`MAX_ADDRESSES`].
fn joined<const N: usize>(lists: [&Vec<SocketAddr>; N]) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    for at in lists.into_iter().flatten() {
        if all.len() < MAX_ADDRESSES && !all.contains(at) {
            all.push(*at);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_note_says_comes_beside_what_is_seen_and_outlives_it() {
        let start = Instant::now();
        let mut table = PeerTable::new(1);
        let id: DeviceId = "a".parse().unwrap();
        let at = |port| SocketAddr::from(([203, 0, 113, 1], port));
        let here = SocketAddr::from(([10, 0, 0, 1], 1));
        let addrs = |table: &PeerTable| table.get(&id).unwrap().advert.addrs.clone();
        // A note takes none of the places of those that are seen.
        table.upsert(start, advert("other", 1), Source::Discovered, false);
        assert_eq!(table.note(start, &id, vec![at(1)]), ADDED);
        assert_eq!(table.note(start, &id, vec![at(1)]), Upserted::Unchanged);
        assert_eq!(
            table.note(start, &id, vec![at(2)]),
            Upserted::AddressesChanged
        );
        assert_eq!(addrs(&table), [at(2)]);
        table.upsert(start, advert("a", 1), Source::Discovered, true);
        assert_eq!(addrs(&table), [here, at(2)]);
        assert_eq!(
            table.note(start, &id, vec![at(3)]),
            Upserted::AddressesChanged
        );
        assert_eq!(addrs(&table), [here, at(3)]);
        // It says goodbye here: the note still leads to it.
        assert!(table.remove(&id));
        assert_eq!(addrs(&table), [at(3)]);
        assert!(!table.remove(&id));
        let (hour, later) = (Duration::from_secs(3600), start + Duration::from_secs(3601));
        assert!(table.forget_notes(start, hour).is_empty());
        assert_eq!(table.forget_notes(later, hour), [id]);
    }

    #[test]
    fn a_static_peer_keeps_its_configured_address_beside_its_note() {
        let start = Instant::now();
        let mut table = PeerTable::new(1);
        table.upsert(start, advert("a", 1), Source::Static, true);
        let id: DeviceId = "a".parse().unwrap();
        let configured = SocketAddr::from(([10, 0, 0, 1], 1));
        let noted = SocketAddr::from(([203, 0, 113, 1], 1));
        table.note(start, &id, vec![noted, configured]);
        table.note(start, &id, vec![noted]);
        assert_eq!(table.get(&id).unwrap().advert.addrs, [configured, noted]);
        let later = start + Duration::from_secs(9);
        assert!(table.forget_notes(later, Duration::ZERO).is_empty());
    }

    fn advert(id: &str, port: u16) -> PeerAdvert {
        PeerAdvert {
            id: id.parse().unwrap(),
            name: id.to_owned(),
            device_type: DeviceType::Desktop,
            addrs: vec![SocketAddr::from(([10, 0, 0, 1], port))],
            proto: 1,
            run: None,
        }
    }

    const ADDED: Upserted = Upserted::Added { evicted: None };

    #[test]
    fn changes_are_told_apart() {
        let now = Instant::now();
        let mut table = PeerTable::new(10);
        let mut put = |a| table.upsert(now, a, Source::Discovered, false);
        assert_eq!(put(advert("a", 1)), ADDED);
        assert_eq!(put(advert("a", 1)), Upserted::Unchanged);
        assert_eq!(put(advert("a", 2)), Upserted::AddressesChanged);
        let renamed = PeerAdvert {
            name: "new".into(),
            ..advert("a", 2)
        };
        assert_eq!(put(renamed), Upserted::Changed);
    }

    #[test]
    fn a_flood_of_strangers_pushes_out_strangers_only() {
        let start = Instant::now();
        let mut table = PeerTable::new(3);
        let at = |s| start + Duration::from_secs(s);
        table.upsert(at(0), advert("static", 1), Source::Static, false);
        table.upsert(at(0), advert("friend", 1), Source::Discovered, true);
        for n in 0..100 {
            table.upsert(
                at(n),
                advert(&format!("s{n}"), 1),
                Source::Discovered,
                false,
            );
        }
        assert_eq!(table.len(), 4);
        for id in ["static", "friend", "s98", "s99"] {
            assert!(table.get(&id.parse().unwrap()).is_some(), "{id}");
        }
    }

    #[test]
    fn authorized_newcomers_find_room_and_strangers_do_not_when_all_are_authorized() {
        let now = Instant::now();
        let mut table = PeerTable::new(1);
        table.upsert(now, advert("a", 1), Source::Discovered, true);
        let stranger = table.upsert(now, advert("b", 1), Source::Discovered, false);
        assert_eq!(stranger, Upserted::Refused);
        let friend = table.upsert(now, advert("c", 1), Source::Discovered, true);
        let evicted = Some("a".parse().unwrap());
        assert_eq!(friend, Upserted::Added { evicted });
    }

    #[test]
    fn static_peers_stay_and_keep_their_configured_address() {
        let start = Instant::now();
        let mut table = PeerTable::new(1);
        let id: DeviceId = "a".parse().unwrap();
        table.upsert(start, advert("a", 1), Source::Static, true);
        let seen = table.upsert(start, advert("a", 2), Source::Discovered, true);
        assert_eq!(seen, Upserted::AddressesChanged);
        assert_eq!(table.get(&id).unwrap().advert.addrs.len(), 2);
        assert!(!table.remove(&id));
        let later = start + Duration::from_secs(9);
        assert!(table.expire(later, Duration::from_secs(1)).is_empty());
    }

    #[test]
    fn the_addresses_of_a_static_peer_follow_its_new_id() {
        let now = Instant::now();
        let id = |id: &str| -> DeviceId { id.parse().unwrap() };
        for seen_before in [false, true] {
            let mut table = PeerTable::new(5);
            table.upsert(now, advert("old", 1), Source::Static, true);
            if seen_before {
                table.upsert(now, advert("new", 2), Source::Discovered, true);
            }
            table.follow(&id("old"), &id("new"));
            assert!(table.get(&id("old")).is_none());
            let entry = table.get(&id("new")).unwrap();
            assert_eq!(entry.source, Source::Static);
            assert_eq!(entry.advert.addrs.len(), 1 + usize::from(seen_before));
            assert!(entry.advert.id == id("new") && !table.remove(&id("new")));
        }
    }

    #[test]
    fn peers_that_are_silent_for_too_long_expire() {
        let start = Instant::now();
        let mut table = PeerTable::new(5);
        table.upsert(start, advert("a", 1), Source::Discovered, true);
        let later = start + Duration::from_secs(9);
        table.upsert(later, advert("b", 1), Source::Discovered, true);
        let gone = table.expire(later, Duration::from_secs(5));
        assert_eq!(gone, vec!["a".parse().unwrap()]);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn names_are_one_short_line_without_controls_or_direction_marks() {
        assert_eq!(display_name("  Room 12 / 3 "), "Room 12 / 3");
        assert_eq!(
            display_name("a\x1b[31m\u{202e}b\nc"),
            "a\u{fffd}[31m\u{fffd}b\u{fffd}c"
        );
        assert_eq!(display_name(&"é".repeat(100)).len(), 64);
    }
}
