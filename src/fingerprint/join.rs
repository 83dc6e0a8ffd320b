//! Which matrices make an MLP together, where neither names nor shapes say it.
//!
//! Training ties a neuron's vectors to each other: what a neuron reads by its gate lies near what it reads by its up and
//! what it writes by its down, up to sign, and the norms of the three go together: those of up and down whichever way
//! they were rescaled against each other, and the gate's with the product of both. Matrices of different layers share
//! nothing of this. Both are measured neuron by neuron and counted in standard errors, so that either carries the
//! decision where the other is silent. Which of two matrices that read is the gate, the norms say.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::frame::DIRECTIONS;
use super::neurons::Described;
use crate::anatomy::Residual;

/// Most pairs of matrices that are looked at; a mixture without any names has more.
const MAX_PAIRS: usize = 1 << 20;

/// Products of numbers that are worth spending, and how many neurons that leaves to each pair.
const MAX_PRODUCTS: usize = 1 << 33;
const LEAST_NEURONS: usize = 128;
const MOST_NEURONS: usize = 1024;

/// Partners that are tried for a matrix.
const PARTNERS: usize = 8;

/// The places of the matrices of one MLP in the list that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Joined {
    pub(super) down: usize,
    pub(super) up: usize,
    pub(super) gate: Option<usize>,
}

/// Joins matrices into MLPs, by place of the down matrix. Empty where there are too many to tell.
pub(super) fn join(open: &[Described]) -> Vec<Joined> {
    let writes = |index: &usize| matches!(open[*index].assignment.residual, Residual::Writes(_));
    let (downs, reads): (Vec<usize>, Vec<usize>) = (0..open.len()).partition(writes);
    let gated = reads.len() >= 2 * downs.len();
    let pairs = reads.len() * (downs.len() + if gated { reads.len() / 2 } else { 0 });
    if downs.is_empty() || pairs == 0 || pairs > MAX_PAIRS {
        return Vec::new();
    }
    let neurons = (MAX_PRODUCTS / (pairs * 2 * DIRECTIONS)).clamp(LEAST_NEURONS, MOST_NEURONS);
    let samples: Vec<Sample> = open.par_iter().map(|matrix| Sample::new(matrix, neurons)).collect();
    let found: Vec<Vec<(f64, Joined)>> = if gated {
        let together = |&read: &usize| (read, partners(read, &reads, &samples, Sample::turns_with));
        let beside: std::collections::BTreeMap<usize, Vec<usize>> = reads.par_iter().map(together).collect();
        downs.par_iter().map(|&down| gated_mlps(down, &reads, &beside, &samples)).collect()
    } else {
        let plain = |&down: &usize| {
            let fitting = reads.iter().filter(|&&up| samples[up].fits(&samples[down]));
            fitting.map(|&up| (samples[up].goes_with(&samples[down]), Joined { down, up, gate: None })).collect()
        };
        downs.par_iter().map(plain).collect()
    };
    let mut found = found.concat();
    // The clearest first, so that a clear one is not taken by an unclear one.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut taken = BTreeSet::new();
    let mut joined = Vec::new();
    for (_, mlp) in found {
        let matrices = [Some(mlp.down), Some(mlp.up), mlp.gate];
        if matrices.iter().flatten().all(|matrix| !taken.contains(matrix)) {
            taken.extend(matrices.into_iter().flatten());
            joined.push(mlp);
        }
    }
    joined.sort_unstable();
    joined
}

/// The reads that go best with a matrix, best first.
fn partners(of: usize, reads: &[usize], samples: &[Sample], score: impl Fn(&Sample, &Sample) -> f64) -> Vec<usize> {
    let fitting = reads.iter().filter(|&&read| read != of && samples[read].fits(&samples[of]));
    let mut scored: Vec<(f64, usize)> = fitting.map(|&read| (score(&samples[read], &samples[of]), read)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().take(PARTNERS).map(|(_, read)| read).collect()
}

/// MLPs that a down matrix could belong to, each with how well it goes together.
fn gated_mlps(
    down: usize,
    reads: &[usize],
    beside: &std::collections::BTreeMap<usize, Vec<usize>>,
    samples: &[Sample],
) -> Vec<(f64, Joined)> {
    let mut tried = BTreeSet::new();
    for first in partners(down, reads, samples, Sample::goes_with) {
        for &second in &beside[&first] {
            tried.insert((first.min(second), first.max(second)));
        }
    }
    let writes = &samples[down];
    let mlp = |(first, second): (usize, usize)| {
        let (a, b) = (&samples[first], &samples[second]);
        let turns = a.turns_with(b) + a.turns_with(writes) + b.turns_with(writes);
        let of = |up: &Sample, gate: &Sample| up.norms_with(writes).abs() + gate.norms_with_product(up, writes);
        let (as_up, as_gate) = (of(a, b), of(b, a));
        let (up, gate) = if as_up >= as_gate { (first, second) } else { (second, first) };
        (turns + as_up.max(as_gate), Joined { down, up, gate: Some(gate) })
    };
    tried.into_iter().map(mlp).collect()
}

/// Some neurons of a matrix, the same of every matrix of a size.
struct Sample {
    /// Neurons of the whole matrix.
    neurons: usize,
    /// Directions in the raw frame, of length one or zero.
    vectors: Vec<f32>,
    /// Logarithms of the norms, centred.
    norms: Vec<f64>,
}

impl Sample {
    fn new(matrix: &Described, most: usize) -> Self {
        let neurons = matrix.energies.len();
        let step = neurons.div_ceil(most).max(1);
        let mut vectors = Vec::new();
        let frame = matrix.frames.first().map_or(&[][..], |numbers| numbers);
        for numbers in frame.chunks_exact(DIRECTIONS).step_by(step) {
            let length = numbers.iter().map(|&v| f32::from(v).powi(2)).sum::<f32>().sqrt();
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            vectors.extend(numbers.iter().map(|&v| f32::from(v) * scale));
        }
        let logs = matrix.energies.iter().step_by(step).map(|&e| f64::from(e.max(f32::MIN_POSITIVE)).ln());
        let mut norms: Vec<f64> = logs.collect();
        let mean = norms.iter().sum::<f64>() / norms.len().max(1) as f64;
        norms.iter_mut().for_each(|norm| *norm -= mean);
        Self { neurons, vectors, norms }
    }

    fn fits(&self, other: &Self) -> bool {
        self.neurons == other.neurons
    }

    /// How much nearer neurons of equal label lie than neighbours in the list do, up to sign, in standard errors.
    fn turns_with(&self, other: &Self) -> f64 {
        let (ours, theirs) = (self.vectors.as_chunks::<DIRECTIONS>().0, other.vectors.as_chunks::<DIRECTIONS>().0);
        let n = ours.len().min(theirs.len());
        if n < 2 {
            return 0.0;
        }
        let cosine = |a: &[f32; DIRECTIONS], b: &[f32; DIRECTIONS]| {
            let mut lanes = [0.0f32; 16];
            for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
                for lane in 0..16 {
                    lanes[lane] += a[lane] * b[lane];
                }
            }
            f64::from(lanes.iter().sum::<f32>().abs())
        };
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let gap = cosine(&ours[i], &theirs[i]) - cosine(&ours[i], &theirs[(i + 1) % n]);
            sum += gap;
            squares += gap * gap;
        }
        let mean = sum / n as f64;
        let variance = (squares / n as f64 - mean * mean).max(0.0) / n as f64;
        if variance > 0.0 { mean / variance.sqrt() } else { 0.0 }
    }

    fn goes_with(&self, other: &Self) -> f64 {
        self.turns_with(other) + self.norms_with(other).abs()
    }

    fn covariance(&self, other: &Self) -> f64 {
        self.norms.iter().zip(&other.norms).map(|(a, b)| a * b).sum()
    }

    /// Correlation of the norms' logarithms, in standard errors.
    fn norms_with(&self, other: &Self) -> f64 {
        let spread = (self.covariance(self) * other.covariance(other)).sqrt();
        if spread > 0.0 { self.covariance(other) / spread * (self.norms.len() as f64).sqrt() } else { 0.0 }
    }

    /// The same with the products of the norms of two others.
    fn norms_with_product(&self, a: &Self, b: &Self) -> f64 {
        let product = a.covariance(a) + b.covariance(b) + 2.0 * a.covariance(b);
        let spread = (self.covariance(self) * product).sqrt();
        let both = self.covariance(a) + self.covariance(b);
        if spread > 0.0 { both / spread * (self.norms.len() as f64).sqrt() } else { 0.0 }
    }
}
