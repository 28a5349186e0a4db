//! What two neighbours say about a bundle that both receive: who has what, and what is asked for
//! (PROTOCOL.md §12).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::chunkset::ChunkSet;
use super::frame::Handle;
use super::id::{BundleId, DeviceId, Root};
use super::identity::Signature;

/// Chunks that one side may have asked for and not got yet, per bundle.
pub const MAX_WANTED: u32 = 64;

/// What the writer has of a bundle. Each one replaces the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// To a neighbour: under which the writer serves, chosen by it. To the origin: that of the
    /// transfer, which the origin chose.
    pub handle: Handle,
    /// Which bundle.
    pub bundle: BundleId,
    /// Whose.
    pub origin: DeviceId,
    /// Bitmap of the chunks, b64. To a neighbour these are chunks that it may ask for.
    pub have: String,
    /// The root, where the writer has checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The origin's signature of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_sig: Option<Signature>,
}

/// The chunks that a WANT names as `[first, how many]`: ascending runs in any order. `None` when
/// there are more than [`MAX_WANTED`], none at all, or any beyond the `count` of the bundle.
pub fn wanted(runs: &[(u32, u32)], count: u32) -> Option<Vec<u32>> {
    let mut chunks = Vec::new();
    for &(first, many) in runs {
        let end = first.checked_add(many).filter(|end| *end <= count)?;
        if many == 0 || many > MAX_WANTED || chunks.len() as u32 + many > MAX_WANTED {
            return None;
        }
        chunks.extend(first..end);
    }
    (!chunks.is_empty()).then_some(chunks)
}

/// The runs that name these chunks.
pub fn runs(chunks: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut sorted = chunks.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    for chunk in sorted {
        match runs.last_mut() {
            Some((first, many)) if *first + *many == chunk => *many += 1,
            _ => runs.push((chunk, 1)),
        }
    }
    runs
}

/// Up to `most` chunks to ask a neighbour for: those that it has, we lack, and nobody else was
/// asked for, from the end of the bundle downwards, because the origin streams upwards.
pub fn pick(have: &ChunkSet, asked: &HashSet<u32>, theirs: &ChunkSet, most: usize) -> Vec<u32> {
    let mut useful = theirs.clone();
    useful.subtract(have);
    let mut picked: Vec<u32> = Vec::new();
    let mut end = useful.count();
    // In steps, so that a large bundle is not looked through for a few chunks at its end.
    while end > 0 && picked.len() < most {
        let start = end.saturating_sub(512);
        let found: Vec<u32> = (start..end)
            .rev()
            .filter(|at| useful.contains(*at))
            .collect();
        let free = found.into_iter().filter(|at| !asked.contains(at));
        picked.extend(free.take(most - picked.len()));
        end = start;
    }
    picked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn more_than_may_be_wanted_is_refused_before_anything_is_made_of_it() {
        assert_eq!(wanted(&[(3, 2), (0, 1)], 5), Some(vec![3, 4, 0]));
        for bad in [
            &[(3, 3)][..],
            &[(0, 0)],
            &[],
            &[(u32::MAX, 2)],
            &[(0, u32::MAX)],
            &[(0, 40), (40, 40)],
        ] {
            assert_eq!(wanted(bad, if bad == [(3, 3)] { 5 } else { 1000 }), None);
        }
    }

    #[test]
    fn chunks_are_asked_for_from_the_end_and_of_one_neighbour_only() {
        let mut theirs = ChunkSet::new(2000);
        (0..1500).for_each(|at| {
            theirs.insert(at);
        });
        let mut have = ChunkSet::new(2000);
        have.insert(1499);
        let asked = HashSet::from([1497]);
        assert_eq!(pick(&have, &asked, &theirs, 3), [1498, 1496, 1495]);
        assert!(pick(&theirs, &asked, &theirs, 3).is_empty());
        assert!(pick(&have, &asked, &ChunkSet::new(3), 3).is_empty());
    }

    proptest! {
        #[test]
        fn runs_name_the_chunks_they_were_made_from(
            chunks in proptest::collection::hash_set(0u32..300, 1..64),
        ) {
            let chunks: Vec<u32> = chunks.into_iter().collect();
            let mut read = wanted(&runs(&chunks), 300).unwrap();
            let mut sorted = chunks.clone();
            sorted.sort_unstable();
            read.sort_unstable();
            prop_assert_eq!(read, sorted);
        }

        #[test]
        fn any_runs_are_read_or_refused(
            runs in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50),
            count in any::<u32>(),
        ) {
            if let Some(chunks) = wanted(&runs, count) {
                prop_assert!(chunks.len() as u32 <= MAX_WANTED);
                prop_assert!(chunks.iter().all(|chunk| *chunk < count));
            }
        }
    }
}
