//! From the sums over a tensor to what is kept of it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::accumulate::TensorDigests;
use super::channels::{ScoreSums, Square, channel_energies, root_mean};
use super::heads::Projected;
use super::projection::Along;
use super::remarks::{Traits, is_stated};
use super::segment::ReadValues;
use super::{ENERGY_LABELS, MIN_VOCABULARY, TensorFingerprint, ValueFingerprint, labels};
use crate::anatomy::{Assignment, Residual};
use crate::bytes::spool::Spool;
use crate::error::Result;
use crate::limits::MAX_NONFINITE_SHARE;
use crate::tensor::TensorMeta;

/// What the pass makes of one tensor.
pub(super) struct Outcome {
    pub(super) tensor_fingerprint: TensorFingerprint,
    pub(super) square: Option<Square>,
    /// Where its neurons' descriptors were put for each frame, and the RMS of each neuron's vector.
    pub(super) neurons: Option<(Vec<Range<usize>>, Vec<f32>)>,
}

/// Turns sums into what is kept, hands the channel energies on and puts descriptors away. The second part is the
/// tensor along the frames if it is a matrix of an attention that can be used.
pub(super) fn describe(
    tensor: &TensorMeta,
    assignment: &Assignment,
    digests: TensorDigests,
    values: Option<ReadValues>,
    sums: &Mutex<ScoreSums>,
    spool: &Spool,
) -> Result<(Outcome, Option<Projected>)> {
    let mut tensor_fingerprint = TensorFingerprint {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        assignment: assignment.clone(),
        formula: false,
        stored_bytes: tensor.stored_bytes(),
        stored_sha256: digests.stored,
        values: None,
    };
    let Some(mut values) = values else {
        tensor_fingerprint.formula = is_stated(assignment, &tensor.shape);
        return Ok((Outcome { tensor_fingerprint, square: None, neurons: None }, None));
    };
    let (rows, cols) = tensor.matrix();
    let row_rms = root_mean(&values.energies.rows, cols);
    let col_rms = root_mean(&values.energies.cols, rows);
    let TensorMeta { dtype, shape, .. } = tensor;
    let traits = Traits { dtype, shape, summary: &values.summary, sample: &values.sample, row_rms: &row_rms };
    tensor_fingerprint.formula = is_stated(assignment, shape) || traits.follow_formula();
    let usable = !tensor_fingerprint.formula
        && !values.summary.is_constant()
        && values.summary.nonfinite_share() <= MAX_NONFINITE_SHARE
        && tensor.dtype.is_float();
    let mut square = None;
    if usable {
        let whole = (&values.gain[..], &values.energies.rows[..]);
        let energies = channel_energies(assignment.residual, &tensor.shape, whole, &row_rms, &col_rms);
        if let Some(energies) = energies {
            sums.lock().unwrap_or_else(PoisonError::into_inner).add(assignment.layer, &energies);
        } else if assignment.residual == Residual::Ambiguous {
            square = Some(Square { layer: assignment.layer, rows: row_rms.clone(), cols: col_rms.clone() });
        }
    }
    let (mut neurons, mut heads) = (None, None);
    match values.along.take().filter(|_| usable) {
        Some(Along::Neurons(frames, gained)) => {
            let by_rows = matches!(assignment.residual, Residual::Reads(1) | Residual::Writes(1));
            let energies = gained.unwrap_or_else(|| if by_rows { row_rms.clone() } else { col_rms.clone() });
            let places = frames.iter().map(|numbers| spool.put(numbers)).collect::<Result<_>>()?;
            neurons = Some((places, energies));
        }
        Some(Along::Heads(projected)) => heads = Some(projected),
        None => {}
    }
    let embeds = matches!(assignment.residual, Residual::Embeds(1)) && rows >= MIN_VOCABULARY;
    let row_norms = embeds.then(|| values.energies.rows.iter().map(|energy| energy.sqrt() as f32).collect());
    tensor_fingerprint.values = Some(ValueFingerprint {
        sha256: digests.values,
        less_one_sha256: None,
        rounded: [digests.as_bf16, digests.as_f16],
        row_rms: relative(&row_rms, values.summary.rms),
        col_rms: relative(&col_rms, values.summary.rms),
        summary: values.summary,
        sample: values.sample.into(),
        steps: Vec::new(),
        sketch: values.sketch,
        row_norms,
    });
    Ok((Outcome { tensor_fingerprint, square, neurons }, heads))
}

/// The energies of the chosen labels, relative to the tensor's own.
fn relative(rms: &[f32], whole: f64) -> Vec<f16> {
    let scale = if whole > 0.0 { 1.0 / whole } else { 0.0 };
    let labels = labels::chosen(rms.len() as u64, ENERGY_LABELS);
    labels.into_iter().map(|label| f16::from_f64(f64::from(rms[label as usize]) * scale)).collect()
}
