//! What was done to a descendant: read off the evidence, never evidence itself.

use super::neurons::Neurons;
use crate::fingerprint::{DIRECTIONS, Fingerprint, FrameKind};
use crate::math::linalg;
use crate::math::mutual::mutual;

/// One thing that was done to a reference.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The residual stream has another width.
    Channels(Sizes),
    /// The vocabulary was extended or cut.
    Vocabulary(Sizes),
    /// MLPs have another number of neurons.
    Neurons(Sizes),
    /// Each MLP became several experts.
    Upcycled {
        /// Experts of a layer.
        experts: u64,
    },
    /// Channels of the residual stream changed places, their signs perhaps too.
    ChannelsPermuted {
        /// Channels that have a partner.
        paired: usize,
        /// All channels.
        channels: usize,
        /// Mean cosine of a channel with its partner.
        cosine: f64,
    },
    /// Channels of the residual stream were mixed.
    BasisRotated,
    /// Neurons are missing or new; the others kept their order.
    NeuronsDropped,
    /// Neurons changed places within their layers.
    NeuronsPermuted,
    /// Norms multiply by one, and the matrices behind them by the gains.
    GainsFolded,
    /// Layers of the reference that have no counterpart.
    LayersDropped(Vec<u32>),
    /// Layers of the reference that have several.
    LayersRepeated(Vec<u32>),
}

/// A size on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The suspect's.
    pub suspect: u64,
    /// The reference's.
    pub reference: u64,
}

impl Sizes {
    /// Both, where they differ.
    fn unequal(suspect: u64, reference: u64) -> Option<Self> {
        (suspect != reference).then_some(Self { suspect, reference })
    }
}

/// Below this share of equal labels among corresponding neurons their order counts as changed.
const REORDERED: f64 = 0.2;

/// Gains that vary by less than this share of their mean are flat.
const FLAT: f64 = 1e-3;

/// The changes between a reference and a suspect that descends from it.
pub(crate) fn changes(suspect: &Fingerprint, reference: &Fingerprint, neurons: &Neurons) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(sizes(suspect, reference));
    changes.extend(basis(suspect, reference, neurons));
    if neurons.correspond() >= REORDERED && neurons.at_equal_labels() < REORDERED * neurons.correspond() {
        changes.push(match neurons.in_order() {
            true => Change::NeuronsDropped,
            false => Change::NeuronsPermuted,
        });
    }
    if is_flat(suspect) && !is_flat(reference) {
        changes.push(Change::GainsFolded);
    }
    changes.extend(layers(suspect, reference, neurons));
    changes
}

fn sizes(suspect: &Fingerprint, reference: &Fingerprint) -> Vec<Change> {
    let (ours, theirs) = (&suspect.exact.architecture, &reference.exact.architecture);
    let known = |ours: Option<u64>, theirs: Option<u64>| Sizes::unequal(ours?, theirs?);
    let sizes = [
        Sizes::unequal(ours.hidden_size, theirs.hidden_size).map(Change::Channels),
        known(ours.vocab_size, theirs.vocab_size).map(Change::Vocabulary),
        known(ours.intermediate_size, theirs.intermediate_size).map(Change::Neurons),
    ];
    let upcycled = ours.experts.filter(|_| theirs.experts.is_none()).map(|experts| Change::Upcycled { experts });
    sizes.into_iter().flatten().chain(upcycled).collect()
}

/// Mean cosine of matched channels above which they count as permuted, not mixed. The largest of a few thousand
/// cosines of unrelated columns of 128 numbers is about .36.
const PERMUTED: f64 = 0.5;

/// Whether the basis of the residual stream changed: neurons correspond along the tokens but not along raw directions.
/// If it was permuted, each channel of the anchors' embedding rows has a partner, up to its sign; if it was rotated,
/// none has.
fn basis(suspect: &Fingerprint, reference: &Fingerprint, neurons: &Neurons) -> Option<Change> {
    let hidden = usize::try_from(suspect.exact.architecture.hidden_size).ok()?;
    if suspect.exact.architecture.hidden_size != reference.exact.architecture.hidden_size
        || !neurons.only_along_tokens()
    {
        return None;
    }
    let theirs = reference.approximate.frames.iter().position(|frame| frame.kind != FrameKind::Raw)?;
    let ours =
        suspect.approximate.frames.iter().position(|frame| frame.kind == reference.approximate.frames[theirs].kind)?;
    let columns = |rows: &[i8]| -> Vec<f32> {
        let mut values = vec![0.0f32; hidden * DIRECTIONS];
        for (direction, row) in rows.chunks_exact(hidden).enumerate() {
            row.iter().enumerate().for_each(|(channel, &v)| values[channel * DIRECTIONS + direction] = f32::from(v));
        }
        for column in values.chunks_exact_mut(DIRECTIONS) {
            let length = column.iter().map(|v| v * v).sum::<f32>().sqrt();
            column.iter_mut().for_each(|v| *v /= length.max(f32::MIN_POSITIVE));
        }
        values
    };
    let (a, b) = (columns(&reference.approximate.anchor_rows[theirs]), columns(&suspect.approximate.anchor_rows[ours]));
    let mut cosines = Vec::new();
    linalg::by_rows(&a, &b, DIRECTIONS, &mut cosines);
    cosines.iter_mut().for_each(|cosine| *cosine = cosine.abs());
    let pairs = mutual(&cosines, hidden, hidden);
    let mean = pairs.iter().map(|pair| f64::from(pair.2)).sum::<f64>() / pairs.len().max(1) as f64;
    Some(if mean >= PERMUTED {
        Change::ChannelsPermuted { paired: pairs.len(), channels: hidden, cosine: mean }
    } else {
        Change::BasisRotated
    })
}

/// Whether every norm gain is the same number throughout.
fn is_flat(fingerprint: &Fingerprint) -> bool {
    let mut gains = fingerprint
        .exact
        .tensors
        .iter()
        .filter(|tensor| tensor.shape.len() == 1 && tensor.shape[0] == fingerprint.exact.architecture.hidden_size)
        .filter_map(|tensor| Some(&tensor.values.as_ref()?.summary))
        .peekable();
    gains.peek().is_some() && gains.all(|gain| gain.std <= FLAT * gain.mean.abs())
}

/// Layers that were dropped or repeated.
fn layers(suspect: &Fingerprint, reference: &Fingerprint, neurons: &Neurons) -> Vec<Change> {
    let known = suspect.approximate.units.iter().all(|unit| unit.layer.is_some() && unit.expert.is_none());
    let matched: Vec<u32> =
        neurons.layers().iter().filter(|layer| layer.share >= REORDERED).map(|layer| layer.reference).collect();
    if !known || matched.len() < suspect.approximate.units.len() {
        return Vec::new();
    }
    let mut of_reference: Vec<u32> = reference.approximate.units.iter().filter_map(|unit| unit.layer).collect();
    of_reference.sort_unstable();
    of_reference.dedup();
    let times = |layer: u32| matched.iter().filter(|&&other| other == layer).count();
    let list = |wanted: &dyn Fn(usize) -> bool| -> Vec<u32> {
        of_reference.iter().copied().filter(|&layer| wanted(times(layer))).collect()
    };
    let (dropped, repeated) = (list(&|times| times == 0), list(&|times| times > 1));
    let changes = [(dropped, Change::LayersDropped as fn(_) -> _), (repeated, Change::LayersRepeated)];
    changes.into_iter().filter(|(layers, _)| !layers.is_empty()).map(|(layers, change)| change(layers)).collect()
}
