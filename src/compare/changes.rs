//! What was done to a descendant, in words: read off the evidence, never evidence itself.

use super::neurons::Neurons;
use crate::fingerprint::{DIRECTIONS, Fingerprint, FrameKind};
use crate::stats::mutual::mutual;
use crate::stats::product;

/// Below this share of equal labels among corresponding neurons their order counts as changed.
const REORDERED: f64 = 0.2;

/// Gains that vary by less than this share of their mean are flat.
const FLAT: f64 = 1e-3;

/// The changes between a reference and a suspect that descends from it.
pub(super) fn changes(suspect: &Fingerprint, reference: &Fingerprint, neurons: &Neurons) -> Vec<String> {
    let mut changes = Vec::new();
    changes.extend(sizes(suspect, reference));
    changes.extend(basis(suspect, reference, neurons));
    if neurons.correspond() >= REORDERED && neurons.at_equal_labels() < REORDERED * neurons.correspond() {
        changes.push(match neurons.in_order() {
            true => "neurons were dropped or inserted, the others kept in order".to_owned(),
            false => "neurons are permuted in all layers that were matched".to_owned(),
        });
    }
    if is_flat(suspect) && !is_flat(reference) {
        changes.push("norm gains are folded into the matrices behind them".to_owned());
    }
    changes.extend(layers(suspect, reference, neurons));
    changes
}

fn sizes(suspect: &Fingerprint, reference: &Fingerprint) -> Vec<String> {
    let (ours, theirs) = (&suspect.architecture, &reference.architecture);
    let mut changes = Vec::new();
    if ours.hidden_size != theirs.hidden_size {
        changes.push(format!("the residual stream has {} channels, not {}", ours.hidden_size, theirs.hidden_size));
    }
    for (what, ours, theirs) in [
        ("the vocabulary has {} tokens, not {}", ours.vocab_size, theirs.vocab_size),
        ("MLPs have {} neurons, not {}", ours.intermediate_size, theirs.intermediate_size),
    ] {
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours != theirs
        {
            changes.push(what.replacen("{}", &ours.to_string(), 1).replacen("{}", &theirs.to_string(), 1));
        }
    }
    if let (Some(experts), None) = (ours.experts, theirs.experts) {
        changes.push(format!("each MLP became {experts} experts"));
    }
    changes
}

/// Mean cosine of matched channels above which they count as permuted, not mixed. The largest of a few thousand
/// cosines of unrelated columns of 128 numbers is about .36.
const PERMUTED: f64 = 0.5;

/// Whether the basis of the residual stream changed: neurons correspond along the tokens but not along raw directions.
/// If it was permuted, each channel of the anchors' embedding rows has a partner, up to its sign; if it was rotated,
/// none has.
fn basis(suspect: &Fingerprint, reference: &Fingerprint, neurons: &Neurons) -> Option<String> {
    let hidden = usize::try_from(suspect.architecture.hidden_size).ok()?;
    if suspect.architecture.hidden_size != reference.architecture.hidden_size || !neurons.only_along_tokens() {
        return None;
    }
    let theirs = reference.frames.iter().position(|frame| frame.kind != FrameKind::Raw)?;
    let ours = suspect.frames.iter().position(|frame| frame.kind == reference.frames[theirs].kind)?;
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
    let (a, b) = (columns(&reference.anchor_rows[theirs]), columns(&suspect.anchor_rows[ours]));
    let mut cosines = Vec::new();
    product::by_rows(&a, &b, DIRECTIONS, &mut cosines);
    cosines.iter_mut().for_each(|cosine| *cosine = cosine.abs());
    let pairs = mutual(&cosines, hidden, hidden);
    let mean = pairs.iter().map(|pair| f64::from(pair.2)).sum::<f64>() / pairs.len().max(1) as f64;
    Some(if mean >= PERMUTED {
        format!(
            "channels of the residual stream are permuted ({} of {hidden} paired, mean cosine {mean:.2})",
            pairs.len()
        )
    } else {
        "the basis of the residual stream is rotated".to_owned()
    })
}

/// Whether every norm gain is the same number throughout.
fn is_flat(print: &Fingerprint) -> bool {
    let mut gains = print
        .tensors
        .iter()
        .filter(|tensor| tensor.shape.len() == 1 && tensor.shape[0] == print.architecture.hidden_size)
        .filter_map(|tensor| Some(&tensor.values.as_ref()?.summary))
        .peekable();
    gains.peek().is_some() && gains.all(|gain| gain.std <= FLAT * gain.mean.abs())
}

/// Layers that were dropped or repeated.
fn layers(suspect: &Fingerprint, reference: &Fingerprint, neurons: &Neurons) -> Vec<String> {
    let known = suspect.units.iter().all(|unit| unit.layer.is_some() && unit.expert.is_none());
    let matched: Vec<u32> =
        neurons.layers().iter().filter(|layer| layer.share >= REORDERED).map(|layer| layer.reference).collect();
    if !known || matched.len() < suspect.units.len() {
        return Vec::new();
    }
    let mut of_reference: Vec<u32> = reference.units.iter().filter_map(|unit| unit.layer).collect();
    of_reference.sort_unstable();
    of_reference.dedup();
    let times = |layer: u32| matched.iter().filter(|&&other| other == layer).count();
    let list = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        of_reference.iter().filter(|&&layer| wanted(times(layer))).map(u32::to_string).collect()
    };
    let (dropped, repeated) = (list(&|times| times == 0), list(&|times| times > 1));
    let mut changes = Vec::new();
    for (layers, what) in [(dropped, "dropped"), (repeated, "repeated")] {
        if !layers.is_empty() {
            changes.push(format!("layers {what}: {}", layers.join(", ")));
        }
    }
    changes
}
