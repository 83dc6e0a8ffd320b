//! bitsandbytes: its 4-bit types, whose codes lie in reading order with their shape and block in a small JSON text
//! beside them, and LLM.int8.

use serde::Deserialize;

use super::{Beside, Found, floats, stored};
use crate::Result;
use crate::limits::MAX_QUANT_STATE_BYTES;
use crate::tensor::packed::{ByRow, Code, Levels, Nested, Offset, Packed, Packing, Scale, Stored};
use crate::tensor::{DType, TensorMeta};

/// Values that may share a scale, as bitsandbytes has them.
const BLOCKS: [u64; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// What the JSON text says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: u64,
    shape: Vec<u64>,
    nested_blocksize: Option<u64>,
    nested_offset: Option<f64>,
}

impl Beside<'_> {
    /// NF4 and FP4, with plain or nested scales.
    pub(super) fn four_bits(&self, stem: &str, codes: &TensorMeta) -> Result<Option<Found>> {
        let of = &codes.name;
        let kinds = [("nf4", "BNB-NF4", Levels::Nf4), ("fp4", "BNB-FP4", Levels::Fp4)];
        let mut found = kinds.into_iter().filter_map(|(name, kind, levels)| {
            self.part(of, &format!(".quant_state.bitsandbytes__{name}")).map(|part| (name, kind, levels, part))
        });
        let (Some((name, kind, levels, state)), None) = (found.next(), found.next()) else { return Ok(None) };
        let (Some(scales), Some(map)) = (self.part(of, ".absmax"), self.part(of, ".quant_map")) else {
            return Ok(None);
        };
        let Some(text) = self.small(state.1, MAX_QUANT_STATE_BYTES)?.filter(|_| state.1.dtype == DType::U8) else {
            return Ok(None);
        };
        let Some(table) = self.small(map.1, 64)?.filter(|table| table.len() == 64 && map.1.dtype == DType::F32) else {
            return Ok(None);
        };
        let Ok(said) = serde_json::from_slice::<State>(&text) else { return Ok(None) };
        if said.quant_type != name || !is_table(&table, levels) {
            return Ok(None);
        }
        let mut parts = vec![scales.0, map.0, state.0];
        let nested = ["nested_absmax", "nested_quant_map"].map(|ending| self.part(of, &format!(".{ending}")));
        let packed = match nested {
            [None, None] => plain(&said, codes, scales.1, levels),
            [Some(second), Some(book)] => {
                parts.extend([second.0, book.0]);
                nested_scales(&said, codes, scales.1, levels, [second.1, book.1])
            }
            _ => None,
        };
        let (name, kind) = (format!("{stem}.weight"), kind.to_owned());
        Ok(packed.map(|packed| Found { name, kind, shape: said.shape, packed, parts }))
    }
}

impl Beside<'_> {
    /// LLM.int8: the largest magnitude of each row, which 127 stands for.
    pub(super) fn int8(&self, stem: &str, codes: &TensorMeta) -> Result<Option<Found>> {
        let Some(scales) = self.part(stem, ".SCB").or_else(|| self.part(stem, ".weight.SCB")) else { return Ok(None) };
        let order = self.part(stem, ".weight_format").or_else(|| self.part(stem, ".weight.weight_format"));
        if let Some((_, order)) = order
            && self.small(order, 1)?.as_deref() != Some(&[0])
        {
            // Codes in the order of some device's tiles.
            return Ok(None);
        }
        let parts = [Some(scales), order].into_iter().flatten().map(|part| part.0).collect();
        let packed = by_rows(codes, scales.1);
        let (name, shape) = (codes.name.clone(), codes.shape.clone());
        Ok(packed.map(|packed| Found { name, kind: "BNB-INT8".to_owned(), shape, packed, parts }))
    }
}

fn by_rows(codes: &TensorMeta, scales: &TensorMeta) -> Option<Packed> {
    let (matrix, mut scale) = (stored(codes).filter(|_| codes.shape.len() == 2)?, floats(scales)?);
    let (rows, cols) = (matrix.rows, matrix.cols);
    if scale.rows.checked_mul(scale.cols) != Some(rows) || rows == 0 || cols == 0 {
        return None;
    }
    (scale.rows, scale.cols) = (rows, 1);
    let form = ByRow { code: Code::Number, block: (1, cols), scale: Scale::Of127, offset: Offset::None };
    Some(Packed::new(Packing::ByRow(form), matrix, scale))
}

/// Whether the levels stated are those of the type. Kernels have theirs built in, so a table that says something else is
/// not what the model computes with.
fn is_table(stated: &[u8], levels: Levels) -> bool {
    let stated = stated.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value));
    stated.zip(levels.table()).all(|(stated, level)| (stated - level).abs() <= 1e-6)
}

/// All of a tensor's values as one row.
fn vector(stored: Stored) -> Option<Stored> {
    Some(Stored { rows: 1, cols: stored.rows.checked_mul(stored.cols)?, ..stored })
}

/// Codes and scales as vectors, if they are as many as the text says.
fn sized(said: &State, codes: &TensorMeta, scales: Stored) -> Option<(Stored, Stored, u64)> {
    // The bytes may be said to be numbers of a wider type.
    let (codes, scales) = (vector(stored(codes)?.bytes()?)?, vector(scales)?);
    let count = said.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
    let cols = said.shape.last().copied().filter(|_| matches!(said.shape.len(), 2 | 3))?;
    let fits = count > 0 && BLOCKS.contains(&said.blocksize);
    let as_many = codes.cols == count.div_ceil(2) && scales.cols == count.div_ceil(said.blocksize.max(1));
    (fits && as_many).then_some((codes, scales, cols))
}

fn plain(said: &State, codes: &TensorMeta, scales: &TensorMeta, levels: Levels) -> Option<Packed> {
    let (codes, scales, cols) = sized(said, codes, floats(scales)?)?;
    Some(Packed::new(Packing::Flat { levels, cols, block: said.blocksize, nested: None }, codes, scales))
}

fn nested_scales(
    said: &State,
    codes: &TensorMeta,
    scales: &TensorMeta,
    levels: Levels,
    [second, book]: [&TensorMeta; 2],
) -> Option<Packed> {
    let scales = stored(scales).filter(|scales| scales.dtype == DType::U8)?;
    let (codes, scales, cols) = sized(said, codes, scales)?;
    let (second, book) = (vector(floats(second)?)?, vector(floats(book)?)?);
    let block = said.nested_blocksize.filter(|block| BLOCKS.contains(block))?;
    let offset = said.nested_offset.map(|offset| offset as f32).filter(|offset| offset.is_finite())?;
    if book.cols != 256 || second.cols != scales.cols.div_ceil(block) {
        return None;
    }
    let nested = Some(Nested { block, offset: offset.to_bits() });
    let packing = Packing::Flat { levels, cols, block: said.blocksize, nested };
    Some(Packed { second: Some(second), book: Some(book), ..Packed::new(packing, codes, scales) })
}
