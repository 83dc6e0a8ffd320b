//! The profile of the residual channels, summed over tensors in whatever order they finish.
//!
//! Sums are of integers, so their order leaves no trace.

use rayon::prelude::*;

use crate::anatomy::Residual;
use crate::math::ranks;

/// More layers than this are folded as one; no model has them.
pub(super) const MAX_LAYERS: u64 = 1 << 12;

/// Normal scores are folded as integers in units of 1/4096, so that their sum has no order.
const SCORE_UNIT: f64 = 4096.0;

/// The profile of the residual channels: how strongly each is used, averaged over the tensors that touch it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Channels {
    /// For each channel, the mean over `tensors` of the normal score of its RMS in the tensor (of the gain itself for
    /// norm gains). Empty where no tensor touches a residual stream.
    pub profile: Vec<f32>,
    /// How many tensors took part.
    pub tensors: u32,
    /// The same for each layer alone, row by row: mean normal score times 32, rounded. Empty where the layers of
    /// tensors are not known.
    pub layers: Vec<i8>,
}

/// Integer sums of normal scores: one row for each layer, the last for tensors outside the layers.
pub(super) struct ScoreSums {
    channels: usize,
    sums: Vec<i64>,
    counts: Vec<u32>,
}

impl ScoreSums {
    pub(super) fn new(channels: usize, layers: usize) -> Self {
        Self { channels, sums: vec![0; channels * (layers + 1)], counts: vec![0; layers + 1] }
    }

    pub(super) fn add(&mut self, layer: Option<u32>, energies: &[f32]) {
        if energies.len() != self.channels {
            return;
        }
        let last = self.counts.len() - 1;
        let slot = layer.map_or(last, |layer| (layer as usize).min(last));
        let sums = &mut self.sums[slot * self.channels..][..self.channels];
        for (sum, score) in sums.iter_mut().zip(ranks::normal_scores(energies)) {
            *sum += (score * SCORE_UNIT).round() as i64;
        }
        self.counts[slot] += 1;
    }

    fn profile(&self) -> (Vec<f32>, u32) {
        let tensors: u32 = self.counts.iter().sum();
        if tensors == 0 {
            return (Vec::new(), 0);
        }
        let mean = |channel: usize| {
            let sum: i64 = self.sums.iter().skip(channel).step_by(self.channels).sum();
            (sum as f64 / SCORE_UNIT / f64::from(tensors)) as f32
        };
        ((0..self.channels).map(mean).collect(), tensors)
    }

    pub(super) fn finish(&self) -> Channels {
        let (profile, tensors) = self.profile();
        let layers = self.counts.len() - 1;
        let mut by_layer = Vec::new();
        if self.counts[..layers].iter().any(|&count| count > 0) {
            for (sums, &count) in self.sums.chunks(self.channels).zip(&self.counts).take(layers) {
                let scale = 32.0 / SCORE_UNIT / f64::from(count.max(1));
                by_layer.extend(sums.iter().map(|&sum| (sum as f64 * scale).round().clamp(-127.0, 127.0) as i8));
            }
        }
        Channels { profile, tensors, layers: by_layer }
    }
}

/// A square matrix whose residual axis is still unknown, with the energies along both.
pub(super) struct Square {
    pub(super) layer: Option<u32>,
    pub(super) rows: Vec<f32>,
    pub(super) cols: Vec<f32>,
}

/// The root of the mean of `count` squares, for each of these sums.
pub(super) fn root_mean(energies: &[f64], count: u64) -> Vec<f32> {
    energies.iter().map(|energy| (energy / count.max(1) as f64).sqrt() as f32).collect()
}

/// RMS of each residual channel in a tensor whose residual axis is known; the gains themselves for norm gains.
pub(super) fn channel_energies(
    residual: Residual,
    shape: &[u64],
    (gain, row_energies): (&[f32], &[f64]),
    row_rms: &[f32],
    col_rms: &[f32],
) -> Option<Vec<f32>> {
    match residual {
        Residual::Gain => Some(gain.to_vec()),
        Residual::Reads(axis) | Residual::Writes(axis) | Residual::Embeds(axis) => {
            if axis + 1 == shape.len() {
                return Some(col_rms.to_vec());
            }
            // Any other axis is folded into the rows: average over the dimensions around it.
            let inner: u64 = shape[axis + 1..shape.len() - 1].iter().product();
            let size = shape[axis];
            let cols = *shape.last()?;
            let mut sums = vec![0.0; size as usize];
            for (row, energy) in row_energies.iter().enumerate() {
                sums[(row as u64 / inner % size) as usize] += energy;
            }
            let repeats = row_rms.len() as u64 / size.max(1) * cols;
            Some(root_mean(&sums, repeats))
        }
        Residual::Bias | Residual::Ambiguous | Residual::None => None,
    }
}

/// Decides for each square matrix which of its axes is the residual one, by which agrees better with the profile of
/// all the others, and adds it. Undecided ones stay out.
pub(super) fn settle_squares(sums: &mut ScoreSums, squares: &[Square]) {
    let (profile, tensors) = sums.profile();
    if tensors == 0 {
        return;
    }
    let profile = ranks::normal_scores(&profile);
    let agreement = |energies: &[f32]| ranks::correlation(&ranks::normal_scores(energies), &profile);
    let decided: Vec<Option<&[f32]>> = squares
        .par_iter()
        .map(|square| {
            let (rows, cols) = (agreement(&square.rows), agreement(&square.cols));
            // Three standard errors of a difference of two correlations near zero.
            let clear = 3.0 * (2.0 / profile.len() as f64).sqrt();
            ((rows - cols).abs() > clear).then_some(if rows > cols { &square.rows[..] } else { &square.cols[..] })
        })
        .collect();
    for (square, energies) in squares.iter().zip(decided) {
        if let Some(energies) = energies {
            sums.add(square.layer, energies);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_do_not_depend_on_the_order_of_tensors() {
        let energies: Vec<Vec<f32>> =
            (0..9).map(|k| (0..32).map(|c| ((c * 7 + k * 3) % 32) as f32).collect()).collect();
        let (mut forward, mut backward) = (ScoreSums::new(32, 2), ScoreSums::new(32, 2));
        for (k, energy) in energies.iter().enumerate() {
            forward.add(Some(k as u32 % 3), energy);
        }
        for (k, energy) in energies.iter().enumerate().rev() {
            backward.add(Some(k as u32 % 3), energy);
        }
        assert_eq!(forward.finish(), backward.finish());
    }
}
