//! Low-rank adapters as PEFT writes them: `adapter_config.json` beside `adapter_model.safetensors` or `.bin`.
//!
//! An adapter is a change to a base model, not a model. What it declares and touches is told; whether the merged model
//! is a copy of anything cannot be, so a scan of an adapter alone never ends clean. With its base beside it, which the
//! user has to name, the merged model is seen without being written.

pub(crate) mod config;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::config::Config;
use crate::finding::{Code, Finding, Level};
use crate::format::{Card, Claims};
use crate::model::naming::{is_adapter_part, lacks_base, without_wrapper};
use crate::tensor::TensorMeta;
use crate::text::{listed, shown};

/// What a merged view was put together from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// The adapter: its repository, or the name of its folder.
    pub adapter: String,
    /// The base that it was merged into, likewise.
    pub base: String,
    /// The method, such as `LORA`.
    pub method: String,
    /// The ranks of its changes, ascending.
    pub ranks: Vec<u64>,
    /// The kinds of modules that it changes: the last part of their names.
    pub modules: Vec<String>,
    /// Number of the base's tensors that have a change added.
    pub changed: usize,
    /// Number of tensors that it replaces or adds whole.
    pub replaced: usize,
    /// How many of the subject's files, the last ones, are the adapter's; those before are the base's.
    pub adapter_files: usize,
}

/// The finding that says what the adapter is, if the checkpoint is one; adds the declared base to the card.
pub(crate) fn describe(tensors: &[TensorMeta], config: Option<&Config>, claims: &mut Claims) -> Option<Finding> {
    if !lacks_base(tensors.iter().map(|tensor| tensor.name.as_str())) {
        return None;
    }
    let parts = || tensors.iter().filter(|tensor| is_adapter_part(&tensor.name));
    let first = parts().next()?;
    let config = config.cloned().unwrap_or_default();
    let method =
        config.peft_type.as_deref().map_or_else(|| "adapter".to_owned(), |name| format!("{} adapter", shown(name)));
    let ranks: BTreeSet<u64> = parts().filter_map(rank).collect();
    let rank = match (ranks.first(), ranks.last()) {
        (Some(low), Some(high)) if low == high => format!("of rank {low}"),
        (Some(low), Some(high)) => format!("of ranks {low} to {high}"),
        _ => "of unknown rank".to_owned(),
    };
    let touched: BTreeSet<&str> = parts().filter_map(|tensor| module(&tensor.name)).collect();
    let touched: Vec<&str> = touched.into_iter().collect();
    let whole = tensors.len() - parts().count();
    let whole = if whole > 0 { format!(", with {whole} tensors replaced whole") } else { String::new() };
    let base = match &config.base_model_name_or_path {
        Some(base) => format!("declares {} as its base", shown(base)),
        None => "declares no base".to_owned(),
    };
    if let Some(base) = config.base_model_name_or_path.filter(|base| !base.trim().is_empty()) {
        let card: &mut Card = claims.card.get_or_insert_default();
        if !card.base_models.contains(&base) {
            card.base_models.push(base);
        }
        card.relation.get_or_insert_with(|| "adapter".to_owned());
    }
    let message = format!(
        "needs its base: an {method} {rank} on {}{whole}; it {base}. Scan it together with its base",
        listed(&touched)
    );
    Some(Finding::new(Code::NeedsBase, Level::Warning, message.replace("an `", "a `"), first.name.clone()))
}

/// Calls the weights of a model with adapters inside as the model itself does, and says which adapters are there. They
/// stay as they are: which of them a loader adds, and how much of each, no file tells.
pub(crate) fn built_in(tensors: &mut [TensorMeta]) -> Option<Finding> {
    let names = || tensors.iter().map(|tensor| tensor.name.as_str());
    let parts: Vec<&str> = names().filter(|name| is_adapter_part(name)).collect();
    let first = (*parts.first()?).to_owned();
    if lacks_base(names()) {
        return None;
    }
    let touched: BTreeSet<&str> = parts.iter().filter_map(|name| module(name)).collect();
    let touched: Vec<&str> = touched.into_iter().collect();
    let message = format!(
        "{} tensors of adapters lie beside the weights that they change, on {}: the weights were read without them",
        parts.len(),
        listed(&touched)
    );
    let mut taken: BTreeSet<String> = names().map(str::to_owned).collect();
    for tensor in tensors {
        if let Some(name) = without_wrapper(&tensor.name).filter(|name| !taken.contains(name)) {
            taken.insert(name.clone());
            tensor.name = name;
        }
    }
    Some(Finding::new(Code::AdapterInside, Level::Note, message, first))
}

/// The inner size of a low-rank factor.
fn rank(tensor: &TensorMeta) -> Option<u64> {
    let [rows, cols] = tensor.shape[..] else { return None };
    tensor.name.split('.').find_map(|segment| match segment {
        "lora_A" | "lora_embedding_A" | "lora_a" | "lora_down" => Some(rows),
        "lora_B" | "lora_embedding_B" | "lora_b" | "lora_up" => Some(cols),
        _ => None,
    })
}

/// The kind of module that a part belongs to: the segment in front of the method's own name.
fn module(name: &str) -> Option<&str> {
    let mut before = None;
    for segment in name.split('.') {
        if is_adapter_part(segment) {
            return before;
        }
        before = Some(segment);
    }
    None
}
