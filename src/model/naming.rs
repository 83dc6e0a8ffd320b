//! How publishers and tools name tensors: the schemes that are compiled in, and an index from a name to its roles.
//!
//! Patterns know two placeholders, `{layer}` and `{expert}`, each of which stands for a whole number between dots.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{Family, Role};

/// The embedded data, as JSON.
pub(crate) const DATA: &str = include_str!("../data/naming.json");

/// Beginnings of patterns that name the module around the decoder. Files of the bare decoder leave them out.
const MODULES: [&str; 3] = ["model.", "transformer.", "gpt_neox."];

/// One way of naming the tensors of a checkpoint.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Scheme {
    /// Stable id: `hf_llama`, `meta_llama`, `gguf`, ...
    pub id: String,
    /// Title for people.
    pub title: String,
    /// Architecture families of which it is usual; the first scheme that lists a family is its standard.
    #[serde(deserialize_with = "known_families")]
    pub families: Vec<Family>,
    /// The scheme of which this one is a copy with a few names changed.
    #[serde(default)]
    pub variant_of: Option<String>,
    /// Prefixes under which it is met.
    pub prefixes: Vec<String>,
    /// How its fused tensors split.
    pub fused: Vec<Fused>,
    /// Whether it is a tool's form that fuses what the models have apart, so that the fusing says nothing of them.
    #[serde(default)]
    pub fuses: bool,
    /// Which matrices are stored (in, out).
    pub transposed: String,
    /// Its names.
    pub tensors: Vec<Row>,
}

/// Matrices that a scheme stores as one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Fused {
    /// Which ones.
    pub of: Fusion,
    /// How their rows follow each other.
    pub order: RowOrder,
    /// The same in words, as its source has it.
    pub split: String,
}

/// Matrices that are met as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fusion {
    /// Query, key and value.
    Qkv,
    /// Gate and up.
    GateUp,
}

/// How the rows of matrices that are stored as one follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowOrder {
    /// All of the first, then all of the second, and so on.
    InTurn,
    /// For each group of keys its queries, its key, its value.
    ByGroup,
    /// One row of each by turns.
    Alternating,
}

/// Families by name; one that is not known is an error, so that a slip in the data does not pass for another family.
fn known_families<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Family>, D::Error> {
    let names: Vec<String> = Vec::deserialize(deserializer)?;
    let known = |name: &String| Family::named(name).ok_or_else(|| D::Error::custom(format!("unknown family `{name}`")));
    names.iter().map(known).collect()
}

/// A name of a scheme.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// What the tensor is for.
    pub role: Role,
    /// Its name, with `{layer}` and `{expert}` for numbers.
    pub pattern: String,
    /// Whether models that use the scheme may lack it.
    #[serde(default)]
    pub optional: bool,
}

#[derive(Deserialize)]
struct Data {
    prefixes: Prefixes,
    schemes: Vec<Scheme>,
}

#[derive(Deserialize)]
struct Prefixes {
    strip: Vec<String>,
    ignore_modules: Vec<String>,
}

fn data() -> &'static Data {
    static CELL: OnceLock<Data> = OnceLock::new();
    CELL.get_or_init(|| {
        #[expect(clippy::expect_used, reason = "the data are part of the program, and a test parses them")]
        serde_json::from_str(DATA).expect("embedded naming schemes parse")
    })
}

/// Every scheme; the Hugging Face names of LLaMA come first.
pub fn schemes() -> &'static [Scheme] {
    &data().schemes
}

/// The scheme with this id.
pub fn scheme(id: &str) -> Option<&'static Scheme> {
    schemes().iter().find(|scheme| scheme.id == id)
}

/// The scheme that models of this family are published in.
pub fn standard(family: Family) -> Option<&'static Scheme> {
    schemes().iter().find(|scheme| scheme.variant_of.is_none() && scheme.families.contains(&family))
}

/// Prefixes under which any scheme is met, the empty one first, then by length.
pub fn prefixes() -> &'static [String] {
    static CELL: OnceLock<Vec<String>> = OnceLock::new();
    CELL.get_or_init(|| {
        let own = schemes().iter().flat_map(|scheme| &scheme.prefixes);
        let mut all: Vec<String> = data().prefixes.strip.iter().chain(own).cloned().chain([String::new()]).collect();
        all.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        all.dedup();
        all
    })
}

/// Modules of multimodal models that are no part of the language model.
pub fn other_modules() -> &'static [String] {
    &data().prefixes.ignore_modules
}

/// A name with its numbers taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collapsed {
    /// The name with `#` for every number that stands for itself between dots or after a word like `layer`.
    pub key: String,
    /// Those numbers, in order.
    pub numbers: Vec<u32>,
}

/// Takes the numbers out of `name`: `model.layers.12.ln1.weight` becomes `model.layers.#.ln1.weight` and 12.
pub fn collapse(name: &str) -> Collapsed {
    let mut key = String::with_capacity(name.len());
    let mut numbers = Vec::new();
    for segment in name.split_inclusive(['.', '/']) {
        let (body, separator) = match segment.strip_suffix(['.', '/']) {
            Some(body) => (body, &segment[body.len()..]),
            None => (segment, ""),
        };
        let stem = body.trim_end_matches(|c: char| c.is_ascii_digit());
        match body[stem.len()..].parse() {
            Ok(number) if stem.is_empty() || counts_layers(stem) => {
                key.push_str(stem);
                key.push('#');
                numbers.push(number);
            }
            _ => key.push_str(body),
        }
        key.push_str(separator);
    }
    Collapsed { key, numbers }
}

/// Whether a number right behind `stem` is an index of layers, as in `layer_12` or `block3`.
pub(crate) fn counts_layers(stem: &str) -> bool {
    let word = stem.trim_end_matches(['_', '-']).to_ascii_lowercase();
    ["layer", "layers", "block", "blocks", "expert", "experts"].iter().any(|end| word.ends_with(end))
}

/// What a number of a pattern stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digit {
    Layer,
    Expert,
    Itself(u32),
}

#[derive(Debug)]
struct Target {
    scheme: usize,
    row: usize,
    bare: bool,
    digits: Vec<Digit>,
}

/// A row of a scheme that a name fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Index into [`schemes`].
    pub scheme: usize,
    /// Index into the scheme's tensors.
    pub row: usize,
    /// Whether the name lacks the scheme's outer module.
    pub bare: bool,
    /// The layer in the name.
    pub layer: Option<u32>,
    /// The expert in the name.
    pub expert: Option<u32>,
}

impl Scheme {
    /// The row order of matrices that the scheme stores as one, if its sources tell.
    pub fn row_order(&self, of: Fusion) -> Option<RowOrder> {
        self.fused.iter().find(|fused| fused.of == of).map(|fused| fused.order)
    }
}

impl Hit {
    /// The row itself.
    pub fn row(self) -> &'static Row {
        &schemes()[self.scheme].tensors[self.row]
    }
}

fn index() -> &'static HashMap<String, Vec<Target>> {
    static CELL: OnceLock<HashMap<String, Vec<Target>>> = OnceLock::new();
    CELL.get_or_init(|| {
        let mut index: HashMap<String, Vec<Target>> = HashMap::new();
        for (scheme, rows) in schemes().iter().enumerate() {
            for (row, Row { pattern, .. }) in rows.tensors.iter().enumerate() {
                let mut add = |pattern: &str, bare| {
                    let (key, digits) = parse(pattern);
                    index.entry(key).or_default().push(Target { scheme, row, bare, digits });
                };
                add(pattern, false);
                if let Some(rest) = MODULES.iter().find_map(|module| pattern.strip_prefix(module)) {
                    add(rest, true);
                }
            }
        }
        index
    })
}

fn parse(pattern: &str) -> (String, Vec<Digit>) {
    const LAYER: u32 = u32::MAX;
    const EXPERT: u32 = u32::MAX - 1;
    let numbered = pattern.replace("{layer}", &LAYER.to_string()).replace("{expert}", &EXPERT.to_string());
    let collapsed = collapse(&numbered);
    let digits = collapsed
        .numbers
        .into_iter()
        .map(|number| match number {
            LAYER => Digit::Layer,
            EXPERT => Digit::Expert,
            itself => Digit::Itself(itself),
        })
        .collect();
    (collapsed.key, digits)
}

/// Every row of every scheme that a name with this key and these numbers fits.
pub fn lookup(key: &str, numbers: &[u32]) -> impl Iterator<Item = Hit> {
    index().get(key).into_iter().flatten().filter_map(move |target| {
        let (mut layer, mut expert) = (None, None);
        for (digit, &number) in target.digits.iter().zip(numbers) {
            match digit {
                Digit::Layer => layer = Some(number),
                Digit::Expert => expert = Some(number),
                Digit::Itself(itself) if *itself == number => {}
                Digit::Itself(_) => return None,
            }
        }
        Some(Hit { scheme: target.scheme, row: target.row, bare: target.bare, layer, expert })
    })
}

/// Whether a tensor of this name is part of a change to a base model, as PEFT, llama.cpp and kohya's scripts name them,
/// and no weight of its own.
pub fn is_adapter_part(name: &str) -> bool {
    const PARTS: [&str; 31] = [
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
        "lora_a",
        "lora_b",
        "lora_down",
        "lora_up",
        "hada_w1_a",
        "hada_w1_b",
        "hada_w2_a",
        "hada_w2_b",
        "ia3_l",
        "lokr_w1",
        "lokr_w1_a",
        "lokr_w1_b",
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "oft_r",
        "oft_R",
        "boft_R",
        "boft_s",
        "vera_lambda_b",
        "vera_lambda_d",
        "fourierft_spectrum",
        "hra_u",
        "prompt_embeddings",
        "adaption_prompt",
        "adaption_gate",
    ];
    // Some models put a word of their own in front, as in `Plora_A`.
    let is_part =
        |segment: &str| PARTS.contains(&segment) || segment.ends_with("lora_A") || segment.ends_with("lora_B");
    name.split('.').any(is_part)
}

/// The module that a part of an adapter changes: what stands in front of the adapter's own part of the name.
fn changed_module(name: &str) -> Option<String> {
    let segments: Vec<&str> = name.split('.').collect();
    let at = segments.iter().position(|segment| is_adapter_part(segment))?;
    Some(segments[..at].join("."))
}

/// Whether tensors of these names are a change to a model that lies elsewhere. Some models are published with adapters
/// inside, and trainers save both together: then most modules that are changed have their own weight beside the change.
pub fn lacks_base<'a>(names: impl Iterator<Item = &'a str> + Clone) -> bool {
    let changed: HashSet<String> = names.clone().filter_map(changed_module).collect();
    if changed.is_empty() {
        return false;
    }
    let own = |name: &str| {
        let segments = name.split('.').rev().skip(1).filter(|segment| *segment != "base_layer");
        let mut module: Vec<&str> = segments.collect();
        module.reverse();
        module.join(".")
    };
    // Biases of the changed modules come with adapters.
    let is_weight = |name: &&str| !is_adapter_part(name) && !name.ends_with(".bias");
    let held: HashSet<String> = names.filter(is_weight).map(own).collect();
    let found = changed.iter().filter(|module| held.contains(*module)).count();
    2 * found <= changed.len()
}

/// The name of a weight without the module that PEFT puts around it where an adapter changes it.
pub fn without_wrapper(name: &str) -> Option<String> {
    let kept: Vec<&str> = name.split('.').filter(|segment| *segment != "base_layer").collect();
    let kept = kept.join(".");
    (kept.len() < name.len() && !is_adapter_part(name)).then_some(kept)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scheme_has_an_id_of_its_own_a_source_and_names() {
        let ids: BTreeSet<_> = schemes().iter().map(|scheme| &scheme.id).collect();
        assert_eq!(ids.len(), schemes().len());
        assert_eq!(schemes().len(), 49);
        let data: serde_json::Value = serde_json::from_str(DATA).unwrap();
        for (index, scheme) in schemes().iter().enumerate() {
            let sources = data["schemes"][index]["source"].as_array().unwrap();
            assert!(!sources.is_empty() && !scheme.tensors.is_empty(), "{}", scheme.id);
            if let Some(other) = &scheme.variant_of {
                assert!(ids.contains(other), "{} is a variant of an unknown scheme", scheme.id);
            }
            for row in &scheme.tensors {
                let rest = row.pattern.replace("{layer}", "").replace("{expert}", "");
                assert!(!rest.contains(['{', '}', '*', '<']), "{}: {}", scheme.id, row.pattern);
            }
        }
    }

    #[test]
    fn the_standard_of_the_llama_family_is_hugging_faces() {
        assert_eq!(standard(Family::Llama).map(|scheme| scheme.id.as_str()), Some("hf_llama"));
        assert!(standard(Family::Unknown).is_none());
    }

    #[test]
    fn a_family_that_is_not_known_is_an_error_in_the_data() {
        let wrong = DATA.replacen(r#""families": ["llama"]"#, r#""families": ["lama"]"#, 1);
        let error = serde_json::from_str::<Data>(&wrong).err().unwrap().to_string();
        assert!(error.contains("unknown family `lama`"), "{error}");
    }

    #[test]
    fn fused_tensors_have_a_row_order_that_fits_them() {
        for scheme in schemes() {
            for Fused { of, order, split } in &scheme.fused {
                let fits = match order {
                    RowOrder::InTurn => true,
                    RowOrder::ByGroup => *of == Fusion::Qkv,
                    RowOrder::Alternating => *of == Fusion::GateUp,
                };
                assert!(fits && !split.is_empty(), "{}: {of:?} {order:?}", scheme.id);
                assert_eq!(scheme.fused.iter().filter(|other| other.of == *of).count(), 1, "{}", scheme.id);
            }
            let holds = |roles: &[Role]| scheme.tensors.iter().any(|row| roles.contains(&row.role));
            if holds(&[Role::FfnGateUp, Role::ExpertGateUp]) {
                assert!(scheme.row_order(Fusion::GateUp).is_some(), "{}", scheme.id);
            }
        }
    }

    #[test]
    fn numbers_between_dots_collapse_and_numbers_in_words_do_not() {
        let collapsed = collapse("model.layers.12.mlp.experts.3.w1.weight");
        assert_eq!(collapsed.key, "model.layers.#.mlp.experts.#.w1.weight");
        assert_eq!(collapsed.numbers, [12, 3]);
        assert_eq!(collapse("layer_7/ln_1").key, "layer_#/ln_1");
        assert_eq!(collapse("t0001").key, "t0001");
        assert_eq!(collapse("a.99999999999.b").key, "a.99999999999.b");
        assert_eq!(collapse("").key, "");
    }

    #[test]
    fn a_name_finds_its_row_with_layer_and_expert() {
        let name = collapse("model.layers.5.block_sparse_moe.experts.2.w3.weight");
        let hit = lookup(&name.key, &name.numbers).find(|hit| schemes()[hit.scheme].id == "mixtral_hf").unwrap();
        assert_eq!((hit.row().role, hit.layer, hit.expert), (Role::ExpertUp, Some(5), Some(2)));
    }

    #[test]
    fn a_number_that_belongs_to_the_name_must_be_that_number() {
        let self_attention = collapse("encoder.block.3.layer.0.SelfAttention.q.weight");
        assert!(lookup(&self_attention.key, &self_attention.numbers).next().is_some());
        let other = collapse("encoder.block.3.layer.9.SelfAttention.q.weight");
        assert!(lookup(&other.key, &other.numbers).next().is_none());
    }
}
