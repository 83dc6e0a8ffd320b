//! Checkpoints of the known models, by their tensors' names and shapes, and the architecture found in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weightprint::internals::anatomy::{Anatomy, Hints, Residual, Source, config_findings, dissect};
use weightprint::internals::finding::Code;
use weightprint::internals::model::blueprint::{Layers, blueprint};
use weightprint::internals::model::known::{self, Record, nearest};
use weightprint::internals::model::{Architecture, Family, Role, naming};
use weightprint::internals::tensor::{DType, Extent, Storage, TensorMeta};

pub(crate) fn tensor(name: impl Into<String>, shape: &[u64]) -> TensorMeta {
    let storage = Storage::Plain(Extent::default());
    TensorMeta { name: name.into(), dtype: DType::BF16, shape: shape.to_vec(), storage }
}

/// The name that the family's standard scheme has for a role, or the one of LLaMA's or of the mixtures of experts.
fn pattern(family: Family, role: Role, expert: bool) -> String {
    let own = naming::standard(family).into_iter();
    let others = ["hf_llama", "qwen_moe", "qwen3", "gemma2", "stablelm2"].into_iter().filter_map(naming::scheme);
    own.chain(others)
        .flat_map(|scheme| &scheme.tensors)
        .find(|row| row.role == role && row.pattern.contains("{expert}") == expert)
        .map_or_else(|| format!("model.layers.{{layer}}.{role}"), |row| row.pattern.clone())
}

/// The tensors that a checkpoint of this architecture has, named as its family usually is.
pub(crate) fn tensors(a: &Architecture) -> Vec<TensorMeta> {
    let mut tensors = Vec::new();
    let dense = a.dense_layers();
    // Llama 4 Maverick alternates; the others begin with their dense layers.
    let alternates = a.stacked_experts && dense > 1;
    let is_dense = |layer: u64| if alternates { layer.is_multiple_of(2) } else { layer < dense };
    for slot in blueprint(a) {
        let per_expert = slot.experts > 1;
        let mut pattern = pattern(a.family, slot.role, per_expert);
        if a.family == Family::Falcon && a.norms_per_layer == Some(2) {
            pattern = pattern.replace("input_layernorm", "ln_attn");
        }
        let layers = match slot.layers {
            Layers::Outside => vec![None],
            Layers::All => (0..a.layers).map(Some).collect(),
            Layers::Dense => (0..a.layers).filter(|&layer| is_dense(layer)).map(Some).collect(),
            Layers::Mixture => (0..a.layers).filter(|&layer| !is_dense(layer)).map(Some).collect::<Vec<_>>(),
        };
        for layer in layers {
            let name = pattern.replace("{layer}", &layer.unwrap_or(0).to_string());
            for expert in 0..slot.experts {
                tensors.push(tensor(name.replace("{expert}", &expert.to_string()), &slot.shape));
            }
        }
    }
    tensors
}

/// The same tensors under names that say nothing, in an order that says nothing.
pub(crate) fn disguised(tensors: &[TensorMeta]) -> Vec<TensorMeta> {
    let mut disguised = tensors.to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..disguised.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        disguised.swap(i, (state >> 33) as usize % (i + 1));
    }
    for (i, meta) in disguised.iter_mut().enumerate() {
        meta.name = format!("t{i:05}");
    }
    disguised
}

/// What is read of them without names or order.
pub(crate) fn nameless(tensors: &[TensorMeta]) -> Anatomy {
    dissect(&disguised(tensors), Hints::default())
}

/// Fields in which `found` contradicts `expected`; a field that `found` leaves open does not contradict.
pub(crate) fn contradictions(found: &Architecture, expected: &Architecture) -> Vec<String> {
    let fields = |a: &Architecture| match serde_json::to_value(a).unwrap() {
        Value::Object(mut fields) => {
            // How gains are stored is claimed, not shown by shapes.
            fields.remove("norm_gain");
            fields
        }
        _ => Map::new(),
    };
    let (found, expected) = (fields(found), fields(expected));
    let expected = |name: &String| expected.get(name).unwrap_or(&Value::Null);
    let open = ["heads", "kv_heads", "head_dim", "router_bias"];
    found
        .iter()
        .filter(|(name, value)| *value != expected(name) && !(value.is_null() && open.contains(&name.as_str())))
        .map(|(name, value)| format!("{name}: {value} instead of {}", expected(name)))
        .collect()
}

/// The architecture with the family whose block it has, which shapes alone may not tell from another one.
fn with_block(anatomy: &Anatomy) -> Architecture {
    let mut a = anatomy.architecture.clone();
    if a.family == Family::Unknown && anatomy.naming.is_none() {
        a.family = anatomy.block.unwrap_or_default();
    }
    a
}

pub(crate) fn problems(anatomy: &Anatomy, record: &Record) -> Vec<String> {
    let mut problems = contradictions(&with_block(anatomy), &record.architecture());
    let first = &nearest(&anatomy.architecture, 1)[0];
    if !first.group.contains(&record.hf_repo) {
        problems.push(format!("nearest is {}", first.id));
    }
    problems
}

/// Records that cannot be had back from the tensors, and why.
const EXCEPTIONS: [(&str, &str); 0] = [];

#[test]
fn every_known_model_is_recognised_by_names_and_by_shapes_alone() {
    let mut failed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for record in known::records() {
        let tensors = tensors(&record.architecture());
        for (how, anatomy) in [("names", dissect(&tensors, Hints::default())), ("opaque names", nameless(&tensors))] {
            let problems = problems(&anatomy, record);
            if !problems.is_empty() {
                failed.entry(&record.name).or_default().push(format!("{how}: {}", problems.join("; ")));
            }
        }
    }
    let passed = known::records().len() - failed.len();
    let report = format!("{passed} of {} pass\n{failed:#?}", known::records().len());
    let expected: Vec<&str> = EXCEPTIONS.iter().map(|(name, _)| *name).collect();
    assert!(failed.keys().all(|name| expected.contains(name)), "{report}");
    assert!(expected.iter().all(|name| failed.contains_key(name)), "an exception passes now: {report}");
}

pub(crate) fn record(name: &str) -> &'static Record {
    known::records().find(|record| record.name == name).unwrap()
}

pub(crate) fn model(name: &str) -> Vec<TensorMeta> {
    tensors(&record(name).architecture())
}

pub(crate) fn rename(tensors: &mut [TensorMeta], pairs: &[(&str, &str)]) {
    for meta in tensors {
        for (from, to) in pairs {
            meta.name = meta.name.replace(from, to);
        }
    }
}

pub(crate) fn of_role(anatomy: &Anatomy, role: Role) -> Vec<usize> {
    (0..anatomy.assignments.len()).filter(|&i| anatomy.assignments[i].role() == Some(role)).collect()
}

fn rows(anatomy: &Anatomy) -> Vec<(&str, &str, usize)> {
    anatomy.renamed.iter().map(|row| (row.found.as_str(), row.canonical.as_str(), row.count)).collect()
}

fn scheme(anatomy: &Anatomy) -> Option<&str> {
    anatomy.naming.as_ref().map(|naming| naming.scheme.as_str())
}

#[test]
fn yi_34b_is_llama_with_two_tensors_of_each_layer_renamed() {
    let mut yi = model("Yi-34B");
    rename(&mut yi, &[("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2")]);
    let anatomy = dissect(&yi, Hints::default());
    let expected = [
        ("model.layers.{layer}.ln1.weight", "model.layers.{layer}.input_layernorm.weight", 60),
        ("model.layers.{layer}.ln2.weight", "model.layers.{layer}.post_attention_layernorm.weight", 60),
    ];
    assert_eq!(rows(&anatomy), expected);
    assert_eq!(scheme(&anatomy), Some("yi_original"));
    assert_eq!(anatomy.architecture.family, Family::Llama);
    assert!(nearest(&anatomy.architecture, 1)[0].group.contains(&"01-ai/Yi-34B".to_owned()));
}

#[test]
fn names_that_no_scheme_knows_are_settled_by_the_places_left_in_a_layer() {
    let mut llama = model("Llama-3-8B");
    rename(&mut llama, &[("input_layernorm", "pre"), ("post_attention_layernorm", "zwei"), ("down_proj", "contract")]);
    let anatomy = dissect(&llama, Hints::default());
    let expected = [
        ("model.layers.{layer}.pre.weight", "model.layers.{layer}.input_layernorm.weight", 32),
        ("model.layers.{layer}.zwei.weight", "model.layers.{layer}.post_attention_layernorm.weight", 32),
        ("model.layers.{layer}.mlp.contract.weight", "model.layers.{layer}.mlp.down_proj.weight", 32),
    ];
    assert_eq!(rows(&anatomy), expected);
    assert_eq!(scheme(&anatomy), Some("hf_llama"));
    assert!(anatomy.notes.iter().any(|note| note.contains("order")), "{:?}", anatomy.notes);
    assert_eq!(anatomy.assignments[of_role(&anatomy, Role::FfnDown)[7]].layer, Some(7));
}

#[test]
fn equal_matrices_under_unknown_names_stay_undecided() {
    let mut llama = model("Llama-3-8B");
    rename(&mut llama, &[("gate_proj", "a"), ("up_proj", "b"), ("q_proj", "c"), ("o_proj", "d")]);
    let anatomy = dissect(&llama, Hints::default());
    assert_eq!(anatomy.renamed, []);
    let of = |name: &str| &anatomy.assignments[llama.iter().position(|meta| meta.name.contains(name)).unwrap()];
    assert_eq!(of("layers.3.mlp.a").roles, [Role::FfnGate, Role::FfnUp]);
    assert_eq!(of("layers.3.mlp.a").residual, Residual::Reads(1));
    assert_eq!(of("layers.3.self_attn.c").roles, [Role::AttnQ, Role::AttnO]);
    assert_eq!(of("layers.3.self_attn.c").residual, Residual::Ambiguous);
    assert_eq!(of("layers.3.self_attn.c").layer, Some(3));
    assert_eq!(contradictions(&anatomy.architecture, &record("Llama-3-8B").architecture()), Vec::<String>::new());
}

#[test]
fn metas_and_gguf_names_are_schemes_of_their_own_and_nothing_is_renamed() {
    for (id, expected) in [("meta_llama", "llama"), ("gguf", "llama"), ("hf_llama", "llama"), ("mlx", "llama")] {
        let scheme_rows = &naming::scheme(id).unwrap().tensors;
        let mut llama = model("Llama-3-8B");
        let own = dissect(&llama, Hints::default());
        for (meta, assignment) in llama.iter_mut().zip(&own.assignments) {
            let row = scheme_rows.iter().find(|row| Some(row.role) == assignment.role()).unwrap();
            meta.name = row.pattern.replace("{layer}", &assignment.layer.unwrap_or(0).to_string());
        }
        let anatomy = dissect(&llama, Hints::default());
        let known = if id == "mlx" { "hf_llama" } else { id };
        assert_eq!((scheme(&anatomy), anatomy.architecture.family.as_str()), (Some(known), expected));
        assert_eq!(anatomy.renamed, []);
        assert_eq!(anatomy.architecture, own.architecture);
    }
}

#[test]
fn schemes_that_share_names_are_told_apart_by_features() {
    let expected = [
        ("LLaMA-7B", "hf_llama"),
        ("Llama-3.2-1B", "hf_llama"),
        ("Mistral-7B-v0.1", "hf_llama"),
        ("Qwen2.5-7B", "qwen2"),
        ("Qwen3-8B", "qwen3"),
        ("Qwen3-30B-A3B", "qwen_moe"),
        ("Gemma-2B", "hf_llama"),
        ("Gemma-2-9B", "gemma2"),
        ("Gemma-3-4B", "gemma2"),
        ("Phi-3-mini-4k", "phi3"),
        ("Mixtral-8x7B-v0.1", "mixtral_hf"),
        ("Pythia-6.9B", "gpt_neox"),
        ("GPT-2", "gpt2"),
        ("BERT-base-uncased", "bert"),
        ("OLMo-2-7B", "olmo2"),
        ("Command-R", "cohere"),
        ("DeepSeek-V3", "deepseek_mla"),
        ("gpt-oss-20b", "gpt_oss"),
        ("Llama-4-Maverick-17B-128E", "llama4_hf"),
        ("Falcon-40B", "falcon"),
        ("StarCoder2-7B", "starcoder2"),
        ("GLM-4-9B-0414", "glm4_hf"),
    ];
    for (name, id) in expected {
        let anatomy = dissect(&model(name), Hints::default());
        let naming = anatomy.naming.unwrap();
        assert_eq!((naming.scheme.as_str(), naming.matched), (id, naming.of), "{name}");
        assert_eq!(anatomy.renamed, [], "{name}");
    }
}

#[test]
fn a_name_whose_shape_cannot_play_the_role_is_not_believed() {
    let mut llama = model("Llama-3-8B");
    rename(
        &mut llama,
        &[
            ("input_layernorm", "x"),
            ("mlp.up_proj", "input_layernorm"),
            ("self_attn.k_proj", "mlp.up_proj"),
            (".x.", ".self_attn.k_proj."),
        ],
    );
    let anatomy = dissect(&llama, Hints::default());
    for (meta, assignment) in llama.iter().zip(&anatomy.assignments) {
        let allowed: &[Role] = match meta.name.rsplit('.').nth(1).unwrap() {
            "input_layernorm" => &[Role::FfnUp],
            "up_proj" => &[Role::AttnK],
            "k_proj" => &[Role::AttnNorm],
            _ => continue,
        };
        assert_eq!(assignment.roles, allowed, "{}", meta.name);
        assert_eq!(assignment.by, Some(Source::Shapes));
    }
    assert_eq!(anatomy.architecture, record("Llama-3-8B").architecture().without_heads());
}

trait WithoutHeads {
    fn without_heads(self) -> Self;
}

impl WithoutHeads for Architecture {
    fn without_heads(mut self) -> Self {
        (self.heads, self.kv_heads, self.head_dim, self.router_bias) = (None, None, None, None);
        self
    }
}

#[test]
fn a_language_model_inside_a_multimodal_one_is_taken_alone() {
    let mut gemma = model("Gemma-3-4B");
    for meta in &mut gemma {
        meta.name.insert_str(0, "language_model.");
    }
    let own = gemma.len();
    for layer in 0..27 {
        gemma.push(tensor(format!("vision_tower.vision_model.encoder.layers.{layer}.mlp.fc1.weight"), &[4304, 1152]));
        gemma.push(tensor(format!("vision_tower.vision_model.encoder.layers.{layer}.mlp.fc2.weight"), &[1152, 4304]));
    }
    gemma.push(tensor("multi_modal_projector.mm_input_projection_weight", &[1152, 2560]));
    let anatomy = dissect(&gemma, Hints::default());
    assert!(problems(&anatomy, record("Gemma-3-4B")).is_empty());
    assert_eq!(anatomy.naming.as_ref().map(|naming| naming.prefix.as_str()), Some("language_model."));
    assert!(anatomy.assignments[own..].iter().all(|assignment| assignment.roles.is_empty()));
    assert!(anatomy.notes.iter().any(|note| note.starts_with("55 tensors of other towers")), "{:?}", anatomy.notes);
}

#[test]
fn newer_multimodal_files_put_the_prefix_inside_the_model() {
    let mut gemma = model("Gemma-3-4B");
    rename(&mut gemma, &[("model.", "model.language_model.")]);
    gemma.push(tensor("model.vision_tower.patch_embedding.weight", &[1152, 3, 14, 14]));
    gemma.push(tensor("lm_head.weight", &[262_208, 2560]));
    let anatomy = dissect(&gemma, Hints::default());
    assert_eq!(scheme(&anatomy), Some("gemma2"));
    assert_eq!(of_role(&anatomy, Role::Output), [gemma.len() - 1]);
    assert_eq!(anatomy.renamed, []);
}

#[test]
fn rotary_buffers_are_no_weights_and_show_the_size_of_a_head() {
    let mut llama = model("Llama-2-7B");
    for layer in 0..32 {
        llama.push(tensor(format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq"), &[64]));
    }
    for anatomy in [dissect(&llama, Hints::default()), nameless(&llama)] {
        assert_eq!((anatomy.architecture.heads, anatomy.architecture.head_dim), (Some(32), Some(128)));
        assert_eq!(of_role(&anatomy, Role::RopeFreqs).len(), 32);
    }
}

#[test]
fn latent_attention_shows_its_heads() {
    let a = nameless(&model("DeepSeek-V3")).architecture;
    assert_eq!((a.heads, a.head_dim), (Some(128), Some(192)));
}

#[test]
fn masks_and_indices_are_left_out() {
    let mut pythia = model("Pythia-160M");
    for layer in 0..12 {
        let name = format!("gpt_neox.layers.{layer}.attention");
        let mut mask = tensor(format!("{name}.bias"), &[1, 1, 2048, 2048]);
        mask.dtype = DType::Bool;
        pythia.extend([mask, tensor(format!("{name}.masked_bias"), &[])]);
        pythia.push(tensor(format!("{name}.rotary_emb.inv_freq"), &[8]));
    }
    let anatomy = dissect(&pythia, Hints::default());
    assert!(problems(&anatomy, record("Pythia-160M")).is_empty());
    assert_eq!(of_role(&anatomy, Role::Buffer).len(), 24);
    assert_eq!(problems(&nameless(&pythia), record("Pythia-160M")), Vec::<String>::new());
}

#[test]
fn scales_of_quantised_matrices_do_not_disturb() {
    let mut deepseek = model("DeepSeek-V2-Lite");
    let scales: Vec<TensorMeta> = deepseek
        .iter()
        .filter(|meta| meta.name.contains("_proj"))
        .map(|meta| {
            tensor(format!("{}_scale_inv", meta.name), &[meta.shape[0].div_ceil(128), meta.shape[1].div_ceil(128)])
        })
        .collect();
    let n = scales.len();
    deepseek.extend(scales);
    for meta in &mut deepseek {
        meta.storage = Storage::Plain(Extent { len: meta.elements(), ..Extent::default() });
    }
    let anatomy = dissect(&deepseek, Hints::default());
    assert_eq!(problems(&anatomy, record("DeepSeek-V2-Lite")), Vec::<String>::new());
    assert_eq!(of_role(&anatomy, Role::QuantScale).len(), n);
}

#[test]
fn the_residual_axis_follows_the_storage_order() {
    let gpt2 = dissect(&model("GPT-2"), Hints::default());
    let llama = dissect(&model("Llama-3-8B"), Hints::default());
    let scout = dissect(&model("Llama-4-Scout-17B-16E"), Hints::default());
    let residual = |anatomy: &Anatomy, role| anatomy.assignments[of_role(anatomy, role)[0]].residual;
    assert_eq!(residual(&gpt2, Role::AttnQkv), Residual::Reads(0));
    assert_eq!(residual(&gpt2, Role::AttnO), Residual::Writes(1));
    assert_eq!(residual(&gpt2, Role::FfnDown), Residual::Writes(1));
    assert_eq!(residual(&gpt2, Role::PosEmbd), Residual::Embeds(1));
    assert_eq!(residual(&gpt2, Role::AttnNormBias), Residual::Bias);
    assert_eq!(residual(&gpt2, Role::AttnQkvBias), Residual::None);
    assert_eq!(residual(&llama, Role::AttnQ), Residual::Reads(1));
    assert_eq!(residual(&llama, Role::AttnO), Residual::Writes(0));
    assert_eq!(residual(&llama, Role::Output), Residual::Embeds(1));
    assert_eq!(residual(&llama, Role::FfnNorm), Residual::Gain);
    assert_eq!(residual(&scout, Role::ExpertGateUp), Residual::Reads(1));
    assert_eq!(residual(&scout, Role::ExpertDown), Residual::Writes(2));
    assert_eq!(residual(&scout, Role::AttnO), Residual::Writes(0));
}

#[test]
fn opaque_names_leave_roles_that_shape_settles() {
    let llama = disguised(&model("Llama-3-8B"));
    let anatomy = dissect(&llama, Hints::default());
    assert_eq!((anatomy.naming.as_ref(), anatomy.by), (None, Source::Shapes));
    assert_eq!(of_role(&anatomy, Role::FfnDown).len(), 32);
    let down: Vec<_> = anatomy.renamed.iter().filter(|row| row.role == Role::FfnDown).collect();
    assert_eq!(down.len(), 32);
    assert!(down.iter().all(|row| row.canonical == "model.layers.{layer}.mlp.down_proj.weight" && row.count == 1));
}

#[test]
fn heads_come_from_a_configuration_that_fits_and_from_no_other() {
    let llama = model("Llama-3-8B");
    let config = |value: Value| value.as_object().cloned().unwrap();
    let fits = config(json!({"num_attention_heads": 32, "num_key_value_heads": 8}));
    let anatomy = dissect(&llama, Hints::from(&fits));
    assert_eq!(anatomy.architecture, Architecture { router_bias: None, ..record("Llama-3-8B").architecture() });
    assert!(config_findings(&fits, &anatomy.architecture, "config.json").is_empty());
    let wrong = config(json!({
        "hidden_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 37, "vocab_size": 128_000,
        "intermediate_size": 14336, "tie_word_embeddings": true,
    }));
    let anatomy = dissect(&llama, Hints::from(&wrong));
    assert_eq!(anatomy.architecture.heads, None);
    let findings = config_findings(&wrong, &anatomy.architecture, "config.json");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].code, Code::ConfigMismatch);
    assert!(findings[0].message.contains("hidden_size 5120"));
}

#[test]
fn shallow_models_are_read_too() {
    for layers in 1..=4 {
        let a = Architecture { layers, ..record("Llama-3-8B").architecture() };
        let tensors = tensors(&a);
        assert_eq!(contradictions(&dissect(&tensors, Hints::default()).architecture, &a), Vec::<String>::new());
        assert_eq!(contradictions(&nameless(&tensors).architecture, &a), Vec::<String>::new());
    }
}

/// The tensors of a safetensors file, from its header.
fn header(path: &Path) -> Vec<TensorMeta> {
    let bytes = fs::read(path).unwrap();
    let n = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let shape = |value: &Value| value["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, value)| TensorMeta { shape: shape(value), ..tensor(name.clone(), &[]) })
        .collect()
}

#[test]
fn the_fixtures_are_read_the_same_by_names_and_by_shapes() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo");
    let mut seen = 0;
    for entry in fs::read_dir(zoo).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("model.safetensors").is_file() {
            continue;
        }
        seen += 1;
        let tensors = header(&folder.join("model.safetensors"));
        let config: Map<String, Value> =
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let named = dissect(&tensors, Hints::from(&config));
        let family = if named.architecture.experts.is_some() { Family::Mixtral } else { Family::Llama };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(named.architecture.family, family, "{name}");
        assert_eq!(family == Family::Mixtral, name.contains("moe"), "{name}");
        assert_eq!(named.renamed, [], "{name}");
        assert!(named.architecture.heads.is_some(), "{name}");
        assert!(config_findings(&config, &named.architecture, "config.json").is_empty(), "{name}");
        let shapes = nameless(&tensors);
        assert_eq!(contradictions(&shapes.architecture, &named.architecture), Vec::<String>::new(), "{name}");
    }
    assert!(seen >= 16);
}

#[test]
fn base_a_has_the_sizes_it_was_trained_with() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo/base-a/model.safetensors");
    let a = nameless(&header(&path)).architecture;
    assert_eq!((a.hidden_size, a.layers, a.q_size, a.kv_size), (128, 4, Some(128), Some(64)));
    assert_eq!((a.intermediate_size, a.vocab_size, a.family), (Some(256), Some(1024), Family::Llama));
}

#[test]
fn nothing_and_next_to_nothing_are_read_as_such() {
    assert_eq!(dissect(&[], Hints::default()).architecture.family, Family::Unknown);
    assert_eq!(nameless(&[]).assignments.len(), 0);
    for shape in [&[][..], &[0], &[7], &[5, 3], &[2, 3, 4], &[u64::MAX, u64::MAX], &[1, 1, 1, 1, 1, 1, 1, 1]] {
        let one = [tensor("model.norm.weight", shape)];
        assert_eq!(dissect(&one, Hints::default()).architecture.layers, 0);
        assert_eq!(nameless(&one).architecture.layers, 0);
    }
}

#[test]
fn a_hundred_thousand_tensors_are_no_trouble() {
    let started = Instant::now();
    let opaque: Vec<TensorMeta> =
        (0..100_000).map(|i| tensor(format!("w.{i}.x{}", i % 9973), &[1 + i % 4999, 1 + i % 7001])).collect();
    let layered: Vec<TensorMeta> =
        (0..100_000).map(|i| tensor(format!("model.layers.{i}.self_attn.q_proj.weight"), &[64, 64])).collect();
    let dotted: Vec<TensorMeta> =
        (0..2_000).map(|i| tensor(format!("{}{i}", "model.0.".repeat(120)), &[64, 64])).collect();
    let shaped: Vec<TensorMeta> = (0..100_000).map(|i| tensor(format!("a.1.b.{i}.c"), &[64, 2 + i])).collect();
    for tensors in [opaque, layered, dotted, shaped, model("Kimi-K2")] {
        assert_eq!(dissect(&tensors, Hints::default()).assignments.len(), tensors.len());
        assert_eq!(nameless(&tensors).assignments.len(), tensors.len());
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn heads_of_encoders_do_not_hide_the_encoder() {
    let mut bert = model("BERT-base-uncased");
    bert.push(tensor("pooler.dense.weight", &[768, 768]));
    bert.push(tensor("pooler.dense.bias", &[768]));
    for anatomy in [dissect(&bert, Hints::default()), nameless(&bert)] {
        assert_eq!(problems(&anatomy, record("BERT-base-uncased")), Vec::<String>::new());
    }
    bert.push(tensor("cls.predictions.transform.dense.weight", &[768, 768]));
    bert.push(tensor("cls.predictions.transform.dense.bias", &[768]));
    bert.push(tensor("cls.predictions.transform.LayerNorm.weight", &[768]));
    bert.push(tensor("cls.predictions.transform.LayerNorm.bias", &[768]));
    bert.push(tensor("cls.predictions.bias", &[30522]));
    for meta in &mut bert {
        if !meta.name.starts_with("cls.") {
            meta.name.insert_str(0, "bert.");
        }
    }
    let named = dissect(&bert, Hints::default());
    assert_eq!(named.architecture.family, Family::Bert);
    assert_eq!(named.architecture.layers, 12);
    assert_eq!(nameless(&bert).architecture.layers, 12);
}

#[test]
fn a_tensor_for_which_no_place_is_left_has_no_role() {
    let mut llama = model("Llama-2-7B");
    llama.push(tensor("extra.square.weight", &[4096, 4096]));
    llama.push(tensor("extra.norm.weight", &[4096]));
    let anatomy = dissect(&llama, Hints::default());
    assert!(anatomy.assignments[llama.len() - 2..].iter().all(|assignment| assignment.roles.is_empty()));
    assert_eq!(problems(&anatomy, record("Llama-2-7B")), Vec::<String>::new());
}

#[test]
fn a_prediction_layer_behind_the_model_is_no_layer_of_it() {
    let mut deepseek = model("DeepSeek-V3");
    let last: Vec<TensorMeta> = deepseek.iter().filter(|meta| meta.name.contains("layers.60.")).cloned().collect();
    for mut meta in last {
        meta.name = meta.name.replace("layers.60.", "layers.61.");
        deepseek.push(meta);
    }
    deepseek.push(tensor("model.layers.61.eh_proj.weight", &[7168, 14336]));
    deepseek.push(tensor("model.layers.61.embed_tokens.weight", &[129_280, 7168]));
    deepseek.push(tensor("model.layers.61.shared_head.head.weight", &[129_280, 7168]));
    for name in ["enorm", "hnorm", "shared_head.norm"] {
        deepseek.push(tensor(format!("model.layers.61.{name}.weight"), &[7168]));
    }
    assert_eq!(problems(&dissect(&deepseek, Hints::default()), record("DeepSeek-V3")), Vec::<String>::new());
}

/// Biases of attention say nothing of the gate: GLM-4.5 has the first and not the second, Qwen3-Next the reverse.
#[test]
fn the_gate_on_a_shared_expert_is_read_from_the_tensors() {
    let qwen = record("Qwen1.5-MoE-A2.7B").architecture();
    assert_eq!((qwen.attention_bias, qwen.shared_expert_router), (Some(true), Some(true)));
    for (bias, router) in [(true, true), (true, false), (false, true), (false, false)] {
        let a = Architecture { attention_bias: Some(bias), shared_expert_router: Some(router), ..qwen.clone() };
        let tensors = tensors(&a);
        let is_gate = |meta: &&TensorMeta| meta.shape == [1, a.hidden_size];
        assert_eq!(tensors.iter().filter(is_gate).count() as u64, if router { a.layers } else { 0 });
        for found in [dissect(&tensors, Hints::default()), nameless(&tensors)] {
            assert_eq!(found.architecture.shared_expert_router, Some(router), "{bias} {router}");
            let missing = found.notes.iter().find(|note| note.contains("missing") || note.contains("no place"));
            assert_eq!(missing, None, "{bias} {router}");
        }
    }
    assert_eq!(dissect(&model("Llama-3-8B"), Hints::default()).architecture.shared_expert_router, None);
}

#[test]
fn families_without_a_record_are_recognised_by_their_features() {
    let plain = Architecture { router_bias: None, ..record("GPT-2").architecture() };
    let opt =
        Architecture { conv1d_transposed: false, fused_qkv: false, position_embeddings: Some(2050), ..plain.clone() };
    let starcoder = Architecture { conv1d_transposed: false, kv_size: Some(64), ..plain.clone() };
    let gptj = Architecture {
        position_embeddings: None,
        norms_per_layer: Some(1),
        attention_bias: Some(false),
        attention_output_bias: Some(false),
        tied: Some(false),
        output_bias: Some(true),
        ..opt.clone()
    };
    for (family, mut a) in [(Family::Opt, opt), (Family::GptBigcode, starcoder), (Family::Gptj, gptj)] {
        a.family = family;
        let tensors = tensors(&a);
        let named = dissect(&tensors, Hints::default());
        assert_eq!(contradictions(&named.architecture, &a), Vec::<String>::new(), "{family}");
        assert_eq!(named.naming.map(|naming| naming.matched), Some(tensors.len()));
        let shapes = nameless(&tensors);
        assert_eq!(contradictions(&with_block(&shapes), &a), Vec::<String>::new(), "{family}");
    }
}

#[test]
fn a_few_layers_of_another_width_do_not_change_the_rest() {
    let mut llama = model("Llama-3-8B");
    for meta in &mut llama {
        if ["layers.3.", "layers.17.", "layers.30."].iter().any(|layer| meta.name.contains(layer)) {
            for n in meta.shape.iter_mut().filter(|n| **n == 14336) {
                *n = 10240;
            }
        }
    }
    for anatomy in [dissect(&llama, Hints::default()), nameless(&llama)] {
        assert_eq!(problems(&anatomy, record("Llama-3-8B")), Vec::<String>::new());
    }
    assert_eq!(of_role(&dissect(&llama, Hints::default()), Role::FfnDown).len(), 32);
}

#[test]
fn a_few_missing_tensors_do_not_turn_the_reading_round() {
    for name in ["LLaMA-7B", "Mixtral-8x7B-v0.1", "DeepSeek-V2-Lite", "Gemma-3-1B", "Phi-3-mini-4k", "gpt-oss-20b"] {
        let damaged: Vec<TensorMeta> =
            model(name).into_iter().enumerate().filter(|(i, _)| i % 97 != 50).map(|(_, meta)| meta).collect();
        let a = nameless(&damaged).architecture;
        let whole = record(name).architecture();
        assert_eq!((a.q_size, a.kv_size, a.experts), (whole.q_size, whole.kv_size, whole.experts), "{name}");
        assert!(nearest(&a, 1)[0].group.contains(&record(name).hf_repo), "{name}");
        assert_eq!(dissect(&damaged, Hints::default()).architecture.layers, whole.layers, "{name}");
    }
    let mut damaged = model("LLaMA-7B");
    damaged.retain(|meta| meta.name != "model.layers.5.self_attn.q_proj.weight");
    let notes = nameless(&damaged).notes;
    assert!(notes.iter().any(|note| note.contains("missing from the architecture")), "{notes:?}");
}

#[test]
fn a_head_of_another_kind_is_unknown_and_changes_nothing() {
    let mut classifier = model("Qwen2.5-7B");
    classifier.retain(|meta| meta.name != "lm_head.weight");
    classifier.push(tensor("score.weight", &[2, 3584]));
    let whole = Architecture { tied: Some(true), ..record("Qwen2.5-7B").architecture() };
    let named = dissect(&classifier, Hints::default());
    assert_eq!(contradictions(&named.architecture, &whole), Vec::<String>::new());
    assert!(named.assignments.last().unwrap().roles.is_empty());
    let shapes = nameless(&classifier);
    assert_eq!(contradictions(&shapes.architecture, &whole), Vec::<String>::new());
}

#[test]
fn prefixes_and_missing_outer_modules_are_seen_through() {
    for (from, to) in [("model.", "base_model.model.model."), ("model.", ""), ("lm_head", "module.lm_head")] {
        let mut llama = model("Llama-3-8B");
        rename(&mut llama, &[(from, to)]);
        let anatomy = dissect(&llama, Hints::default());
        assert_eq!(scheme(&anatomy), Some("hf_llama"), "{to}");
        assert!(problems(&anatomy, record("Llama-3-8B")).is_empty(), "{to}");
        assert!(anatomy.assignments.iter().filter(|a| a.by == Some(Source::Names)).count() >= 290, "{to}");
    }
}

fn any_name() -> impl Strategy<Value = String> {
    let known = naming::schemes().iter().flat_map(|scheme| &scheme.tensors).map(|row| row.pattern.clone());
    let known: Vec<String> = known.collect();
    prop_oneof![
        4 => (proptest::sample::select(known), 0_u32..4, 0_u32..4).prop_map(|(pattern, layer, expert)| {
            pattern.replace("{layer}", &layer.to_string()).replace("{expert}", &expert.to_string())
        }),
        1 => "\\PC{0,24}",
        1 => "[a-c.#{}/0-9]{0,16}",
    ]
}

fn any_tensor() -> impl Strategy<Value = TensorMeta> {
    let size = prop_oneof![8 => proptest::sample::select(vec![1_u64, 2, 8, 16, 32, 64]), 1 => any::<u64>()];
    let dtype = proptest::sample::select(vec![DType::BF16, DType::F32, DType::U8, DType::I64, DType::Bool]);
    (any_name(), proptest::collection::vec(size, 0..5), dtype).prop_map(|(name, shape, dtype)| {
        // Headers whose product overflows are refused before they come here.
        let fits = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n)).is_some();
        TensorMeta { dtype, ..tensor(name, if fits { &shape } else { &[] }) }
    })
}

proptest! {
    #[test]
    fn any_tensors_are_taken_apart_without_panic(tensors in proptest::collection::vec(any_tensor(), 0..60)) {
        let anatomy = dissect(&tensors, Hints::default());
        prop_assert_eq!(anatomy.assignments.len(), tensors.len());
        for (meta, assignment) in tensors.iter().zip(&anatomy.assignments) {
            if let Residual::Reads(axis) | Residual::Writes(axis) | Residual::Embeds(axis) = assignment.residual {
                prop_assert_eq!(meta.shape[axis], anatomy.architecture.hidden_size);
            }
        }
        nearest(&anatomy.architecture, 3);
    }

    #[test]
    fn shapes_alone_do_not_depend_on_names_or_order(tensors in proptest::collection::vec(any_tensor(), 0..60)) {
        let anatomy = nameless(&tensors);
        prop_assert_eq!(anatomy.architecture, nameless(&tensors).architecture);
    }
}

/// Megatron stores query, key and value as one, and gate and up as one, of models that have them apart.
#[test]
fn what_a_tool_fused_is_apart_in_the_model() {
    let legacy = |name: &str, shape: &[u64]| tensor(format!("language_model.{name}"), shape);
    let core = |name: &str, shape: &[u64]| tensor(name, shape);
    let (d, q, kv, f) = (128, 128, 64, 352);
    let mut old = vec![
        legacy("embedding.word_embeddings.weight", &[1024, d]),
        legacy("encoder.final_norm.weight", &[d]),
        legacy("output_layer.weight", &[1024, d]),
    ];
    let mut new = vec![
        core("embedding.word_embeddings.weight", &[1024, d]),
        core("decoder.final_layernorm.weight", &[d]),
        core("output_layer.weight", &[1024, d]),
    ];
    let layer: [(&str, &str, &[u64]); 6] = [
        ("input_norm", "self_attention.linear_qkv.layer_norm_weight", &[d]),
        ("self_attention.query_key_value", "self_attention.linear_qkv.weight", &[q + 2 * kv, d]),
        ("self_attention.dense", "self_attention.linear_proj.weight", &[d, q]),
        ("post_attention_norm", "mlp.linear_fc1.layer_norm_weight", &[d]),
        ("mlp.dense_h_to_4h", "mlp.linear_fc1.weight", &[2 * f, d]),
        ("mlp.dense_4h_to_h", "mlp.linear_fc2.weight", &[d, f]),
    ];
    for at in 0..4 {
        for (one, other, shape) in layer {
            old.push(legacy(&format!("encoder.layers.{at}.{one}.weight"), shape));
            new.push(core(&format!("decoder.layers.{at}.{other}"), shape));
        }
    }
    for (tensors, scheme) in [(old, "megatron_legacy"), (new, "megatron_core")] {
        let anatomy = dissect(&tensors, Hints::default());
        assert_eq!(anatomy.naming.map(|naming| naming.scheme).as_deref(), Some(scheme));
        let a = anatomy.architecture;
        assert_eq!((a.family, a.fused_qkv, a.fused_gate_up), (Family::Llama, false, false), "{scheme}");
        assert_eq!((a.layers, a.q_size, a.kv_size, a.intermediate_size), (4, Some(q), Some(kv), Some(f)), "{scheme}");
    }
}
