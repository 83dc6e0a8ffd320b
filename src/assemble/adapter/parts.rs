//! The tensors of a LoRA adapter, sorted by the module that they change.

use std::collections::BTreeMap;

use crate::model::naming::is_adapter_part;
use crate::tensor::TensorMeta;

/// What PEFT puts in front of the base's own names.
const WRAPPER: &str = "base_model.model.";

/// The factors of one module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Factors {
    /// rank × in features; of an embedding rank × tokens.
    pub(crate) a: Option<TensorMeta>,
    /// out features × rank; of an embedding channels × rank.
    pub(crate) b: Option<TensorMeta>,
    /// Added to the bias.
    pub(crate) bias: Option<TensorMeta>,
    /// The lengths of DoRA.
    pub(crate) magnitude: Option<TensorMeta>,
    /// Whether it is an embedding, whose tokens are the in features.
    pub(crate) embedding: bool,
}

/// An adapter's tensors.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parts {
    /// By module, as the base calls it, without `.weight`.
    pub(crate) factors: BTreeMap<String, Factors>,
    /// Tensors that replace one of the base, by its name.
    pub(crate) whole: BTreeMap<String, TensorMeta>,
}

impl Parts {
    /// Sorts an adapter's tensors.
    ///
    /// # Errors
    /// The tensor and why in words, if one is no part of a LoRA adapter, or of the same part as another.
    pub(crate) fn sort(tensors: &[TensorMeta]) -> Result<Self, (&TensorMeta, String)> {
        let mut parts = Self::default();
        for tensor in tensors {
            let before = match part(&tensor.name) {
                Some(FactorKind::Factor(module, which)) => {
                    let factors = parts.factors.entry(module).or_default();
                    factors.embedding |= which == Which::EmbeddingA || which == Which::EmbeddingB;
                    let slot = match which {
                        Which::A | Which::EmbeddingA => &mut factors.a,
                        Which::B | Which::EmbeddingB => &mut factors.b,
                        Which::Bias => &mut factors.bias,
                        Which::Magnitude => &mut factors.magnitude,
                    };
                    slot.replace(tensor.clone())
                }
                Some(FactorKind::Whole(name)) => parts.whole.insert(name, tensor.clone()),
                // The base's own values of a module that is replaced.
                Some(FactorKind::Original) => None,
                None => return Err((tensor, "it is no part of a LoRA adapter".to_owned())),
            };
            if let Some(before) = before {
                return Err((tensor, format!("it is the same part as `{}`", before.name.escape_debug())));
            }
        }
        Ok(parts)
    }
}

#[derive(Debug, PartialEq)]
enum FactorKind {
    Factor(String, Which),
    Whole(String),
    Original,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Bias,
    Magnitude,
}

/// What a tensor of this name is. PEFT leaves its own name for the adapter, `default`, out of files; states that were
/// saved without PEFT have it.
fn part(name: &str) -> Option<FactorKind> {
    const FACTORS: [(&str, Which); 5] = [
        ("lora_A", Which::A),
        ("lora_B", Which::B),
        ("lora_embedding_A", Which::EmbeddingA),
        ("lora_embedding_B", Which::EmbeddingB),
        ("lora_magnitude_vector", Which::Magnitude),
    ];
    let own = name.strip_prefix(WRAPPER).unwrap_or(name);
    let segments: Vec<&str> = own.split('.').collect();
    let found = segments
        .iter()
        .enumerate()
        .find_map(|(at, segment)| FACTORS.iter().find(|(known, _)| known == segment).map(|(_, which)| (at, *which)));
    if let Some((at, which)) = found {
        let tail: Vec<&str> = segments[at + 1..].iter().copied().filter(|segment| *segment != "default").collect();
        let which = match (which, &tail[..]) {
            (_, [] | ["weight"]) => which,
            (Which::B, ["bias"]) => Which::Bias,
            _ => return None,
        };
        let module = segments[..at].iter().filter(|segment| **segment != "base_layer").copied();
        return (at > 0).then(|| FactorKind::Factor(module.collect::<Vec<_>>().join("."), which));
    }
    if is_adapter_part(name) {
        return None;
    }
    if segments.contains(&"original_module") {
        return Some(FactorKind::Original);
    }
    let saved = segments.iter().position(|segment| *segment == "modules_to_save");
    let kept = segments.iter().enumerate().filter(|(at, segment)| {
        let named = saved.is_some_and(|saved| *at == saved || *at == saved + 1 && **segment == "default");
        !named && **segment != "base_layer"
    });
    Some(FactorKind::Whole(kept.map(|(_, segment)| *segment).collect::<Vec<_>>().join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_version_of_peft_are_sorted() {
        let factor = |module: &str, which| Some(FactorKind::Factor(module.to_owned(), which));
        let whole = |name: &str| Some(FactorKind::Whole(name.to_owned()));
        for (name, expected) in [
            ("base_model.model.model.layers.0.q_proj.lora_A.weight", factor("model.layers.0.q_proj", Which::A)),
            ("base_model.model.q.lora_B.default.weight", factor("q", Which::B)),
            ("base_model.model.q.lora_B.bias", factor("q", Which::Bias)),
            ("base_model.model.wte.lora_embedding_A", factor("wte", Which::EmbeddingA)),
            ("base_model.model.wte.lora_embedding_B.default", factor("wte", Which::EmbeddingB)),
            ("base_model.model.q.lora_magnitude_vector.default.weight", factor("q", Which::Magnitude)),
            ("base_model.model.q.lora_magnitude_vector", factor("q", Which::Magnitude)),
            ("base_model.model.lm_head.weight", whole("lm_head.weight")),
            ("base_model.model.lm_head.modules_to_save.default.weight", whole("lm_head.weight")),
            ("base_model.model.lm_head.modules_to_save.weight", whole("lm_head.weight")),
            ("base_model.model.wte.base_layer.weight", whole("wte.weight")),
            ("base_model.model.lm_head.original_module.weight", Some(FactorKind::Original)),
            ("base_model.model.q.lora_A.bias", None),
            ("lora_A.weight", None),
            ("base_model.model.q.ia3_l", None),
            ("base_model.model.q.hada_w1_a", None),
        ] {
            assert_eq!(part(name), expected, "{name}");
        }
    }
}
