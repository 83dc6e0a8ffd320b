//! Low-rank adapters as PEFT writes them: `adapter_config.json` beside `adapter_model.safetensors` or `.bin`.
//!
//! An adapter is a change to a base model, not a model. What it declares and touches is told; whether the merged model
//! is a copy of anything cannot be, so a scan of an adapter alone never ends clean.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::sidecar::{Card, Sidecar};
use super::text::{listed, shown};
use crate::finding::{Code, Finding, Level};
use crate::tensor::{self, TensorMeta};

/// What `adapter_config.json` declares.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Config {
    /// The model that it changes: a repository, or a path on somebody's machine.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// The method, such as `LORA`.
    #[serde(default)]
    pub peft_type: Option<String>,
    /// Rank of the change, unless modules have their own.
    #[serde(default)]
    pub r: Option<u64>,
    /// Scale of the change times its rank.
    #[serde(default)]
    pub lora_alpha: Option<f64>,
}

/// The finding that says what the adapter is, if the checkpoint is one; adds the declared base to the card.
pub(super) fn describe(tensors: &[TensorMeta], sidecar: &mut Sidecar) -> Option<Finding> {
    let parts = || tensors.iter().filter(|tensor| tensor::is_adapter_part(&tensor.name));
    let first = parts().next()?;
    let config = sidecar.adapter.clone().unwrap_or_default();
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
        let card: &mut Card = sidecar.card.get_or_insert_default();
        if !card.base_models.contains(&base) {
            card.base_models.push(base);
        }
        card.relation.get_or_insert_with(|| "adapter".to_owned());
    }
    let message = format!(
        "needs its base: an {method} {rank} on {}{whole}; it {base}. Merge it into the base and scan the result",
        listed(&touched)
    );
    Some(Finding::new(Code::NeedsBase, Level::Warning, message.replace("an `", "a `"), first.name.clone()))
}

/// The inner size of a low-rank factor.
fn rank(tensor: &TensorMeta) -> Option<u64> {
    let [rows, cols] = tensor.shape[..] else { return None };
    if tensor.name.contains("lora_A") || tensor.name.contains("lora_embedding_A") {
        Some(rows)
    } else if tensor.name.contains("lora_B") || tensor.name.contains("lora_embedding_B") {
        Some(cols)
    } else {
        None
    }
}

/// The kind of module that a part belongs to: the segment in front of the method's own name.
fn module(name: &str) -> Option<&str> {
    let (module, _) = name.split_once(".lora_")?;
    module.rsplit('.').next()
}
