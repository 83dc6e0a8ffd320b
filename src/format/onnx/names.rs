//! What an exporter lost of a tensor's name and orientation, recovered from the nodes that read it.
//!
//! A linear layer is exported as a product with its transposed matrix, which then has no name of its own:
//! `onnx::MatMul_1234`, by (in, out). The node is still called by the module, `/model/layers.0/mlp/up_proj/MatMul`, or
//! says so in a property. Names that exporters keep are those of the modules themselves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::graph::Node;
use super::quantised::{self, Recipe};
use super::wire::{Reader, Span};
use crate::Result;
use crate::finding::{Code, Finding, Level};
use crate::limits::MAX_NAME_BYTES;
use crate::tensor::view::{Piece, View};
use crate::tensor::{Extent, Storage, TensorMeta};
use crate::text::listed;

/// The property in which PyTorch's exporter writes the modules around a node.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";

/// Longest name of an operator that is known here, in bytes.
const MAX_OP: u64 = 32;

/// Modules of one tensor beyond this many are not kept.
const MAX_SCOPES: usize = 2;

/// What nodes do with a tensor.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// Multiplied from the right as it is stored: by (in, out).
    transposed: bool,
    /// The same by an operator that other layers than linear ones are exported as.
    transposed_by_gemm: bool,
    /// Multiplied from the right once it is transposed: by (out, in).
    upright: bool,
    /// Anything else.
    other: bool,
    /// The modules that multiply with it.
    scopes: Vec<String>,
}

impl Uses {
    /// Whether it is only multiplied with, by (in, out).
    pub(crate) fn is_transposed(&self) -> bool {
        self.transposed && !self.upright && !self.other
    }
}

/// A value that is a tensor of the file.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    tensor: String,
    /// Whether it is the transpose.
    flipped: bool,
    /// Whether it is only some of the rows.
    gathered: bool,
}

impl Known {
    /// The tensor itself.
    pub(crate) fn stored(tensor: &str) -> Self {
        Self { tensor: tensor.to_owned(), flipped: false, gathered: false }
    }
}

/// What the nodes of the graphs do, by the name of the tensor.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    pub(crate) uses: HashMap<String, Uses>,
    /// For tensors that are codes, what belongs to them.
    pub(crate) recipes: BTreeMap<String, Recipe>,
}

pub(crate) fn name_of(reader: &mut Reader<'_>, span: Span) -> Result<Option<String>> {
    if span.len() == 0 || span.len() > MAX_NAME_BYTES as u64 {
        return Ok(None);
    }
    reader.text(span, MAX_NAME_BYTES as u64, "length of a name in bytes").map(Some)
}

/// Notes what `node` does with tensors. `known` has the values that are tensors of the file, by name.
pub(crate) fn consume(
    reader: &mut Reader<'_>,
    node: &Node,
    known: &mut HashMap<String, Known>,
    consumers: &mut Consumers,
) -> Result<()> {
    let Consumers { uses, recipes } = consumers;
    let op = match node.op.filter(|op| op.len() <= MAX_OP) {
        Some(op) => name_of(reader, op)?.unwrap_or_default(),
        None => String::new(),
    };
    for (slot, input) in node.inputs.iter().enumerate() {
        let Some(input) = name_of(reader, *input)? else { continue };
        let Some(Known { tensor, flipped, gathered }) = known.get(&input).cloned() else { continue };
        let codes = if op == "DequantizeLinear" { 0 } else { 1 };
        if slot == codes
            && !recipes.contains_key(&tensor)
            && let Some(recipe) = quantised::recipe(reader, node, &op)?
        {
            recipes.insert(tensor.clone(), recipe);
        }
        if gathered {
            continue;
        }
        match (op.as_str(), slot) {
            ("Identity" | "Cast" | "Transpose" | "DequantizeLinear", 0) => {
                if let Some(output) = node.output
                    && let Some(output) = name_of(reader, output)?
                {
                    let flipped = flipped != (op == "Transpose");
                    known.entry(output).or_insert(Known { tensor, flipped, gathered });
                }
            }
            (
                "MatMul"
                | "FusedMatMul"
                | "Gemm"
                | "MatMulInteger"
                | "DynamicQuantizeMatMul"
                | "MatMulIntegerToFloat"
                | "MatMulNBits",
                1,
            ) => {
                let flipped = flipped != (node.number(reader, "transB")?.unwrap_or(0) != 0);
                let scope = scope(reader, node)?;
                let uses = uses.entry(tensor).or_default();
                match (flipped, op.as_str()) {
                    (true, _) | (false, "MatMulNBits") => uses.upright = true,
                    (false, "Gemm") => uses.transposed_by_gemm = true,
                    (false, _) => uses.transposed = true,
                }
                if let Some(scope) = scope
                    && uses.scopes.len() < MAX_SCOPES
                    && !uses.scopes.contains(&scope)
                {
                    uses.scopes.push(scope);
                }
            }
            ("Gather", 0) => {
                uses.entry(tensor.clone()).or_default().other = true;
                if let Some(output) = node.output
                    && let Some(output) = name_of(reader, output)?
                {
                    known.entry(output).or_insert(Known { tensor, flipped, gathered: true });
                }
            }
            ("Shape" | "Size", _) => {}
            _ => uses.entry(tensor).or_default().other = true,
        }
    }
    Ok(())
}

/// The module that a node belongs to, as in `model.layers.0.mlp.up_proj`.
fn scope(reader: &mut Reader<'_>, node: &Node) -> Result<Option<String>> {
    if let Some(name) = node.name
        && let Some(name) = name_of(reader, name)?
        && let Some((modules, _)) = name.strip_prefix('/').and_then(|path| path.rsplit_once('/'))
    {
        return Ok(Some(modules.replace('/', ".")));
    }
    let scopes = node.property(reader, SCOPES)?;
    Ok(scopes.and_then(|scopes| innermost(&scopes)))
}

/// The last but one of a list as Python writes it: `['', 'model', 'model.norm', 'mul']`.
fn innermost(scopes: &str) -> Option<String> {
    let mut items = scopes.strip_prefix('[')?.strip_suffix(']')?.rsplit(", ");
    let _node = items.next()?;
    let module = items.next()?.trim_matches(['\'', '"']);
    (!module.is_empty()).then(|| module.to_owned())
}

/// Whether an exporter made this name up.
fn is_anonymous(name: &str) -> bool {
    name.contains("::") || name.starts_with('/') || !name.contains('.')
}

/// The names that ONNX Runtime's model builder gives, in those of Hugging Face.
fn built(name: &str) -> String {
    let plain =
        name.replace(".MatMul.weight", ".weight").replace(".Add.bias", ".bias").replace(".attn.", ".self_attn.");
    if plain.contains(".final_norm_layernorm.") {
        return plain.rsplit_once('.').map_or_else(|| plain.clone(), |(_, end)| format!("model.norm.{end}"));
    }
    plain
}

/// Gives tensors the names and the orientation that they had.
pub(crate) fn recover(
    tensors: Vec<TensorMeta>,
    uses: &HashMap<String, Uses>,
    findings: &mut Vec<Finding>,
) -> Vec<TensorMeta> {
    let is_built = tensors.iter().any(|tensor| tensor.name.contains(".MatMul"));
    let wanted: Vec<Option<String>> = tensors.iter().map(|tensor| wanted(tensor, uses, is_built)).collect();
    let taken: HashSet<&str> =
        tensors.iter().zip(&wanted).filter(|(_, new)| new.is_none()).map(|(tensor, _)| tensor.name.as_str()).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in wanted.iter().flatten() {
        *counts.entry(name).or_default() += 1;
    }
    let free = |name: &String| counts.get(name.as_str()) == Some(&1) && !taken.contains(name.as_str());
    let mut ambiguous = Vec::new();
    let mut renamed: Vec<Option<String>> = Vec::with_capacity(tensors.len());
    for (tensor, name) in tensors.iter().zip(&wanted) {
        match name {
            Some(name) if free(name) => renamed.push(Some(name.clone())),
            Some(_) => {
                ambiguous.push(tensor.name.clone());
                renamed.push(None);
            }
            None => renamed.push(None),
        }
    }
    if let Some(first) = ambiguous.first() {
        let message = format!(
            "{} tensors have no name of their own, and their nodes give them one that is taken: {}",
            ambiguous.len(),
            listed(&ambiguous)
        );
        findings.push(Finding::new(Code::IndexMismatch, Level::Note, message, first.clone()));
    }
    let recover = |(tensor, name): (TensorMeta, Option<String>)| {
        let transposed = is_transposed(&tensor, uses);
        let tensor = if transposed { transpose(tensor) } else { tensor };
        match name {
            Some(name) => TensorMeta { name, ..tensor },
            None => tensor,
        }
    };
    tensors.into_iter().zip(renamed).map(recover).collect()
}

/// Another name for a tensor, if there is one.
fn wanted(tensor: &TensorMeta, uses: &HashMap<String, Uses>, is_built: bool) -> Option<String> {
    if let Storage::Packed(_) = tensor.storage {
        let name = match uses.get(&tensor.name).map(|uses| uses.scopes.as_slice()) {
            Some([scope]) => format!("{scope}.weight"),
            _ => tensor.name.trim_end_matches("_quantized").to_owned(),
        };
        return Some(if is_built { built(&name) } else { name });
    }
    if is_built {
        let name = built(&tensor.name);
        if name != tensor.name {
            return Some(name);
        }
    }
    if !is_anonymous(&tensor.name) || tensor.shape.len() != 2 {
        return None;
    }
    match uses.get(&tensor.name)?.scopes.as_slice() {
        [scope] => Some(format!("{scope}.weight")),
        _ => None,
    }
}

/// Whether a matrix is stored by (in, out) where its module has it by (out, in).
fn is_transposed(tensor: &TensorMeta, uses: &HashMap<String, Uses>) -> bool {
    let Some(uses) = uses.get(&tensor.name).filter(|_| tensor.storage.is_plain() && tensor.shape.len() == 2) else {
        return false;
    };
    // Where an exporter keeps the name, the matrix is as its module has it, and a module that multiplies so (GPT-2's
    // Conv1D) is known to have it by (in, out).
    uses.is_transposed() || uses.transposed_by_gemm && is_anonymous(&tensor.name) && !uses.upright && !uses.other
}

/// The transpose of a matrix, read in place.
fn transpose(tensor: TensorMeta) -> TensorMeta {
    let &[in_features, out_features] = tensor.shape.as_slice() else { return tensor };
    let Some(extent @ Extent { shard, offset, len }) = tensor.storage.plain() else { return tensor };
    let step = || {
        let width = tensor.dtype.bytes()?;
        Some((width, out_features.checked_mul(width)?))
    };
    let Some((row_step, col_step)) = step().filter(|_| len > 0) else { return tensor };
    let piece = Piece { row: 0, col: 0, rows: out_features, cols: in_features, shard, offset, row_step, col_step };
    let shape = vec![out_features, in_features];
    match View::new(&tensor.dtype, &shape, vec![piece], vec![extent]) {
        Ok(view) => TensorMeta { shape, storage: Storage::View(Arc::new(view)), ..tensor },
        Err(_) => tensor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_off_a_property() {
        let name = innermost("['', 'model.layers.0', 'model.layers.0.mlp.up_proj', 'linear_5']");
        assert_eq!(name.as_deref(), Some("model.layers.0.mlp.up_proj"));
        for none in ["", "[]", "['']", "['', 'add']", "nonsense"] {
            assert_eq!(innermost(none), None, "{none}");
        }
    }

    #[test]
    fn names_of_the_model_builder_are_hugging_faces() {
        for (found, name) in [
            ("model.layers.3.attn.q_proj.MatMul.weight", "model.layers.3.self_attn.q_proj.weight"),
            ("model.layers.3.attn.q_proj.Add.bias", "model.layers.3.self_attn.q_proj.bias"),
            ("model.layers.4.final_norm_layernorm.weight", "model.norm.weight"),
            ("model.layers.3.input_layernorm.weight", "model.layers.3.input_layernorm.weight"),
            ("lm_head.MatMul.weight", "lm_head.weight"),
        ] {
            assert_eq!(built(found), name);
        }
    }
}
