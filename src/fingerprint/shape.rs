//! Shapes of neurons: what is left of them when basis, order, scales and embedding are all gone.
//!
//! The strongest neurons of each MLP (largest gate norm × up norm × down norm, which no rescaling changes) are its
//! landmarks. A landmark's gate is described by its largest cosines with the ups and with the downs of all landmarks of
//! all layers, sorted; its up and its down likewise. Cosines are taken absolute where a sign is free. Sorted, they do
//! not depend on the order of anything, and an inner product does not depend on the basis.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::frame::{Frames, Side};
use super::neurons::{Source, Unit};
use crate::bytes::spool::{Numbers, Spool};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::math::linalg;

/// Landmarks of one MLP or expert.
pub const LANDMARKS: usize = 128;

/// Largest cosines kept of each of the two kinds.
const LARGEST: usize = 32;

/// Numbers in the shape of one matrix of a neuron.
pub const SHAPE_NUMBERS: usize = 2 * LARGEST;

/// Most values of landmark vectors. They lie in a temporary file where they are many; what is bounded is the time that
/// their products take.
const MAX_VALUES: usize = 3 << 25;

/// Most cosines held at a time.
const MAX_TABLE: usize = 1 << 22;

/// Values of landmark vectors that are multiplied at a time: on one side for all threads, on the other for each.
const BAND: usize = 1 << 22;
const TILE: usize = 1 << 20;

/// Fewest landmarks for sorted cosines to tell neurons apart.
const MIN_LANDMARKS: usize = 32;

/// Describes the landmarks of every gated unit and puts their shapes into the units. Their vectors may lie in a temporary
/// file in `scratch`.
pub(super) fn describe(checkpoint: &Checkpoint, frames: &Frames, units: &mut [Unit], scratch: &Path) -> Result<()> {
    let gated: Vec<usize> =
        (0..units.len()).filter(|&index| units[index].sources.iter().all(Option::is_some)).collect();
    let hidden = frames.hidden();
    if gated.is_empty() || hidden == 0 {
        return Ok(());
    }
    let per_unit = LANDMARKS.min(MAX_VALUES / (3 * hidden * gated.len()));
    if per_unit < MIN_LANDMARKS {
        return Ok(());
    }
    let landmarks: Vec<Vec<u32>> = gated.iter().map(|&index| strongest(&units[index].strengths, per_unit)).collect();
    let spool = Spool::new(scratch);
    let wanted: Vec<(usize, usize)> = (0..3).flat_map(|slot| (0..gated.len()).map(move |at| (slot, at))).collect();
    let places: Vec<Result<Range<usize>>> = wanted
        .into_par_iter()
        .map(|(slot, at)| {
            let (unit, landmarks) = (&units[gated[at]], &landmarks[at]);
            let side = if slot == 2 { Side::Write } else { Side::Read };
            let mut own = vec![0.0; landmarks.len() * hidden];
            if let Some(source) = &unit.sources[slot] {
                read(checkpoint, frames, unit.layer, side, source, landmarks, &mut own)?;
                unit_rows(&mut own, hidden);
            }
            spool.put(bytemuck::cast_slice(&own))
        })
        .collect();
    let places = places.into_iter().collect::<Result<Vec<_>>>()?;
    let mut vectors = Vectors { hidden, numbers: spool.finish()?, rows: [const { Vec::new() }; 3] };
    for (slot, places) in places.chunks_exact(gated.len()).enumerate() {
        vectors.rows[slot] = places.iter().flat_map(|place| place.clone().step_by(4 * hidden)).collect();
    }
    let (gate_up, up_gate) = vectors.nearest(0, 1);
    let (gate_down, down_gate) = vectors.nearest(0, 2);
    let (up_down, down_up) = vectors.nearest(1, 2);
    let mut at = 0;
    for (&index, landmarks) in gated.iter().zip(&landmarks) {
        let rows = at..at + landmarks.len();
        let shape = |a: &[[u8; LARGEST]], b: &[[u8; LARGEST]]| -> Vec<u8> {
            a[rows.clone()].iter().zip(&b[rows.clone()]).flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
        };
        units[index].shapes = [shape(&gate_up, &gate_down), shape(&up_gate, &up_down), shape(&down_gate, &down_up)];
        at += landmarks.len();
    }
    Ok(())
}

/// Labels of the strongest neurons, in increasing order.
fn strongest(strengths: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..strengths.len() as u32).collect();
    order.sort_by(|&a, &b| strengths[b as usize].total_cmp(&strengths[a as usize]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Reads the vectors of the landmarks, norm gains folded in.
fn read(
    checkpoint: &Checkpoint,
    frames: &Frames,
    layer: Option<u32>,
    side: Side,
    source: &Source,
    landmarks: &[u32],
    vectors: &mut [f32],
) -> Result<()> {
    let hidden = frames.hidden();
    let tensor = &checkpoint.tensors[source.tensor];
    let (rows, cols) = tensor.matrix();
    let (mut buf, mut values) = (Vec::new(), vec![0.0; cols as usize]);
    let mut row = |row: u64| -> Result<Vec<f32>> {
        checkpoint.values(tensor, row * cols, &mut values, &mut buf)?;
        values.iter_mut().filter(|v| !v.is_finite()).for_each(|v| *v = 0.0);
        Ok(values.clone())
    };
    if source.by_rows {
        for (vector, &label) in vectors.chunks_exact_mut(hidden).zip(landmarks) {
            vector.copy_from_slice(&row(u64::from(label) + source.first)?);
        }
    } else {
        for channel in 0..rows {
            let line = row(channel)?;
            for (vector, &label) in vectors.chunks_exact_mut(hidden).zip(landmarks) {
                vector[channel as usize] = line[label as usize + source.first as usize];
            }
        }
    }
    checkpoint.release(tensor);
    if let Some(gain) = frames.gain(layer, side) {
        for vector in vectors.chunks_exact_mut(hidden) {
            vector.iter_mut().zip(gain).for_each(|(value, gain)| *value *= gain);
        }
    }
    Ok(())
}

fn unit_rows(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|value| *value /= length);
        }
    }
}

/// For each row of a table of cosines its largest values, and for each column.
type Nearest = (Vec<[u8; LARGEST]>, Vec<[u8; LARGEST]>);

/// Unit vectors of all landmarks, gates, ups and downs.
struct Vectors {
    hidden: usize,
    /// `f32` in the machine's byte order.
    numbers: Numbers,
    /// Where each landmark's vector begins.
    rows: [Vec<usize>; 3],
}

impl Vectors {
    /// Some of one kind, row after row.
    fn read(&self, slot: usize, rows: Range<usize>) -> Vec<f32> {
        let all: &[u8] = bytemuck::cast_slice(&self.numbers);
        let mut values = Vec::with_capacity(rows.len() * self.hidden);
        for &place in &self.rows[slot][rows] {
            let bytes = all.get(place..place + 4 * self.hidden).unwrap_or_default();
            values.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)));
        }
        values
    }

    /// The largest absolute cosines of each vector of kind `a` with all of kind `b`, and the other way round. The table
    /// is made and dropped band by band.
    fn nearest(&self, a: usize, b: usize) -> Nearest {
        let (n, hidden) = (self.rows[a].len().max(1), self.hidden);
        let band = (BAND / hidden).min(MAX_TABLE / n).clamp(1, n);
        let tile = (TILE / hidden).clamp(1, n);
        let mut rows = Vec::with_capacity(n);
        let mut cols: Vec<Vec<f32>> = vec![Vec::new(); self.rows[b].len()];
        for start in (0..self.rows[a].len()).step_by(band) {
            let left = self.read(a, start..(start + band).min(n));
            let count = left.len() / hidden;
            let table = |(index, cols): (usize, &mut [Vec<f32>])| {
                let right = self.read(b, index * tile..index * tile + cols.len());
                let mut table = Vec::new();
                linalg::by_rows(&left, &right, hidden, &mut table);
                table.iter_mut().for_each(|cosine| *cosine = cosine.abs());
                for line in table.chunks_exact(cols.len()) {
                    cols.iter_mut().zip(line).for_each(|(kept, &cosine)| kept.push(cosine));
                }
                cols.iter_mut().for_each(keep_largest);
                table
            };
            let tables: Vec<Vec<f32>> = cols.par_chunks_mut(tile).enumerate().map(table).collect();
            let line = |row: usize| -> Vec<f32> {
                let parts = tables.iter().map(|table| table.chunks_exact(table.len() / count).nth(row));
                parts.flatten().flatten().copied().collect()
            };
            rows.par_extend((0..count).into_par_iter().map(|row| largest(line(row))));
        }
        (rows, cols.into_iter().map(largest).collect())
    }
}

/// Leaves the largest values, in some order.
fn keep_largest(values: &mut Vec<f32>) {
    if LARGEST < values.len() {
        values.select_nth_unstable_by(LARGEST, |a, b| b.total_cmp(a));
        values.truncate(LARGEST);
    }
}

/// The largest values in falling order, in units of 1/255.
fn largest(mut values: Vec<f32>) -> [u8; LARGEST] {
    keep_largest(&mut values);
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut out = [0; LARGEST];
    for (out, value) in out.iter_mut().zip(values) {
        *out = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
    }
    out
}
