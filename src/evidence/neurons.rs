//! `neuron-labels`, `neuron-order` and `neuron-agreement`: do the MLP neurons of two models correspond?
//!
//! H0 is that of [`channels`](super::channels): trained independently, so that the labels of a layer's neurons are a
//! random permutation with respect to the other model's, each layer's its own.
//!
//! Sampled neurons of a reference layer are matched with *all* neurons of a suspect layer by their descriptors; a pair
//! counts if each is the other's nearest. The matching does not look at labels, and neither does the choice of the
//! reference layer that is laid beside a suspect layer.
//!
//! **`neuron-labels`.** Of m matched pairs among h labels, F have equal labels. For every K,
//! `P(F ≥ K) ≤ E[C(F,K)] = C(m,K)·(h−K)!/h! ≤ (m/h)^K/K!`, since a K-subset of the pairs is fixed by a random
//! permutation with probability (h−K)!/h! and (m−i)/(h−i) ≤ m/h. Over layers with independent permutations,
//! Vandermonde's identity (each reference layer is laid beside one suspect layer at most) `C(ΣF,K) = Σ ∏ C(F_l,K_l)`
//! gives `P(ΣF ≥ K) ≤ λ^K/K!` with λ = Σ m_l/h_l. Exact, whatever the data. Two frames are tried: the smaller bound is
//! doubled.
//!
//! **`neuron-order`.** Correlation of the matched pairs' labels, as ranks within their layer, pooled over layers: sees a
//! suspect whose neurons were dropped or inserted in order.
//!
//! **`neuron-agreement`.** In the token frame neurons are matched by gate, by up and by down *separately*; those for
//! which two matchings name the same partner agree. It survives a change of basis, of neuron order and of scales all at
//! once. Unrelated models agree a little, because some neurons are universal, so there is no exact null: the p reported
//! is the binomial tail for [`UNIVERSAL`] agreement, more than any independent pair showed, and the verdict demands
//! an effect besides.
//!
//! **`aligned-weights`.** The frame is the change of basis, found from the embedding alone; neurons are matched by gate
//! alone; what their ups and downs then have in common was not used to find either. Reported as an effect, the explained
//! variance with its jackknife error over layers, and as no evidence by itself.

use rayon::prelude::*;

use super::facts::{Directions, Side};
use super::search::{References, Spaces, UnitPair, Vectors};
use super::{Evidence, Facts, LayerShare, Measure, TestKind, WhyNot};
use crate::fingerprint::{DIRECTIONS, Fingerprint, FrameKind, FrameRecord, Unit};
use crate::math::mutual::Pair;
use crate::math::{ranks, tails};

/// Fewest directions that both models must have for a frame to be compared.
const MIN_DIRECTIONS: usize = 48;

/// Share of agreeing neurons that unrelated models are granted: more than any of 3,486 pairs of same-recipe models
/// showed (mean .005, largest .035).
pub const UNIVERSAL: f64 = 0.05;

/// What the neurons of a pair say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Neurons {
    /// Evidence by frame, those that both models have.
    frames: Vec<FrameCounts>,
    /// Why there is none.
    why_not: Option<WhyNot>,
}

/// Counts over all layers in one frame.
#[derive(Debug, Clone, PartialEq)]
struct FrameCounts {
    along: Directions,
    /// Sampled reference neurons beside every suspect unit.
    sampled: u64,
    /// The same where labels are counted: each reference unit once.
    labelled: u64,
    matched: u64,
    equal: u64,
    lambda: f64,
    agreeing: u64,
    labels: Vec<(f64, f64)>,
    /// For each layer, pairs matched by one matrix and the variance of the others that they explain.
    explained: Vec<(usize, f64)>,
    layers: Vec<LayerShare>,
}

impl FrameCounts {
    fn log10_p(&self) -> f64 {
        tails::log10_poisson_like_factorial_bound(self.equal, self.lambda)
    }

    fn agreeing_share(&self) -> f64 {
        self.agreeing as f64 / (self.sampled as f64).max(1.0)
    }

    /// Share of the neurons whose labels are counted.
    fn share(&self, count: u64) -> f64 {
        count as f64 / (self.labelled as f64).max(1.0)
    }

    /// Explained variance times the share of sampled neurons that were matched.
    fn explained_share(&self) -> f64 {
        let explained: f64 = self.explained.iter().map(|&(pairs, r2)| pairs as f64 * r2).sum();
        explained / (self.sampled as f64).max(1.0)
    }

    /// Correlation of labels of matched pairs, pooled over layers.
    fn order(&self) -> f64 {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = self.labels.iter().copied().unzip();
        ranks::correlation(&ours, &theirs)
    }
}

/// Looks at the neurons of a pair in every frame that both have.
pub(crate) fn look(suspect: &Fingerprint, reference: &Fingerprint) -> Neurons {
    let references: Vec<Unit> = reference.approximate.units.iter().map(Unit::sampled).collect();
    if suspect.approximate.units.is_empty() || references.is_empty() {
        let side = if suspect.approximate.units.is_empty() { Side::Suspect } else { Side::Reference };
        return Neurons::unknown(WhyNot::NoMlp(side));
    }
    let mut frames = Vec::new();
    for (theirs, record) in reference.approximate.frames.iter().enumerate() {
        let same = |frame: &FrameRecord| frame.kind == record.kind;
        let Some(ours) = suspect.approximate.frames.iter().position(same) else { continue };
        let raw = record.kind == FrameKind::Raw;
        if raw && suspect.exact.architecture.hidden_size != reference.exact.architecture.hidden_size {
            continue;
        }
        let missing = [&suspect.approximate.frames[ours].missing, &record.missing];
        let kept: Vec<usize> =
            (0..DIRECTIONS).filter(|&d| missing.iter().all(|list| !list.contains(&(d as u32)))).collect();
        if kept.len() >= MIN_DIRECTIONS {
            let along = if raw { Directions::Raw } else { Directions::Tokens };
            frames.extend(in_frame(&suspect.approximate.units, ours, &references, theirs, &kept, along));
        }
    }
    let why_not = frames.is_empty().then_some(WhyNot::NoCommonFrame);
    Neurons { frames, why_not }
}

fn in_frame(
    suspect: &[Unit],
    ours: usize,
    reference: &[Unit],
    theirs: usize,
    kept: &[usize],
    along: Directions,
) -> Option<FrameCounts> {
    let references = References::new(reference, theirs, kept);
    let mut counts = FrameCounts {
        along,
        sampled: 0,
        labelled: 0,
        matched: 0,
        equal: 0,
        lambda: 0.0,
        agreeing: 0,
        labels: Vec::new(),
        explained: Vec::new(),
        layers: Vec::new(),
    };
    let spaces = Spaces::default();
    let beside = |(place, unit): (usize, &Unit)| {
        let vectors = Vectors::new(&unit.frames[ours], kept);
        spaces.with(|space| references.beside(&vectors, place, space))
    };
    let found: Vec<Option<UnitPair>> = suspect.par_iter().enumerate().map(beside).collect();
    let mut best_fits: Vec<Option<Fit<'_>>> = (0..reference.len()).map(|_| None).collect();
    for (unit, beside) in suspect.iter().zip(found) {
        let Some(beside) = beside else { continue };
        counts.add(unit, &reference[beside.index], &beside);
        let best = &mut best_fits[beside.index];
        if best.as_ref().is_none_or(|fit| beside.score > fit.beside.score) {
            *best = Some(Fit { unit, beside });
        }
    }
    for (fit, unit) in best_fits.iter().zip(reference) {
        if let Some(fit) = fit {
            counts.add_labels(fit, unit);
        }
    }
    (counts.sampled > 0).then_some(counts)
}

/// The suspect unit that fits a reference unit best. Labels are counted for it alone: a suspect that repeats a layer, or
/// has experts copied from one another, would otherwise count one coincidence many times.
struct Fit<'a> {
    unit: &'a Unit,
    beside: UnitPair,
}

impl FrameCounts {
    fn add_labels(&mut self, fit: &Fit<'_>, reference: &Unit) {
        let UnitPair { rows, cols, pairs, .. } = &fit.beside;
        let label = |&(row, col, _): &Pair| (reference.labels[row], fit.unit.labels[col]);
        self.labelled += *rows as u64;
        self.matched += pairs.len() as u64;
        self.equal += pairs.iter().map(label).filter(|(a, b)| a == b).count() as u64;
        // Labels among which a suspect neuron's is arbitrary: those that were there to be matched.
        self.lambda += pairs.len() as f64 / *cols as f64;
        let rank_of = |labels: Vec<f32>| {
            let n = labels.len() as f64;
            ranks::mid_ranks(&labels).into_iter().map(move |rank| (rank - (n + 1.0) / 2.0) / n).collect::<Vec<f64>>()
        };
        let (theirs, ours): (Vec<f32>, Vec<f32>) = pairs.iter().map(label).map(|(a, b)| (a as f32, b as f32)).unzip();
        self.labels.extend(rank_of(theirs).into_iter().zip(rank_of(ours)));
    }

    fn add(&mut self, suspect: &Unit, reference: &Unit, beside: &UnitPair) {
        self.explained.push(beside.explained);
        self.sampled += beside.rows as u64;
        self.agreeing += beside.agreeing as u64;
        if let (Some(suspect), Some(reference)) = (suspect.layer, reference.layer) {
            let share = beside.agreeing as f64 / beside.rows.max(1) as f64;
            self.layers.push(LayerShare { reference, suspect, share });
        }
    }
}

impl Neurons {
    /// Nothing, and why.
    pub(crate) fn unknown(why_not: WhyNot) -> Self {
        Self { frames: Vec::new(), why_not: Some(why_not) }
    }

    /// The tests.
    pub(crate) fn tests(&self) -> [Evidence; 4] {
        [
            (TestKind::NeuronLabels, self.labels()),
            (TestKind::NeuronOrder, self.order()),
            (TestKind::NeuronAgreement, self.agreement()),
            (TestKind::AlignedWeights, self.aligned()),
        ]
        .map(|(test, result)| Evidence { test, result })
    }

    /// The pairs of layers that agree, in the frame that sees most.
    pub(crate) fn layers(&self) -> &[LayerShare] {
        let best = self.frames.iter().max_by_key(|frame| frame.agreeing);
        best.map(|frame| frame.layers.as_slice()).unwrap_or_default()
    }

    /// Share of sampled neurons that correspond along the tokens, or at equal labels along anything.
    pub(crate) fn correspond(&self) -> f64 {
        let shares = self.frames.iter().map(|frame| match frame.along {
            Directions::Tokens => frame.agreeing_share(),
            Directions::Raw => frame.share(frame.equal),
        });
        shares.fold(0.0, f64::max)
    }

    /// Largest share of sampled neurons whose partner has the same label.
    pub(crate) fn at_equal_labels(&self) -> f64 {
        self.frames.iter().map(|frame| frame.share(frame.equal)).fold(0.0, f64::max)
    }

    /// Whether the labels of matched neurons rise together, equal or not.
    pub(crate) fn in_order(&self) -> bool {
        self.frames.iter().any(|frame| frame.order() >= 0.5)
    }

    /// Whether neurons agree along the tokens but not along the raw directions.
    pub(crate) fn only_along_tokens(&self) -> bool {
        let agreeing = |along: Directions| {
            self.frames.iter().filter(|frame| frame.along == along).map(FrameCounts::agreeing_share).fold(0.0, f64::max)
        };
        agreeing(Directions::Tokens) >= 0.2 && agreeing(Directions::Raw) < 0.1 * agreeing(Directions::Tokens)
    }

    fn strongest(&self, p: impl Fn(&FrameCounts) -> f64) -> Option<(&FrameCounts, f64)> {
        let frames = self.frames.iter().map(|frame| (frame, p(frame)));
        let best = frames.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((best.0, tails::log10_corrected(best.1, self.frames.len() as u64)))
    }

    fn labels(&self) -> Result<Measure, WhyNot> {
        let (frame, log10_p) = self.strongest(FrameCounts::log10_p).ok_or_else(|| self.why_not())?;
        let &FrameCounts { along, labelled: sampled, matched, equal, .. } = frame;
        Ok(Measure {
            statistic: equal as f64,
            n: sampled,
            log10_p: Some(log10_p),
            effect: frame.share(equal),
            facts: Facts::NeuronLabels { along, sampled, matched, equal },
        })
    }

    fn order(&self) -> Result<Measure, WhyNot> {
        let p = |frame: &FrameCounts| tails::log10_correlation_sf(frame.order(), frame.labels.len() as u64);
        let (frame, log10_p) = self.strongest(p).ok_or_else(|| self.why_not())?;
        let (matched, r) = (frame.matched, frame.order());
        Ok(Measure {
            statistic: r,
            n: matched,
            log10_p: Some(log10_p),
            effect: if r > 0.0 { r * r * frame.share(matched) } else { 0.0 },
            facts: Facts::NeuronOrder { along: frame.along, matched, correlation: r },
        })
    }

    fn agreement(&self) -> Result<Measure, WhyNot> {
        let by_tokens = self.frames.iter().find(|frame| frame.along == Directions::Tokens);
        let no_tokens = || if self.frames.is_empty() { self.why_not() } else { WhyNot::NoCommonTokens };
        let frame = by_tokens.ok_or_else(no_tokens)?;
        let &FrameCounts { sampled, agreeing, .. } = frame;
        Ok(Measure {
            statistic: agreeing as f64,
            n: sampled,
            log10_p: Some(tails::log10_binomial_sf(agreeing, sampled, UNIVERSAL)),
            effect: frame.agreeing_share(),
            facts: Facts::NeuronAgreement { sampled, agreeing },
        })
    }

    /// Explained variance over layers, with the jackknife's standard error, in the frame that explains most.
    fn aligned(&self) -> Result<Measure, WhyNot> {
        let best = self.frames.iter().max_by(|a, b| a.explained_share().total_cmp(&b.explained_share()));
        let frame = best.ok_or_else(|| self.why_not())?;
        let pairs: usize = frame.explained.iter().map(|layer| layer.0).sum();
        let (explained, standard_error) = jackknife(&frame.explained);
        Ok(Measure {
            statistic: explained,
            n: pairs as u64,
            log10_p: None,
            effect: frame.explained_share(),
            facts: Facts::AlignedWeights { along: frame.along, pairs, explained, standard_error },
        })
    }

    fn why_not(&self) -> WhyNot {
        self.why_not.unwrap_or(WhyNot::NoCommonFrame)
    }
}

/// Mean weighted by the number of pairs, and its standard error by leaving out one layer at a time (Efron and Stein,
/// *The Jackknife Estimate of Variance*, 1981).
fn jackknife(layers: &[(usize, f64)]) -> (f64, f64) {
    let mean = |skip: usize| {
        let kept = || layers.iter().enumerate().filter(|&(index, _)| index != skip).map(|(_, layer)| layer);
        let pairs: f64 = kept().map(|layer| layer.0 as f64).sum();
        kept().map(|layer| layer.0 as f64 * layer.1).sum::<f64>() / pairs.max(1.0)
    };
    let n = layers.len() as f64;
    let left_out: Vec<f64> = (0..layers.len()).map(mean).collect();
    let centre = left_out.iter().sum::<f64>() / n.max(1.0);
    let spread: f64 = left_out.iter().map(|value| (value - centre).powi(2)).sum();
    (mean(usize::MAX), ((n - 1.0) / n.max(1.0) * spread).sqrt())
}
