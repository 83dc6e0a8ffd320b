//! Shapes of neurons: what is left of them when basis, order, scales and embedding are all gone.
//!
//! The strongest neurons of each MLP (largest gate norm × up norm × down norm, which no rescaling changes) are its
//! landmarks. A landmark's gate is described by its largest cosines with the ups and with the downs of all landmarks of
//! all layers, sorted; its up and its down likewise. Cosines are taken absolute where a sign is free. Sorted, they do
//! not depend on the order of anything, and an inner product does not depend on the basis.

use candle_core::{Device, Tensor};

use super::frame::{Frames, Side, matrix, product_failed};
use super::neurons::{Source, Unit};
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// Landmarks of one MLP or expert.
pub const LANDMARKS: usize = 128;

/// Largest cosines kept of each of the two kinds.
const LARGEST: usize = 32;

/// Numbers in the shape of one matrix of a neuron.
pub const SHAPE_NUMBERS: usize = 2 * LARGEST;

/// Most values of landmark vectors held at a time.
const MAX_VALUES: usize = 3 << 25;

/// Fewest landmarks for sorted cosines to tell neurons apart.
const MIN_LANDMARKS: usize = 32;

/// Describes the landmarks of every gated unit and puts their shapes into the units.
pub(super) fn describe(checkpoint: &Checkpoint, frames: &Frames, units: &mut [Unit]) -> Result<()> {
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
    let mut vectors: [Vec<f32>; 3] = Default::default();
    let mut counts = Vec::new();
    for &index in &gated {
        let landmarks = strongest(&units[index].strengths, per_unit);
        counts.push(landmarks.len());
        for (slot, all) in vectors.iter_mut().enumerate() {
            let side = if slot == 2 { Side::Write } else { Side::Read };
            if let Some(source) = &units[index].sources[slot] {
                read(checkpoint, frames, units[index].layer, side, source, &landmarks, all)?;
            }
        }
    }
    let [gate, up, down] = vectors.map(|values| unit_rows(values, hidden));
    let (gate, up, down) = (tensor(gate, hidden)?, tensor(up, hidden)?, tensor(down, hidden)?);
    let (gate_up, gate_down, up_down) = (cosines(&gate, &up)?, cosines(&gate, &down)?, cosines(&up, &down)?);
    let n = gate.dim(0).map_err(|error| product_failed(&error))?;
    let mut at = 0;
    for (&index, count) in gated.iter().zip(counts) {
        let rows = at..at + count;
        let shape = |a: &Line<'_>, b: &Line<'_>| -> Vec<u8> {
            rows.clone().flat_map(|row| largest(a(row)).into_iter().chain(largest(b(row)))).collect()
        };
        let across = |all: &'_ [f32], row: usize| -> Vec<f32> { all[row * n..][..n].to_vec() };
        let down_column = |all: &'_ [f32], row: usize| -> Vec<f32> { (0..n).map(|i| all[i * n + row]).collect() };
        units[index].shapes = [
            shape(&|row| across(&gate_up, row), &|row| across(&gate_down, row)),
            shape(&|row| down_column(&gate_up, row), &|row| across(&up_down, row)),
            shape(&|row| down_column(&gate_down, row), &|row| down_column(&up_down, row)),
        ];
        at += count;
    }
    Ok(())
}

/// A row or column of a table of cosines.
type Line<'a> = dyn Fn(usize) -> Vec<f32> + 'a;

/// Labels of the strongest neurons, in increasing order.
fn strongest(strengths: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..strengths.len() as u32).collect();
    order.sort_by(|&a, &b| strengths[b as usize].total_cmp(&strengths[a as usize]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Appends the vectors of the landmarks, norm gains folded in.
fn read(
    checkpoint: &Checkpoint,
    frames: &Frames,
    layer: Option<u32>,
    side: Side,
    source: &Source,
    landmarks: &[u32],
    all: &mut Vec<f32>,
) -> Result<()> {
    let (hidden, start) = (frames.hidden(), all.len());
    let tensor = &checkpoint.tensors[source.tensor];
    let (rows, cols) = tensor.matrix();
    let (mut buf, mut values) = (Vec::new(), vec![0.0; cols as usize]);
    all.resize(start + landmarks.len() * hidden, 0.0);
    let vectors = &mut all[start..];
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
    if let Some(gain) = frames.gain(layer, side) {
        for vector in vectors.chunks_exact_mut(hidden) {
            vector.iter_mut().zip(gain).for_each(|(value, gain)| *value *= gain);
        }
    }
    Ok(())
}

fn unit_rows(mut values: Vec<f32>, width: usize) -> Vec<f32> {
    for row in values.chunks_exact_mut(width) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|value| *value /= length);
        }
    }
    values
}

fn tensor(values: Vec<f32>, width: usize) -> Result<Tensor> {
    let rows = values.len() / width;
    matrix(values, rows, width)
}

/// Absolute cosines of all rows of `a` with all rows of `b`, row-major.
fn cosines(a: &Tensor, b: &Tensor) -> Result<Vec<f32>> {
    let product = || a.matmul(&b.t()?)?.abs()?.flatten_all()?.to_device(&Device::Cpu)?.to_vec1();
    product().map_err(|error: candle_core::Error| product_failed(&error))
}

/// The largest values in falling order, in units of 1/255.
fn largest(mut values: Vec<f32>) -> Vec<u8> {
    let count = LARGEST.min(values.len());
    if count < values.len() {
        values.select_nth_unstable_by(count, |a, b| b.total_cmp(a));
    }
    values.truncate(count);
    values.sort_unstable_by(|a, b| b.total_cmp(a));
    values.resize(LARGEST, 0.0);
    values.into_iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
}
