//! Descriptors of MLP neurons: taken along while the matrices are read, then put together layer by layer.

use super::frame::{DIRECTIONS, SAMPLED_NEURONS};
use super::join::{self, Joined};
use super::labels;
use crate::anatomy::{Assignment, Residual};
use crate::bytes::spool::Numbers;
use crate::model::Role;

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
    pub frames: Vec<[Numbers; 3]>,
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
        frames: Vec<[Numbers; 3]>,
        shapes: [Vec<u8>; 3],
    ) -> Self {
        Self { layer, expert, neurons, labels, frames, shapes, sources: Default::default(), strengths: Vec::new() }
    }

    /// The unit with the descriptors of all its neurons, taken off the front of `numbers` from `at` on. `None` where
    /// these are too few.
    pub(super) fn whole(mut self, numbers: &Numbers, at: &mut usize) -> Option<Self> {
        let neurons = usize::try_from(self.neurons).ok()?;
        let len = neurons.checked_mul(DIRECTIONS)?;
        for slot in self.frames.iter_mut().flatten().filter(|slot| !slot.is_empty()) {
            let end = at.checked_add(len).filter(|&end| end <= numbers.len())?;
            *slot = numbers.part(*at..end);
            *at = end;
        }
        self.labels = (0..u32::try_from(neurons).ok()?).collect();
        Some(self)
    }

    /// The sample that a reference keeps.
    #[must_use]
    pub fn sampled(&self) -> Self {
        let labels = labels::chosen(self.neurons, SAMPLED_NEURONS);
        let places: Vec<usize> = labels.iter().filter_map(|label| self.labels.binary_search(label).ok()).collect();
        let pick = |all: &Numbers| -> Numbers {
            if all.is_empty() {
                return Numbers::default();
            }
            let picked = places.iter().flat_map(|&place| &all[place * DIRECTIONS..][..DIRECTIONS]);
            picked.copied().collect::<Vec<i8>>().into()
        };
        let frames = self.frames.iter().map(|[gate, up, down]| [pick(gate), pick(up), pick(down)]).collect();
        let labels = places.iter().map(|&place| self.labels[place]).collect();
        let shapes = self.shapes.clone();
        Self { labels, frames, shapes, sources: Default::default(), strengths: Vec::new(), ..*self }
    }
}

/// A matrix with its descriptors and the energies of its neurons.
pub(super) struct Described {
    pub(super) tensor: usize,
    pub(super) assignment: Assignment,
    /// For each frame, `DIRECTIONS` numbers for each neuron.
    pub(super) frames: Vec<Numbers>,
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
    frames: Vec<Numbers>,
    energies: Vec<f32>,
    source: Source,
}

impl Slot {
    /// The two halves of a fused gate and up.
    fn halves(&self) -> [Self; 2] {
        let half = self.energies.len() / 2;
        [0, half].map(|first| Self {
            frames: self.frames.iter().map(|f| f.part(first * DIRECTIONS..(first + half) * DIRECTIONS)).collect(),
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
