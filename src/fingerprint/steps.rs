//! How far apart the levels are at the sampled values of a quantised tensor, or of a gain that is stored less one.

use half::bf16;

use super::sample_labels;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::tensor::{DType, Storage, TensorMeta};

/// One distance for each sampled value; empty where the values themselves tell it, or nothing does.
pub(super) fn sampled(
    checkpoint: &Checkpoint,
    tensor: &TensorMeta,
    values: &mut Vec<f32>,
    bytes: &mut Vec<u8>,
) -> Result<Vec<bf16>> {
    let (rows, cols) = tensor.matrix();
    let per_read = match &tensor.dtype {
        DType::Block(block) => block.values(),
        DType::Packed(_) => cols,
        _ if matches!(tensor.storage, Storage::PlusOne(_)) => cols,
        _ => return Ok(Vec::new()),
    };
    let (sample_rows, sample_cols) = sample_labels(rows, cols);
    let mut steps = Vec::with_capacity(sample_rows.len() * sample_cols.len());
    values.resize(per_read as usize, 0.0);
    for &row in &sample_rows {
        let mut read = None;
        for &col in &sample_cols {
            let first = u64::from(row) * cols + u64::from(col) / per_read * per_read;
            if read.replace(first) != Some(first) && !checkpoint.steps(tensor, first, values, bytes)? {
                return Ok(Vec::new());
            }
            steps.push(bf16::from_f32(values[(u64::from(col) % per_read) as usize]));
        }
    }
    Ok(steps)
}
