//! Low-rank adapters as PEFT writes them: `adapter_config.json` beside `adapter_model.safetensors` or `.bin`.
//!
//! An adapter is a change to a base model, not a model. What it declares and touches is told; whether the merged model
//! is a copy of anything cannot be, so a scan of an adapter alone never ends clean. With its base beside it, which the
//! user has to name, the merged model is seen without being written.

mod config;
mod merge;
mod parts;

use std::collections::BTreeSet;

pub use self::config::{Config, Patterns};
pub use self::merge::Merged;
use super::sidecar::{Card, Sidecar};
use super::text::{listed, shown};
use crate::finding::{Code, Finding, Level};
use crate::tensor::{self, TensorMeta};

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
        "needs its base: an {method} {rank} on {}{whole}; it {base}. Scan it with `--base` and the folder of its base",
        listed(&touched)
    );
    Some(Finding::new(Code::NeedsBase, Level::Warning, message.replace("an `", "a `"), first.name.clone()))
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
    let (module, _) = name.split_once(".lora_")?;
    module.rsplit('.').next()
}
