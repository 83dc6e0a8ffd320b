//! What is remarkable about values: tensors that follow from a formula, hold one value, or are not finite.

use super::{FileRecord, Summary, TensorFingerprint, ValueFingerprint};
use crate::anatomy::Assignment;
use crate::finding::{Code, Finding, Level};
use crate::limits::MAX_NONFINITE_SHARE;
use crate::model::Role;
use crate::published::digests;
use crate::tensor::DType;

/// Longest vector that its role alone keeps from being evidence. Rotary frequencies that were stretched for longer texts
/// follow no formula that is tried here, have at most half as many values as a head, and are equal in unrelated models.
const MAX_STATED: u64 = 1 << 12;

/// Whether the tensor is a short vector that its role says follows from a formula. It is no evidence then; that it was
/// looked at is another matter, which [`follows_formula`] decides.
pub(super) fn is_stated(assignment: &Assignment, shape: &[u64]) -> bool {
    matches!(assignment.roles.as_slice(), [Role::RopeFreqs | Role::Buffer]) && matches!(shape, [] | [1..=MAX_STATED])
}

/// What of a tensor's values tells whether they follow from a formula.
pub(super) struct Traits<'a> {
    pub(super) dtype: &'a DType,
    pub(super) shape: &'a [u64],
    pub(super) summary: &'a Summary,
    pub(super) sample: &'a [f32],
    pub(super) row_rms: &'a [f32],
}

impl Traits<'_> {
    /// Whether the values follow from a formula, or are a mask or an index: equality of such tensors says nothing.
    pub(super) fn follow_formula(&self) -> bool {
        let s = self.summary;
        let n = s.finite as f64;
        // All values are 0 or 1: a mask, unless it is a norm gain that was never trained.
        let mask = s.min >= 0.0 && s.max == 1.0 && s.zeros > 0 && (s.mean * n + s.zeros as f64 - n).abs() < 1e-6 * n;
        // 0, 1, …: the mean of squares pins the set down.
        let whole = !self.dtype.is_float();
        let index = whole && s.min == 0.0 && s.max + 1.0 == n && (s.mean - (n - 1.0) / 2.0).abs() < 1e-9 * n;
        // Rows of sines and cosines in pairs have a mean square of exactly one half (Vaswani et al. 2017, section 3.5);
        // what is kept of a row's is rounded to a two-thousandth.
        let sinusoids = self.row_rms.len() >= 16
            && s.max <= 1.000_01
            && s.min >= -1.000_01
            && s.max > 0.999
            && self.row_rms.iter().all(|rms| (rms - 0.5f32.sqrt()).abs() < 1.5e-3);
        mask || index || sinusoids || self.shape.len() == 1 && is_geometric(self.sample)
    }
}

/// Whether the kept values follow from a formula.
pub(super) fn follows_formula(tensor: &TensorFingerprint, values: &ValueFingerprint) -> bool {
    let row_rms: Vec<f32> = values.row_rms.iter().map(|rms| rms.to_f32() * values.summary.rms as f32).collect();
    let sample = values.sample.values();
    let TensorFingerprint { dtype, shape, .. } = tensor;
    Traits { dtype, shape, summary: &values.summary, sample: &sample, row_rms: &row_rms }.follow_formula()
}

/// Whether a vector falls by one factor from each value to the next, as rotary frequencies do.
fn is_geometric(values: &[f32]) -> bool {
    if values.len() < 8 || values.iter().any(|v| !v.is_normal()) {
        return false;
    }
    let ratio = values[1] / values[0];
    (ratio - 1.0).abs() > 1e-3 && values.windows(2).all(|pair| (pair[1] / pair[0] / ratio - 1.0).abs() < 5e-3)
}

/// Remarks on values: one for each kind, naming how many tensors and the first.
pub(super) fn findings(tensors: &[TensorFingerprint], files: &[FileRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |code, level, what: &str, which: &dyn Fn(&TensorFingerprint) -> bool| {
        let mut hits = tensors.iter().filter(|tensor| which(tensor));
        let Some(first) = hits.next() else { return };
        let count = 1 + hits.count();
        let message = format!("{count} {} {what}", if count == 1 { "tensor" } else { "tensors" });
        findings.push(Finding::new(code, level, message, first.name.clone()));
    };
    let nonfinite = |share: f64| {
        move |tensor: &TensorFingerprint| tensor.values.as_ref().is_some_and(|v| v.summary.nonfinite_share() > share)
    };
    let untested =
        format!("with NaN or infinite values in more than {} % of places: not tested", MAX_NONFINITE_SHARE * 1e2);
    tell(Code::NonFinite, Level::Error, &untested, &nonfinite(MAX_NONFINITE_SHARE));
    tell(Code::NonFinite, Level::Warning, "with some NaN or infinite values", &|tensor| {
        nonfinite(0.0)(tensor) && !nonfinite(MAX_NONFINITE_SHARE)(tensor)
    });
    tell(Code::ConstantTensor, Level::Warning, "holding one value throughout: not tested", &|tensor| {
        tensor.dtype.is_float()
            && !tensor.formula
            && tensor.elements() > 1
            && tensor.values.as_ref().is_some_and(|v| v.summary.finite > 0 && v.summary.is_constant())
    });
    tell(Code::FormulaTensor, Level::Note, "following from a formula, or masks and indices: not evidence", &|tensor| {
        tensor.formula
    });
    for file in files {
        for published in file.sha256.iter().flat_map(|sha256| digests::lookup_sha256(sha256)) {
            let message = format!("is {} of {} by its published SHA-256", published.file, published.model);
            findings.push(Finding::new(Code::PublishedDigest, Level::Warning, message, file.path.clone()));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_frequencies_are_a_formula_and_gains_are_not() {
        let rotary: Vec<f32> = (0..64).map(|i| 10_000f32.powf(-i as f32 / 64.0)).collect();
        assert!(is_geometric(&rotary));
        let gains: Vec<f32> = (0..64).map(|i| 1.0 + 0.1 * (i as f32).sin()).collect();
        assert!(!is_geometric(&gains) && !is_geometric(&[1.0; 64]) && !is_geometric(&rotary[..4]));
    }
}
