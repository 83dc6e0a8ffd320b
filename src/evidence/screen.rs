//! Which of many references come nearest to a suspect, before any of them is compared in full.
//!
//! A few neurons of a few MLPs of each reference are looked for among all neurons of the suspect, in every frame that
//! both have. The score is how near the nearest ones come on average. It does not look at labels, so that what is chosen
//! by it is still tested fairly; the correction for the number of references stays that of all.
//!
//! Cost for a suspect of N neurons along K directions: `2·K·N` operations for each matrix of each of the 16 neurons of a
//! reference that are looked for.

use rayon::prelude::*;

use super::search::{self, Spaces, Vectors};
use crate::fingerprint::{DIRECTIONS, Fingerprint, FrameKind, FrameRecord, Unit};

/// MLPs of a reference that are looked at, spread over its depth.
const UNITS: usize = 2;

/// Neurons of each.
const NEURONS: usize = 8;

/// Rows compared at a time, which bounds the memory of a table.
const ROWS: usize = 512;

/// What is kept of a reference for the screening.
pub struct Probe {
    hidden: u64,
    /// Descriptors by matrix.
    frames: Vec<(FrameRecord, [Vec<i8>; 3])>,
}

impl Probe {
    /// A few neurons of a few MLPs, spread evenly.
    pub fn new(reference: &Fingerprint) -> Self {
        let step = reference.approximate.units.len().div_ceil(UNITS).max(1);
        let units: Vec<&Unit> = reference.approximate.units.iter().skip(step / 2).step_by(step).collect();
        let gated = units.iter().all(|unit| unit.frames.iter().all(|[gate, ..]| !gate.is_empty()));
        let rows = |frame: usize| {
            let mut all: [Vec<i8>; 3] = Default::default();
            for unit in &units {
                let Some(matrices) = unit.frames.get(frame) else { continue };
                let neurons = matrices[1].len() / DIRECTIONS;
                for neuron in (0..neurons).step_by(neurons.div_ceil(NEURONS).max(1)) {
                    for (all, own) in all.iter_mut().zip(matrices) {
                        all.extend(own.get(neuron * DIRECTIONS..(neuron + 1) * DIRECTIONS).into_iter().flatten());
                    }
                }
            }
            if !gated {
                all[0].clear();
            }
            all
        };
        let frames =
            reference.approximate.frames.iter().enumerate().map(|(index, record)| (record.clone(), rows(index)));
        Self { hidden: reference.exact.architecture.hidden_size, frames: frames.collect() }
    }

    fn in_frame(&self, suspect: &Fingerprint, record: &FrameRecord) -> Option<Vectors> {
        let fits = record.kind != FrameKind::Raw || self.hidden == suspect.exact.architecture.hidden_size;
        let (own, descriptors) = self.frames.iter().find(|(own, _)| fits && own.kind == record.kind)?;
        let there = |d: &usize| !own.missing.contains(&(*d as u32));
        let kept: Vec<usize> = (0..DIRECTIONS).filter(there).collect();
        Some(Vectors::new(descriptors, &kept).widened(&kept, DIRECTIONS))
    }
}

/// How near each reference comes to the suspect: the mean cosine of its probed neurons with their nearest in the
/// suspect, in the frame where it is nearest; 0 where no frame is common.
pub fn nearness(suspect: &Fingerprint, probes: &[Probe]) -> Vec<f32> {
    let mut scores = vec![0.0f32; probes.len()];
    for (frame, record) in suspect.approximate.frames.iter().enumerate() {
        let found: Vec<(usize, Vectors)> = probes
            .iter()
            .enumerate()
            .filter_map(|(index, probe)| Some((index, probe.in_frame(suspect, record)?)))
            .filter(|(_, vectors)| vectors.rows() > 0)
            .collect();
        let kept: Vec<usize> = (0..DIRECTIONS).filter(|&d| !record.missing.contains(&(d as u32))).collect();
        // Gated and plain ones apart; as many at a time as a table has room for.
        let (gated, plain): (Vec<_>, Vec<_>) = found.iter().partition(|(_, vectors)| vectors.has_gate());
        let mut batches: Vec<Vec<&(usize, Vectors)>> = Vec::new();
        for kind in [gated, plain] {
            batches.extend(kind.chunks((ROWS / (UNITS * NEURONS)).max(1)).map(<[_]>::to_vec));
        }
        let joined: Vec<Vectors> =
            batches.iter().map(|batch| Vectors::joined(batch.iter().map(|(_, vectors)| vectors))).collect();
        let spaces = Spaces::default();
        let nearest = |unit: &Unit| -> Vec<Vec<f32>> {
            let own = Vectors::new(&unit.frames[frame], &kept).widened(&kept, DIRECTIONS);
            let of = |rows: &Vectors| spaces.with(|space| search::nearest(rows, &own, DIRECTIONS, space));
            joined.iter().map(|rows| of(rows).unwrap_or_default()).collect()
        };
        let larger = |mut a: Vec<Vec<f32>>, b: Vec<Vec<f32>>| {
            for (a, b) in a.iter_mut().zip(b) {
                if a.len() < b.len() {
                    a.resize(b.len(), 0.0);
                }
                a.iter_mut().zip(b).for_each(|(a, b)| *a = a.max(b));
            }
            a
        };
        let all = suspect.approximate.units.par_iter().map(nearest).reduce(|| vec![Vec::new(); joined.len()], larger);
        for (batch, nearest) in batches.iter().zip(all) {
            let mut rows = nearest.into_iter();
            for (index, vectors) in batch {
                let sum: f32 = rows.by_ref().take(vectors.rows()).sum();
                scores[*index] = scores[*index].max(sum / vectors.rows() as f32);
            }
        }
    }
    scores
}
