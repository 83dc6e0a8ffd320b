//! A sketch of which short runs of values a checkpoint holds, wherever they lie.
//!
//! Rows, shapes and tensors are what a container makes of values; the order of values within a few of them survives
//! flattening, stacking, another sharding and another float type. So a run begins wherever a value's own bits say so, and
//! is known by the digest of the values that follow. Of all digests the smallest are kept (a bottom-k sketch: Broder, *On
//! the resemblance and containment of documents*, 1997), so that two sketches tell what share of one checkpoint's runs
//! the other holds.
//!
//! Only equality after rounding to `bf16` is seen, and only along a tensor's rows: neither fine-tuning nor another order
//! of columns is looked through here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use super::kernel;

/// Most keys of a sketch. A share of 5 % is then known within a quarter of a per cent, one standard error, and 64 KB is
/// little beside what else is kept.
pub const CONTENT_KEYS: usize = 8192;

/// Values of a run. Sixteen trained values carry more than a hundred bits, while a run is short enough to lie within the
/// rows of the smallest heads.
pub const RUN: usize = 16;

/// A run with fewer distinct values could recur by accident: padding, masks, codes of two or three levels.
const MIN_DISTINCT: usize = RUN / 2;

/// Digests of runs: ascending, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentKeys(Vec<u64>);

impl ContentKeys {
    /// The keys, if they are what a sketch can hold: ascending, each once, and no more than [`CONTENT_KEYS`].
    pub(super) fn of(keys: Vec<u64>) -> Option<Self> {
        (keys.len() <= CONTENT_KEYS && keys.is_sorted_by(|a, b| a < b)).then_some(Self(keys))
    }

    /// The keys, ascending.
    pub fn keys(&self) -> &[u64] {
        &self.0
    }

    /// The largest key up to which the sketch is complete: whatever run of the checkpoint has a key up to it is here.
    pub fn complete_to(&self) -> u64 {
        if self.0.len() < CONTENT_KEYS { u64::MAX } else { self.0.last().copied().unwrap_or(u64::MAX) }
    }
}

/// The smallest keys that were seen, while they are being collected.
#[derive(Debug)]
struct Smallest {
    keys: Vec<u64>,
    /// Keys beyond it can no longer be among the smallest.
    limit: u64,
}

impl Smallest {
    fn below(limit: u64) -> Self {
        Self { keys: Vec::new(), limit }
    }

    fn add(&mut self, key: u64) {
        self.keys.push(key);
        // Sorted seldom: only once as many new keys as are kept have come.
        if self.keys.len() >= 2 * CONTENT_KEYS {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
        if self.keys.len() >= CONTENT_KEYS {
            self.keys.truncate(CONTENT_KEYS);
            self.limit = self.limit.min(self.keys[CONTENT_KEYS - 1]);
        }
    }
}

/// The runs of one tensor, whose values come by in order.
#[derive(Debug)]
pub(super) struct Runs {
    smallest: Smallest,
    /// The last values, in which runs begin that are not complete yet.
    held: Vec<u16>,
    places: Vec<u32>,
}

impl Runs {
    /// Keys beyond `limit` are not wanted.
    pub(super) fn below(limit: u64) -> Self {
        Self { smallest: Smallest::below(limit), held: Vec::with_capacity(2 * RUN), places: Vec::new() }
    }

    /// Takes the values that follow, rounded to `bf16`. How they are cut into calls changes nothing.
    pub(super) fn add(&mut self, values: &[u16]) {
        let mut held = std::mem::take(&mut self.held);
        held.extend(values.iter().take(RUN - 1));
        self.whole(&held);
        self.whole(values);
        let tail = if values.len() < RUN { &held } else { values };
        self.held = tail[tail.len().saturating_sub(RUN - 1)..].to_vec();
    }

    /// What follows is not what follows the values so far.
    pub(super) fn break_off(&mut self) {
        self.held.clear();
    }

    /// Takes the runs that begin and end in these values.
    fn whole(&mut self, values: &[u16]) {
        let Some(starts) = (values.len() + 1).checked_sub(RUN) else { return };
        self.places.clear();
        kernel::marked(&values[..starts], &mut self.places);
        for &place in &self.places {
            let run = &values[place as usize..][..RUN];
            let key = key(run);
            if key <= self.smallest.limit && is_telling(run) {
                self.smallest.add(key);
            }
        }
    }

    /// What the tensor adds to a sketch.
    pub(super) fn finish(mut self) -> TensorKeys {
        self.smallest.settle();
        TensorKeys(self.smallest.keys)
    }
}

/// The smallest keys of one tensor.
#[derive(Debug, Default)]
pub(super) struct TensorKeys(Vec<u64>);

fn key(run: &[u16]) -> u64 {
    let mut bytes = [0; 2 * RUN];
    for (bytes, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(run) {
        *bytes = value.to_le_bytes();
    }
    xxh3_64(&bytes)
}

fn is_telling(run: &[u16]) -> bool {
    let mut sorted = [0; RUN];
    sorted.copy_from_slice(run);
    sorted.sort_unstable();
    1 + sorted.windows(2).filter(|pair| pair[0] != pair[1]).count() >= MIN_DISTINCT
}

/// The sketch of a whole checkpoint in the making. It is a set, so the order of tensors leaves no trace.
#[derive(Debug)]
pub(super) struct Gathered {
    smallest: Mutex<Smallest>,
    limit: AtomicU64,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self { smallest: Mutex::new(Smallest::below(u64::MAX)), limit: AtomicU64::new(u64::MAX) }
    }

    /// Keys beyond it are no part of the sketch, whatever comes.
    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn merge(&self, TensorKeys(keys): TensorKeys) {
        let mut smallest = self.smallest.lock().unwrap_or_else(PoisonError::into_inner);
        smallest.keys.extend(keys);
        smallest.settle();
        self.limit.store(smallest.limit, Ordering::Relaxed);
    }

    pub(super) fn finish(self) -> ContentKeys {
        ContentKeys(self.smallest.into_inner().unwrap_or_else(PoisonError::into_inner).keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, count: u64) -> Vec<u16> {
        (0..count).map(|i| xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed) as u16).collect()
    }

    fn keys(values: &[u16], cut: usize) -> Vec<u64> {
        let mut runs = Runs::below(u64::MAX);
        values.chunks(cut).for_each(|part| runs.add(part));
        runs.finish().0
    }

    #[test]
    fn the_cuts_between_calls_leave_no_trace() {
        let values = values(1, 5000);
        let whole = keys(&values, values.len());
        assert!((40..160).contains(&whole.len()), "one value in 64 begins a run: {}", whole.len());
        for cut in [1, 7, RUN - 1, RUN, RUN + 1, 1000] {
            assert_eq!(keys(&values, cut), whole, "{cut}");
        }
        assert!(keys(&values[..RUN - 1], 4).is_empty());
    }

    #[test]
    fn runs_of_few_levels_are_not_kept() {
        let few: Vec<u16> = values(1, 50_000).iter().map(|value| value % 5).collect();
        assert!(keys(&few, few.len()).is_empty());
    }

    #[test]
    fn the_smallest_keys_are_kept_whatever_the_order_of_tensors() {
        let tensors: Vec<Vec<u16>> = (0..4).map(|seed| values(seed, 300_000)).collect();
        let sketch = |order: &[usize]| {
            let gathered = Gathered::new();
            for &tensor in order {
                let mut runs = Runs::below(gathered.limit());
                runs.add(&tensors[tensor]);
                gathered.merge(runs.finish());
            }
            gathered.finish()
        };
        let one = sketch(&[0, 1, 2, 3]);
        assert_eq!(one, sketch(&[3, 1, 0, 2]));
        assert_eq!(one, sketch(&[0, 1, 2, 3, 0, 2]), "what is there twice counts once");
        assert_eq!(one.keys().len(), CONTENT_KEYS);
        assert_eq!(ContentKeys::of(one.keys().to_vec()), Some(one));
        assert_eq!(ContentKeys::of(vec![2, 1]), None);
    }
}
