//! `channel-labels`: are the same residual channels strong in both models?
//!
//! H0: the models were trained independently. Initialisation is exchangeable over residual channels and the optimisers
//! treat them alike (Zhu, Ahmed, Kuditipudi, Liang, *Independence Tests for Language Models*, arXiv 2502.12292), so the
//! labels of one model's channels are a random permutation with respect to the other's. One permutation serves all
//! layers, because all layers share the residual stream.
//!
//! The statistic is the correlation of the two channel profiles (each the mean, over all tensors that touch the stream,
//! of the normal score of the channel's RMS), once more given normal scores. Its permutation distribution has mean 0
//! and variance 1/(n−1), and Student's t with n−2 degrees of freedom describes its tail.
//!
//! It is blind to a permutation or rotation of the channels, and not applicable where labels carry an order of their
//! own: channels sorted by importance, or sinusoidal positions added to the stream.

use super::{Test, TestCode};
use crate::fingerprint::Fingerprint;
use crate::stats::{rank, tail};

/// Fewest channels for a tail that could ever reach a verdict.
const MIN_CHANNELS: usize = 32;

/// Fewest tensors that must touch the residual stream for a profile.
const MIN_TENSORS: u32 = 3;

/// Profiles whose correlation with the label itself is less probable than this carry an order of their own.
const ORDERED_LOG10_P: f64 = -9.0;

/// The test for one pair.
pub fn test(suspect: &Fingerprint, reference: &Fingerprint) -> Test {
    let not_applicable = |why: String| Test::not_applicable(TestCode::ChannelLabels, why);
    let (ours, theirs) = (&suspect.channels, &reference.channels);
    if ours.tensors < MIN_TENSORS || ours.profile.len() < MIN_CHANNELS {
        return not_applicable("no residual stream was found in the suspect's values".into());
    }
    if theirs.tensors < MIN_TENSORS || theirs.profile.len() < MIN_CHANNELS {
        return not_applicable("no residual stream was found in the reference's values".into());
    }
    if ours.profile.len() != theirs.profile.len() {
        let (a, b) = (ours.profile.len(), theirs.profile.len());
        return not_applicable(format!("the residual streams have {a} and {b} channels"));
    }
    if is_ordered(&ours.profile) && is_ordered(&theirs.profile) {
        return not_applicable("the channels of both models are ordered by strength".into());
    }
    let r = rank::correlation(&rank::normal_scores(&ours.profile), &rank::normal_scores(&theirs.profile));
    let n = ours.profile.len() as u64;
    let log10_p = tail::log10_correlation_sf(r, n);
    Test {
        code: TestCode::ChannelLabels,
        applicable: true,
        why_not: None,
        statistic: r,
        n,
        log10_p: Some(log10_p),
        effect: if r > 0.0 { r * r } else { 0.0 },
        says: format!("strengths of {n} residual channels correlate with r = {r:.3} at equal labels"),
    }
}

/// Whether a channel profile rises or falls with the label: then labels are not exchangeable.
pub fn is_ordered(profile: &[f32]) -> bool {
    let labels: Vec<f32> = (0..profile.len()).map(|label| label as f32).collect();
    let r = rank::correlation(&rank::normal_scores(profile), &rank::normal_scores(&labels));
    tail::log10_correlation_sf(r.abs(), profile.len() as u64) < ORDERED_LOG10_P
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
}
