//! What a clean bill demands: that everything that may be weights was compared.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::Value;

use crate::support::reports::{class, report};
use crate::support::{Random, Raw, load, weightprint, write_file, zoo};

/// A stranger of base-a with more beside it, against base-a.
fn with(extra: Vec<Raw>) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = load("base-b");
    tensors.extend(extra);
    write_file(&folder.path().join("model.safetensors"), &tensors);
    report(folder.path(), &zoo("base-a"))
}

/// So many values in one tensor.
fn noise(name: &str, shape: &[usize], seed: u64) -> Raw {
    let mut random = Random(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 0.02 * random.normal() as f32).collect();
    Raw::from_f32(name, shape, &values).cast(Dtype::BF16)
}

fn coverage(report: &Value) -> f64 {
    report["subject"]["coverage"].as_f64().unwrap()
}

fn obstacles(report: &Value) -> Vec<&str> {
    let all = report["verdict"]["obstacles"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|obstacle| obstacle["code"].as_str().unwrap()).collect()
}

#[test]
fn a_stranger_that_was_compared_whole_passes() {
    let report = with(Vec::new());
    assert_eq!((class(&report), coverage(&report)), ("same-architecture", 1.0));
    assert!(obstacles(&report).is_empty() && report["subject"]["untested"].is_null());
}

#[test]
fn a_tensor_in_which_a_model_could_hide_counts_whatever_its_name() {
    // As many values as the model has; the names are those of buffers.
    for (name, shape) in [
        ("flat", vec![900_000]),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", vec![7500, 120]),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", vec![900_000]),
        ("h.0.attn.bias", vec![1, 1, 1000, 900]),
    ] {
        let report = with(vec![noise(name, &shape, 3)]);
        assert!(coverage(&report) < 0.5, "{name} {shape:?}: {}", coverage(&report));
        assert_eq!(class(&report), "inconclusive", "{name} {shape:?}");
        assert_eq!(obstacles(&report), ["too-little-compared"]);
        let first = &report["subject"]["untested"][0];
        assert_eq!(first["bytes"], 1_800_000, "{first}");
    }
}

#[test]
fn what_was_read_and_says_nothing_is_no_gap() {
    let constant = Raw::from_f32("pad", &[1000, 900], &vec![0.5; 900_000]).cast(Dtype::BF16);
    let mask: Vec<f32> = (0..900_000).map(|i| f32::from(u8::from(i / 1000 >= i % 1000))).collect();
    let mask = Raw::from_f32("mask", &[900, 1000], &mask);
    let report = with(vec![constant, mask]);
    assert_eq!((class(&report), coverage(&report)), ("same-architecture", 1.0));
}

#[test]
fn too_many_values_that_are_not_finite_never_pass() {
    let mut beside = noise("model.layers.9.mlp.gate_proj.weight", &[256, 128], 4).cast(Dtype::F32);
    for chunk in beside.bytes.chunks_exact_mut(4).step_by(40) {
        chunk.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let report = with(vec![beside]);
    assert_eq!((class(&report), obstacles(&report)), ("inconclusive", vec!["damaged"]));
}

#[test]
fn a_reference_to_which_no_test_applies_clears_nobody() {
    // Another width, another vocabulary, plain matrices of no known part.
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<Raw> = (0..6).map(|i| noise(&format!("m{i}"), &[80 + 8 * i, 72], i as u64)).collect();
    write_file(&folder.path().join("model.safetensors"), &tensors);
    let report = report(folder.path(), &zoo("base-a"));
    assert_eq!((class(&report), obstacles(&report)), ("inconclusive", vec!["too-little-compared"]));
}

/// The codes and names of the known model whose shapes this has, with a catalog of one stranger.
fn scanned(path: &Path, more: &[&str]) -> (i32, Value) {
    let catalog = tempfile::tempdir().unwrap();
    let folder = catalog.path().to_str().unwrap();
    let run = weightprint(["catalog", "add", zoo("base-b").to_str().unwrap(), "--id", "zoo/b", "--catalog", folder]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let args = ["scan", path.to_str().unwrap(), "--catalog", folder, "--format", "json", "--no-cache"];
    let run = weightprint(args.iter().chain(more));
    (run.code, run.json())
}

#[test]
fn a_known_model_without_weights_here_is_not_cleared_by_a_stranger() {
    // The shapes of SmolLM-135M, two layers of them with weights and the others constant would not be its shapes: all of
    // them are there, small numbers of a few values.
    let (d, kv, f, vocabulary, layers) = (576, 192, 1536, 49_152, 30);
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, d]), ("model.norm.weight".into(), vec![d])];
    for layer in 0..layers {
        let own = [
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![kv, d]),
            ("self_attn.v_proj", vec![kv, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("mlp.gate_proj", vec![f, d]),
            ("mlp.up_proj", vec![f, d]),
            ("mlp.down_proj", vec![d, f]),
            ("input_layernorm", vec![d]),
            ("post_attention_layernorm", vec![d]),
        ];
        shapes.extend(own.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
    }
    let mut random = Random(8);
    let tensors: Vec<Raw> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let bytes = (0..shape.iter().product::<usize>())
                .flat_map(|_| (random.next() as u16 & 0x83ff | 0x3800).to_le_bytes());
            Raw { name, dtype: Dtype::BF16, bytes: bytes.collect(), shape }
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder.path().join("model.safetensors"), &tensors);
    let (code, report) = scanned(folder.path(), &[]);
    assert_eq!((code, class(&report)), (5, "inconclusive"), "{}", report["verdict"]["summary"]);
    assert!(obstacles(&report).contains(&"known-model-untested"), "{:?}", obstacles(&report));
    let (_, report) = scanned(folder.path(), &["--allow-untested"]);
    assert!(!obstacles(&report).contains(&"known-model-untested"), "{:?}", obstacles(&report));
}
