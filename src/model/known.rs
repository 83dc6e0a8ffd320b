//! The architectures of known open models, compiled in: what a model's shapes are held against.
//!
//! Each record keeps its sources and says which of its fields they confirm. A match is about shape alone: it never says
//! where weights came from.

mod expected;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Architecture;

/// The embedded data, as JSON.
pub(crate) const DATA: &str = include_str!("../data/architectures.json");

/// A known open model, as its publisher and others describe it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// Name for people.
    pub name: String,
    /// Repository on the Hugging Face hub: the record's id.
    pub hf_repo: String,
    /// Who published it.
    pub publisher: String,
    /// Release line: `llama2`, `qwen2.5`, ...
    pub family: String,
    /// Year and month of release.
    pub released: String,
    /// `model_type` of its configuration.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Layers.
    pub num_hidden_layers: u64,
    /// Query heads.
    pub num_attention_heads: u64,
    /// Key and value heads.
    pub num_key_value_heads: u64,
    /// Size of a head.
    pub head_dim: u64,
    /// Hidden units of the MLP.
    pub intermediate_size: u64,
    /// Rows of the token embedding.
    pub vocab_size: u64,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Longest context of the configuration; rows of the position embedding where there is one.
    pub max_position_embeddings: u64,
    /// Licence as its publisher states it.
    pub license: Option<String>,
    /// The record's name of the model that it was made from, as its publisher states.
    pub base_model: Option<String>,
    /// Number of parameters, computed from the fields.
    pub total_params: u64,
    /// Name of the formula that computes it.
    pub param_formula: String,
    /// How far the shape is confirmed.
    pub verification: String,
    /// Which sources confirm which fields: status to field names.
    pub field_status: BTreeMap<String, Vec<String>>,
    /// Where the sources disagree.
    #[serde(default)]
    pub conflicts: Vec<Value>,
    /// Where the record came from.
    pub source: Vec<String>,
    /// Matrices that the publisher's files store as one.
    #[serde(default)]
    pub fused: Option<String>,
    /// Anything else worth knowing.
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    num_experts: Option<u64>,
    #[serde(default)]
    moe_intermediate_size: Option<u64>,
    #[serde(default)]
    intermediate_size_mlp: Option<u64>,
    #[serde(default)]
    interleave_moe_layer_step: Option<u64>,
    #[serde(default)]
    shared_experts: Option<u64>,
    #[serde(default)]
    shared_expert_intermediate_size: Option<u64>,
    #[serde(default)]
    first_k_dense_replace: Option<u64>,
    #[serde(default)]
    router_bias: Option<bool>,
    #[serde(default)]
    q_lora_rank: Option<u64>,
    #[serde(default)]
    kv_lora_rank: Option<u64>,
    #[serde(default)]
    qk_nope_head_dim: Option<u64>,
    #[serde(default)]
    qk_rope_head_dim: Option<u64>,
    #[serde(default)]
    v_head_dim: Option<u64>,
}

#[derive(Deserialize)]
struct Data {
    records: Vec<Record>,
}

struct Entry {
    record: Record,
    features: Vec<Feature>,
    /// Index of the first record with the same shapes.
    group: usize,
}

/// Every record, LLaMA's first.
pub fn records() -> impl ExactSizeIterator<Item = &'static Record> {
    entries().iter().map(|entry| &entry.record)
}

/// The record with this id, upper and lower case alike.
pub fn find(id: &str) -> Option<&'static Record> {
    records().find(|record| record.hf_repo.eq_ignore_ascii_case(id))
}

/// Where the shapes of a checkpoint contradict those of the known model with this id: sizes that both sides tell. Empty
/// where the id is not known.
pub fn contradictions(id: &str, architecture: &Architecture) -> Vec<FieldDifference> {
    let Some(entry) = entries().iter().find(|entry| entry.record.hf_repo.eq_ignore_ascii_case(id)) else {
        return Vec::new();
    };
    let found = features(architecture);
    let told =
        |(ours, theirs): &(&Feature, &Feature)| !(ours.optional || ours.value.is_null() || theirs.value.is_null());
    let difference = |(ours, theirs): (&Feature, &Feature)| FieldDifference {
        field: ours.field.to_owned(),
        found: ours.value.clone(),
        expected: theirs.value.clone(),
    };
    agreement(&found, &entry.features).1.into_iter().filter(told).map(difference).collect()
}

fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        // Compiled in and held by a test, so it parses.
        #[expect(clippy::expect_used, reason = "the data are part of the program")]
        let data: Data = serde_json::from_str(DATA).expect("embedded architectures parse");
        let mut first = BTreeMap::new();
        let mut entries = Vec::with_capacity(data.records.len());
        for (index, record) in data.records.into_iter().enumerate() {
            let features = features(&record.architecture());
            let group = *first.entry(format!("{features:?}")).or_insert(index);
            entries.push(Entry { record, features, group });
        }
        entries
    })
}

/// A field in which a checkpoint and a record differ.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldDifference {
    /// Name of the field in [`Architecture`].
    pub field: String,
    /// The checkpoint's value.
    pub found: Value,
    /// The record's value.
    pub expected: Value,
}

/// A known architecture and how far it equals a checkpoint's.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// The record's id: its repository on the Hugging Face hub.
    pub id: String,
    /// The record's name.
    pub name: String,
    /// The record's release line.
    pub family: String,
    /// Whether no field that shapes show differs.
    pub equal: bool,
    /// Fields that are equal.
    pub fields_equal: usize,
    /// Fields that could be compared.
    pub fields: usize,
    /// Fields that differ.
    pub differs: Vec<FieldDifference>,
    /// Ids of all records with these shapes, this one included: shape cannot tell them apart.
    pub group: Vec<String>,
    /// Where the record came from.
    pub source: Vec<String>,
    /// How far its shape is confirmed.
    pub verification: String,
}

/// One comparable field. Storage order and fusion are no part of it: a model does not become another one by them.
#[derive(Debug, Clone, PartialEq)]
struct Feature {
    field: &'static str,
    value: Value,
    /// Sizes weigh more than switches: they carry more information.
    weight: u32,
    /// Whether an absent value means "cannot be told" and is then left out of the comparison.
    optional: bool,
}

fn features(a: &Architecture) -> Vec<Feature> {
    let size = |field, value: Value| Feature { field, value, weight: 4, optional: false };
    let switch = |field, value: Value| Feature { field, value, weight: 1, optional: true };
    vec![
        size("hidden_size", json!(a.hidden_size)),
        size("layers", json!(a.layers)),
        size("q_size", json!(a.q_size)),
        size("kv_size", json!(a.kv_size)),
        size("intermediate_size", json!(a.intermediate_size)),
        size("vocab_size", json!(a.vocab_size)),
        size("latent", json!(a.latent)),
        size("experts", json!(a.experts)),
        size("expert_size", json!(a.expert_size)),
        size("expert_layers", json!(a.expert_layers)),
        size("shared_expert_size", json!(a.shared_expert_size)),
        size("position_embeddings", json!(a.position_embeddings)),
        size("token_types", json!(a.token_types)),
        size("gated_mlp", json!(a.gated_mlp)),
        switch("heads", json!(a.heads)),
        switch("head_dim", json!(a.head_dim)),
        switch("tied", json!(a.tied)),
        switch("attention_bias", json!(a.attention_bias)),
        switch("attention_output_bias", json!(a.attention_output_bias)),
        switch("mlp_bias", json!(a.mlp_bias)),
        switch("norm_bias", json!(a.norm_bias)),
        switch("output_bias", json!(a.output_bias)),
        switch("qk_norm", json!(a.qk_norm)),
        switch("norms_per_layer", json!(a.norms_per_layer)),
        switch("final_norm", json!(a.final_norm)),
        switch("embedding_norm", json!(a.embedding_norm)),
        switch("router_bias", json!(a.router_bias)),
        switch("shared_expert_router", json!(a.shared_expert_router)),
        switch("attention_sinks", json!(a.attention_sinks)),
        size("unplaced", json!(Some(a.unplaced).filter(|&n| n > 0))),
    ]
}

/// The `n` records nearest to `architecture`, one for each group of equal shapes: those that agree in everything first,
/// then by agreement (sizes weigh four times as much as switches), then in the catalog's order, which begins with
/// LLaMA.
pub fn nearest(architecture: &Architecture, n: usize) -> Vec<Nearest> {
    let found = features(architecture);
    let entries = entries();
    let mut order: Vec<(bool, u32, usize)> = entries
        .iter()
        .enumerate()
        .filter(|(index, entry)| entry.group == *index)
        .map(|(index, entry)| {
            let (agreement, differs) = agreement(&found, &entry.features);
            (!differs.is_empty(), u32::MAX - agreement, index)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().take(n).map(|(_, _, index)| describe(&found, index, entries)).collect()
}

/// How two architecture records agree, field by field.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Fields that were compared; a field that only one side can tell is left out.
    pub fields: usize,
    /// Fields that are equal.
    pub equal: usize,
    /// Names of the others.
    pub differs: Vec<&'static str>,
}

/// Compares the records of two checkpoints.
pub fn compare(a: &Architecture, b: &Architecture) -> Agreement {
    let (a, b) = (features(a), features(b));
    let differs: Vec<&'static str> = agreement(&a, &b).1.into_iter().map(|(ours, _)| ours.field).collect();
    let fields = comparable(&a, &b).count();
    Agreement { fields, equal: fields - differs.len(), differs }
}

fn agreement<'a>(found: &'a [Feature], expected: &'a [Feature]) -> (u32, Vec<(&'a Feature, &'a Feature)>) {
    let mut agreement = 0;
    let mut differs = Vec::new();
    for (ours, theirs) in comparable(found, expected) {
        if ours.value == theirs.value {
            // Two absent sizes agree, but say little.
            agreement += if ours.value.is_null() { 1 } else { ours.weight };
        } else {
            differs.push((ours, theirs));
        }
    }
    (agreement, differs)
}

fn comparable<'a>(found: &'a [Feature], expected: &'a [Feature]) -> impl Iterator<Item = (&'a Feature, &'a Feature)> {
    found.iter().zip(expected).filter(|(ours, theirs)| {
        let unknown = ours.value.is_null() || theirs.value.is_null();
        // Files of tied models often hold the head as well, as a copy.
        let copied_head = ours.field == "tied" && ours.value == json!(false) && theirs.value == json!(true);
        // What lies beside the block is a difference where there is something, and nothing to count where not.
        let all_placed = ours.field == "unplaced" && ours.value.is_null() && theirs.value.is_null();
        !(copied_head || all_placed || unknown && ours.optional)
    })
}

fn describe(found: &[Feature], index: usize, entries: &[Entry]) -> Nearest {
    let entry = &entries[index];
    let fields = comparable(found, &entry.features).count();
    let (_, differs) = agreement(found, &entry.features);
    let record = &entry.record;
    Nearest {
        id: record.hf_repo.clone(),
        name: record.name.clone(),
        family: record.family.clone(),
        equal: differs.is_empty(),
        fields_equal: fields - differs.len(),
        fields,
        differs: differs
            .into_iter()
            .map(|(ours, theirs)| FieldDifference {
                field: ours.field.to_owned(),
                found: ours.value.clone(),
                expected: theirs.value.clone(),
            })
            .collect(),
        group: entries.iter().filter(|e| e.group == entry.group).map(|e| e.record.hf_repo.clone()).collect(),
        source: record.source.clone(),
        verification: record.verification.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::blueprint::{Slot, blueprint};

    #[test]
    fn every_record_has_an_id_of_its_own_and_a_source() {
        let ids: BTreeSet<_> = records().map(|record| record.hf_repo.to_ascii_lowercase()).collect();
        assert_eq!(ids.len(), records().len());
        assert_eq!(records().len(), 231);
        for record in records() {
            assert!(!record.source.is_empty(), "{} has no source", record.name);
            assert!(!record.field_status.is_empty(), "{} does not say what is confirmed", record.name);
        }
    }

    #[test]
    fn the_catalog_begins_with_llama() {
        assert_eq!(records().next().map(|record| record.name.as_str()), Some("LLaMA-7B"));
    }

    #[test]
    fn every_record_has_the_parameters_that_its_blueprint_adds_up_to() {
        let wrong: Vec<String> = records()
            .filter_map(|record| {
                let architecture = record.architecture();
                let of = |slot: &Slot| slot.tensors(&architecture) * slot.shape.iter().product::<u64>();
                let found = blueprint(&architecture).iter().map(of).sum::<u64>() + expected::scalars(record);
                (found != record.total_params).then(|| {
                    format!("{} ({}): {found} instead of {}", record.name, record.param_formula, record.total_params)
                })
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_records_own_architecture_is_nearest_to_itself() {
        for record in records() {
            let nearest = nearest(&record.architecture(), 1);
            assert!(nearest[0].equal, "{}: {:?}", record.name, nearest[0].differs);
            assert!(nearest[0].group.contains(&record.hf_repo), "{} finds {:?}", record.name, nearest[0].group);
        }
    }

    #[test]
    fn llama_2_7b_cannot_be_told_from_llama_7b_and_the_elder_is_named() {
        let record = find("meta-llama/Llama-2-7b-hf").unwrap();
        let nearest = nearest(&record.architecture(), 2);
        assert_eq!(nearest[0].id, "huggyllama/llama-7b");
        assert!(nearest[0].group.contains(&record.hf_repo));
        assert!(!nearest[1].equal);
    }
}
