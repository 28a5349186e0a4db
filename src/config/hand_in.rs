//! `[hand_in]`: what devices give back to this one.

use super::reader::Reader;
use super::receive::{COLLISIONS, PERIOD};
use super::shapes;
use crate::protocol::policy::{Mode, Terms};

/// Where hand-ins go below the home folder: a folder for each group, and in it one for each
/// device.
const PLACE: &str = "Handed in/{group}/{device}";

/// `[hand_in]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandIn {
    /// Whether hand-ins are taken.
    pub enabled: bool,
    /// What of them is taken, and where it goes.
    pub terms: Terms,
}

impl HandIn {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let enabled = r.boolean("hand_in.enabled");
        let destination = r.destination_or("hand_in.destination", |surroundings| {
            // Whoever takes none needs no home for them.
            let nowhere = || surroundings.current_dir.join(PLACE);
            let place = surroundings.home().map(|home| home.join(PLACE));
            place.or_else(|| (!enabled).then(nowhere))
        });
        let terms = Terms {
            mode: Mode::Accept,
            destination,
            types: r.shaped("hand_in.types", &shapes::patterns()),
            refuse_types: r.shaped("hand_in.refuse_types", &shapes::patterns()),
            max_file: r.shaped("hand_in.max_file", &shapes::limit()),
            max_bundle: r.size("hand_in.max_bundle", 1..=u64::MAX),
            max_files: r.number("hand_in.max_files", 1..=100_000),
            quota: r.shaped("hand_in.quota", &shapes::limit()),
            quota_total: r.shaped("hand_in.quota_total", &shapes::limit()),
            quota_period: r.duration("hand_in.quota_period", PERIOD),
            collision: r.choice("hand_in.collision", &COLLISIONS),
            reserve: r.size("hand_in.reserve", 0..=u64::MAX),
            keep_versions: 0,
            run: Vec::new(),
            run_timeout: std::time::Duration::ZERO,
        };
        Self { enabled, terms }
    }
}
