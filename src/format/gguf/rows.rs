//! Rows of query and key that llama.cpp's exporter puts in another order, seen in Hugging Face's.
//!
//! Rotary embeddings turn pairs of a head's dimensions. Meta's layout, which llama.cpp keeps for LLaMA and its
//! relatives, has the two of a pair side by side: (0, 1), (2, 3), …; Hugging Face's has all first ones, then all second
//! ones. So within a head of `D` rows, Hugging Face's row `i` of half `h` is stored as row `2·i + h`. Whole rows move,
//! which leaves blocks of quantised types whole. Other architectures are exported as they are.

use std::sync::Arc;

use super::metadata::{Metadata, Value};
use crate::finding::{Code, Finding, Level};
use crate::tensor::view::{MAX_PIECES, Piece, View};
use crate::tensor::{Extent, Storage, TensorMeta};

/// Architectures whose query and key rows llama.cpp's exporter permutes, as its `conversion/*.py` have them: classes that
/// take `LlamaModel.modify_tensors` over with `undo_permute` set (arcee, eagle3, granite, granitehybrid, granitemoe,
/// llama-embed, mistral3, nanbeige, smollm3), and those that permute by themselves (arctic, baichuan, bailingmoe,
/// chameleon, deci, deepseek, internlm2, llada, minicpm, olmo, xverse). Written as `llama` are also Mistral, Mixtral and
/// InternLM3; a file made from Mistral's own format has the pairs side by side already, so it comes out alike.
///
/// Not among them, though their classes derive from `LlamaModel`: afmoe, apertus and llama4, which keep the rows. Of
/// chameleon the norms of query and key, which the exporter spreads over the heads, stay as stored.
const PERMUTED: [&str; 21] = [
    "llama",
    "arcee",
    "arctic",
    "baichuan",
    "bailingmoe",
    "chameleon",
    "deci",
    "deepseek",
    "eagle3",
    "granite",
    "granitehybrid",
    "granitemoe",
    "internlm2",
    "llada",
    "llama-embed",
    "minicpm",
    "mistral3",
    "nanbeige",
    "olmo",
    "smollm3",
    "xverse",
];

/// That rows of query and key stand in llama.cpp's order, and what is stated of the heads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowOrder {
    heads: Option<Value>,
    kv_heads: Option<Value>,
}

impl RowOrder {
    /// The order in a file with these metadata, if it is another one than Hugging Face's.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        let stated = |key: &str| metadata.own(key).cloned();
        let is_permuted = metadata.architecture().is_some_and(|name| PERMUTED.contains(&name));
        is_permuted.then(|| Self { heads: stated("attention.head_count"), kv_heads: stated("attention.head_count_kv") })
    }

    /// Gives the tensors concerned Hugging Face's order. Where the metadata do not tell the heads, they stay as stored,
    /// and a finding says so.
    pub(crate) fn undo(&self, tensors: &mut [TensorMeta]) -> Option<Finding> {
        let mut left = Vec::new();
        for tensor in tensors {
            let Some((layer, keys)) = parse(&tensor.name) else { continue };
            match self.heads(layer, keys).and_then(|heads| unpaired(tensor, heads)) {
                Some(view) => tensor.storage = Storage::View(Arc::new(view)),
                None => left.push(tensor.name.clone()),
            }
        }
        let first = left.first()?.clone();
        let message = format!(
            "the number of heads is not stated or does not fit {} tensors of query and key, whose rows stay in \
             llama.cpp's order",
            left.len()
        );
        Some(Finding::new(Code::ConfigMismatch, Level::Warning, message, first))
    }

    /// Heads of query, or of key, in a layer.
    fn heads(&self, layer: usize, keys: bool) -> Option<u64> {
        let stated = |value: &Value| match value {
            Value::Numbers(each) => each.get(layer).and_then(|&number| u64::try_from(number).ok()),
            value => value.as_u64(),
        };
        let all = self.heads.as_ref().and_then(stated);
        if keys { self.kv_heads.as_ref().and_then(stated).or(all) } else { all }
    }
}

/// The layer of a query or key projection, and whether it is of keys.
fn parse(name: &str) -> Option<(usize, bool)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let keys = match part {
        "attn_q.weight" | "attn_q.bias" => false,
        "attn_k.weight" | "attn_k.bias" => true,
        _ => return None,
    };
    Some((layer.parse().ok()?, keys))
}

/// The tensor with the halves of each head one after the other.
fn unpaired(tensor: &TensorMeta, heads: u64) -> Option<View> {
    let (along_rows, size) = match tensor.shape[..] {
        [rows, _] => (true, rows),
        [size] => (false, size),
        _ => return None,
    };
    if heads > MAX_PIECES as u64 / 2 {
        return None;
    }
    let half = size.checked_div(heads).filter(|head| size % heads == 0 && head % 2 == 0 && *head > 0)? / 2;
    let extent = tensor.storage.plain()?;
    let (cols, Extent { shard, offset: start, .. }) = (tensor.matrix().1, extent);
    let step = tensor.dtype.size_of(if along_rows { cols } else { 1 })?;
    let mut pieces = Vec::new();
    for part in 0..2 * heads {
        let (head, second) = (part / 2, part % 2);
        let offset = start + (head * 2 * half + second) * step;
        let first = part * half;
        pieces.push(if along_rows {
            let col_step = tensor.dtype.bytes().unwrap_or(0);
            Piece { row: first, col: 0, rows: half, cols, shard, offset, row_step: 2 * step, col_step }
        } else {
            Piece { row: 0, col: first, rows: 1, cols: half, shard, offset, row_step: 0, col_step: 2 * step }
        });
    }
    View::new(&tensor.dtype, &tensor.shape, pieces, vec![extent]).ok()
}
