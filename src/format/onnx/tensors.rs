//! From tensors as a graph states them to ranges of files, each checked against its file and its neighbours.

use std::collections::{BTreeMap, HashMap};

use super::external::External;
use super::graph::{Model, Stored, Values};
use super::quantised::Recipe;
use super::wire::{Reader, Span};
use crate::finding::{Code, Finding, Level};
use crate::format::gaps::{Account, MAX_PADDING, Rest};
use crate::tensor::{DType, Extent, Storage, TensorMeta};
use crate::text::{listed, shown};
use crate::{Error, Result};

/// Tensors of whole numbers up to this many steer the computation: shapes, indices, axes.
const MAX_STEERING: u64 = 4096;

/// The tensors of a file.
pub(crate) struct Kept {
    pub(crate) tensors: Vec<TensorMeta>,
    /// Names that stand for bytes which were read under another name.
    pub(crate) aliases: Vec<String>,
}

/// The element type of ONNX's number.
fn dtype(kind: u64) -> DType {
    let other = |name: &str| DType::Other(name.to_owned());
    match kind {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        8 => other("STRING"),
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        14 => other("C64"),
        15 => other("C128"),
        16 => DType::BF16,
        17 => DType::F8E4M3,
        18 => other("F8_E4M3FNUZ"),
        19 => DType::F8E5M2,
        20 => other("F8_E5M2FNUZ"),
        21 => other("U4"),
        22 => other("I4"),
        23 => other("F4"),
        24 => other("F8_E8M0"),
        25 => other("U2"),
        26 => other("I2"),
        _ => DType::Other(format!("ONNX type {kind}")),
    }
}

/// Finds the bytes of every tensor: those that may hold weights, and by name the small ones that only steer the
/// computation. `codes` are weights whatever their size.
pub(crate) fn place(
    reader: &Reader<'_>,
    model: &Model,
    codes: &BTreeMap<String, Recipe>,
    external: &mut External<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(Vec<TensorMeta>, HashMap<String, TensorMeta>)> {
    let (mut tensors, mut small) = (Vec::new(), HashMap::new());
    let (mut scattered, mut sparse) = (Vec::new(), Vec::new());
    for stored in &model.tensors {
        let Stored { name, at, end, kind, shape, values } = stored;
        let refuse = |what: String| reader.refuse(*at, what).in_tensor(name.clone());
        let dtype = dtype(*kind);
        let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        let elements =
            elements.ok_or_else(|| refuse(format!("the number of elements of shape {shape:?} overflows")))?;
        let len = match (&dtype, dtype.bytes()) {
            (_, Some(width)) => Some(
                elements.checked_mul(width).ok_or_else(|| refuse(format!("shape {shape:?} of {dtype} overflows")))?,
            ),
            _ => None,
        };
        let mut meta = TensorMeta {
            name: name.clone(),
            dtype,
            shape: shape.clone(),
            storage: Storage::Plain(Extent { shard: 0, offset: *at, len: 0 }),
        };
        let single = |span: &Span| matches!(meta.dtype, DType::U8 | DType::I8) && span.len() == elements;
        let values = match values {
            Values::Single(span) if single(span) => &Values::Raw(*span),
            Values::Single(_) => &Values::Scattered,
            others => others,
        };
        match values {
            Values::Raw(span) => {
                if let Some(len) = len.filter(|len| *len != span.len()) {
                    let what = format!("shape {shape:?} of {} takes {len} bytes, not {}", meta.dtype, span.len());
                    return Err(refuse(what));
                }
                meta.storage = Storage::Plain(Extent { shard: 0, offset: span.at, len: span.len() });
            }
            Values::External(keys) => {
                let found = external.find(reader, *at, keys, len);
                let (shard, Span { at, end }) = found.map_err(|error| error.in_tensor(name.clone()))?;
                meta.storage = Storage::Plain(Extent { shard, offset: at, len: end - at });
            }
            Values::Missing if elements > 0 => return Err(refuse("it has no values".to_owned())),
            Values::Missing => {}
            Values::Scattered | Values::Single(_) | Values::Number(_) | Values::Sparse => {}
        }
        if steers(&meta, elements) && !codes.contains_key(name) {
            if matches!(values, Values::Raw(_) | Values::External(_)) {
                small.insert(meta.name.clone(), meta);
            }
            continue;
        }
        let (how, told) = match values {
            Values::Scattered | Values::Number(_) => ("in numbers of variable length", &mut scattered),
            Values::Sparse => ("in sparse form", &mut sparse),
            _ => {
                tensors.push(meta);
                continue;
            }
        };
        told.push(name.clone());
        meta.dtype = DType::Other(format!("{} {how}", meta.dtype));
        // Its values are somewhere in its message.
        meta.storage = Storage::Plain(Extent { shard: 0, offset: *at, len: end.saturating_sub(*at) });
        tensors.push(meta);
    }
    for (names, what) in [(scattered, "in numbers of variable length"), (sparse, "in sparse form")] {
        if let Some(first) = names.first() {
            let message = format!("the values of {} tensors are stored {what}: {}", names.len(), listed(&names));
            findings.push(Finding::new(Code::ValuesNotRead, Level::Warning, message, first.clone()));
        }
    }
    Ok((tensors, small))
}

/// Whether a tensor is a single value, or one of few whole numbers.
fn steers(meta: &TensorMeta, elements: u64) -> bool {
    let whole = matches!(
        meta.dtype,
        DType::Bool
            | DType::U8
            | DType::I8
            | DType::I16
            | DType::U16
            | DType::I32
            | DType::U32
            | DType::I64
            | DType::U64
    );
    let text = matches!(&meta.dtype, DType::Other(name) if name == "STRING");
    elements == 1 || (whole || text) && elements <= MAX_STEERING
}

/// Reads bytes that several names stand for under the first of them, and refuses tensors that have only some bytes in
/// common.
pub(crate) fn check_overlaps(
    reader: &Reader<'_>,
    tensors: Vec<TensorMeta>,
    findings: &mut Vec<Finding>,
) -> Result<Kept> {
    let mut known: HashMap<Extent, usize> = HashMap::new();
    let (mut kept, mut aliases) = (Vec::<TensorMeta>::new(), Vec::new());
    for tensor in tensors {
        let place = tensor.first_extent();
        if place.shard > 0
            && place.len > 0
            && let Some(before) = known.get(&place).map(|at| &kept[*at])
            && (&before.dtype, &before.shape) == (&tensor.dtype, &tensor.shape)
        {
            aliases.push(tensor.name);
            continue;
        }
        known.insert(place, kept.len());
        kept.push(tensor);
    }
    let mut outside: Vec<(Extent, &str)> =
        kept.iter().map(|tensor| (tensor.first_extent(), tensor.name.as_str())).collect();
    outside.retain(|(extent, _)| extent.shard > 0 && extent.len > 0);
    outside.sort_unstable_by_key(|(extent, _)| (extent.shard, extent.offset));
    for pair in outside.windows(2) {
        let [(one, before), (other, name)] = [pair[0], pair[1]];
        if one.shard == other.shard && one.offset.saturating_add(one.len) > other.offset {
            let what = format!("its bytes overlap those of tensor {}", shown(before));
            return Err(Error::malformed(reader.path, super::FORMAT, what).in_tensor(name).at(other.offset));
        }
    }
    if let Some(first) = aliases.first() {
        let message = format!(
            "{} names stand for tensors that were read under another name: {}",
            aliases.len(),
            listed(&aliases)
        );
        findings.push(Finding::new(Code::SharedStorage, Level::Note, message, first.clone()));
    }
    Ok(Kept { tensors: kept, aliases })
}

/// What is left over of the files of values, which are aligned to as much as the pages of some systems. `tensors` are all
/// that have values there.
pub(crate) fn rest<'t>(external: &External<'_>, tensors: impl Iterator<Item = &'t TensorMeta>) -> Result<Vec<Rest>> {
    let mut accounts: Vec<Account<'_>> = external.files().map(|(name, object)| Account::new(object, name)).collect();
    for extent in tensors.map(TensorMeta::first_extent) {
        if let Some(account) = extent.shard.checked_sub(1).and_then(|file| accounts.get_mut(file)) {
            account.take(extent.offset, extent.end());
        }
    }
    accounts.into_iter().map(|account| account.settle(MAX_PADDING)).collect()
}
