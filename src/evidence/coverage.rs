//! How much of a suspect was compared, in one definition.
//!
//! What there is to look at: every weight of every tensor, and every byte that lies in the files or beside them and may
//! hold weights, at the width at which the tensors hold theirs. Exempt is only what was read and found to hold nothing: one
//! value throughout, or values that follow from a formula. A name exempts nothing.
//!
//! What was compared: tensors that a test with statistics of its own took in, where that test applies to a pair. Digests
//! alone do not count: that no tensor is equal says nothing of a copy that was changed. A tensor whose part in the model
//! was not made out is taken in by no test.

use std::collections::BTreeMap;

use super::matching::Match;
use super::{Evidence, TestKind};
use crate::anatomy::Residual;
use crate::fingerprint::{Fingerprint, TensorFingerprint};
use crate::model::Part;
use crate::unread::{Unread, UnreadKind};

/// Which of a suspect's tensors were compared, one flag for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared(Vec<bool>);

impl Compared {
    /// Those that the tests of one pair took in.
    pub(super) fn of(suspect: &Fingerprint, evidence: &[Evidence], matches: &[Match]) -> Self {
        let applies = |tests: &[TestKind]| {
            evidence.iter().any(|evidence| tests.contains(&evidence.test) && evidence.measure().is_some())
        };
        let channels = applies(&[TestKind::ChannelLabels]);
        let neurons = applies(&[TestKind::NeuronLabels, TestKind::NeuronAgreement, TestKind::NeuronShape]);
        let heads = applies(&[TestKind::HeadLabels]);
        let taken_in = |tensor: &TensorFingerprint| {
            let part = Part::of(&tensor.assignment.roles);
            let in_stream = !matches!(tensor.assignment.residual, Residual::None | Residual::Bias);
            part != Part::Unknown
                && (channels && in_stream || neurons && part == Part::Mlp || heads && part == Part::Attention)
        };
        let mut compared: Vec<bool> =
            suspect.exact.tensors.iter().map(|tensor| can_be(tensor) && taken_in(tensor)).collect();
        for found in matches {
            compared[found.suspect] = true;
        }
        Self(compared)
    }

    /// Adds those that another pair took in.
    fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), false);
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }

    /// Share of the suspect's weights that are among them, what was not read aside.
    pub fn share(&self, suspect: &Fingerprint) -> f64 {
        let counted = suspect.exact.tensors.iter().enumerate().filter(|(_, tensor)| tensor.counts());
        let (mut compared, mut all) = (0u64, 0u64);
        for (index, tensor) in counted {
            all = all.saturating_add(tensor.weights());
            compared = compared.saturating_add(if self.has(index) { tensor.weights() } else { 0 });
        }
        if all == 0 || !suspect.holds_model() { 0.0 } else { compared as f64 / all as f64 }
    }

    fn has(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }
}

/// Whether a test could take the tensor in.
fn can_be(tensor: &TensorFingerprint) -> bool {
    tensor.dtype.is_float() && tensor.informative().is_some()
}

/// How much of a suspect was compared, and what was not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Coverage {
    /// Share of the weights that were compared, 0 to 1; 0 where there is nothing to compare.
    pub share: f64,
    /// Bytes that may be weights and were not read, for each byte that was.
    pub unread: f64,
    /// What was not compared, largest first.
    pub untested: Vec<Untested>,
}

/// Something that was not compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untested {
    /// A file or a place in one, or the names of tensors with `*` for numbers.
    pub place: String,
    /// How many tensors; 0 for bytes that are none.
    pub tensors: usize,
    /// Their stored bytes.
    pub bytes: u64,
    /// Why not.
    pub why: WhyUntested,
}

/// Why something was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyUntested {
    /// It was not read.
    Unread(UnreadKind),
    /// Its type is not decoded.
    UnknownType,
    /// Integers, which may stand for weights in a way that was not made out.
    Codes,
    /// Too many values are not finite.
    NonFinite,
    /// Its part in the model was not made out.
    NoRole,
    /// No test that applies to a reference takes in tensors of its part.
    NoTest,
    /// There is no reference to hold it against.
    NoReference,
    /// It changes a model that is not here.
    Adapter,
}

impl Coverage {
    /// Of a suspect that was held against references, each with what it took in.
    pub fn of<'a>(suspect: &Fingerprint, compared: impl IntoIterator<Item = &'a Compared>) -> Self {
        let mut union = None::<Compared>;
        for one in compared {
            union.get_or_insert_default().add(one);
        }
        let mut sums = Sums::default();
        for (index, tensor) in suspect.exact.tensors.iter().enumerate().filter(|(_, tensor)| tensor.counts()) {
            let is_compared = suspect.holds_model() && union.as_ref().is_some_and(|union| union.has(index));
            sums.add(tensor, (!is_compared).then(|| why(suspect, tensor, union.is_some())));
        }
        sums.finish(&suspect.exact.subject.unread)
    }
}

fn why(suspect: &Fingerprint, tensor: &TensorFingerprint, has_reference: bool) -> WhyUntested {
    let values = tensor.values.as_ref();
    if values.is_none() {
        WhyUntested::UnknownType
    } else if !suspect.holds_model() {
        WhyUntested::Adapter
    } else if !tensor.dtype.is_float() {
        WhyUntested::Codes
    } else if values.is_some_and(|values| values.summary.nonfinite_share() > 0.0) && tensor.informative().is_none() {
        WhyUntested::NonFinite
    } else if !has_reference {
        WhyUntested::NoReference
    } else if tensor.assignment.roles.is_empty() {
        WhyUntested::NoRole
    } else {
        WhyUntested::NoTest
    }
}

#[derive(Default)]
struct Sums {
    weights: u64,
    compared: u64,
    bytes: u64,
    untested: BTreeMap<(String, WhyUntested), (usize, u64)>,
}

impl Sums {
    fn add(&mut self, tensor: &TensorFingerprint, untested: Option<WhyUntested>) {
        self.weights = self.weights.saturating_add(tensor.weights());
        self.bytes = self.bytes.saturating_add(tensor.stored_bytes);
        let Some(why) = untested else {
            self.compared = self.compared.saturating_add(tensor.weights());
            return;
        };
        let (tensors, bytes) = self.untested.entry((numberless(&tensor.name), why)).or_default();
        *tensors += 1;
        *bytes = bytes.saturating_add(tensor.stored_bytes);
    }

    fn finish(self, unread: &[Unread]) -> Coverage {
        let beside = unread.iter().filter(|unread| unread.what.may_be_weights());
        let unread_bytes = beside.clone().fold(0u64, |sum, unread| sum.saturating_add(unread.bytes));
        // Nothing read: every byte there is was not.
        let unread_share = if unread_bytes == 0 { 0.0 } else { unread_bytes as f64 / (self.bytes as f64).max(1.0) };
        let all = self.weights as f64 * (1.0 + unread_share);
        let row = |((place, why), (tensors, bytes))| Untested { place, tensors, bytes, why };
        let mut untested: Vec<Untested> = self.untested.into_iter().map(row).collect();
        untested.extend(beside.map(|unread| Untested {
            place: unread.place.clone(),
            tensors: 0,
            bytes: unread.bytes,
            why: WhyUntested::Unread(unread.what),
        }));
        untested.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.place.cmp(&b.place)));
        Coverage { share: if all > 0.0 { self.compared as f64 / all } else { 0.0 }, unread: unread_share, untested }
    }
}

/// A name with its runs of digits between dots as `*`, so that a row stands for a tensor of every layer.
fn numberless(name: &str) -> String {
    let is_number = |segment: &str| !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let segments = name.split('.').map(|segment| if is_number(segment) { "*" } else { segment });
    segments.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_bytes_count_at_the_width_of_those_that_were_read() {
        let sums = Sums { weights: 100, compared: 100, bytes: 200, ..Sums::default() };
        let unread = [
            Unread::new("old/model.bin", 600, UnreadKind::WeightFile),
            Unread::new("modeling.py", 9_000, UnreadKind::RemoteCode),
        ];
        let coverage = sums.finish(&unread);
        assert_eq!((coverage.share, coverage.unread), (0.25, 3.0));
        assert_eq!(coverage.untested.len(), 1, "code is no weights");
        let nothing = Sums::default().finish(&unread);
        assert_eq!(nothing.share, 0.0);
        assert!(nothing.unread > 1.0);
    }

    #[test]
    fn names_of_layers_are_one_row() {
        assert_eq!(numberless("model.layers.12.mixer.conv1d.weight"), "model.layers.*.mixer.conv1d.weight");
        assert_eq!(numberless("flat_0"), "flat_0");
    }
}
