//! What is remarkable about values: tensors that follow from a formula, hold one value, or are not finite.

use super::{FileRecord, Summary, TensorFingerprint};
use crate::anatomy::Assignment;
use crate::finding::{Code, Finding, Level};
use crate::limits::MAX_NONFINITE_SHARE;
use crate::model::Role;
use crate::published::digests;
use crate::tensor::TensorMeta;

/// Whether the tensor is known by its role to follow from a formula.
pub(super) fn has_formula_role(assignment: &Assignment) -> bool {
    matches!(assignment.roles.as_slice(), [Role::RopeFreqs | Role::Buffer])
}

/// Whether the values follow from a formula, or are a mask or an index: equality of such tensors says nothing.
pub(super) fn is_formula(
    tensor: &TensorMeta,
    assignment: &Assignment,
    (summary, sample): (&Summary, &[f32]),
    row_rms: &[f32],
) -> bool {
    if has_formula_role(assignment) {
        return true;
    }
    let s = summary;
    let n = s.finite as f64;
    // All values are 0 or 1: a mask, unless it is a norm gain that was never trained.
    let mask = s.min >= 0.0 && s.max == 1.0 && s.zeros > 0 && (s.mean * n + s.zeros as f64 - n).abs() < 1e-6 * n;
    // 0, 1, …: the mean of squares pins the set down.
    let whole = !tensor.dtype.is_float();
    let index = whole && s.min == 0.0 && s.max + 1.0 == n && (s.mean - (n - 1.0) / 2.0).abs() < 1e-9 * n;
    // Rows of sines and cosines in pairs have a mean square of exactly one half (Vaswani et al. 2017, section 3.5).
    let sinusoids = row_rms.len() >= 16
        && s.max <= 1.000_01
        && s.min >= -1.000_01
        && s.max > 0.999
        && row_rms.iter().all(|rms| (rms - 0.5f32.sqrt()).abs() < 1e-3);
    mask || index || sinusoids || tensor.shape.len() == 1 && is_geometric(sample)
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
