//! `bits`: equal digests, over names and order.
//!
//! A tensor equal bit for bit after undoing names, order, sharding and a lossless change of type needs no statistics,
//! but it has a null all the same: under independence the labels of channels are arbitrary, so even two models with the
//! same *set* of distinct columns agree in their order with probability 1/n!.

use std::collections::{BTreeMap, HashSet};

use super::matching::{How, Match};
use super::{Evidence, Facts, Measure, TestKind, WhyNot};
use crate::fingerprint::{Fingerprint, TensorFingerprint};
use crate::math::tails;

/// Totals over the digests of a pair. Only informative tensors count: decoded, not constant, not a formula.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bits {
    /// Tensors of the suspect that were compared.
    pub tensors: u64,
    /// Of these, equal bit for bit once widened.
    pub equal: u64,
    /// Of these, equal within the grid of a coarser type.
    pub re_encoded: u64,
    /// Share of the suspect's compared parameters in equal tensors.
    pub equal_share: f64,
    /// Share of them in equal or re-encoded tensors.
    pub accounted_share: f64,
    /// Whether every informative tensor of the reference is the counterpart of an equal or re-encoded one.
    pub reference_whole: bool,
    /// Estimated share of the suspect's parameters in rows equal to a row of the reference, in tensors that are not
    /// equal as a whole.
    pub row_share: f64,
    /// Length of the shorter side of the largest equal matrix: that many labels agree.
    labels: u64,
}

/// Which rows a suspect's sketches could keep: one bit for the last bits of each identity.
pub(crate) struct RowFilter(Vec<u64>);

impl RowFilter {
    const BITS: u64 = 1 << 20;

    pub(crate) fn of(fingerprint: &Fingerprint) -> Self {
        let mut bits = vec![0; (Self::BITS / 64) as usize];
        for key in fingerprint
            .exact
            .tensors
            .iter()
            .filter_map(TensorFingerprint::informative)
            .flat_map(|values| &values.sketch)
        {
            let place = key.id % Self::BITS;
            bits[(place / 64) as usize] |= 1 << (place % 64);
        }
        Self(bits)
    }

    /// `false` only for rows that no sketch keeps.
    fn may_hold(&self, id: u64) -> bool {
        let place = id % Self::BITS;
        self.0[(place / 64) as usize] >> (place % 64) & 1 == 1
    }
}

pub(crate) fn totals(suspect: &Fingerprint, known: &RowFilter, reference: &Fingerprint, matches: &[Match]) -> Bits {
    let informative = |tensor: &&TensorFingerprint| tensor.informative().is_some();
    let all: u64 = suspect.exact.tensors.iter().filter(informative).map(TensorFingerprint::elements).sum();
    let mut bits = Bits { tensors: suspect.exact.tensors.iter().filter(informative).count() as u64, ..Bits::default() };
    let (mut equal, mut accounted) = (0, 0);
    let (mut covered, mut whole) = (HashSet::new(), HashSet::new());
    for found in matches.iter().filter(|found| found.how != How::Close) {
        let tensor = &suspect.exact.tensors[found.suspect];
        accounted += tensor.elements();
        covered.insert(found.reference);
        whole.insert(found.suspect);
        if found.how == How::Equal {
            equal += tensor.elements();
            bits.equal += 1;
        } else {
            bits.re_encoded += 1;
        }
        let (rows, cols) = tensor.matrix();
        bits.labels = bits.labels.max(rows.min(cols));
    }
    bits.reference_whole = reference.exact.tensors.iter().enumerate().all(|(index, tensor)| {
        covered.contains(&index) || tensor.informative().is_none() || is_twin(reference, index, &covered)
    });
    let rows: f64 = rows_shared(suspect, known, reference, &whole);
    let share = |part: f64| if all == 0 { 0.0 } else { part / all as f64 };
    bits.equal_share = share(equal as f64);
    bits.accounted_share = share(accounted as f64);
    bits.row_share = share(rows);
    bits
}

/// Whether another covered tensor of the reference has the same values (a tied head stored twice).
fn is_twin(reference: &Fingerprint, index: usize, covered: &HashSet<usize>) -> bool {
    let digest = |at: usize| reference.exact.tensors[at].values.as_ref().and_then(|values| values.sha256);
    digest(index).is_some() && covered.iter().any(|&other| digest(other) == digest(index))
}

/// Parameters of the suspect in rows that the reference has too, estimated from the sketches of tensors that are not
/// equal as a whole.
///
/// Both sketches keep the rows with the smallest keys, so below the larger key of the shorter one the suspect's kept
/// rows are a random sample of its rows, and the share of them that the reference keeps estimates the containment.
fn rows_shared(suspect: &Fingerprint, known: &RowFilter, reference: &Fingerprint, whole: &HashSet<usize>) -> f64 {
    // Rows of the reference by width and identity, with the tensors that keep them.
    let mut by_width: BTreeMap<u64, Vec<(u64, usize)>> = BTreeMap::new();
    for (index, tensor) in reference.exact.tensors.iter().enumerate() {
        if let Some(values) = tensor.informative() {
            let common = values.sketch.iter().filter(|key| known.may_hold(key.id)).map(|key| (key.id, index));
            by_width.entry(tensor.matrix().1).or_default().extend(common);
        }
    }
    by_width.retain(|_, rows| !rows.is_empty());
    if by_width.is_empty() {
        return 0.0;
    }
    by_width.values_mut().for_each(|rows| rows.sort_unstable());
    let mut shared = 0.0;
    for (index, tensor) in suspect.exact.tensors.iter().enumerate() {
        let Some(values) = tensor.informative().filter(|values| !whole.contains(&index) && !values.sketch.is_empty())
        else {
            continue;
        };
        let rows = by_width.get(&tensor.matrix().1).map(Vec::as_slice).unwrap_or_default();
        let mut ids: Vec<u64> = values.sketch.iter().map(|key| key.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut common: BTreeMap<usize, usize> = BTreeMap::new();
        for id in ids {
            let equal = rows[rows.partition_point(|row| row.0 < id)..].iter().take_while(|row| row.0 == id);
            equal.for_each(|row| *common.entry(row.1).or_default() += 1);
        }
        let best = common.into_iter().filter(|&(_, common)| common >= MIN_ROWS).filter_map(|(candidate, common)| {
            let theirs = &reference.exact.tensors[candidate].informative()?.sketch;
            let ceiling = if theirs.len() < crate::fingerprint::SKETCH_ROWS { u64::MAX } else { theirs.last()?.order };
            let comparable = values.sketch.iter().filter(|key| key.order <= ceiling).count();
            Some(common as f64 / comparable.max(1) as f64)
        });
        shared += best.fold(0.0, f64::max) * tensor.elements() as f64;
    }
    shared
}

/// Fewer equal rows than this are not reported: one or two could be planted or padding.
const MIN_ROWS: usize = 3;

impl Bits {
    pub(crate) fn test(&self, suspect: &Fingerprint) -> Evidence {
        let Self { tensors, equal, re_encoded, row_share, .. } = *self;
        if tensors == 0 {
            let why = if suspect.exact.tensors.is_empty() { WhyNot::NoTensors } else { WhyNot::NothingInformative };
            return Evidence::not_applicable(TestKind::Bits, why);
        }
        let measure = Measure {
            statistic: (equal + re_encoded) as f64,
            n: tensors,
            log10_p: (self.labels >= 16).then(|| -tails::log10_factorial(self.labels)),
            effect: (self.accounted_share + row_share).min(1.0),
            facts: Facts::Bits { tensors, equal, re_encoded, row_share },
        };
        Evidence::measured(TestKind::Bits, measure)
    }
}
