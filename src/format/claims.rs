//! What files say of the model, in or beside the weights. All of it is hearsay about the weights.

use std::sync::Arc;

use serde_json::{Map, Value};

/// What is claimed, as far as anything is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims {
    /// The configuration, under the names that `config.json` has.
    pub config: Option<Map<String, Value>>,
    /// Whether the configuration was taken from the weight file itself and not from `config.json`.
    pub in_weights: bool,
    /// Whether the weights lie in GGUF files.
    pub in_gguf: bool,
    /// The front matter of the model card, or what a weight file declares instead; `None` if there is no such thing.
    pub card: Option<Card>,
    /// Whether there is a model card that could not be read.
    pub card_unreadable: bool,
    /// Models that the text of the card speaks of where it speaks of an origin.
    pub mentions: Vec<String>,
    /// The strings of the vocabulary by id, where the weight file itself has them.
    pub tokens: Option<Arc<Vec<String>>>,
}

/// What a model declares of its origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// `base_model`: the models it says it was made from, in its order; empty if it names none.
    pub base_models: Vec<String>,
    /// `base_model_relation`: `finetune`, `quantized`, `merge` or `adapter`, as the card spells it.
    pub relation: Option<String>,
    /// `license`; several are joined with a comma.
    pub license: Option<String>,
}

impl Claims {
    /// Where the configuration comes from, as findings name it.
    pub fn config_source(&self) -> &'static str {
        if self.in_weights { "the metadata" } else { "config.json" }
    }
}
