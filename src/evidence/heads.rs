//! `head-labels`: do the attention heads of two models correspond?
//!
//! Heads are described by sampled entries of their query-key and value-output forms along anchor tokens
//! ([`Attention`]). All heads of a reference layer are matched with all heads of a suspect layer by the sum of the two
//! forms' signed cosines, mutual nearest neighbours, ties left out. Key-value groups are then matched by what their
//! matched heads add up to. Neither looks at labels, and neither does the choice of the reference layer that is laid
//! beside a suspect layer. Each reference layer is used once, so that a suspect whose layers are copies of each other
//! does not repeat a coincidence.
//!
//! **Null.** Heads that share keys and values are not exchangeable with any others: under H0 the labels of a layer's
//! groups are a random permutation, and so are the labels of the heads within each group, all independent of each other
//! and of the other layers. Both kinds count. Where m pairs are to be had among n labels, the number F of equal ones has
//! `P(F = k) = C(m,k) · (n−k)!/n! · q(n−k, m−k)`: k given pairs are fixed by (n−k)! of n! permutations, and q(n, m), the
//! probability that a permutation of n labels fixes none of m given pairs, is `q(n, m−1) − q(n−1, m−1)/n`. The
//! factorial-moment bound of [`neurons`](super::neurons) says little where n is 2 or 4, as it often is here; from the
//! distribution itself, Chernoff's bound `P(ΣF ≥ K) ≤ min_θ exp(−θK) ∏ E[exp(θF)]` holds whatever the data, and is the
//! probability itself, ∏ 1/n!, where all labels are equal. One group in all, or one head in a group, says nothing and
//! counts as nothing.
//!
//! How often the query-key form and the value-output form *by themselves* name the same partner is told too; it does
//! not depend on labels, and has no exact null.
//!
//! Not applicable in principle where a fixed slope for each head (ALiBi) gives labels a meaning. The models known to
//! have them keep queries, keys and values in one matrix, which is not looked at, or are left out by their family.

use std::collections::BTreeMap;

use super::facts::Side;
use super::{Evidence, Facts, Measure, TestKind, WhyNot};
use crate::fingerprint::{Attention, FORM_NUMBERS, Fingerprint, FrameKind, FrameRecord, form_places};
use crate::math::mutual::{Pair, mutual_by};
use crate::math::{linalg, tails};

/// Fewest sampled entries whose tokens both models have.
const MIN_PLACES: usize = 48;

/// Nearest neighbours must be nearer than the next by this much: more than rounding makes of two equal heads.
const TIE: f32 = 1e-6;

/// The test for one pair.
pub fn test(suspect: &Fingerprint, reference: &Fingerprint) -> Evidence {
    for (side, fingerprint) in [(Side::Suspect, suspect), (Side::Reference, reference)] {
        if fingerprint.approximate.attentions.is_empty() {
            return Evidence::not_applicable(TestKind::HeadLabels, WhyNot::NoAttention(side));
        }
    }
    let mut found: Vec<HeadCounts> = Vec::new();
    let (own, other) = (token_frames(suspect), token_frames(reference));
    for (theirs, record) in other.iter().enumerate() {
        let Some(ours) = own.iter().position(|frame| frame.kind == record.kind) else { continue };
        let missing = |direction: u32| [own[ours], record].iter().any(|frame| frame.missing.contains(&direction));
        let places = form_places().iter().enumerate();
        let kept: Vec<usize> =
            places.filter(|&(_, &(a, b))| !missing(a) && !missing(b)).map(|(place, _)| place).collect();
        if kept.len() < MIN_PLACES {
            continue;
        }
        let mut sizes: Vec<u32> = reference.approximate.attentions.iter().map(|attention| attention.head_dim).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let layers = |fingerprint: &'_ Fingerprint, frame: usize| -> Vec<Layer> {
                let of_size = fingerprint.approximate.attentions.iter().filter(|attention| attention.head_dim == size);
                of_size.filter_map(|attention| Layer::new(attention, frame, &kept)).collect()
            };
            found.extend(look(&layers(suspect, ours), &layers(reference, theirs)));
        }
    }
    let strongest = found.iter().min_by(|a, b| a.log10_p().total_cmp(&b.log10_p()));
    let Some(counts) = strongest else {
        return Evidence::not_applicable(TestKind::HeadLabels, WhyNot::NoCommonHeads);
    };
    Evidence::measured(TestKind::HeadLabels, counts.measure(found.len() as u64))
}

fn token_frames(fingerprint: &Fingerprint) -> Vec<&FrameRecord> {
    fingerprint.approximate.frames.iter().filter(|frame| matches!(frame.kind, FrameKind::Token(_))).collect()
}

/// The heads of a layer along one frame: a row of length one for each head and form.
struct Layer {
    heads: usize,
    groups: usize,
    forms: [Vec<f32>; 2],
}

impl Layer {
    fn new(attention: &Attention, frame: usize, kept: &[usize]) -> Option<Self> {
        let (heads, numbers) = (attention.heads as usize, attention.forms.get(frame)?);
        let rows = |form: usize| {
            let mut values = Vec::with_capacity(heads * kept.len());
            for head in numbers.chunks_exact(2 * FORM_NUMBERS) {
                let entries = &head[form * FORM_NUMBERS..][..FORM_NUMBERS];
                let mean = kept.iter().map(|&e| f32::from(entries[e])).sum::<f32>() / kept.len() as f32;
                let length = kept.iter().map(|&e| (f32::from(entries[e]) - mean).powi(2)).sum::<f32>().sqrt();
                let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
                values.extend(kept.iter().map(|&e| (f32::from(entries[e]) - mean) * scale));
            }
            (values.len() == heads * kept.len()).then_some(values)
        };
        Some(Self { heads, groups: attention.groups as usize, forms: [rows(0)?, rows(1)?] })
    }

    fn per_group(&self) -> usize {
        self.heads / self.groups
    }
}

/// The heads of a reference layer laid beside those of a suspect layer.
struct LayerPair {
    /// How well matched heads fit, over all heads of the reference: chooses the layer.
    score: f32,
    pairs: Vec<Pair>,
    /// Heads whose two forms name the same partner.
    agreeing: usize,
}

impl LayerPair {
    fn new(reference: &Layer, suspect: &Layer) -> Self {
        let (rows, cols) = (reference.heads, suspect.heads);
        let cosines = |form: usize| {
            let mut table = Vec::new();
            let (theirs, ours) = (&reference.forms[form], &suspect.forms[form]);
            linalg::by_rows(theirs, ours, theirs.len() / rows.max(1), &mut table);
            table
        };
        let (scores, copies) = (cosines(0), cosines(1));
        let sum: Vec<f32> = scores.iter().zip(&copies).map(|(a, b)| a + b).collect();
        let pairs = mutual_by(&sum, rows, cols, TIE);
        let by_copies = mutual_by(&copies, rows, cols, TIE);
        let alike = |a: &Pair| by_copies.iter().any(|b| (a.0, a.1) == (b.0, b.1));
        let agreeing = mutual_by(&scores, rows, cols, TIE).iter().filter(|pair| alike(pair)).count();
        let score = pairs.iter().map(|pair| pair.2).sum::<f32>() / rows as f32;
        Self { score, pairs, agreeing }
    }
}

/// Counts over all layers in one frame.
#[derive(Debug, Default)]
struct HeadCounts {
    /// Heads, and below groups, of the model that has fewer.
    heads: u64,
    equal_heads: u64,
    /// Mean cosines of their two forms, summed.
    likeness: f64,
    groups: u64,
    equal_groups: u64,
    agreeing: u64,
    /// Equal labels: of groups within layers, and of heads within groups.
    equal: u64,
    /// How many choices of this many labels with this many pairs were made.
    choices: BTreeMap<(usize, usize), u64>,
}

fn look(suspect: &[Layer], reference: &[Layer]) -> Option<HeadCounts> {
    // For each reference layer the suspect layer that fits best among those that it fits best.
    let mut taken: BTreeMap<usize, (usize, LayerPair)> = BTreeMap::new();
    for (index, own) in suspect.iter().enumerate() {
        let beside = reference.iter().enumerate().map(|(at, other)| (at, LayerPair::new(other, own)));
        let best = beside.max_by(|a, b| a.1.score.total_cmp(&b.1.score).then(b.0.cmp(&a.0)));
        let Some((at, beside)) = best else { continue };
        if taken.get(&at).is_none_or(|(_, other)| beside.score > other.score) {
            taken.insert(at, (index, beside));
        }
    }
    let least = |count: fn(&Layer) -> usize| {
        let total = |layers: &[Layer]| layers.iter().map(|layer| count(layer) as u64).sum::<u64>();
        total(suspect).min(total(reference))
    };
    let mut counts =
        HeadCounts { heads: least(|layer| layer.heads), groups: least(|layer| layer.groups), ..HeadCounts::default() };
    for (at, (index, beside)) in &taken {
        counts.add(&reference[*at], &suspect[*index], beside);
    }
    (counts.heads > 0).then_some(counts)
}

impl HeadCounts {
    fn add(&mut self, reference: &Layer, suspect: &Layer, beside: &LayerPair) {
        let (theirs, ours) = (reference.per_group(), suspect.per_group());
        let mut table = vec![0.0; reference.groups * suspect.groups];
        for &(row, col, sum) in &beside.pairs {
            table[row / theirs * suspect.groups + col / ours] += sum;
        }
        let groups: Vec<(usize, usize)> =
            mutual_by(&table, reference.groups, suspect.groups, TIE).iter().map(|&(row, col, _)| (row, col)).collect();
        self.choose(suspect.groups, &groups);
        for &(their_group, our_group) in &groups {
            let inside =
                beside.pairs.iter().filter(|pair| (pair.0 / theirs, pair.1 / ours) == (their_group, our_group));
            let inside: Vec<(usize, usize)> = inside.map(|pair| (pair.0 % theirs, pair.1 % ours)).collect();
            self.choose(ours, &inside);
        }
        self.agreeing += beside.agreeing as u64;
        let equal = || beside.pairs.iter().filter(|pair| pair.0 == pair.1);
        self.equal_heads += equal().count() as u64;
        self.likeness += equal().map(|pair| f64::from(pair.2) / 2.0).sum::<f64>();
        self.equal_groups += groups.iter().filter(|(row, col)| row == col).count() as u64;
    }

    /// Counts matched pairs of reference and suspect labels, the suspect's being arbitrary among `labels`.
    fn choose(&mut self, labels: usize, pairs: &[(usize, usize)]) {
        let possible = pairs.iter().filter(|pair| pair.0 < labels).count();
        if labels >= 2 && possible > 0 {
            self.equal += pairs.iter().filter(|(row, col)| row == col).count() as u64;
            *self.choices.entry((labels, possible)).or_default() += 1;
        }
    }

    fn log10_p(&self) -> f64 {
        log10_equal_labels(self.equal, &self.choices)
    }

    fn measure(&self, tries: u64) -> Measure {
        let Self { heads, equal_heads, groups, equal_groups, agreeing, .. } = *self;
        Measure {
            statistic: self.equal as f64,
            n: self.choices.iter().map(|(&(_, pairs), count)| pairs as u64 * count).sum(),
            log10_p: Some(tails::log10_corrected(self.log10_p(), tries)),
            // The order in which a product adds its terms shows below that.
            effect: (self.likeness / (heads as f64).max(1.0) * 1e6).round() / 1e6,
            facts: Facts::HeadLabels { heads, equal_heads, groups, equal_groups, agreeing },
        }
    }
}

/// log10 of Chernoff's bound on the probability of `equal` or more equal labels in independent choices: how many of so
/// many labels with so many pairs.
fn log10_equal_labels(equal: u64, choices: &BTreeMap<(usize, usize), u64>) -> f64 {
    /// Largest θ tried; exp(−80) is nothing beside one.
    const LARGEST: f64 = 80.0;
    let laws: Vec<(Vec<f64>, f64)> =
        choices.iter().map(|(&(labels, pairs), &count)| (ln_law(labels, pairs), count as f64)).collect();
    let bound = |theta: f64| -> f64 {
        let moment = |law: &Vec<f64>| {
            let terms = || law.iter().enumerate().map(|(k, ln)| ln + theta * k as f64);
            let largest = terms().fold(f64::NEG_INFINITY, f64::max);
            largest + terms().map(|term| (term - largest).exp()).sum::<f64>().ln()
        };
        laws.iter().map(|(law, count)| count * moment(law)).sum::<f64>() - theta * equal as f64
    };
    // Convex in θ. Any θ gives a bound, so the search need not be exact.
    let (mut low, mut high) = (0.0, LARGEST);
    for _ in 0..100 {
        let third = (high - low) / 3.0;
        if bound(low + third) <= bound(high - third) { high -= third } else { low += third }
    }
    let best = bound(low).min(bound(high)) / std::f64::consts::LN_10;
    if best.is_finite() { best.min(0.0) } else { 0.0 }
}

/// ln of the probabilities that a random permutation of `labels` fixes 0, 1, … of so many given pairs.
fn ln_law(labels: usize, pairs: usize) -> Vec<f64> {
    let ln_factorial = |n: usize| libm::lgamma(n as f64 + 1.0);
    // none[n]: that it fixes none of j given pairs, for the j at hand.
    let mut none = vec![1.0f64; labels + 1];
    let mut law = vec![f64::NEG_INFINITY; pairs + 1];
    for j in 0..=pairs {
        let k = pairs - j;
        let ways = ln_factorial(pairs) - ln_factorial(k) - ln_factorial(j);
        law[k] = ways + ln_factorial(labels - k) - ln_factorial(labels) + none[labels - k].max(0.0).ln();
        for n in (1..=labels).rev() {
            none[n] -= none[n - 1] / n as f64;
        }
    }
    law
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every permutation of `labels`, by Heap's algorithm.
    fn permutations(labels: usize) -> Vec<Vec<usize>> {
        fn heap(k: usize, items: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
            if k <= 1 {
                all.push(items.clone());
                return;
            }
            for i in 0..k {
                heap(k - 1, items, all);
                items.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
            }
        }
        let mut all = Vec::new();
        heap(labels, &mut (0..labels).collect(), &mut all);
        all
    }

    #[test]
    fn the_law_of_equal_labels_is_that_of_counted_permutations() {
        for labels in 1..=7 {
            let all = permutations(labels);
            for pairs in 0..=labels {
                let mut counts = vec![0.0; pairs + 1];
                for permutation in &all {
                    counts[(0..pairs).filter(|&i| permutation[i] == i).count()] += 1.0 / all.len() as f64;
                }
                for (ln, counted) in ln_law(labels, pairs).into_iter().zip(counts) {
                    assert!((ln.exp() - counted).abs() < 1e-12, "{labels} {pairs}: {} {counted}", ln.exp());
                }
            }
        }
    }

    #[test]
    fn laws_of_many_labels_sum_to_one() {
        for (labels, pairs) in [(32, 32), (64, 17), (128, 128), (1024, 700)] {
            let sum: f64 = ln_law(labels, pairs).into_iter().map(f64::exp).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{labels} {pairs}: {sum}");
        }
    }

    #[test]
    fn the_bound_is_the_probability_where_all_labels_are_equal_and_never_below_it() {
        let choices = BTreeMap::from([((2, 2), 4), ((4, 4), 3)]);
        let all = -4.0 * 2f64.log10() - 3.0 * 24f64.log10();
        assert!((log10_equal_labels(20, &choices) - all).abs() < 1e-6);
        assert_eq!(log10_equal_labels(0, &choices), 0.0);
        assert_eq!(log10_equal_labels(7, &choices), 0.0, "as many as are expected");
        // The distribution of the sum, by convolution.
        let mut law = vec![1.0];
        for (&(labels, pairs), &count) in &choices {
            for _ in 0..count {
                let one: Vec<f64> = ln_law(labels, pairs).into_iter().map(f64::exp).collect();
                let mut next = vec![0.0; law.len() + one.len() - 1];
                for (i, a) in law.iter().enumerate() {
                    one.iter().enumerate().for_each(|(j, b)| next[i + j] += a * b);
                }
                law = next;
            }
        }
        for equal in 0..=20 {
            let tail: f64 = law[equal..].iter().sum();
            let bound = log10_equal_labels(equal as u64, &choices);
            assert!(bound >= tail.log10() - 1e-9, "{equal}: {bound} {}", tail.log10());
            // A sum that cannot be is bounded like its neighbours.
            assert!(law[equal] == 0.0 || bound <= tail.log10() + 1.0, "{equal}: {bound} {}", tail.log10());
        }
    }

    fn layer(heads: usize, groups: usize) -> Layer {
        Layer { heads, groups, forms: [vec![0.0; heads], vec![0.0; heads]] }
    }

    #[test]
    fn labels_of_groups_and_of_heads_within_them_both_count() {
        let mut counts = HeadCounts::default();
        // Groups exchanged; in the first, heads kept their places, in the second they did not.
        let pairs = vec![(0, 2, 1.0), (1, 3, 1.0), (2, 1, 1.0), (3, 0, 1.0)];
        let beside = LayerPair { score: 1.0, pairs, agreeing: 4 };
        counts.add(&layer(4, 2), &layer(4, 2), &beside);
        assert_eq!((counts.equal_groups, counts.equal_heads, counts.equal), (0, 0, 2));
        assert_eq!(counts.choices, BTreeMap::from([((2, 2), 3)]));
        // One group in all: only the heads in it count.
        let mut counts = HeadCounts::default();
        let pairs = (0..4).map(|head| (head, head, 1.0)).collect();
        counts.add(&layer(4, 1), &layer(4, 1), &LayerPair { score: 1.0, pairs, agreeing: 4 });
        assert_eq!(counts.choices, BTreeMap::from([((4, 4), 1)]));
        assert!((counts.log10_p() + 24f64.log10()).abs() < 1e-6);
    }
}
