//! Tensors of many layers in one, and matrices with an axis for heads, cut into what one layer has of each.
//!
//! JAX stores the layers of a model stacked, because it scans over them: one tensor of (layers, in, out) for each matrix of
//! a block, or with the layers along the second axis. A copy may as well have them laid end to end along the rows. Flax
//! keeps the heads of an attention as an axis: (in, heads, size) for what reads the stream, (heads, size, out) for what
//! writes to it.
//!
//! Nothing is cut that is understood as it stands, and a cut is kept only if what comes out is a transformer of just so
//! many layers in which more has a role than before. Names help to tell one tensor of all layers from one of each; the
//! number of layers comes from shapes, or from the configuration. Only the view changes: stored bytes stay where they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::anatomy::{Anatomy, Hints, config_layers, dissect};
use crate::model::naming;
use crate::tensor::view::{MAX_PIECES, Piece, View};
use crate::tensor::{DType, Extent, Storage, TensorMeta};

/// Share of the parameters that has a role in a checkpoint that is understood as it stands.
const UNDERSTOOD: f64 = 0.9;

/// Fewest tensors of all layers: what reads and writes the stream in attention and MLP, each fused as far as can be.
const LEAST_STACKS: usize = 4;

/// Most tensors among which those outside of the layers are looked for where nothing but the outcome tells them.
const MOST_STACKS: usize = 16;

/// Most layers of a model.
const MOST_LAYERS: u64 = 1024;

/// The tensors with one for each layer, and their anatomy; `None` where nothing is to be cut.
pub(super) fn restored(
    tensors: &[TensorMeta],
    anatomy: &Anatomy,
    hints: Hints<'_>,
) -> Option<(Vec<TensorMeta>, Anatomy)> {
    let known = understood(tensors, anatomy);
    if known >= UNDERSTOOD && anatomy.architecture.layers > 0 {
        return None;
    }
    let mut best: Option<(f64, Vec<TensorMeta>, Anatomy)> = None;
    for Cut { tensors, layers, note } in cuts(tensors, hints) {
        let mut anatomy = dissect(&tensors, hints);
        let share = understood(&tensors, &anatomy);
        let fits = layers.is_none_or(|layers| anatomy.architecture.layers == layers) && anatomy.architecture.layers > 0;
        if fits && share > best.as_ref().map_or(known, |(share, ..)| *share) {
            anatomy.notes.push(note);
            best = Some((share, tensors, anatomy));
        }
    }
    best.map(|(_, tensors, anatomy)| (tensors, anatomy))
}

/// Share of the floating-point parameters in tensors that have a role.
fn understood(tensors: &[TensorMeta], anatomy: &Anatomy) -> f64 {
    let (mut all, mut known) = (0.0, 0.0);
    for (tensor, assignment) in tensors.iter().zip(&anatomy.assignments).filter(|(tensor, _)| tensor.dtype.is_float()) {
        all += tensor.elements() as f64;
        known += if assignment.roles.is_empty() { 0.0 } else { tensor.elements() as f64 };
    }
    if all > 0.0 { known / all } else { 1.0 }
}

/// A way to cut.
struct Cut {
    tensors: Vec<TensorMeta>,
    /// Layers that have to come out; none where layers were not cut.
    layers: Option<u64>,
    note: String,
}

fn cuts(tensors: &[TensorMeta], hints: Hints<'_>) -> Vec<Cut> {
    let mut cuts = Vec::new();
    if let Some(tensors) = without_heads(tensors) {
        cuts.push(Cut {
            tensors,
            layers: None,
            note: "matrices with an axis for heads were read without it".to_owned(),
        });
    }
    let single = singles(tensors);
    for axis in [0, 1] {
        for layers in stacks(tensors, &single, axis) {
            let is_stack = |index: usize| single[index] && tensors[index].shape.get(axis) == Some(&layers);
            let slice = |tensor: &TensorMeta, layer: u64| slice(tensor, axis, layers, layer);
            let Some(mut cut) = cut(tensors, layers, is_stack, slice) else { continue };
            cut = without_heads(&cut).unwrap_or(cut);
            cuts.push(Cut { tensors: cut, layers: Some(layers), note: note("stacked", layers) });
        }
    }
    cuts.extend(end_to_end(tensors, &single, hints));
    cuts
}

fn note(how: &str, layers: u64) -> String {
    format!("tensors that hold all {layers} layers {how} were read as those of each layer")
}

/// Which tensors may hold all layers: floats in one range of bytes, without others of the same name but for a number.
fn singles(tensors: &[TensorMeta]) -> Vec<bool> {
    let key = |tensor: &TensorMeta| naming::collapse(&tensor.name).key;
    let mut counts: HashMap<String, usize> = HashMap::new();
    tensors.iter().for_each(|tensor| *counts.entry(key(tensor)).or_default() += 1);
    let plain = |tensor: &TensorMeta| tensor.storage.is_plain() && tensor.dtype.is_float();
    tensors.iter().map(|tensor| plain(tensor) && counts.get(&key(tensor)) == Some(&1)).collect()
}

/// Sizes of an axis that many stacks of matrices have in common.
fn stacks(tensors: &[TensorMeta], single: &[bool], axis: usize) -> Vec<u64> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for (tensor, _) in tensors.iter().zip(single).filter(|(tensor, single)| **single && tensor.shape.len() >= 3) {
        *counts.entry(tensor.shape[axis]).or_default() += 1;
    }
    let usual =
        |(size, count): (u64, usize)| (count >= LEAST_STACKS && (2..=MOST_LAYERS).contains(&size)).then_some(size);
    counts.into_iter().filter_map(usual).collect()
}

/// The tensors with those that `is_stack` chooses cut into their layers.
fn cut(
    tensors: &[TensorMeta],
    layers: u64,
    is_stack: impl Fn(usize) -> bool,
    slice: impl Fn(&TensorMeta, u64) -> Option<TensorMeta>,
) -> Option<Vec<TensorMeta>> {
    let mut out = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        if !is_stack(index) {
            out.push(tensor.clone());
            continue;
        }
        for layer in 0..layers {
            out.push(TensorMeta { name: in_layer(&tensor.name, layer), ..slice(tensor, layer)? });
        }
    }
    Some(out)
}

/// The name with the number of a layer: behind the word that counts layers, or at the end.
fn in_layer(name: &str, layer: u64) -> String {
    const WORDS: [&str; 6] = ["layers", "layer", "blocks", "block", "h", "repeat"];
    let mut segments: Vec<&str> = name.split('.').collect();
    let number = layer.to_string();
    let place = segments.iter().position(|segment| WORDS.contains(segment)).map_or(segments.len(), |at| at + 1);
    segments.insert(place, &number);
    segments.join(".")
}

/// What one layer has of a stack along an axis.
fn slice(tensor: &TensorMeta, axis: usize, layers: u64, layer: u64) -> Option<TensorMeta> {
    let mut shape = tensor.shape.clone();
    shape.remove(axis);
    let extent = tensor.storage.plain()?;
    let line = tensor.dtype.size_of(tensor.shape[axis + 1..].iter().product())?;
    let at = |row: u64| Extent { offset: extent.offset + (row * layers + layer) * line, len: line, ..extent };
    let rows: u64 = tensor.shape[..axis].iter().product();
    let storage = match axis {
        0 => Storage::Plain(at(0)),
        _ => scattered(&tensor.dtype, &shape, (0..rows).map(at).collect())?,
    };
    Some(TensorMeta { name: tensor.name.clone(), dtype: tensor.dtype.clone(), shape, storage })
}

/// A tensor whose outermost rows lie apart.
fn scattered(dtype: &DType, shape: &[u64], lines: Vec<Extent>) -> Option<Storage> {
    let width = dtype.bytes()?;
    let (cols, vector) = (*shape.last()?, shape.len() == 1);
    let of_a_line = shape[1..].iter().product::<u64>() / cols.max(1);
    if lines.len() > MAX_PIECES {
        return None;
    }
    let piece = |(line, extent): (u64, &Extent)| {
        let (row, col, rows, cols) = if vector { (0, line, 1, 1) } else { (line * of_a_line, 0, of_a_line, cols) };
        let Extent { shard, offset, .. } = *extent;
        Piece { row, col, rows, cols, shard, offset, row_step: cols * width, col_step: width }
    };
    let pieces = (0..).zip(&lines).map(piece).collect();
    Some(Storage::View(Arc::new(View::new(dtype, shape, pieces, lines).ok()?)))
}

/// Layers laid end to end: matrices of (layers · out, in), vectors of (layers · size).
fn end_to_end(tensors: &[TensorMeta], single: &[bool], hints: Hints<'_>) -> Vec<Cut> {
    let matrices: Vec<usize> = (0..tensors.len()).filter(|&at| single[at] && tensors[at].shape.len() == 2).collect();
    let others = tensors.iter().zip(single).filter(|(tensor, single)| !**single && tensor.shape.len() >= 2).count();
    if !(LEAST_STACKS..=MOST_STACKS).contains(&matrices.len()) || others > 0 {
        return Vec::new();
    }
    let mut cuts = Vec::new();
    for layers in numbers_of_layers(tensors, single, hints) {
        for outside in outsides(tensors, &matrices) {
            let inside: BTreeSet<usize> = matrices.iter().copied().filter(|at| !outside.contains(at)).collect();
            if inside.len() < LEAST_STACKS || inside.iter().any(|&at| !tensors[at].shape[0].is_multiple_of(layers)) {
                continue;
            }
            let sizes: BTreeSet<u64> = inside.iter().map(|&at| tensors[at].shape[1]).collect();
            // A gain or a bias of each layer is as long as a matrix is wide.
            let is_vectors = |index: usize| {
                let [len] = tensors[index].shape[..] else { return false };
                single[index] && len.is_multiple_of(layers) && sizes.contains(&(len / layers)) && !sizes.contains(&len)
            };
            let is_stack = |index: usize| inside.contains(&index) || is_vectors(index);
            if let Some(tensors) = cut(tensors, layers, is_stack, |tensor, layer| part(tensor, layers, layer)) {
                cuts.push(Cut { tensors, layers: Some(layers), note: note("end to end", layers) });
            }
        }
    }
    cuts
}

/// Which matrices may be outside of the layers: none, the embedding, or embedding and head. Those that fit known names
/// come first, as shapes cannot tell an embedding from layers that make as many rows.
fn outsides(tensors: &[TensorMeta], matrices: &[usize]) -> Vec<Vec<usize>> {
    let one = matrices.iter().map(|&at| vec![at]);
    let two = matrices.iter().enumerate().flat_map(|(at, &a)| matrices[at + 1..].iter().map(move |&b| vec![a, b]));
    let mut all: Vec<Vec<usize>> = std::iter::once(Vec::new()).chain(one).chain(two).collect();
    let named: BTreeSet<usize> = matrices.iter().copied().filter(|&at| is_outside(&tensors[at].name)).collect();
    all.sort_by_key(|outside| named.symmetric_difference(&outside.iter().copied().collect()).count());
    all
}

/// Whether some scheme has the name for a tensor outside of the layers.
fn is_outside(name: &str) -> bool {
    let naming::Collapsed { key, numbers } = naming::collapse(name);
    naming::lookup(&key, &numbers).any(|hit| !hit.row().role.in_layer())
}

/// How many layers there may be: as the configuration says, as many as gains are stacked, or times that the shortest
/// vector fits the longest.
fn numbers_of_layers(tensors: &[TensorMeta], single: &[bool], hints: Hints<'_>) -> BTreeSet<u64> {
    let mut numbers: BTreeSet<u64> = hints.config.and_then(config_layers).into_iter().collect();
    let vectors: Vec<u64> =
        tensors.iter().filter(|tensor| tensor.shape.len() == 1).map(|tensor| tensor.shape[0]).collect();
    numbers.extend(vectors.iter().max().zip(vectors.iter().min()).and_then(|(most, least)| most.checked_div(*least)));
    let stacked = tensors.iter().zip(single).filter(|(tensor, single)| **single && tensor.shape.len() == 2);
    numbers.extend(stacked.map(|(tensor, _)| tensor.shape[0]).min());
    numbers.retain(|number| (2..=MOST_LAYERS).contains(number));
    numbers
}

/// What one layer has of tensors laid end to end; of stacked gains, its row.
fn part(tensor: &TensorMeta, layers: u64, layer: u64) -> Option<TensorMeta> {
    let mut shape = tensor.shape.clone();
    shape[0] /= layers;
    if shape[0] == 1 && shape.len() > 1 {
        shape.remove(0);
    }
    let extent = tensor.storage.plain()?;
    let len = tensor.dtype.size_of(shape.iter().product())?;
    let storage = Storage::Plain(Extent { offset: extent.offset + layer * len, len, ..extent });
    Some(TensorMeta { name: tensor.name.clone(), dtype: tensor.dtype.clone(), shape, storage })
}

/// The tensors with axes for heads folded into their neighbours; `None` where there are none. An attention has both what
/// reads the stream into heads and what writes from them to it, which tells them from stacks of experts.
fn without_heads(tensors: &[TensorMeta]) -> Option<Vec<TensorMeta>> {
    let shapes: BTreeSet<[u64; 3]> = tensors.iter().filter_map(|tensor| tensor.shape[..].try_into().ok()).collect();
    // Width of the stream and size of a head.
    let pairs: BTreeSet<(u64, u64)> = shapes
        .iter()
        .filter(|[width, heads, size]| shapes.contains(&[*heads, *size, *width]) && width != heads)
        .map(|&[width, _, size]| (width, size))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let has_heads =
        |heads: u64, size: u64| pairs.iter().any(|&(width, own)| own == size && shapes.contains(&[width, heads, size]));
    let folded = |tensor: &TensorMeta| match tensor.shape[..] {
        [width, heads, size] if pairs.contains(&(width, size)) => vec![width, heads * size],
        [heads, size, width] if pairs.contains(&(width, size)) => vec![heads * size, width],
        [heads, size] if has_heads(heads, size) && !pairs.contains(&(heads, size)) => vec![heads * size],
        _ => tensor.shape.clone(),
    };
    tensors.iter().map(|tensor| reshaped(tensor, folded(tensor))).collect()
}

/// The same values in another shape; `None` where they do not lie as that needs.
fn reshaped(tensor: &TensorMeta, shape: Vec<u64>) -> Option<TensorMeta> {
    if shape == tensor.shape {
        return Some(tensor.clone());
    }
    let storage = match &tensor.storage {
        Storage::Plain(extent) => Storage::Plain(*extent),
        // Every line of a scattered stack is whole rows in any shape that keeps its first axis.
        Storage::View(view) => scattered(&tensor.dtype, &regrouped(&tensor.shape, &shape)?, view.extents().to_vec())?,
        _ => return None,
    };
    Some(TensorMeta { name: tensor.name.clone(), dtype: tensor.dtype.clone(), shape, storage })
}

/// The shape as a stack of lines.
fn regrouped(old: &[u64], new: &[u64]) -> Option<Vec<u64>> {
    let (lines, cols) = (*old.first()?, *new.last()?);
    let line: u64 = old[1..].iter().product();
    let rows = line.checked_div(cols).filter(|rows| rows * cols == line)?;
    Some(if new.len() == 1 { return None } else { vec![lines, rows, cols] })
}
