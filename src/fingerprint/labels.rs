//! Which rows and columns a fingerprint keeps: chosen by a hash of their label, so the same in every model.
//!
//! A label is chosen when its hash is among the smallest, so the choice for a shorter axis is nearly contained in that
//! for a longer one, and what is kept of two models whose vocabularies differ can still be compared.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Labels at or above this are never chosen, which bounds the work for an axis of a hostile length.
const MAX_LABEL: u64 = 1 << 22;

/// Choices that are remembered: a model has a handful of sizes, and every tensor of every fingerprint asks for them.
const REMEMBERED: usize = 256;

/// The `count` labels below `len` with the smallest hashes, in increasing order of the label.
pub fn chosen(len: u64, count: usize) -> Vec<u32> {
    static CHOICES: Mutex<BTreeMap<(u32, usize), Vec<u32>>> = Mutex::new(BTreeMap::new());
    let len = len.min(MAX_LABEL) as u32;
    if len as usize <= count {
        return (0..len).collect();
    }
    let choices = || CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(labels) = choices().get(&(len, count)) {
        return labels.clone();
    }
    let labels = choose(len, count);
    let mut choices = choices();
    if choices.len() < REMEMBERED {
        choices.insert((len, count), labels.clone());
    }
    labels
}

fn choose(len: u32, count: usize) -> Vec<u32> {
    let mut hashed: Vec<(u64, u32)> = (0..len).map(|label| (hash(label), label)).collect();
    hashed.select_nth_unstable(count);
    let mut labels: Vec<u32> = hashed[..count].iter().map(|&(_, label)| label).collect();
    labels.sort_unstable();
    labels
}

/// SplitMix64's finaliser (Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
pub(super) fn hash(label: u32) -> u64 {
    let mut z = u64::from(label).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_for_a_longer_axis_keeps_most_of_the_shorter_ones() {
        let short = chosen(32_000, 1024);
        let long = chosen(36_000, 1024);
        let common = short.iter().filter(|label| long.binary_search(label).is_ok()).count();
        assert!(common > 850, "{common} of 1024");
        assert!(short.is_sorted());
    }

    #[test]
    fn an_axis_shorter_than_the_choice_is_kept_whole() {
        assert_eq!(chosen(5, 32), [0, 1, 2, 3, 4]);
        assert!(chosen(0, 32).is_empty());
    }

    #[test]
    fn chosen_labels_spread_over_the_axis() {
        let labels = chosen(4096, 256);
        let lower_half = labels.iter().filter(|&&label| label < 2048).count();
        // Binomial(256, 1/2) has a standard deviation of 8: six of them either way.
        assert!((80..=176).contains(&lower_half), "{lower_half}");
    }
}
