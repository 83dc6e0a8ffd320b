//! What `adapter_config.json` states, and whether it is a kind of adapter that can be merged.

use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::text::{in_order, shown};

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
    /// Ranks of single modules.
    #[serde(default)]
    pub rank_pattern: Option<Patterns>,
    /// Alphas of single modules.
    #[serde(default)]
    pub alpha_pattern: Option<Patterns>,
    /// Whether the scale is alpha over the root of the rank.
    #[serde(default)]
    pub use_rslora: Option<bool>,
    /// Whether the changed out features are brought to lengths of their own.
    #[serde(default)]
    pub use_dora: Option<bool>,
    /// Whether the changed matrices are stored by (in, out).
    #[serde(default)]
    pub fan_in_fan_out: Option<bool>,
    /// Modules that are replaced whole.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Everything else that it states.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Numbers for modules whose names end with an expression, in the order of the file: the first that fits counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patterns(pub Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        in_order(deserializer, "an object of numbers").map(Self)
    }
}

/// Most expressions of one kind that are tried on every module.
const MOST_PATTERNS: usize = 10_000;

/// Largest compiled expression, in bytes.
const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// Settings that make another change than `s·B·A`. Each is off where it is absent, null, false, or empty.
const OTHER_VARIANTS: [&str; 12] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
    "loftq_config",
];

/// Beginnings of ways to initialise that change the base too, so that the adapter alone does not tell the result.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

impl Config {
    /// Why an adapter with this configuration is not merged, if it is not.
    pub(crate) fn refused(&self) -> Option<String> {
        let method = self.peft_type.as_deref().unwrap_or("of an unstated method");
        if !method.eq_ignore_ascii_case("lora") {
            return Some(format!("adapters of method {} are not merged, only LoRA is", shown(method)));
        }
        let is_on = |value: &&Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(values) => !values.is_empty(),
            Value::Object(values) => !values.is_empty(),
            _ => true,
        };
        if let Some(name) = OTHER_VARIANTS.iter().find(|name| self.other.get(**name).filter(is_on).is_some()) {
            return Some(format!("LoRA with {name} is not merged"));
        }
        let first = self.other.get("init_lora_weights").and_then(Value::as_str)?.to_ascii_lowercase();
        CHANGES_BASE
            .iter()
            .any(|way| first.starts_with(way))
            .then(|| format!("LoRA initialised by {} changes its base too and is not merged", shown(&first)))
    }

    /// The expressions of `alpha_pattern` and `rank_pattern`, ready to be held against names of modules.
    ///
    /// # Errors
    /// In words, if one of them cannot be read or there are too many.
    pub(crate) fn scales(&self) -> Result<Scales<'_>, String> {
        let compile = |patterns: &Option<Patterns>| {
            let patterns = patterns.as_ref().map_or(&[][..], |patterns| &patterns.0);
            if patterns.len() > MOST_PATTERNS {
                return Err(format!("{} patterns are over the limit of {MOST_PATTERNS}", patterns.len()));
            }
            let each = patterns.iter().map(|(pattern, number)| Ok((Pattern::new(pattern)?, *number)));
            each.collect::<Result<Vec<_>, String>>()
        };
        Ok(Scales { config: self, alphas: compile(&self.alpha_pattern)?, ranks: compile(&self.rank_pattern)? })
    }
}

/// A name that modules end with, or an expression for it.
enum Pattern {
    Name(String),
    Expression(Regex),
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        if text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
            return Ok(Self::Name(text.to_owned()));
        }
        let built =
            regex::RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{text})$")).size_limit(MAX_EXPRESSION_BYTES).build();
        built.map(Self::Expression).map_err(|_| format!("the pattern {} is not read", shown(text)))
    }

    fn fits(&self, module: &str) -> bool {
        match self {
            Self::Name(name) => {
                module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Expression(expression) => expression.is_match(module),
        }
    }
}

/// Alphas and ranks by module.
pub(crate) struct Scales<'a> {
    config: &'a Config,
    alphas: Vec<(Pattern, f64)>,
    ranks: Vec<(Pattern, f64)>,
}

impl Scales<'_> {
    /// The factor `s` of a module whose factors have this rank.
    ///
    /// # Errors
    /// In words, if the configuration states another rank, no alpha, or no finite factor.
    pub(crate) fn of(&self, module: &str, rank: u64) -> Result<f32, String> {
        let find = |patterns: &[(Pattern, f64)]| {
            patterns.iter().find(|(pattern, _)| pattern.fits(module)).map(|(_, number)| *number)
        };
        let stated = find(&self.ranks).or(self.config.r.map(|r| r as f64));
        if let Some(stated) = stated.filter(|stated| *stated != rank as f64) {
            return Err(format!("the configuration states rank {stated}, the factors have rank {rank}"));
        }
        let alpha = find(&self.alphas).or(self.config.lora_alpha).ok_or("the configuration states no lora_alpha")?;
        let by = if self.config.use_rslora == Some(true) { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / by) as f32;
        if scale.is_finite() { Ok(scale) } else { Err(format!("lora_alpha {alpha} makes no finite scale")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn scales_follow_the_first_pattern_that_fits_the_end_of_the_name() {
        let text = r#"{"r": 8, "lora_alpha": 16, "rank_pattern": {"layers.1.mlp.up_proj": 4},
            "alpha_pattern": {"v_proj": 2, "layers\\.[01]\\..*": 24, "_proj": 1}}"#;
        let config = config(text);
        let scales = config.scales().unwrap();
        assert_eq!(scales.of("model.layers.2.self_attn.v_proj", 8), Ok(0.25));
        assert_eq!(scales.of("model.layers.1.self_attn.q_proj", 8), Ok(3.0));
        assert_eq!(scales.of("model.layers.1.mlp.up_proj", 4), Ok(6.0));
        assert_eq!(scales.of("model.layers.2.self_attn.q_proj", 8), Ok(2.0), "a name is taken from a dot on");
        assert!(scales.of("model.layers.1.mlp.up_proj", 8).is_err());
        let rooted = Config { use_rslora: Some(true), ..config.clone() };
        assert_eq!(rooted.scales().unwrap().of("lm_head", 8), Ok((16.0 / 8f64.sqrt()) as f32));
    }

    #[test]
    fn what_is_not_a_plain_sum_is_refused() {
        for (text, told) in [
            (r#"{"peft_type": "IA3"}"#, "`IA3` are not merged"),
            ("{}", "unstated"),
            (r#"{"peft_type": "LORA", "layer_replication": [[0, 2]]}"#, "layer_replication"),
            (r#"{"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}"#, "`pissa_niter_4` changes its base"),
            (r#"{"peft_type": "LORA", "use_qalora": true}"#, "use_qalora"),
        ] {
            let refused = config(text).refused().unwrap_or_default();
            assert!(refused.contains(told), "{text}: {refused}");
        }
        let plain =
            r#"{"peft_type": "LORA", "layer_replication": null, "loftq_config": {}, "init_lora_weights": true}"#;
        assert_eq!(config(plain).refused(), None);
        let hostile = r#"{"r": 1, "lora_alpha": 1, "alpha_pattern": {"((a{99}){99}){99}": 1}}"#;
        assert!(config(hostile).scales().is_err());
        assert!(config(r#"{"lora_alpha": 1e300}"#).scales().unwrap().of("q", 1).is_err());
    }
}
