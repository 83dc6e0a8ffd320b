//! Counterparts by name: which tensor of the suspect is which of the reference, and which names differ.

use std::collections::HashMap;

use super::Comparison;
use super::matching::How;
use crate::fingerprint::{Fingerprint, TensorFingerprint};

/// The counterparts of a pair by their names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counterparts {
    /// Every tensor of the suspect with a counterpart.
    pub tensors: Vec<NamedMatch>,
    /// Names that differ from those of the counterparts.
    pub renamed: Vec<RenamedPattern>,
}

/// A tensor of the suspect and its counterpart.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedMatch {
    /// The suspect's tensor.
    pub suspect: String,
    /// The reference's tensor.
    pub reference: String,
    /// How it was found.
    pub how: How,
    /// Correlation of sampled values at equal labels; 1 where the values are equal.
    pub correlation: f64,
}

/// A pattern of names that differs from its counterparts'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenamedPattern {
    /// The suspect's, with `{layer}` and `{expert}` for numbers.
    pub suspect: String,
    /// The reference's.
    pub reference: String,
    /// Number of tensors.
    pub count: usize,
}

impl Counterparts {
    /// Names the matches of a comparison of these two.
    pub fn of(suspect: &Fingerprint, reference: &Fingerprint, comparison: &Comparison) -> Self {
        let named = comparison.matches.iter().map(|found| NamedMatch {
            suspect: suspect.exact.tensors[found.suspect].name.clone(),
            reference: reference.exact.tensors[found.reference].name.clone(),
            how: found.how,
            correlation: found.correlation,
        });
        Self { tensors: named.collect(), renamed: renamed(suspect, reference, comparison) }
    }
}

/// Names that differ from those of the counterparts, with layer and expert numbers folded into patterns.
fn renamed(suspect: &Fingerprint, reference: &Fingerprint, comparison: &Comparison) -> Vec<RenamedPattern> {
    let mut rows: Vec<RenamedPattern> = Vec::new();
    let mut at = HashMap::new();
    for found in &comparison.matches {
        let [from, to] =
            [&suspect.exact.tensors[found.suspect], &reference.exact.tensors[found.reference]].map(pattern);
        // Equal patterns at unequal layers are a matter of layer alignment, not of names.
        if from == to {
            continue;
        }
        let slot = *at.entry((from.clone(), to.clone())).or_insert_with(|| {
            rows.push(RenamedPattern { suspect: from, reference: to, count: 0 });
            rows.len() - 1
        });
        rows[slot].count += 1;
    }
    rows
}

/// The name with the segments that are its layer and expert number replaced.
fn pattern(tensor: &TensorFingerprint) -> String {
    let assignment = &tensor.assignment;
    let (mut layer, mut expert) = (assignment.layer, assignment.expert);
    let segments = tensor.name.split('.').map(|segment| match segment.parse::<u32>().ok() {
        Some(number) if layer == Some(number) => {
            layer = None;
            "{layer}"
        }
        Some(number) if layer.is_none() && expert == Some(number) => {
            expert = None;
            "{expert}"
        }
        _ => segment,
    });
    segments.collect::<Vec<_>>().join(".")
}
