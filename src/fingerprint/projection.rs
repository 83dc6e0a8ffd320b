//! Matrices of MLPs and attentions along the frames, taken along while their rows come by.

use super::frame::{DIRECTIONS, Frames, Side, quantise};
use super::heads::{self, Part, Projected};
use super::kernel;
use crate::anatomy::{Assignment, Residual};
use crate::math::linalg;
use crate::model::Role;
use crate::tensor::TensorMeta;

/// Values gathered before they are multiplied: enough rows that reading the directions again for each block costs
/// little beside the products.
const BLOCK_VALUES: usize = 1 << 21;

/// How a matrix lies to the frames, known before its values are read.
pub(super) struct Target {
    part: Option<(Part, u32)>,
    side: Side,
    layer: Option<u32>,
    /// Whether neurons, or coordinates of heads, lie along the rows; otherwise along the columns.
    by_rows: bool,
    rows: usize,
    cols: usize,
    frames: usize,
    /// Numbers for each row or column.
    width: usize,
}

/// The directions of one matrix, and the squares of the gains folded into them.
pub(super) struct Weights {
    directions: Vec<f32>,
    squares: Option<Vec<f64>>,
}

impl Target {
    /// For a matrix of an MLP or one of the four of an attention; `None` for any other tensor.
    pub(super) fn of(tensor: &TensorMeta, assignment: &Assignment, frames: &Frames) -> Option<Self> {
        let (side, axis) = match assignment.residual {
            Residual::Reads(axis) => (Side::Read, axis),
            Residual::Writes(axis) => (Side::Write, axis),
            _ => return None,
        };
        let fits = tensor.shape.len() == 2 && tensor.shape.get(axis) == Some(&(frames.hidden() as u64));
        if frames.frames.is_empty() || !fits || !tensor.dtype.is_float() {
            return None;
        }
        let part = if is_mlp(assignment) { None } else { Some(heads::part(assignment)?) };
        let width = if part.is_some() { frames.head_width() } else { frames.frames.len() * DIRECTIONS };
        let (rows, cols) = (usize::try_from(tensor.shape[0]).ok()?, usize::try_from(tensor.shape[1]).ok()?);
        let (layer, by_rows, frames) = (assignment.layer, axis == 1, frames.frames.len());
        (width > 0).then_some(Self { part, side, layer, by_rows, rows, cols, frames, width })
    }

    /// The layer of an attention whose matrix this is.
    pub(super) fn attention(&self) -> Option<u32> {
        self.part.map(|(_, layer)| layer)
    }

    /// Bytes that its projections hold while it is read in so many segments.
    pub(super) fn bytes(&self, segments: usize) -> u64 {
        let [rows, cols, width, segments] = [self.rows, self.cols, self.width, segments].map(|n| n as u64);
        let directions = 4 * width * if self.by_rows { cols } else { rows };
        let projected = if self.by_rows { rows * (2 * width + 8) } else { cols * (4 * width + 8) * (segments + 1) };
        directions + projected
    }

    /// The directions that it is multiplied with.
    pub(super) fn weights(&self, frames: &Frames) -> Weights {
        if self.part.is_some() {
            return Weights { directions: frames.head_weights(self.layer, self.side), squares: None };
        }
        let squares = |gain: &Vec<f32>| gain.iter().map(|&gain| f64::from(gain).powi(2)).collect();
        let squares = frames.gain(self.layer, self.side).map(squares);
        Weights { directions: frames.weights(self.layer, self.side), squares }
    }
}

/// Whether a tensor is one of the three matrices of an MLP or expert, or may be.
fn is_mlp(assignment: &Assignment) -> bool {
    use Role::{ExpertDown, ExpertGate, ExpertUp, FfnDown, FfnGate, FfnGateUp, FfnUp};
    let roles = &assignment.roles;
    !roles.is_empty()
        && roles
            .iter()
            .all(|role| matches!(role, FfnGate | FfnUp | FfnDown | FfnGateUp | ExpertGate | ExpertUp | ExpertDown))
}

/// Projects consecutive rows of a matrix.
pub(super) struct Projector<'a> {
    target: &'a Target,
    weights: &'a Weights,
    block: &'a mut Vec<f32>,
    /// The first row of the block.
    first_row: usize,
    strip: Strip,
}

/// The projections of some rows of a matrix.
pub(super) struct Strip {
    projected: Partial,
    /// For each neuron the energy of its vector with the gains folded in; for columns, that of the rows so far. Empty
    /// without gains.
    energies: Vec<f64>,
}

enum Partial {
    /// Whole neurons: for each frame, `DIRECTIONS` numbers each.
    Neurons(Vec<Vec<i8>>),
    /// Whole coordinates of heads.
    Heads(Projected),
    /// Sums for all columns, over the rows so far.
    Columns(Vec<f32>),
}

impl<'a> Projector<'a> {
    /// For rows from `first_row` on; `block` is a buffer that is used again.
    pub(super) fn new(target: &'a Target, weights: &'a Weights, first_row: usize, block: &'a mut Vec<f32>) -> Self {
        block.clear();
        let projected = match target.part {
            _ if !target.by_rows => Partial::Columns(vec![0.0; target.cols * target.width]),
            Some((part, _)) => Partial::Heads(Projected::new(part, target.width)),
            None => Partial::Neurons(vec![Vec::new(); target.frames]),
        };
        let sums = if target.by_rows || weights.squares.is_none() { 0 } else { target.cols };
        let strip = Strip { projected, energies: vec![0.0; sums] };
        Self { target, weights, block, first_row, strip }
    }

    /// Takes whole rows.
    pub(super) fn add(&mut self, rows: &[f32]) {
        let cols = self.target.cols.max(1);
        if let Some(squares) = &self.weights.squares {
            let first = self.first_row + self.block.len() / cols;
            for (row, values) in (first..).zip(rows.chunks_exact(cols)) {
                if self.target.by_rows {
                    self.strip.energies.push(kernel::weighted_square(values, squares));
                } else {
                    kernel::add_weighted_squares(&mut self.strip.energies, values, squares[row]);
                }
            }
        }
        self.block.extend_from_slice(rows);
        if self.block.len() >= BLOCK_VALUES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let Target { cols, width, frames, .. } = *self.target;
        let (rows, directions) = (self.block.len() / cols, &self.weights.directions);
        let whole = || {
            let mut projected = Vec::new();
            linalg::append(self.block, cols, directions, &mut projected);
            projected
        };
        match &mut self.strip.projected {
            Partial::Neurons(all) => {
                let projected = whole();
                for (frame, numbers) in all.iter_mut().enumerate() {
                    numbers.extend(quantise(&projected, frame, frames));
                }
            }
            Partial::Heads(all) => all.push(&whole()),
            Partial::Columns(sums) => {
                linalg::add_transposed(self.block, cols, &directions[self.first_row * width..][..rows * width], sums);
            }
        }
        self.first_row += rows;
        self.block.clear();
    }

    /// What the rows came to.
    pub(super) fn finish(mut self) -> Strip {
        self.flush();
        self.strip
    }
}

impl Strip {
    /// Takes the rows that follow.
    pub(super) fn append(&mut self, next: Self) {
        match (&mut self.projected, next.projected) {
            (Partial::Columns(sums), Partial::Columns(next_sums)) => {
                sums.iter_mut().zip(next_sums).for_each(|(sum, next)| *sum += next);
                self.energies.iter_mut().zip(next.energies).for_each(|(sum, next)| *sum += next);
                return;
            }
            (Partial::Neurons(all), Partial::Neurons(next)) => {
                all.iter_mut().zip(next).for_each(|(numbers, next)| numbers.extend(next));
            }
            (Partial::Heads(all), Partial::Heads(next)) => all.append(next),
            // Strips of one matrix are of one kind.
            _ => {}
        }
        self.energies.extend(next.energies);
    }

    /// The matrix along the frames, when all its rows were taken.
    pub(super) fn finish(self, target: &Target, hidden: usize) -> Along {
        let frames = match (self.projected, target.part) {
            (Partial::Heads(projected), _) => return Along::Heads(projected),
            (Partial::Columns(sums), Some((part, _))) => {
                let mut projected = Projected::new(part, target.width);
                projected.push(&sums);
                return Along::Heads(projected);
            }
            (Partial::Columns(sums), None) => {
                (0..target.frames).map(|frame| quantise(&sums, frame, target.frames)).collect()
            }
            (Partial::Neurons(frames), _) => frames,
        };
        let rms = |sum: f64| Some((sum / hidden as f64).sqrt() as f32).filter(|rms| rms.is_finite()).unwrap_or(0.0);
        let energies = (!self.energies.is_empty()).then(|| self.energies.into_iter().map(rms).collect());
        Along::Neurons(frames, energies)
    }
}

/// A matrix along the frames.
pub(super) enum Along {
    /// For each frame, `DIRECTIONS` numbers for each neuron; and the RMS of each neuron's vector with norm gains folded
    /// in, where there are gains.
    Neurons(Vec<Vec<i8>>, Option<Vec<f32>>),
    /// A matrix of an attention.
    Heads(Projected),
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: usize = 24;
    const NEURONS: usize = 10;

    fn noise(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0).collect()
    }

    /// A matrix whose neurons lie along rows or columns, taken whole or in strips of rows.
    fn projected(by_rows: bool, values: &[f32], weights: &Weights, cuts: &[usize]) -> (Vec<Vec<i8>>, Vec<f32>) {
        let (rows, cols) = if by_rows { (NEURONS, CHANNELS) } else { (CHANNELS, NEURONS) };
        let (side, frames, width) = (Side::Read, 2, 2 * DIRECTIONS);
        let target = Target { part: None, side, layer: None, by_rows, rows, cols, frames, width };
        let (mut block, mut whole): (_, Option<Strip>) = (Vec::new(), None);
        for cut in cuts.windows(2) {
            let mut projector = Projector::new(&target, weights, cut[0], &mut block);
            values[cut[0] * cols..cut[1] * cols].chunks(cols).for_each(|row| projector.add(row));
            match &mut whole {
                Some(whole) => whole.append(projector.finish()),
                none => *none = Some(projector.finish()),
            }
        }
        match whole.unwrap().finish(&target, CHANNELS) {
            Along::Neurons(frames, energies) => (frames, energies.unwrap()),
            Along::Heads(_) => unreachable!("no attention"),
        }
    }

    #[test]
    fn strips_add_up_to_the_products_of_the_whole() {
        let gains = noise(CHANNELS, 0.5);
        let directions = noise(CHANNELS * 2 * DIRECTIONS, 7.0);
        let squares = Some(gains.iter().map(|&gain| f64::from(gain).powi(2)).collect());
        let weights = Weights { directions, squares };
        let values = noise(NEURONS * CHANNELS, 3.0);
        for by_rows in [true, false] {
            let at = |neuron: usize, channel: usize| {
                f64::from(values[if by_rows { neuron * CHANNELS + channel } else { channel * NEURONS + neuron }])
            };
            let rows = if by_rows { NEURONS } else { CHANNELS };
            for cuts in [vec![0, rows], vec![0, 1, 4, rows]] {
                let (frames, energies) = projected(by_rows, &values, &weights, &cuts);
                for neuron in 0..NEURONS {
                    let energy: f64 = (0..CHANNELS).map(|c| (at(neuron, c) * f64::from(gains[c])).powi(2)).sum();
                    assert!((f64::from(energies[neuron]) - (energy / CHANNELS as f64).sqrt()).abs() < 1e-5);
                    for (frame, numbers) in frames.iter().enumerate() {
                        let number = |direction: usize| -> f64 {
                            let place = frame * DIRECTIONS + direction;
                            let weight = |c: usize| f64::from(weights.directions[c * 2 * DIRECTIONS + place]);
                            (0..CHANNELS).map(|c| at(neuron, c) * weight(c)).sum()
                        };
                        let plain: Vec<f64> = (0..DIRECTIONS).map(number).collect();
                        let mean = plain.iter().sum::<f64>() / DIRECTIONS as f64;
                        let largest = plain.iter().fold(0.0f64, |largest, v| largest.max((v - mean).abs()));
                        for (plain, &found) in plain.iter().zip(&numbers[neuron * DIRECTIONS..]) {
                            assert!(((plain - mean) * 127.0 / largest - f64::from(found)).abs() < 0.51);
                        }
                    }
                }
            }
        }
    }
}
