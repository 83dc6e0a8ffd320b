//! How norm gains are stored: as what the norm multiplies with, or less one.
//!
//! Some publishers train a norm's gain as its distance from one and store that. Their models multiply with `1 + γ`:
//! Gemma 1 to 3 (transformers, `Gemma*RMSNorm`), Nemotron (`NemotronLayerNorm1P`), Qwen3-Next and Qwen3.5
//! (`Qwen3NextRMSNorm`). Gemma 3n and Gemma 4 store the gain itself.
//!
//! ggml knows no such offset: where the publisher's file has the gain less one, llama.cpp's exporter adds the one
//! (`data_torch + 1` for names that end in `norm.weight`: `conversion/gemma.py` for `gemma`, `gemma2`, `gemma3` and
//! `gemma-embedding`; `conversion/nemotron.py` for `nemotron`; `conversion/qwen.py` for `qwen3next`, `qwen35` and
//! `qwen35moe`, but for the norm inside linear attention; `norm_shift` is 0 for `gemma3n` and `gemma4`). So every GGUF
//! file holds plain gains, whatever its architecture. Gemma's embeddings, which the model scales by the root of their
//! width, are exported as they are.
//!
//! Shapes cannot tell the two apart, and values are not looked at here. The rule, in this order:
//!
//! 1. In GGUF gains are plain.
//! 2. Where the configuration claims a model type whose convention is known and the shapes are those of that type, the
//!    claim is believed.
//! 3. Otherwise the family decides: [`Family::stores_gains_less_one`](crate::model::Family).
//!
//! Gemma 1 has LLaMA's shapes, so without its configuration its gains are taken as plain.

use serde_json::{Map, Value};

use super::Hints;
use crate::model::{Architecture, NormGain, QkNorm};

/// How the gains of a checkpoint with this architecture and these claims are stored.
pub(super) fn convention(hints: Hints<'_>, architecture: &Architecture) -> NormGain {
    let claimed = || hints.config.and_then(model_type).and_then(|name| claimed(name, architecture));
    match hints.in_gguf {
        true => NormGain::Plain,
        false => claimed().unwrap_or(match architecture.family.stores_gains_less_one() {
            true => NormGain::LessOne,
            false => NormGain::Plain,
        }),
    }
}

/// The model type that a configuration states, that of the language model before the whole's.
fn model_type(config: &Map<String, Value>) -> Option<&str> {
    let inner = config.get("text_config").and_then(Value::as_object);
    let mut parts = inner.into_iter().chain([config]);
    parts.find_map(|part| part.get("model_type").and_then(Value::as_str))
}

/// The convention of a model type, if it is known and the architecture has that type's shapes.
fn claimed(model_type: &str, a: &Architecture) -> Option<NormGain> {
    let per_head = a.qk_norm == Some(QkNorm::PerHead);
    let rms = a.norm_bias == Some(false);
    let (fits, convention) = match model_type {
        "gemma" => {
            let plain = a.attention_bias == Some(false) && a.experts.is_none() && a.latent.is_none() && !per_head;
            (a.gated_mlp && rms && plain && a.norms_per_layer == Some(2), NormGain::LessOne)
        }
        "gemma2" => (rms && !per_head && a.norms_per_layer == Some(4), NormGain::LessOne),
        "gemma3" | "gemma3_text" => (rms && per_head && a.norms_per_layer == Some(4), NormGain::LessOne),
        "gemma3n" | "gemma3n_text" | "gemma4" | "gemma4_text" => (a.norms_per_layer == Some(4), NormGain::Plain),
        "nemotron" => (!a.gated_mlp && a.norm_bias == Some(true), NormGain::LessOne),
        "qwen3_next" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe" | "qwen3_5_moe_text" => {
            (rms && per_head && a.gated_mlp, NormGain::LessOne)
        }
        _ => return None,
    };
    fits.then_some(convention)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::known;

    fn found(record: &str, config: &Value, in_gguf: bool) -> NormGain {
        let architecture = known::find(record).unwrap().architecture();
        convention(Hints { config: config.as_object(), in_gguf }, &architecture)
    }

    #[test]
    fn a_claim_counts_where_the_shapes_are_those_of_its_type() {
        use NormGain::{LessOne, Plain};
        let (llama, gemma, gemma2, gemma3) =
            ("huggyllama/llama-7b", "google/gemma-2b", "google/gemma-2-2b", "google/gemma-3-1b-pt");
        let claim = |name: &str| json!({"model_type": name});
        for (record, config, expected) in [
            (gemma, claim("gemma"), LessOne),
            (gemma, claim("llama"), Plain),
            (gemma, json!({}), Plain),
            (gemma, json!({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}), LessOne),
            (llama, claim("gemma2"), Plain),
            (llama, claim("gemma3"), Plain),
            (llama, claim("nemotron"), Plain),
            (gemma2, json!({}), LessOne),
            (gemma2, claim("gemma2"), LessOne),
            (gemma2, claim("our-own"), LessOne),
            (gemma3, json!({"model_type": 3}), LessOne),
            (gemma3, claim("gemma3_text"), LessOne),
            (gemma3, claim("gemma4"), Plain),
            (gemma3, json!({"model_type": "gemma3", "text_config": {"hidden_size": 1}}), LessOne),
        ] {
            assert_eq!(found(record, &config, false), expected, "{record} {config}");
            assert_eq!(found(record, &config, true), Plain, "{record} {config}: ggml has no offset");
        }
    }
}
