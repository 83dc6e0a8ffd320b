//! `channel-labels`: are the same residual channels strong in both models?
//!
//! H0: the models were trained independently. Initialisation is exchangeable over residual channels and the optimisers
//! treat them alike (Zhu, Ahmed, Kuditipudi, Liang, *Independence Tests for Language Models*, arXiv 2502.12292), so the
//! labels of one model's channels are a random permutation with respect to the other's. One permutation serves all
//! layers, because all layers share the residual stream.
//!
//! Two statistics are taken, and the smaller p, doubled, is reported:
//!
//! * **Profiles.** The correlation of the two channel profiles (each the mean, over all tensors that touch the stream, of
//!   the normal score of the channel's RMS), once more given normal scores. Its permutation distribution has mean 0 and
//!   variance 1/(n−1), and Student's t with n−2 degrees of freedom describes its tail. It needs no correspondence of
//!   tensors, rows or layers.
//! * **Fixed points.** A channel's sampled values in all tensors of equal role and layer are its vector; channels that are
//!   each other's nearest neighbours are matched, and K of the m matched pairs have equal labels. Under H0 any matching
//!   that does not look at labels meets `P(K or more) ≤ C(m,K)·(n−K)!/n! ≤ (m/n)^K/K!`: the expected number of K-subsets
//!   of fixed points bounds the probability that one exists. Exact, whatever the data.
//!
//! The effect is the squared correlation of the profiles: labels that agree while profiles do not are those of a common
//! initialisation.
//!
//! The test is blind to a permutation or rotation of the channels, and not applicable where labels carry an order of
//! their own: channels sorted by importance, or sinusoidal positions added to the stream.

use std::collections::HashMap;

use super::facts::Side;
use super::{Evidence, Facts, Measure, TestKind, WhyNot};
use crate::anatomy::Residual;
use crate::fingerprint::{Fingerprint, TensorFingerprint};
use crate::math::lanes::standardise;
use crate::math::mutual::mutual;
use crate::math::{linalg, ranks, tails};
use crate::model::Role;

/// Fewest channels for a tail that could ever reach a verdict.
const MIN_CHANNELS: usize = 32;

/// Fewest tensors that must touch the residual stream for a profile.
const MIN_TENSORS: u32 = 3;

/// Profiles whose correlation with the label itself is less probable than this carry an order of their own.
const ORDERED_LOG10_P: f64 = -9.0;

/// What of a channel profile does not depend on the model that it is compared with.
pub struct Scores {
    /// Normal scores of the channels.
    scores: Vec<f64>,
    ordered: bool,
}

impl Scores {
    /// Those of a suspect.
    pub fn of(fingerprint: &Fingerprint) -> Self {
        let profile = &fingerprint.exact.channels.profile;
        Self { scores: ranks::normal_scores(profile), ordered: is_ordered(profile) }
    }
}

/// The test for one pair; `known` is the suspect's.
pub fn test(suspect: &Fingerprint, known: &Scores, reference: &Fingerprint) -> Evidence {
    let not_applicable = |why| Evidence::not_applicable(TestKind::ChannelLabels, why);
    let (ours, theirs) = (&suspect.exact.channels, &reference.exact.channels);
    if ours.tensors < MIN_TENSORS || ours.profile.len() < MIN_CHANNELS {
        return not_applicable(WhyNot::NoResidualStream(Side::Suspect));
    }
    if theirs.tensors < MIN_TENSORS || theirs.profile.len() < MIN_CHANNELS {
        return not_applicable(WhyNot::NoResidualStream(Side::Reference));
    }
    if ours.profile.len() != theirs.profile.len() {
        let (suspect, reference) = (ours.profile.len(), theirs.profile.len());
        return not_applicable(WhyNot::UnequalChannels { suspect, reference });
    }
    if known.ordered && is_ordered(&theirs.profile) {
        return not_applicable(WhyNot::OrderedChannels);
    }
    let r = ranks::correlation(&known.scores, &ranks::normal_scores(&theirs.profile));
    let n = ours.profile.len() as u64;
    let mut log10_p = tails::log10_correlation_sf(r, n);
    let pairs = ChannelPairs::count(suspect, reference);
    if let Some(pairs) = pairs {
        log10_p = tails::log10_corrected(log10_p.min(pairs.log10_p()), 2);
    }
    let measure = Measure {
        statistic: r,
        n,
        log10_p: Some(log10_p),
        effect: if r > 0.0 { r * r } else { 0.0 },
        facts: Facts::ChannelLabels { channels: n, correlation: r, pairs },
    };
    Evidence::measured(TestKind::ChannelLabels, measure)
}

/// Channels matched by their sampled values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelPairs {
    /// Matched pairs with equal labels.
    pub equal: u64,
    /// Matched pairs: each other's nearest neighbours.
    pub matched: u64,
    /// Channels that took part.
    pub channels: u64,
}

impl ChannelPairs {
    /// Matches the sampled channels of two models; `None` where no tensors of settled role correspond.
    fn count(suspect: &Fingerprint, reference: &Fingerprint) -> Option<Self> {
        let theirs = by_place(reference);
        let mut pairs: Vec<_> = by_place(suspect)
            .into_iter()
            .filter_map(|(place, ours)| Some((place, ours, *theirs.get(&place)?)))
            .filter(|(_, ours, theirs)| ours.shape == theirs.shape)
            .collect();
        pairs.sort_unstable_by_key(|(place, _, _)| *place);
        let width = pairs.first()?.1.sample_labels().1.len();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for (_, ours, theirs) in &pairs {
            spread(ours, width, &mut left);
            spread(theirs, width, &mut right);
        }
        (left.len() == right.len()).then(|| Self::of(&left, &right, width))
    }

    /// Matches vectors by cosine; those without length match nothing. The vectors of the `width` channels of a model are
    /// columns, stored row after row.
    fn of(left: &[f32], right: &[f32], width: usize) -> Self {
        let lengths = |values: &[f32]| {
            let mut squares = vec![0.0f32; width];
            for row in values.chunks_exact(width) {
                squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * value);
            }
            squares.into_iter().map(f32::sqrt).collect::<Vec<f32>>()
        };
        let (our_lengths, their_lengths) = (lengths(left), lengths(right));
        let mut cosines = vec![0.0f32; width * width];
        linalg::add_transposed(left, width, right, &mut cosines);
        for (row, &length) in cosines.chunks_exact_mut(width.max(1)).zip(&our_lengths) {
            for (cosine, &other) in row.iter_mut().zip(&their_lengths) {
                *cosine = if length * other > 0.0 { *cosine / (length * other) } else { 0.0 };
            }
        }
        let pairs = mutual(&cosines, width, width);
        let equal = pairs.iter().filter(|(label, other, _)| label == other).count() as u64;
        let channels = our_lengths.iter().filter(|&&length| length > 0.0).count() as u64;
        Self { equal, matched: pairs.len() as u64, channels }
    }

    fn log10_p(self) -> f64 {
        let chance = self.matched as f64 / (self.channels as f64).max(1.0);
        tails::log10_poisson_like_factorial_bound(self.equal, chance)
    }
}

type Place = (Role, Option<u32>);

/// Tensors with channels along their columns, by settled role and layer; places that occur twice are left out, and
/// experts, which have no order.
fn by_place(fingerprint: &Fingerprint) -> HashMap<Place, &TensorFingerprint> {
    let channels = fingerprint.exact.channels.profile.len() as u64;
    let mut places: HashMap<Place, Option<&TensorFingerprint>> = HashMap::new();
    for tensor in fingerprint.exact.tensors.iter().filter(|tensor| tensor.informative().is_some()) {
        let assignment = &tensor.assignment;
        let columns = matches!(assignment.residual, Residual::Reads(1) | Residual::Embeds(1));
        let [role] = assignment.roles[..] else { continue };
        if columns && tensor.shape.len() == 2 && tensor.shape[1] == channels && assignment.expert.is_none() {
            places.entry((role, assignment.layer)).and_modify(|known| *known = None).or_insert(Some(tensor));
        }
    }
    places.into_iter().filter_map(|(place, tensor)| Some((place, tensor?))).collect()
}

/// Appends the sampled rows, each centred and scaled to length one, so that no row or tensor outweighs another.
fn spread(tensor: &TensorFingerprint, width: usize, rows: &mut Vec<f32>) {
    let Some(values) = tensor.informative() else { return };
    let start = rows.len();
    rows.extend_from_slice(&values.sample.values());
    standardise(&mut rows[start..], width);
}

/// Whether a channel profile rises or falls with the label: then labels are not exchangeable.
pub fn is_ordered(profile: &[f32]) -> bool {
    let labels: Vec<f32> = (0..profile.len()).map(|label| label as f32).collect();
    let r = ranks::correlation(&ranks::normal_scores(profile), &ranks::normal_scores(&labels));
    tails::log10_correlation_sf(r.abs(), profile.len() as u64) < ORDERED_LOG10_P
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_sorted_by_strength_is_ordered_and_a_shuffled_one_is_not() {
        let sorted: Vec<f32> = (0..128).map(|c| c as f32).collect();
        let shuffled: Vec<f32> = (0..128).map(|c| ((c * 53) % 128) as f32).collect();
        assert!(is_ordered(&sorted) && !is_ordered(&shuffled));
        let falling: Vec<f32> = sorted.iter().map(|c| -c).collect();
        assert!(is_ordered(&falling));
    }

    /// 40 rows of 64 channels.
    fn vectors(seed: u32) -> Vec<f32> {
        let value = |i: u32, j: u32| {
            (xxhash_rust::xxh3::xxh3_64(&[i, j, seed].map(|n| n as u8)) as f32 / u64::MAX as f32) - 0.5
        };
        (0..40).flat_map(|j| (0..64).map(move |i| value(i, j))).collect()
    }

    #[test]
    fn channels_of_a_noisy_copy_pair_up_at_their_labels_and_permuted_ones_elsewhere() {
        let original = vectors(1);
        let noisy: Vec<f32> = original.iter().zip(vectors(77)).map(|(x, e)| x + 0.5 * e).collect();
        let points = ChannelPairs::of(&original, &noisy, 64);
        assert_eq!((points.equal, points.channels), (64, 64));
        // log10(1/64!) = -89.1
        assert!((points.log10_p() + 89.1).abs() < 0.1, "{}", points.log10_p());
        let mut permuted = noisy.clone();
        permuted.chunks_exact_mut(64).for_each(|row| row.rotate_left(1));
        let points = ChannelPairs::of(&original, &permuted, 64);
        assert_eq!((points.equal, points.matched), (0, 64));
        assert_eq!(points.log10_p(), 0.0);
    }

    #[test]
    fn dead_channels_match_nothing() {
        let dead = vec![0.0; 40 * 64];
        assert_eq!(ChannelPairs::of(&dead, &dead, 64), ChannelPairs { equal: 0, matched: 0, channels: 0 });
    }
}
