//! Descriptors of MLP neurons: taken along while the matrices are read, then put together layer by layer.

use super::frame::{DIRECTIONS, Frames, SAMPLED_NEURONS, Side, project_cols, project_rows, quantise};
use super::heads::{self, Projected};
use super::labels;
use crate::anatomy::{Assignment, Residual, Role};
use crate::stats::rank;
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
        let weights = if is_mlp(assignment) {
            frames.weights(assignment, side)
        } else {
            heads::part(assignment)?;
            frames.attention_weights(assignment, side)?
        };
        let (by_rows, cols) = (axis == 1, tensor.shape[1] as usize);
        let width = weights.len() / frames.hidden();
        let projected = if by_rows { Vec::new() } else { vec![0.0; cols * width] };
        Some(Self { weights, frames, width, cols, by_rows, block: Vec::new(), first_row: 0, projected })
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
        Along::Neurons((0..count).map(|frame| quantise(&self.projected, frame, count)).collect())
    }
}

/// A matrix along the frames.
pub(super) enum Along {
    /// For each frame, `DIRECTIONS` numbers for each neuron.
    Neurons(Vec<Vec<i8>>),
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
    /// RMS of each neuron's vector.
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

/// Puts matrices together into MLPs: by role and layer where these are settled, otherwise by how the energies of their
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
    units.extend(open_units(open));
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

/// Joins matrices whose layer, or gate and up, are not settled. Training ties the norms of a neuron's vectors together:
/// those of up and down strongly, whichever way they were rescaled against each other, and that of the gate with the
/// product of both.
fn open_units(open: Vec<Described>) -> Vec<Unit> {
    let is_down = |d: &&Described| matches!(d.assignment.residual, Residual::Writes(_));
    let scores = |d: &Described| -> Vec<f64> { rank::normal_scores(&d.energies) };
    let logs =
        |d: &Described| -> Vec<f64> { d.energies.iter().map(|&e| f64::from(e.max(f32::MIN_POSITIVE)).ln()).collect() };
    let downs: Vec<usize> = (0..open.len()).filter(|&i| is_down(&&open[i])).collect();
    let mut reads: Vec<usize> = (0..open.len()).filter(|&i| !is_down(&&open[i])).collect();
    let gated = reads.len() >= 2 * downs.len();
    let mut found = Vec::new();
    // Strongest pairs of down and up first, so that a clear one is not taken by an unclear one.
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for &down in &downs {
        for &up in reads.iter().filter(|&&up| open[up].neurons() == open[down].neurons()) {
            let r = rank::correlation(&scores(&open[down]), &scores(&open[up])).abs();
            pairs.push((r, down, up));
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut taken = std::collections::BTreeSet::new();
    for (_, down, up) in pairs {
        if !taken.contains(&down) && !taken.contains(&up) {
            taken.extend([down, up]);
            found.push((down, up));
        }
    }
    reads.retain(|read| !taken.contains(read));
    found.sort_unstable();
    let mut gates = std::collections::BTreeMap::new();
    if gated {
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (index, &(down, up)) in found.iter().enumerate() {
            let product: Vec<f32> =
                logs(&open[down]).iter().zip(logs(&open[up])).map(|(a, b)| (a + b) as f32).collect();
            let product = rank::normal_scores(&product);
            for &gate in reads.iter().filter(|&&gate| open[gate].neurons() == product.len()) {
                pairs.push((rank::correlation(&product, &scores(&open[gate])), index, gate));
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut used = std::collections::BTreeSet::new();
        for (_, index, gate) in pairs {
            if !gates.contains_key(&index) && used.insert(gate) {
                gates.insert(index, gate);
            }
        }
    }
    let joined = found.iter().enumerate().filter_map(|(index, &(down, up))| {
        let gate = gates.get(&index).map(|&gate| open[gate].slot());
        unit(open[down].assignment.layer, None, [gate, Some(open[up].slot()), Some(open[down].slot())])
    });
    joined.collect()
}
