//! Packed codes joined with their scales into one tensor, by the endings that quantisation tools give their names.
//!
//! What does not fit together (a missing part, sizes that contradict each other) stays as it is stored, and is reported
//! by type and coverage as before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::tensor::layout::Extent;
use crate::tensor::packed::{Kind, Packed, Packing, Stored};
use crate::tensor::{DType, Layout, TensorMeta};

/// Side of the square blocks that DeepSeek's 8-bit floats share a scale in.
const SQUARE: u64 = 128;

/// Joins what fits together. The order of the tensors is that of their codes.
pub(super) fn join(tensors: Vec<TensorMeta>, config: Option<&Map<String, Value>>) -> Vec<TensorMeta> {
    let by_name: BTreeMap<&str, usize> =
        tensors.iter().enumerate().map(|(at, meta)| (meta.name.as_str(), at)).collect();
    let part = |stem: &str, ending: &str| by_name.get(format!("{stem}{ending}").as_str()).map(|&at| (at, &tensors[at]));
    let mut joined: BTreeMap<usize, TensorMeta> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (at, codes) in tensors.iter().enumerate() {
        let found = if let Some(stem) = codes.name.strip_suffix(".qweight") {
            let [scales, zeros, order] = [".scales", ".qzeros", ".g_idx"].map(|ending| part(stem, ending));
            // A matrix of that name is there besides.
            let free = part(stem, ".weight").is_none();
            let packed = words(codes, scales.map(|s| s.1), zeros.map(|z| z.1), order.map(|o| o.1), config);
            packed.filter(|_| free).map(|found| (stem, found, [scales, zeros, order]))
        } else if let Some(stem) = codes.name.strip_suffix(".weight") {
            let [scales, biases] = [".scales", ".biases"].map(|ending| part(stem, ending));
            let scale = part(stem, ".weight_scale_inv").or_else(|| part(stem, ".weight_scale"));
            match (scales, biases, scale) {
                (Some(s), Some(b), _) => {
                    mlx(codes, s.1, b.1, config).map(|found| (stem, found, [scales, biases, None]))
                }
                (_, _, Some(s)) => scaled(codes, s.1).map(|found| (stem, found, [scale, None, None])),
                _ => None,
            }
        } else {
            None
        };
        if let Some((stem, (kind, shape, packed), parts)) = found
            && let Some(kind) = Kind::named(kind)
        {
            let len = packed.stored().fold(0u64, |sum, stored| sum.saturating_add(stored.extent.len));
            let layout = Layout::Packed(Arc::new(packed));
            let (name, dtype) = (format!("{stem}.weight"), DType::Packed(kind));
            joined.insert(at, TensorMeta { name, dtype, shape, len, layout, ..codes.clone() });
            used.extend(parts.into_iter().flatten().map(|(at, _)| at));
        }
    }
    if joined.is_empty() {
        return tensors;
    }
    let kept = |(at, meta)| joined.remove(&at).or_else(|| (!used.contains(&at)).then_some(meta));
    tensors.into_iter().enumerate().filter_map(kept).collect()
}

/// Name of the type, shape and parts.
type Found = (&'static str, Vec<u64>, Packed);

fn stored(meta: &TensorMeta) -> Option<Stored> {
    let (rows, cols) = meta.matrix();
    let extent = Extent { shard: meta.shard, offset: meta.offset, len: meta.len };
    let whole = meta.layout.is_plain() && meta.dtype.size_of(rows.checked_mul(cols)?) == Some(meta.len);
    whole.then(|| Stored { dtype: meta.dtype.clone(), rows, cols, extent })
}

fn is_words(meta: &TensorMeta) -> bool {
    matches!(meta.dtype, DType::I32 | DType::U32) && meta.shape.len() == 2
}

/// GPTQ, or AWQ: which one, the sizes tell.
fn words(
    codes: &TensorMeta,
    scales: Option<&TensorMeta>,
    zeros: Option<&TensorMeta>,
    order: Option<&TensorMeta>,
    config: Option<&Map<String, Value>>,
) -> Option<Found> {
    let (scales, zeros) = (scales.filter(|s| s.dtype.is_float())?, zeros.filter(|z| is_words(z))?);
    if !is_words(codes) {
        return None;
    }
    let (codes, scales, offsets) = (stored(codes)?, stored(scales)?, stored(zeros)?);
    let (out, groups) = (scales.cols, scales.rows);
    if groups == 0 || out == 0 || offsets.rows != groups {
        return None;
    }
    if codes.cols.checked_mul(8) == Some(out) && offsets.cols == codes.cols {
        let ins = codes.rows;
        let group = (ins % groups == 0).then_some(ins / groups).filter(|group| *group > 0)?;
        let offsets = Some(offsets);
        let packed = Packed { packing: Packing::Awq, bits: 4, group, codes, scales, offsets, order: None };
        return Some(("AWQ-4", vec![out, ins], packed));
    }
    let bits = offsets.cols.checked_mul(32)?.checked_div(out)?;
    let name = match bits {
        2 => "GPTQ-2",
        4 => "GPTQ-4",
        8 => "GPTQ-8",
        _ => return None,
    };
    let ins = codes.rows.checked_mul(32 / bits)?;
    let exact = codes.cols == out && offsets.cols.checked_mul(32) == out.checked_mul(bits);
    let group = ins.div_ceil(groups);
    let order = match order {
        None => None,
        Some(order) => Some(stored(order).filter(|o| matches!(o.dtype, DType::I32) && (o.rows, o.cols) == (1, ins))?),
    };
    let stated = |config: &Map<String, Value>| {
        let quantised = config.get("quantization_config")?;
        quantised.get("checkpoint_format").and_then(Value::as_str).map(str::to_owned)
    };
    let second = config.and_then(stated).is_some_and(|format| format == "gptq_v2");
    let packing = Packing::Gptq { plus: u32::from(!second) };
    let packed = Packed { packing, bits: bits as u32, group, codes, scales, offsets: Some(offsets), order };
    (exact && group > 0 && groups <= ins).then_some((name, vec![out, ins], packed))
}

fn mlx(
    codes: &TensorMeta,
    scales: &TensorMeta,
    biases: &TensorMeta,
    config: Option<&Map<String, Value>>,
) -> Option<Found> {
    let stated = config?.get("quantization").or_else(|| config?.get("quantization_config"))?;
    let group = stated.get("group_size")?.as_u64().filter(|group| *group > 0)?;
    if !is_words(codes) || !scales.dtype.is_float() || !biases.dtype.is_float() {
        return None;
    }
    let (codes, scales, biases) = (stored(codes)?, stored(scales)?, stored(biases)?);
    let ins = scales.cols.checked_mul(group)?;
    let bits = codes.cols.checked_mul(32)?.checked_div(ins)?;
    let name = match bits {
        2 => "MLX-2",
        4 => "MLX-4",
        8 => "MLX-8",
        _ => return None,
    };
    let exact = codes.cols.checked_mul(32) == ins.checked_mul(bits)
        && scales.rows == codes.rows
        && (biases.rows, biases.cols) == (scales.rows, scales.cols);
    let shape = vec![codes.rows, ins];
    let offsets = Some(biases);
    let packed = Packed { packing: Packing::Mlx, bits: bits as u32, group, codes, scales, offsets, order: None };
    exact.then_some((name, shape, packed))
}

/// One scale for the tensor, for each row, or for each square block.
fn scaled(codes: &TensorMeta, scales: &TensorMeta) -> Option<Found> {
    let name = match codes.dtype {
        DType::F8E4M3 => "F8_E4M3-SCALED",
        DType::F8E5M2 => "F8_E5M2-SCALED",
        _ => return None,
    };
    if codes.shape.len() != 2 || !scales.dtype.is_float() {
        return None;
    }
    let shape = codes.shape.clone();
    let (codes, mut scales) = (stored(codes)?, stored(scales)?);
    let (rows, cols) = (codes.rows, codes.cols);
    let block = if (scales.rows, scales.cols) == (1, 1) {
        (rows, cols)
    } else if scales.rows * scales.cols == rows && (scales.cols == 1 || scales.rows == 1) {
        (scales.rows, scales.cols) = (rows, 1);
        (1, cols)
    } else if (scales.rows, scales.cols) == (rows.div_ceil(SQUARE), cols.div_ceil(SQUARE)) {
        (SQUARE, SQUARE)
    } else {
        return None;
    };
    if rows == 0 || cols == 0 {
        return None;
    }
    let packing = Packing::Scaled { block };
    Some((name, shape, Packed { packing, bits: 8, group: 1, codes, scales, offsets: None, order: None }))
}
