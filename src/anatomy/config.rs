//! What `config.json` may tell, and where it contradicts the tensors.
//!
//! A configuration is a hint: it splits projections into heads where that fits their size, and decides nothing else.

use serde_json::{Map, Value};

use crate::finding::{Code, Finding, Level};
use crate::model::{Architecture, Family};

type Config = Map<String, Value>;

/// Rows that tools add to an embedding to make its height a round number.
const MOST_PADDING: u64 = 1024;

/// The number under the first of `keys` that the configuration, or its part about the language model, has.
fn number(config: &Config, keys: &[&str]) -> Option<u64> {
    let nested = ["text_config", "llm_config", "language_config"].into_iter();
    let parts = nested.filter_map(|name| config.get(name).and_then(Value::as_object));
    std::iter::once(config)
        .chain(parts)
        .find_map(|part| keys.iter().find_map(|key| part.get(*key).and_then(Value::as_u64)))
}

/// The number of layers that the configuration states.
pub fn config_layers(config: &Map<String, Value>) -> Option<u64> {
    number(config, &["num_hidden_layers", "n_layer", "num_layers", "n_layers"])
}

/// Splits projections into heads as the configuration says, where that fits.
pub(super) fn hint_heads(config: &Config, a: &mut Architecture) {
    if a.heads.is_some() || a.latent.is_some() {
        return;
    }
    let Some(heads) = number(config, &["num_attention_heads", "n_head", "n_heads", "num_heads"]) else { return };
    let Some(q) = a.q_size.filter(|q| heads > 0 && q % heads == 0) else { return };
    let head = q / heads;
    let consistent = a.head_dim.is_none_or(|known| known == head)
        && number(config, &["head_dim"]).is_none_or(|stated| stated == head)
        && a.kv_size.is_none_or(|kv| kv % head == 0);
    if consistent {
        a.head_dim = Some(head);
        super::shapes::heads(a);
    }
}

/// Where the configuration, which `source` states, contradicts the shapes of the tensors.
pub fn config_findings(config: &Map<String, Value>, architecture: &Architecture, source: &str) -> Vec<Finding> {
    let a = architecture;
    let mut findings = Vec::new();
    let mut check = |field: &str, stated: Option<u64>, found: Option<u64>| {
        if let (Some(stated), Some(found)) = (stated, found)
            && stated != found
        {
            let message = format!("{source} states {field} {stated}, the tensors have {found}");
            findings.push(Finding::new(Code::ConfigMismatch, Level::Warning, message, source.to_owned()));
        }
    };
    // Where tensors of the layers have no place in the block, its sizes are those of a part; and which fields of another
    // block's configuration mean which size is not known.
    if a.layers == 0 || !a.is_whole() || matches!(a.family, Family::Recorded(_)) {
        return findings;
    }
    check("hidden_size", number(config, &["hidden_size", "n_embd", "d_model", "dim"]), Some(a.hidden_size));
    check("num_hidden_layers", config_layers(config), Some(a.layers));
    let doubled = config.get("model_type").and_then(Value::as_str) == Some("qwen");
    let inner = number(config, &["intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"]);
    let inner = if doubled { inner.map(|size| size / 2) } else { inner };
    if a.experts.is_none() {
        check("intermediate_size", inner, a.intermediate_size);
    }
    let experts = number(config, &["num_local_experts", "num_experts", "n_routed_experts"]);
    check("num_experts", experts.filter(|&experts| experts > 1), a.experts);
    // Speech models state the size of their code book under the usual key.
    let vocabulary = number(config, &["text_vocab_size", "vocab_size", "padded_vocab_size"]);
    let padded = |stated: u64, rows: u64| rows >= stated && rows - stated < MOST_PADDING;
    if !vocabulary.zip(a.vocab_size).is_some_and(|(stated, rows)| padded(stated, rows)) {
        check("vocab_size", vocabulary, a.vocab_size);
    }
    if a.latent.is_none() {
        let heads = number(config, &["num_attention_heads", "n_head", "n_heads"]);
        let stated = number(config, &["head_dim"]);
        check("num_attention_heads x head_dim", heads.zip(stated).map(|(n, d)| n.saturating_mul(d)), a.q_size);
        let head = stated.or_else(|| heads.zip(a.q_size).filter(|(n, q)| *n > 0 && q % n == 0).map(|(n, q)| q / n));
        let groups = number(config, &["num_key_value_heads"]);
        check("num_key_value_heads x head_dim", groups.zip(head).map(|(n, d)| n.saturating_mul(d)), a.kv_size);
    }
    if config.get("tie_word_embeddings").and_then(Value::as_bool) == Some(false) && a.tied == Some(true) {
        let message =
            format!("{source} states tie_word_embeddings false, the tensors have no output head of their own");
        findings.push(Finding::new(Code::ConfigMismatch, Level::Warning, message, source.to_owned()));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_finding_names_the_source_that_makes_the_claim() {
        let config = json!({
            "hidden_size": 1, "num_hidden_layers": 1, "intermediate_size": 1, "num_experts": 2, "vocab_size": 1,
            "num_attention_heads": 1, "head_dim": 2, "num_key_value_heads": 1, "tie_word_embeddings": false
        });
        let sizes = Some(8);
        let dense = Architecture {
            hidden_size: 8,
            layers: 2,
            q_size: sizes,
            kv_size: sizes,
            intermediate_size: sizes,
            vocab_size: Some(4096),
            tied: Some(true),
            ..Architecture::default()
        };
        let mixture = Architecture { experts: sizes, ..dense.clone() };
        let mut told = 0;
        for a in [dense, mixture] {
            for finding in config_findings(config.as_object().unwrap(), &a, "the metadata") {
                assert!(finding.message.starts_with("the metadata states "), "{}", finding.message);
                assert_eq!(finding.location.as_deref(), Some("the metadata"));
                told += 1;
            }
        }
        assert_eq!(told, 14);
    }
}
