//! Meta's own layout: `consolidated.00.pth`, `consolidated.01.pth`, … with `params.json`, where each file holds a part
//! of every matrix, and the rows of query and key stand in another order than in Hugging Face's.
//!
//! A matrix that reads the residual stream is cut by rows, one that writes it by columns, vectors are in every part
//! whole. Token embeddings are cut by columns in LLaMA 1 and 2 and by rows in Llama 3. Rotary embeddings turn pairs of a
//! head's dimensions: Meta has the two of a pair side by side, Hugging Face all first ones and then all second ones, so
//! its row `i` of half `h` is Meta's row `2·i + h` of the head. Only views are made here; no byte is moved.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::shard::Shard;
use crate::bytes::Store;
use crate::bytes::store::head;
use crate::finding::{Code, Finding, Level};
use crate::limits::MAX_CONFIG_BYTES;
use crate::tensor::view::{MAX_PIECES, Piece, View};
use crate::tensor::{Extent, Storage, TensorMeta};
use crate::text::{json, listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "Meta checkpoint";

/// Longest vector whose copies in the parts are compared, in bytes.
const MAX_VECTOR: u64 = 1 << 20;

/// The number of a part, from a name like `consolidated.00.pth`.
pub(super) fn part(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("consolidated.")?.strip_suffix(".pth")?;
    let is_number = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Whether the files are parts of one model, each with a part of every matrix.
pub(super) fn is_parts(files: &[String]) -> bool {
    !files.is_empty() && files.iter().all(|name| part(name).is_some())
}

/// What `params.json` states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    dim: Option<u64>,
    #[serde(default)]
    n_heads: Option<u64>,
    #[serde(default)]
    n_kv_heads: Option<u64>,
    #[serde(default)]
    head_dim: Option<u64>,
}

impl Params {
    /// Reads `params.json`, if it is there; what cannot be read becomes a finding.
    pub(super) fn read(store: &dyn Store, findings: &mut Vec<Finding>) -> Option<Self> {
        const NAME: &str = "params.json";
        if !store.contains(NAME) {
            return None;
        }
        let text = store.open(NAME).and_then(|object| head(&*object, MAX_CONFIG_BYTES));
        let text = text.map_err(|error| error.to_string());
        let parsed =
            text.and_then(|text| serde_json::from_slice(&json::tolerant(&text)).map_err(|error| error.to_string()));
        let tell = |why: String| {
            let message = format!("params.json could not be read: {why}");
            findings.push(Finding::new(Code::SidecarUnreadable, Level::Warning, message, NAME.to_owned()));
        };
        parsed.map_err(tell).ok()
    }

    /// Heads of query, or of key and value.
    fn heads(&self, of_keys: bool) -> Option<u64> {
        if of_keys { self.n_kv_heads.or(self.n_heads) } else { self.n_heads }
    }

    /// Rows of one head.
    fn head_size(&self) -> Option<u64> {
        self.head_dim.or_else(|| self.dim?.checked_div(self.n_heads?))
    }

    /// How many parts hold the same heads of key and value, where there are more parts than heads.
    fn copies(&self, name: &str, rows: u64, parts: u64) -> Option<u64> {
        let is_shared = name.ends_with("attention.wk.weight") || name.ends_with("attention.wv.weight");
        let own = self.heads(true)?.checked_mul(self.head_size()?).filter(|_| is_shared)?;
        let copies = rows.checked_mul(parts)?.checked_div(own)?;
        (copies > 1 && own.checked_mul(copies) == rows.checked_mul(parts) && parts.is_multiple_of(copies))
            .then_some(copies)
    }
}

/// How the parts of a matrix belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Rows,
    Columns,
}

/// Puts the parts of every tensor together. `tensors` are those of all `shards`, one part of the model in each.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) naming the tensor if a part lacks it, or the parts do not fit
/// together.
pub(super) fn join(
    root: &Path,
    shards: &[Shard],
    tensors: Vec<TensorMeta>,
    params: Option<&Params>,
    findings: &mut Vec<Finding>,
) -> Result<Vec<TensorMeta>> {
    let mut order: Vec<String> = Vec::new();
    let mut parts: HashMap<String, Vec<TensorMeta>> = HashMap::new();
    for tensor in tensors {
        let of_name = parts.entry(tensor.name.clone()).or_default();
        if of_name.is_empty() {
            order.push(tensor.name.clone());
        }
        of_name.push(tensor);
    }
    let width = params.and_then(|params| params.dim).or_else(|| Some(parts.get("norm.weight")?.first()?.elements()));
    let (mut joined, mut unequal, mut unknown) = (Vec::with_capacity(order.len()), Vec::new(), Vec::new());
    for name in order {
        let of_name = parts.remove(&name).unwrap_or_default();
        let refuse = |what: String| Error::malformed(root, FORMAT, what).in_tensor(&name);
        let one_each =
            of_name.len() == shards.len() && of_name.windows(2).all(|pair| pair[0].place().0 < pair[1].place().0);
        if !one_each {
            let all = shards.len();
            return Err(refuse(format!("it is in {} of {all} parts of the model", of_name.len().min(all))));
        }
        let first = of_name[0].clone();
        if of_name.len() == 1 {
            joined.push(first);
        } else if first.shape.len() < 2 {
            if !equal(shards, &of_name)? {
                unequal.push(name.clone());
            }
            joined.push(first);
        } else if let Some(cut) = cut(&name, &first, width) {
            let copies = params.and_then(|params| params.copies(&name, first.shape[0], of_name.len() as u64));
            let own: Vec<TensorMeta> = of_name.into_iter().step_by(copies.unwrap_or(1) as usize).collect();
            let whole = together(&own, cut, width).map_err(refuse)?;
            let of_heads = params.and_then(|params| params.n_heads?.checked_mul(params.head_size()?));
            if name.ends_with("attention.wo.weight") && of_heads.is_some_and(|of_heads| whole.shape[1] != of_heads) {
                let of_heads = of_heads.unwrap_or_default();

                let what = format!("its {} parts have {} columns, and the heads {of_heads}", own.len(), whole.shape[1]);
                return Err(refuse(what));
            }
            joined.push(whole);
        } else {
            unknown.push(name.clone());
            joined.push(first);
        }
    }
    let mut tell = |code, what: &str, names: &[String]| {
        if let Some(first) = names.first() {
            let message = format!("{} {what}: {}", names.len(), listed(names));
            findings.push(Finding::new(code, Level::Warning, message, first.clone()));
        }
    };
    tell(Code::PartsDisagree, "vectors are not the same in every part, the first part's were read", &unequal);
    tell(Code::ValuesNotRead, "tensors are cut in an unknown way, only the first part's were read", &unknown);
    Ok(joined)
}

/// Which way a matrix is cut, by its role, or by its shape where that differs between generations.
fn cut(name: &str, first: &TensorMeta, width: Option<u64>) -> Option<Cut> {
    let role = name.strip_suffix(".weight")?.rsplit('.').next()?;
    match role {
        "wq" | "wk" | "wv" | "w1" | "w3" | "output" => Some(Cut::Rows),
        "wo" | "w2" => Some(Cut::Columns),
        "tok_embeddings" => Some(if first.shape.get(1).copied()? == width? { Cut::Rows } else { Cut::Columns }),
        _ => None,
    }
}

/// Whether vectors have the same bytes in every part, as far as they are compared.
fn equal(shards: &[Shard], parts: &[TensorMeta]) -> Result<bool> {
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let Some((first, rest)) = parts.split_first() else { return Ok(true) };
    let read = |part: &TensorMeta, buf: &mut Vec<u8>| -> Result<Vec<u8>> {
        let Extent { shard, offset, len } = part.first_extent();
        Ok(shards[shard].read(offset, len.min(MAX_VECTOR) as usize, buf)?.to_vec())
    };
    let wanted = read(first, &mut one)?;
    for part in rest {
        let same = part.dtype == first.dtype && part.shape == first.shape && part.storage.is_plain();
        if !same || read(part, &mut other)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One matrix out of its parts.
fn together(parts: &[TensorMeta], cut: Cut, width: Option<u64>) -> Result<TensorMeta, String> {
    let first = &parts[0];
    let step = first.dtype.bytes().ok_or("its element type is unknown")?;
    let (mut pieces, mut extents) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
    let (mut rows, mut cols) = (0u64, 0u64);
    for part in parts {
        let [height, breadth] = part.shape[..] else { return Err("it is no matrix in every part".to_owned()) };
        let fits = match cut {
            Cut::Rows => breadth == first.shape[1],
            Cut::Columns => height == first.shape[0],
        };
        let Some(extent) = part.storage.plain().filter(|_| fits && part.dtype == first.dtype) else {
            let (one, other) = (&first.shape, &part.shape);
            return Err(format!(
                "its parts do not fit together: {one:?} of {} and {other:?} of {}",
                first.dtype, part.dtype
            ));
        };
        let (row, col) = if cut == Cut::Rows { (rows, 0) } else { (0, cols) };
        let Extent { shard, offset, .. } = extent;
        pieces.push(Piece {
            row,
            col,
            rows: height,
            cols: breadth,
            shard,
            offset,
            row_step: breadth * step,
            col_step: step,
        });
        extents.push(extent);
        rows = rows.checked_add(height).ok_or("its size overflows")?;
        cols = cols.checked_add(breadth).ok_or("its size overflows")?;
    }
    let shape = match cut {
        Cut::Rows => vec![rows, first.shape[1]],
        Cut::Columns => vec![first.shape[0], cols],
    };
    // A matrix that is cut by rows reads the residual stream, one that is cut by columns writes it.
    let residual = match cut {
        Cut::Rows => shape[1],
        Cut::Columns if first.name.starts_with("tok_embeddings") => shape[1],
        Cut::Columns => shape[0],
    };
    if width.is_some_and(|width| width != residual) {
        let width = width.unwrap_or_default();
        return Err(format!("its {} parts make {residual} residual channels instead of {width}", parts.len()));
    }
    let view = View::new(&first.dtype, &shape, pieces, extents)?;
    Ok(TensorMeta { shape, storage: Storage::View(Arc::new(view)), ..first.clone() })
}

/// Sees the rows of query and key in Hugging Face's order. Where the heads are not known or do not fit, they stay as they
/// are, and a finding says so.
pub(super) fn unpair(tensors: &mut [TensorMeta], params: Option<&Params>) -> Option<Finding> {
    let mut left = Vec::new();
    for tensor in tensors {
        let Some(of_keys) = of_rotary(&tensor.name) else { continue };
        let heads = params.and_then(|params| Some((params.heads(of_keys)?, params.head_size()?)));
        match heads.and_then(|(heads, size)| unpaired(tensor, heads, size)) {
            Some(view) => tensor.storage = Storage::View(Arc::new(view)),
            None => left.push(shown(&tensor.name)),
        }
    }
    let first = left.first()?.clone();
    let count = left.len();
    let message = format!(
        "params.json does not state a number of heads that fits {count} tensors of query and key, the first is {first}: \
         their rows stay in Meta's order"
    );
    Some(Finding::new(Code::ConfigMismatch, Level::Warning, message, None))
}

/// Whether a tensor in Meta's naming is of queries (false) or of keys (true).
fn of_rotary(name: &str) -> Option<bool> {
    let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    match part {
        "attention.wq.weight" => Some(false),
        "attention.wk.weight" => Some(true),
        _ => None,
    }
}

/// The matrix with the halves of each head one after the other, out of the bands of rows that it has now.
fn unpaired(tensor: &TensorMeta, heads: u64, size: u64) -> Option<View> {
    let [rows, cols] = tensor.shape[..] else { return None };
    let step = tensor.dtype.bytes()?;
    if heads.checked_mul(size) != Some(rows) || size == 0 || !size.is_multiple_of(2) || heads > MAX_PIECES as u64 / 2 {
        return None;
    }
    let half = size / 2;
    let bands = match &tensor.storage {
        Storage::View(view) => view.pieces().to_vec(),
        _ => {
            let Extent { shard, offset, .. } = tensor.first_extent();
            vec![Piece { row: 0, col: 0, rows, cols, shard, offset, row_step: cols * step, col_step: step }]
        }
    };
    let mut pieces = Vec::new();
    for part in 0..2 * heads {
        let (head, second) = (part / 2, part % 2);
        let from = head * 2 * half;
        // A head that is spread over two parts of the model would be no head of either.
        let band = bands.iter().find(|band| band.row <= from && from + 2 * half <= band.row + band.rows)?;
        let offset = band.offset + (from - band.row + second) * band.row_step;
        pieces.push(Piece { row: part * half, rows: half, offset, row_step: 2 * band.row_step, ..*band });
    }
    View::new(&tensor.dtype, &tensor.shape, pieces, tensor.extents()).ok()
}
