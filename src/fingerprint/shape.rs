//! Shapes of neurons: what is left of them when basis, order, scales and embedding are all gone.
//!
//! The strongest neurons of each MLP (largest gate norm × up norm × down norm, which no rescaling changes) are its
//! landmarks. A landmark's gate is described by its largest cosines with the ups and with the downs of all landmarks of
//! all layers, sorted; its up and its down likewise. Cosines are taken absolute where a sign is free. Sorted, they do
//! not depend on the order of anything, and an inner product does not depend on the basis.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

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

/// Most cosines held at a time.
const MAX_TABLE: usize = 1 << 24;

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
    let landmarks: Vec<Vec<u32>> = gated.iter().map(|&index| strongest(&units[index].strengths, per_unit)).collect();
    let n = landmarks.iter().map(Vec::len).sum::<usize>();
    let mut vectors: [Vec<f32>; 3] = [const { Vec::new() }; 3];
    let mut wanted = Vec::new();
    for (slot, all) in vectors.iter_mut().enumerate() {
        all.resize(n * hidden, 0.0);
        let mut rest = all.as_mut_slice();
        for (&index, landmarks) in gated.iter().zip(&landmarks) {
            let (own, others) = rest.split_at_mut(landmarks.len() * hidden);
            wanted.push((own, &units[index], slot, landmarks));
            rest = others;
        }
    }
    let done: Vec<Result<()>> = wanted
        .into_par_iter()
        .map(|(own, unit, slot, landmarks)| {
            let side = if slot == 2 { Side::Write } else { Side::Read };
            let Some(source) = &unit.sources[slot] else { return Ok(()) };
            read(checkpoint, frames, unit.layer, side, source, landmarks, own)?;
            unit_rows(own, hidden);
            Ok(())
        })
        .collect();
    done.into_iter().collect::<Result<()>>()?;
    let [gate, up, down] = vectors;
    let (gate, up, down) = (matrix(gate, n, hidden)?, matrix(up, n, hidden)?, matrix(down, n, hidden)?);
    let (gate_up, up_gate) = nearest(&gate, &up)?;
    let (gate_down, down_gate) = nearest(&gate, &down)?;
    let (up_down, down_up) = nearest(&up, &down)?;
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

/// The largest absolute cosines of each row of `a` with all rows of `b`, and the other way round. The table is made and
/// dropped band by band.
fn nearest(a: &Tensor, b: &Tensor) -> Result<Nearest> {
    let (n, m) = a.dim(0).and_then(|n| Ok((n, b.dim(0)?))).map_err(|error| product_failed(&error))?;
    let band = (MAX_TABLE / m.max(1)).clamp(1, n.max(1));
    let mut rows = Vec::with_capacity(n);
    let mut cols: Vec<Vec<f32>> = vec![Vec::new(); m];
    for start in (0..n).step_by(band) {
        let table = cosines(a, start, band.min(n - start), b)?;
        rows.par_extend(table.par_chunks_exact(m).map(|line| largest(line.to_vec())));
        // Columns side by side lie in one cache line of every row.
        cols.par_chunks_mut(16).enumerate().for_each(|(index, cols)| {
            for line in table.chunks_exact(m) {
                cols.iter_mut().zip(&line[16 * index..]).for_each(|(kept, &cosine)| kept.push(cosine));
            }
            cols.iter_mut().for_each(keep_largest);
        });
    }
    Ok((rows, cols.into_iter().map(largest).collect()))
}

/// Absolute cosines of some rows of `a` with all rows of `b`, row-major.
fn cosines(a: &Tensor, start: usize, rows: usize, b: &Tensor) -> Result<Vec<f32>> {
    let product =
        || a.narrow(0, start, rows)?.matmul(&b.t()?)?.abs()?.flatten_all()?.to_device(&Device::Cpu)?.to_vec1();
    product().map_err(|error: candle_core::Error| product_failed(&error))
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
