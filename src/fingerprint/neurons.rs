//! Descriptors of MLP neurons: taken along while the matrices are read, then put together layer by layer.

use super::frame::{DIRECTIONS, Frames, SAMPLED_NEURONS, Side, project_cols, project_rows, quantise};
use super::heads::{self, Projected};
use super::join::{self, Joined};
use super::labels;
use crate::anatomy::{Assignment, Residual, Role};
use crate::tensor::TensorMeta;

/// The matrices that make a neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matrix {
    /// The gate of a gated MLP.
    Gate,
    /// The up matrix; the in matrix of a plain MLP.
    Up,
    /// The down matrix; the out matrix of a plain MLP.
    Down,
}

impl Matrix {
    /// All three, in order.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

/// The neurons of one MLP, or of one expert.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Its layer, where tensors say so.
    pub layer: Option<u32>,
    /// Its expert, in a mixture.
    pub expert: Option<u32>,
    /// Number of neurons.
    pub neurons: u64,
    /// Labels of the neurons that are kept: all of them right after a pass, a sample in a file.
    pub labels: Vec<u32>,
    /// For each frame and matrix, `DIRECTIONS` numbers for each kept neuron; empty where there is no such matrix.
    pub frames: Vec<[Vec<i8>; 3]>,
    /// Shapes of its landmarks by gate, up and down, [`SHAPE_NUMBERS`](super::SHAPE_NUMBERS) for each; empty for plain
    /// MLPs.
    pub shapes: [Vec<u8>; 3],
    /// Where its matrices are; known during a pass alone.
    pub(super) sources: [Option<Source>; 3],
    /// Product of the norms of each neuron's vectors; known during a pass alone.
    pub(super) strengths: Vec<f32>,
}

/// Where the vectors of a matrix lie.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub(super) tensor: usize,
    pub(super) by_rows: bool,
    /// The first row or column of the matrix in the tensor.
    pub(super) first: u64,
}

impl Unit {
    /// A unit as a file keeps it.
    pub(super) fn kept(
        layer: Option<u32>,
        expert: Option<u32>,
        neurons: u64,
        labels: Vec<u32>,
        frames: Vec<[Vec<i8>; 3]>,
        shapes: [Vec<u8>; 3],
    ) -> Self {
        Self { layer, expert, neurons, labels, frames, shapes, sources: Default::default(), strengths: Vec::new() }
    }

    /// The sample that a reference keeps.
    #[must_use]
    pub fn sampled(&self) -> Self {
        let labels = labels::chosen(self.neurons, SAMPLED_NEURONS);
        let places: Vec<usize> = labels.iter().filter_map(|label| self.labels.binary_search(label).ok()).collect();
        let pick = |all: &Vec<i8>| -> Vec<i8> {
            if all.is_empty() {
                return Vec::new();
            }
            places.iter().flat_map(|&place| &all[place * DIRECTIONS..][..DIRECTIONS]).copied().collect()
        };
        let frames = self.frames.iter().map(|[gate, up, down]| [pick(gate), pick(up), pick(down)]).collect();
        let labels = places.iter().map(|&place| self.labels[place]).collect();
        let shapes = self.shapes.clone();
        Self { labels, frames, shapes, sources: Default::default(), strengths: Vec::new(), ..*self }
    }
}

/// Rows or columns of values gathered before they are multiplied.
const BLOCK_VALUES: usize = 1 << 19;

/// Projects a matrix on the frames while its rows come by.
pub(super) struct Projector<'a> {
    weights: Vec<f32>,
    frames: &'a Frames,
    /// Numbers for each row or column.
    width: usize,
    cols: usize,
    /// Whether neurons lie along the rows; otherwise along the columns.
    by_rows: bool,
    block: Vec<f32>,
    first_row: usize,
    projected: Vec<f32>,
    energies: Option<GainedEnergies>,
}

/// Energies of the neurons of a matrix with the norm gains folded in that it reads or writes through.
struct GainedEnergies {
    /// Squares of the gains.
    squares: Vec<f64>,
    /// One for each neuron so far.
    sums: Vec<f64>,
}

impl GainedEnergies {
    fn new(gain: &[f32], neurons: Option<usize>) -> Self {
        let squares = gain.iter().map(|&gain| f64::from(gain).powi(2)).collect();
        Self { squares, sums: vec![0.0; neurons.unwrap_or(0)] }
    }

    /// Adds whole rows: a neuron each, or one channel each of all neurons.
    fn add(&mut self, rows: &[f32], cols: usize, by_rows: bool, first_row: usize) {
        for (row, values) in rows.chunks_exact(cols).enumerate() {
            let squared = values.iter().map(|&value| f64::from(value) * f64::from(value));
            if by_rows {
                self.sums.push(squared.zip(&self.squares).map(|(value, gain)| value * gain).sum());
            } else {
                let gain = self.squares[first_row + row];
                self.sums.iter_mut().zip(squared).for_each(|(sum, value)| *sum += value * gain);
            }
        }
    }
}

impl<'a> Projector<'a> {
    /// A projector for a matrix of an MLP or for one of the four of an attention; `None` for any other tensor.
    pub(super) fn new(tensor: &TensorMeta, assignment: &Assignment, frames: &'a Frames) -> Option<Self> {
        let (side, axis) = match assignment.residual {
            Residual::Reads(axis) => (Side::Read, axis),
            Residual::Writes(axis) => (Side::Write, axis),
            _ => return None,
        };
        let fits = tensor.shape.len() == 2 && tensor.shape.get(axis) == Some(&(frames.hidden() as u64));
        if frames.frames.is_empty() || !fits || !tensor.dtype.is_float() {
            return None;
        }
        let mlp = is_mlp(assignment);
        let weights = if mlp {
            frames.weights(assignment, side)
        } else {
            heads::part(assignment)?;
            frames.attention_weights(assignment, side)?
        };
        let (by_rows, cols) = (axis == 1, tensor.shape[1] as usize);
        let gain = frames.gain(assignment.layer, side).filter(|_| mlp);
        let energies = gain.map(|gain| GainedEnergies::new(gain, (!by_rows).then_some(cols)));
        let width = weights.len() / frames.hidden();
        let projected = if by_rows { Vec::new() } else { vec![0.0; cols * width] };
        Some(Self { weights, frames, width, cols, by_rows, block: Vec::new(), first_row: 0, projected, energies })
    }

    /// Takes whole rows.
    pub(super) fn add(&mut self, rows: &[f32]) {
        self.block.extend_from_slice(rows);
        if self.block.len() >= BLOCK_VALUES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let rows = self.block.len() / self.cols;
        if let Some(energies) = &mut self.energies {
            energies.add(&self.block, self.cols, self.by_rows, self.first_row);
        }
        if self.by_rows {
            project_rows(&self.block, self.cols, &self.weights, &mut self.projected);
        } else {
            let weights = &self.weights[self.first_row * self.width..][..rows * self.width];
            project_cols(&self.block, self.cols, weights, &mut self.projected);
        }
        self.first_row += rows;
        self.block.clear();
    }

    /// The descriptors of all neurons, frame by frame, or the rows of an attention's heads.
    pub(super) fn finish(mut self, assignment: &Assignment) -> Along {
        self.flush();
        if let Some((part, layer)) = heads::part(assignment) {
            return Along::Heads(Projected::new(part, layer, self.width, &self.projected));
        }
        let count = self.frames.frames.len();
        let hidden = self.frames.hidden() as f64;
        let energies = self.energies.map(|energies| {
            let sums = energies.sums.into_iter();
            sums.map(|sum| (sum / hidden).sqrt() as f32).map(|rms| if rms.is_finite() { rms } else { 0.0 }).collect()
        });
        Along::Neurons((0..count).map(|frame| quantise(&self.projected, frame, count)).collect(), energies)
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

/// Whether a tensor is one of the three matrices of an MLP or expert, or may be.
fn is_mlp(assignment: &Assignment) -> bool {
    use Role::{ExpertDown, ExpertGate, ExpertUp, FfnDown, FfnGate, FfnGateUp, FfnUp};
    let roles = &assignment.roles;
    !roles.is_empty()
        && roles
            .iter()
            .all(|role| matches!(role, FfnGate | FfnUp | FfnDown | FfnGateUp | ExpertGate | ExpertUp | ExpertDown))
}

/// A matrix with its descriptors and the energies of its neurons.
pub(super) struct Described {
    pub(super) tensor: usize,
    pub(super) assignment: Assignment,
    /// For each frame, `DIRECTIONS` numbers for each neuron.
    pub(super) frames: Vec<Vec<i8>>,
    /// RMS of each neuron's vector, norm gains folded in where they are known.
    pub(super) energies: Vec<f32>,
}

impl Described {
    fn neurons(&self) -> usize {
        self.energies.len()
    }

    fn slot(&self) -> Slot {
        let by_rows = matches!(self.assignment.residual, Residual::Reads(1) | Residual::Writes(1));
        let source = Source { tensor: self.tensor, by_rows, first: 0 };
        Slot { frames: self.frames.clone(), energies: self.energies.clone(), source }
    }
}

/// A matrix in its place in a unit.
struct Slot {
    frames: Vec<Vec<i8>>,
    energies: Vec<f32>,
    source: Source,
}

impl Slot {
    /// The two halves of a fused gate and up.
    fn halves(&self) -> [Self; 2] {
        let half = self.energies.len() / 2;
        [0, half].map(|first| Self {
            frames: self.frames.iter().map(|f| f[first * DIRECTIONS..][..half * DIRECTIONS].to_vec()).collect(),
            energies: self.energies[first..][..half].to_vec(),
            source: Source { first: first as u64, ..self.source.clone() },
        })
    }
}

/// Puts matrices together into MLPs: by role and layer where these are settled, otherwise by how their
/// neurons go together.
pub(super) fn units(described: Vec<Described>) -> Vec<Unit> {
    let mut units = Vec::new();
    let (settled, open): (Vec<_>, Vec<_>) =
        described.into_iter().partition(|d| d.assignment.role().is_some() && d.assignment.layer.is_some());
    let mut places = std::collections::BTreeMap::new();
    for matrix in settled {
        let place = (matrix.assignment.layer, matrix.assignment.expert);
        places.entry(place).or_insert_with(Vec::new).push(matrix);
    }
    for ((layer, expert), matrices) in places {
        units.extend(settled_unit(layer, expert, matrices));
    }
    units.extend(open_units(&open));
    units
}

fn settled_unit(layer: Option<u32>, expert: Option<u32>, matrices: Vec<Described>) -> Option<Unit> {
    let mut slots: [Option<Slot>; 3] = Default::default();
    for matrix in matrices {
        let slot = match matrix.assignment.role()? {
            Role::FfnGate | Role::ExpertGate => 0,
            Role::FfnUp | Role::ExpertUp => 1,
            Role::FfnDown | Role::ExpertDown => 2,
            Role::FfnGateUp if matrix.neurons().is_multiple_of(2) => {
                let [gate, up] = matrix.slot().halves();
                slots[0] = Some(gate);
                slots[1] = Some(up);
                continue;
            }
            _ => return None,
        };
        slots[slot] = Some(matrix.slot());
    }
    unit(layer, expert, slots)
}

fn unit(layer: Option<u32>, expert: Option<u32>, slots: [Option<Slot>; 3]) -> Option<Unit> {
    let neurons = slots[2].as_ref()?.energies.len();
    let frames = slots[2].as_ref()?.frames.len();
    if neurons == 0 || slots[1].is_none() || slots.iter().flatten().any(|slot| slot.energies.len() != neurons) {
        return None;
    }
    let mut strengths = vec![1.0f32; neurons];
    for slot in slots.iter().flatten() {
        strengths.iter_mut().zip(&slot.energies).for_each(|(product, energy)| *product *= energy);
    }
    let sources = slots.each_ref().map(|slot| slot.as_ref().map(|slot| slot.source.clone()));
    let mut parts = slots.map(|slot| slot.map_or_else(Vec::new, |slot| slot.frames).into_iter());
    let frames = (0..frames).map(|_| [0, 1, 2].map(|slot: usize| parts[slot].next().unwrap_or_default())).collect();
    let labels = (0..neurons as u32).collect();
    let neurons = neurons as u64;
    Some(Unit { layer, expert, neurons, labels, frames, shapes: Default::default(), sources, strengths })
}

/// Puts matrices together whose layer, or gate and up, are not settled.
fn open_units(open: &[Described]) -> Vec<Unit> {
    let joined = join::join(open).into_iter().filter_map(|Joined { down, up, gate }| {
        let slots = [gate.map(|gate| open[gate].slot()), Some(open[up].slot()), Some(open[down].slot())];
        unit(open[down].assignment.layer, None, slots)
    });
    joined.collect()
}
