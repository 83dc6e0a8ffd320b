//! The numbers on which a verdict turns, each with its reason.

use crate::unread::NEGLIGIBLE_PART;

/// Largest log10 p, after correction for all that was tried, with which a label test counts. The correction is part of
/// it, so this is the risk of a whole scan: of a hundred million scans, one in a hundred would accuse anybody wrongly.
pub const MAX_LOG10_P: f64 = -10.0;

/// Smallest effect with which any test counts. Something can be far beyond chance without saying that a model is made of
/// another; where there is no exact null, unrelated models reach 3.5 % at most.
pub const MIN_EFFECT: f64 = 0.05;

/// Below this coverage nothing found is not a finding: most of the model was not looked at.
pub const MIN_COVERAGE: f64 = 0.5;

/// Bytes that may be weights and were not read, for each byte that was, above which there is no clean bill.
pub(super) const MAX_UNREAD: f64 = 1.0 / NEGLIGIBLE_PART as f64;

/// Smallest share of the layers' parameters with a counterpart for a whole model to count as derived. Below it the parts
/// that correspond are named instead: a copied embedding beside a few stray matrices is no derived model.
pub(super) const MIN_LAYERS_MATCHED: f64 = 0.2;

/// Smallest share of the runs of a reference's layers that has to be found for a model to count as derived where no
/// tensors correspond: the half of it. Runs do not tell which layers they are of, so more is asked than of layers.
pub(super) const MIN_CONTENT: f64 = 0.5;

/// Correlation with the counterpart above which weights count as carried over rather than as a common start: a quarter
/// of their variance is explained.
pub(super) const MIN_CORRELATION: f64 = 0.5;

/// Smallest share of a part with a counterpart for its correlation to speak for the part: most of it.
pub(super) const MIN_PART_MATCHED: f64 = 0.5;
