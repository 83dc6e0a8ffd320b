//! From the tensors of a pickle to ranges of the file, or views where values lie in another order; every one is checked
//! against the file.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Header, Named, Ranges, quantised, shown, state};
use crate::finding::{Code, Finding, Level};
use crate::format::gaps::Account;
use crate::format::pickle::{Node, Pickle, Quantiser, Tensor, Value};
use crate::limits::{MAX_SHARING, MAX_TENSORS};
use crate::tensor::view::{MAX_PIECES, Piece, View};
use crate::tensor::{DType, Extent, Storage, TensorMeta};
use crate::text::listed;
use crate::unread::{Unread, UnreadKind};
use crate::{Error, Result};

/// The tensors that the pickle names, with the storages at `ranges`, which are taken into the account as far as they are
/// read. `others` says that the file has tensors besides.
pub(crate) fn read(
    file: Named<'_>,
    pickle: &Pickle<'_>,
    ranges: &Ranges,
    others: bool,
    account: &mut Account<'_>,
) -> Result<Header> {
    if is_optimizer(pickle) {
        let why = "the state of an optimizer, which is no model".to_owned();
        return Err(Error::nothing(file.path, why));
    }
    let Some(state) = state::find(file, pickle)? else { return Err(file.no_state(pickle)) };
    if state.tensors.is_empty() && !pickle.refused.is_empty() && !others {
        return Err(file.no_state(pickle));
    }
    from_state(file, pickle, ranges, state, account)
}

/// The constants of a TorchScript archive, which is where freezing puts the weights. `None` where none is a tensor.
pub(crate) fn read_constants(
    file: Named<'_>,
    pickle: &Pickle<'_>,
    ranges: &Ranges,
    account: &mut Account<'_>,
) -> Result<Option<Header>> {
    let items = pickle.items(pickle.root).unwrap_or_default();
    let tensor = |(at, value): (usize, &Value)| match pickle.node(*value) {
        Some(Node::Tensor(tensor)) => Some((format!("constants.{at}"), &**tensor)),
        _ => None,
    };
    let tensors: Vec<_> = items.iter().enumerate().filter_map(tensor).collect();
    if tensors.is_empty() {
        return Ok(None);
    }
    let state = state::State { tensors, left_out: Vec::new(), unwanted: Vec::new(), refused: Vec::new() };
    from_state(file, pickle, ranges, state, account).map(Some)
}

/// Whether all there is are an optimizer's moments and settings, as its own `state_dict` gives them.
fn is_optimizer(pickle: &Pickle<'_>) -> bool {
    let entries = pickle.dict(pickle.root).unwrap_or_default();
    let has = |wanted: &str| entries.iter().any(|(key, _)| pickle.key(*key).is_some_and(|key| key == wanted));
    entries.len() == 2 && has("state") && has("param_groups")
}

/// What makes two names one tensor: first byte, type, shape, strides, and what its codes stand for.
type Window<'a> = (u64, &'a str, &'a [u64], &'a [u64], Option<Quantiser>);

fn from_state(
    file: Named<'_>,
    pickle: &Pickle<'_>,
    ranges: &Ranges,
    state: state::State<'_>,
    account: &mut Account<'_>,
) -> Result<Header> {
    if state.tensors.len() > MAX_TENSORS {
        let (path, found, limit) = (file.path.to_path_buf(), state.tensors.len() as u64, MAX_TENSORS as u64);
        return Err(Error::limit(path, "number of tensors", found, limit));
    }
    let mut findings = file.refusals(&pickle.refused);
    findings.extend(remarks(file, &state));
    // Stands for what could not be made out, so that the coverage is lower for it.
    let hidden = state::unread(pickle, &state);
    let beside = state::left_out(pickle, &state);
    let beside = beside.into_iter().map(|(key, bytes, what)| Unread::new(format!("{}: {key}", file.name), bytes, what));
    let mut beside: Vec<Unread> = beside.collect();
    let raw = state::raw(pickle);
    if raw > 0 {
        beside.push(Unread::new(format!("{}: in the pickle", file.name), raw, UnreadKind::EmbeddedData));
    }
    set_aside(pickle, ranges, &state, account);
    let name_of_hidden = state.refused.first().cloned().unwrap_or_else(|| "(not read)".to_owned());
    let mut known: HashSet<Window<'_>> = HashSet::new();
    let (mut tensors, mut shared) = (Vec::new(), Vec::new());
    let mut unread = Vec::new();
    let mut bytes = 0u64;
    for (name, tensor) in state.tensors {
        let placed = Placed::new(file, pickle, &name, tensor, ranges)?;
        account.take(placed.start, placed.start + placed.span);
        let Tensor { element, size, stride, quantiser, .. } = tensor;
        if placed.len > 0 && !known.insert((placed.start, element.name, size, stride, *quantiser)) {
            shared.push(name);
            continue;
        }
        bytes = bytes.saturating_add(placed.len);
        if bytes / MAX_SHARING > file.object.len() {
            let what =
                format!("its tensors share bytes: together they are over {MAX_SHARING} times as long as the file");
            return Err(file.malformed(what).in_tensor(name));
        }
        let in_order = placed.in_order;
        let quantised = quantised::packed(file, pickle, &name, tensor, &placed, ranges)?;
        let meta = quantised.unwrap_or_else(|| placed.into_meta(name, tensor));
        if !in_order && meta.storage.is_plain() {
            unread.push(meta.name.clone());
        }
        tensors.push(meta);
    }
    if hidden > 0 {
        let message = format!("{hidden} bytes of the pickle belong to nothing that was read or left out on purpose");
        findings.push(Finding::new(Code::ValuesNotRead, Level::Warning, message, file.name.to_owned()));
        let (dtype, shape) = (DType::Other("bytes that were not read".to_owned()), vec![hidden]);
        let storage = Storage::Plain(Extent { shard: 0, offset: file.object.len(), len: 0 });
        tensors.push(TensorMeta { name: name_of_hidden, dtype, shape, storage });
    }
    let mut tell = |code, level, what: &str, names: &[String]| {
        if let Some(first) = names.first() {
            let message = format!("{} {what}: {}", names.len(), listed(names));
            findings.push(Finding::new(code, level, message, first.clone()));
        }
    };
    tell(Code::SharedStorage, Level::Note, "names stand for tensors that were read under another name", &shared);
    tell(Code::ValuesNotRead, Level::Warning, "tensors lie in an order that is not followed", &unread);
    tensors.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
    Ok(Header { tensors, findings, aliases: shared, unread: beside, ..Header::default() })
}

/// Takes storages into the account that were left out on purpose, or are read with others.
fn set_aside(pickle: &Pickle<'_>, ranges: &Ranges, state: &state::State<'_>, account: &mut Account<'_>) {
    let read: HashSet<&str> = state.tensors.iter().map(|(_, tensor)| pickle.text(tensor.storage.key)).collect();
    let others = state::around(pickle, state).into_iter().filter(|key| !read.contains(key));
    others.filter_map(|key| ranges.get(key)).for_each(|(start, len)| account.take(*start, start + len));
}

/// What was found beside the tensors.
fn remarks(file: Named<'_>, state: &state::State<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !state.left_out.is_empty() {
        let message = format!("parts of the pickle beside the model were left out: {}", listed(&state.left_out));
        findings.push(Finding::new(Code::FileLeftOut, Level::Note, message, file.name.to_owned()));
    }
    if !state.refused.is_empty() {
        let (count, names) = (state.refused.len(), listed(&state.refused));
        let message =
            format!("{count} entries would be built by functions that were refused, and were not read: {names}");
        findings.push(Finding::new(Code::PickleRefused, Level::Warning, message, file.name.to_owned()));
    }
    findings
}

/// Where a tensor's values lie in the file.
pub(super) struct Placed {
    /// First byte.
    pub(super) start: u64,
    /// Bytes of the values.
    pub(super) len: u64,
    /// Bytes from the first value to the last.
    pub(super) span: u64,
    /// Whether they lie there one after another in the tensor's order.
    pub(super) in_order: bool,
}

impl Placed {
    pub(super) fn new(
        file: Named<'_>,
        pickle: &Pickle<'_>,
        name: &str,
        tensor: &Tensor,
        ranges: &Ranges,
    ) -> Result<Self> {
        let refuse = |what: String| file.malformed(what).in_tensor(name);
        let Tensor { storage, element, offset, size, stride, quantiser: _ } = tensor;
        let key = pickle.text(storage.key);
        let Some((start, held)) = ranges.get(key).copied() else {
            return Err(refuse(format!("its storage {} is not in the file", shown(key))));
        };
        let overflow = || refuse(format!("shape {size:?} with strides {stride:?} overflows 64 bits"));
        let stated = storage.count.checked_mul(storage.element.bytes).ok_or_else(overflow)?;
        if stated > held {
            let what = format!("its storage {} of {stated} bytes is {held} bytes long", shown(key));
            return Err(refuse(what).at(start));
        }
        let elements = size.iter().try_fold(1u64, |product, size| product.checked_mul(*size)).ok_or_else(overflow)?;
        let len = elements.checked_mul(element.bytes).ok_or_else(overflow)?;
        if elements == 0 {
            return Ok(Self { start, len: 0, span: 0, in_order: true });
        }
        let farthest = size.iter().zip(stride).try_fold(*offset, |at, (size, stride)| {
            let along = (size - 1).checked_mul(*stride)?;
            at.checked_add(along)
        });
        let end = farthest.and_then(|last| last.checked_add(1)?.checked_mul(element.bytes)).ok_or_else(overflow)?;
        if end > stated {
            return Err(refuse(format!("it reaches byte {end} of a storage of {stated} bytes")).at(start));
        }
        let first = offset * element.bytes;
        Ok(Self { start: start + first, len, span: end - first, in_order: is_in_order(size, stride) })
    }

    fn into_meta(self, name: String, tensor: &Tensor) -> TensorMeta {
        let dtype = DType::from(tensor.element.name.to_owned());
        let shape = tensor.size.clone();
        let plain = |len: u64| Storage::Plain(Extent { shard: 0, offset: self.start, len });
        if self.in_order {
            return TensorMeta { name, dtype, shape, storage: plain(self.len) };
        }
        match strided(tensor, &dtype, self.start) {
            Some(view) => TensorMeta { name, dtype, shape, storage: Storage::View(Arc::new(view)) },
            None => {
                let dtype = DType::strided(tensor.element.name);
                TensorMeta { name, dtype, shape, storage: plain(tensor.element.bytes) }
            }
        }
    }
}

/// Whether values lie row after row without gaps. Strides of dimensions of size one mean nothing.
fn is_in_order(size: &[u64], stride: &[u64]) -> bool {
    let mut expected = 1;
    size.iter().zip(stride).rev().all(|(size, stride)| {
        let fits = *size == 1 || *stride == expected;
        expected *= size;
        fits
    })
}

/// A tensor whose values lie in another order, such as a transposed one. `None` where values share bytes, or the pieces
/// would be too many.
fn strided(tensor: &Tensor, dtype: &DType, start: u64) -> Option<View> {
    let width = dtype.bytes()?;
    let span = span(&tensor.size, &tensor.stride)?.checked_mul(width)?;
    let (outer, inner) = tensor.size.split_at(tensor.size.len().saturating_sub(2));
    let (outer_stride, inner_stride) = tensor.stride.split_at(outer.len());
    let (rows, cols, row_step, col_step) = match (inner, inner_stride) {
        ([rows, cols], [row_step, col_step]) => (*rows, *cols, *row_step, *col_step),
        ([cols], [col_step]) => (1, *cols, 0, *col_step),
        _ => return None,
    };
    let count: u64 = outer.iter().product();
    if count > MAX_PIECES as u64 {
        return None;
    }
    let piece = |index: u64| {
        let mut rest = index;
        let mut offset = 0;
        for (size, stride) in outer.iter().zip(outer_stride).rev() {
            offset += rest % size * stride;
            rest /= size;
        }
        Piece {
            row: index * rows,
            col: 0,
            rows,
            cols,
            shard: 0,
            offset: start + offset * width,
            row_step: row_step * width,
            col_step: col_step * width,
        }
    };
    let extents = vec![Extent { shard: 0, offset: start, len: span }];
    View::new(dtype, &tensor.size, (0..count).map(piece).collect(), extents).ok()
}

/// From the first value to the last, in elements, if no two values share a place: then reading them all costs no more
/// than reading what lies between.
fn span(size: &[u64], stride: &[u64]) -> Option<u64> {
    let mut steps: Vec<(u64, u64)> =
        stride.iter().copied().zip(size.iter().copied()).filter(|step| step.1 > 1).collect();
    steps.sort_unstable();
    steps.into_iter().try_fold(1u64, |span, (stride, size)| {
        let longer = (size - 1).checked_mul(stride)?.checked_add(span)?;
        (stride >= span).then_some(longer)
    })
}
