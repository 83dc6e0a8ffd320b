//! The case that made the field: LLaMA's block, two tensors of a layer renamed, weights trained from scratch.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::support::{load, weightprint, write_file, zoo};

/// The names that Yi's first release gave to the norms.
fn yi(name: &str) -> String {
    name.replace("input_layernorm", "ln1").replace("post_attention_layernorm", "ln2")
}

/// A sparse file with the tensors of Yi-34B: 60 layers, hidden size 7168, 56 heads of 128, 8 KV heads, 20480 neurons,
/// 64,000 tokens, in bf16.
fn yi_34b(path: &Path) {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![64_000, 7168]),
        ("model.norm.weight".to_owned(), vec![7168]),
        ("lm_head.weight".to_owned(), vec![64_000, 7168]),
    ];
    for layer in 0..60 {
        for (name, shape) in [
            ("ln1", vec![7168]),
            ("ln2", vec![7168]),
            ("self_attn.q_proj", vec![7168, 7168]),
            ("self_attn.k_proj", vec![1024, 7168]),
            ("self_attn.v_proj", vec![1024, 7168]),
            ("self_attn.o_proj", vec![7168, 7168]),
            ("mlp.gate_proj", vec![20_480, 7168]),
            ("mlp.up_proj", vec![20_480, 7168]),
            ("mlp.down_proj", vec![7168, 20_480]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let (mut header, mut at) = (serde_json::Map::new(), 0u64);
    for (name, shape) in tensors {
        let len = 2 * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len]});
        header.insert(name, entry);
        at += len;
    }
    let json = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    file.set_len(8 + json.len() as u64 + at).unwrap();
}

#[test]
fn yi_34b_is_llamas_block_with_two_names_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    yi_34b(&path);
    let run = weightprint(["inspect", path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let inspection = run.json();
    let anatomy = &inspection["anatomy"];
    assert_eq!(anatomy["architecture"]["family"], "llama");
    assert_eq!(anatomy["architecture"]["kv_size"], 1024);
    let mut renamed: Vec<(&str, &str, u64)> = anatomy["renamed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["found"].as_str().unwrap(), row["canonical"].as_str().unwrap(), row["count"].as_u64().unwrap()))
        .collect();
    renamed.sort_unstable();
    let layer = |name: &str| format!("model.layers.{{layer}}.{name}.weight");
    assert_eq!(
        renamed,
        [
            (layer("ln1").as_str(), layer("input_layernorm").as_str(), 60),
            (layer("ln2").as_str(), layer("post_attention_layernorm").as_str(), 60),
        ]
    );
    let nearest = &inspection["nearest"][0];
    assert_eq!((nearest["id"].as_str(), nearest["equal"].as_bool()), (Some("01-ai/Yi-34B"), Some(true)));
}

#[test]
fn llamas_block_with_two_names_changed_and_weights_from_scratch_is_same_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut tensors = load("base-b");
    for tensor in &mut tensors {
        tensor.name = yi(&tensor.name);
    }
    write_file(&path, &tensors);
    let reference = zoo("base-a");
    let run = weightprint(["compare", path.to_str().unwrap(), reference.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "same-architecture");
    assert_eq!(report["architecture"]["family"], "llama");
    let renamed = report["architecture"]["renamed"].as_array().unwrap();
    let found: Vec<_> =
        renamed.iter().map(|row| (row["found"].as_str().unwrap(), row["count"].as_u64().unwrap())).collect();
    assert_eq!(found, [("model.layers.{layer}.ln1.weight", 4), ("model.layers.{layer}.ln2.weight", 4)]);
}
