//! Matrices of whole numbers put together with their scales and zero points, as the nodes that read them say.
//!
//! What does not fit together stays as it is stored, and is told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::graph::{Model, Node, Values};
use super::names::{Consumers, Uses, name_of};
use super::wire::Reader;
use crate::Result;
use crate::finding::{Code, Finding, Level};
use crate::tensor::packed::{Kind, Linear, Packed, Packing, Stored};
use crate::tensor::{DType, Storage, TensorMeta};
use crate::text::listed;

/// What belongs to the codes of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    scales: String,
    zeros: Option<String>,
    form: Form,
}

/// How codes become values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 8-bit numbers, one scale for all or one for each index of this dimension.
    Axis(i64),
    /// Of `out features` rows of `in features` numbers of so many bits, `block` of which share a scale.
    Blocks { out_features: u64, in_features: u64, bits: u64, block: u64 },
    /// In a way that is not read.
    Unknown,
}

/// What a node says of the codes among its inputs, by their name.
pub(crate) fn recipe(reader: &mut Reader<'_>, node: &Node, op: &str) -> Result<Option<Recipe>> {
    let mut names = Vec::new();
    for input in node.inputs.iter().take(6) {
        names.push(name_of(reader, *input)?);
    }
    let name = |at: usize| names.get(at).cloned().flatten();
    let (scales, zeros, form) = match op {
        "DequantizeLinear" => {
            let blocks = node.number(reader, "block_size")?.unwrap_or(0);
            let axis = node.number(reader, "axis")?.unwrap_or(1);
            (name(1), name(2), if blocks == 0 { Form::Axis(axis) } else { Form::Unknown })
        }
        // The product is scaled later; the tool that writes these nodes names the scales so.
        "MatMulInteger" => {
            let scales = name(1).map(|codes| format!("{}_scale", codes.trim_end_matches("_quantized")));
            (scales, name(3), Form::Axis(1))
        }
        "DynamicQuantizeMatMul" => (name(2), name(3), Form::Axis(1)),
        "MatMulIntegerToFloat" => (name(3), name(5), Form::Axis(1)),
        "MatMulNBits" => {
            let mut number = |name: &str| Ok(node.number(reader, name)?.and_then(|number| u64::try_from(number).ok()));
            let (out_features, in_features, block) = (number("N")?, number("K")?, number("block_size")?);
            let bits = number("bits")?.unwrap_or(4);
            let form = match (out_features, in_features, block) {
                // An order of the columns is not followed.
                (Some(out_features), Some(in_features), Some(block)) if name(4).is_none() => {
                    Form::Blocks { out_features, in_features, bits, block }
                }
                _ => Form::Unknown,
            };
            (name(2), name(3), form)
        }
        _ => return Ok(None),
    };
    Ok(scales.map(|scales| Recipe { scales, zeros, form }))
}

/// The zero points of a tensor.
#[derive(Debug, Clone, Copy)]
enum Zeros<'a> {
    Stored(&'a TensorMeta),
    /// One for all codes.
    Number(i64),
}

/// Puts codes, scales and zero points together. `small` has the tensors of the model that are too small to be weights.
pub(crate) fn join(
    tensors: Vec<TensorMeta>,
    small: &HashMap<String, TensorMeta>,
    model: &Model,
    Consumers { uses, recipes }: &Consumers,
    findings: &mut Vec<Finding>,
) -> Vec<TensorMeta> {
    if recipes.is_empty() {
        return tensors;
    }
    let by_name: HashMap<&str, &TensorMeta> =
        tensors.iter().chain(small.values()).map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let numbers = model.tensors.iter().filter_map(|tensor| match tensor.values {
        Values::Number(number) => Some((tensor.name.as_str(), number)),
        _ => None,
    });
    let numbers: HashMap<&str, i64> = numbers.collect();
    let (mut joined, mut used, mut apart) = (HashMap::new(), HashSet::new(), Vec::new());
    for (at, codes) in tensors.iter().enumerate() {
        let Some(recipe) = recipes.get(&codes.name) else { continue };
        let find = |name: &String| by_name.get(name.as_str()).copied();
        let zeros = |name: &String| match numbers.get(name.as_str()) {
            Some(number) => Some(Zeros::Number(*number)),
            None => find(name).map(Zeros::Stored),
        };
        let zeros = recipe.zeros.as_ref().map(zeros);
        let transposed = uses.get(&codes.name).is_some_and(Uses::is_transposed);
        let found = match (find(&recipe.scales), zeros) {
            (Some(scales), None) => packed(codes, scales, None, recipe.form, transposed),
            (Some(scales), Some(Some(zeros))) => packed(codes, scales, Some(zeros), recipe.form, transposed),
            _ => None,
        };
        match found {
            Some(meta) => {
                joined.insert(at, meta);
                used.insert(recipe.scales.clone());
                used.extend(recipe.zeros.clone());
            }
            None => apart.push(codes.name.clone()),
        }
    }
    if let Some(first) = apart.first() {
        let message = format!("{} tensors hold codes whose scales were not found or are not followed", apart.len());
        let message = format!("{message}: {}", listed(&apart));
        findings.push(Finding::new(Code::ValuesNotRead, Level::Warning, message, first.clone()));
    }
    let kept = |(at, tensor): (usize, TensorMeta)| {
        joined.remove(&at).or_else(|| (!used.contains(&tensor.name)).then_some(tensor))
    };
    tensors.into_iter().enumerate().filter_map(kept).collect()
}

/// The stored bytes of a tensor as a matrix of that many rows.
fn stored(tensor: &TensorMeta, rows: u64, cols: u64) -> Option<Stored> {
    let extent = tensor.storage.plain()?;
    let fits = rows.checked_mul(cols) == Some(tensor.elements());
    let whole = tensor.dtype.size_of(tensor.elements()) == Some(extent.len);
    (fits && whole).then(|| Stored { dtype: tensor.dtype.clone(), rows, cols, extent })
}

fn packed(
    codes: &TensorMeta,
    scales: &TensorMeta,
    zeros: Option<Zeros<'_>>,
    form: Form,
    transposed: bool,
) -> Option<TensorMeta> {
    if !matches!(codes.dtype, DType::U8 | DType::I8) || !scales.dtype.is_float() {
        return None;
    }
    let (zeros, middle) = match zeros {
        None => (None, None),
        Some(Zeros::Stored(zeros)) if zeros.dtype == codes.dtype => (Some(zeros), None),
        Some(Zeros::Number(number)) if (-128..256).contains(&number) => (None, Some(number as i32)),
        Some(_) => return None,
    };
    let (kind, shape, linear, codes_stored, rows, groups) = match form {
        Form::Axis(axis) => {
            let &[rows, cols] = codes.shape.as_slice() else { return None };
            let (out_features, in_features) = if transposed { (cols, rows) } else { (rows, cols) };
            let own = if transposed { [1, -1] } else { [0, -2] };
            let count = scales.elements();
            if in_features == 0 || count != 1 && (count != out_features || !own.contains(&axis)) {
                return None;
            }
            let linear = Linear { bits: 8, middle: middle.unwrap_or(0), transposed, group: in_features };
            ("I8-SCALED", vec![out_features, in_features], linear, stored(codes, rows, cols)?, count, 1)
        }
        Form::Blocks { out_features, in_features, bits, block } => {
            let kind = match bits {
                2 => "INT2-PACKED",
                4 => "INT4-PACKED",
                8 => "INT8-PACKED",
                _ => return None,
            };
            if block == 0 || codes.dtype != DType::U8 || !block.checked_mul(bits)?.is_multiple_of(8) {
                return None;
            }
            let groups = in_features.div_ceil(block);
            let line = groups.checked_mul(block.checked_mul(bits)? / 8)?;
            let middle = middle.unwrap_or(1 << (bits - 1));
            let linear = Linear { bits: bits as u32, middle, transposed: false, group: block };
            (kind, vec![out_features, in_features], linear, stored(codes, out_features, line)?, out_features, groups)
        }
        Form::Unknown => return None,
    };
    let mut packed = Packed::new(Packing::Linear(linear), codes_stored, stored(scales, rows, groups)?);
    if let Some(zeros) = zeros {
        let line = groups.checked_mul(u64::from(linear.bits))?.div_ceil(8);
        packed.offsets = Some(stored(zeros, rows, line)?);
    }
    let (name, dtype) = (codes.name.clone(), DType::Packed(Kind::named(kind)?));
    Some(TensorMeta { name, dtype, shape, storage: Storage::Packed(Arc::new(packed)) })
}
