//! A checkpoint that carries a published embedding, scanned with nothing but what is compiled in.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use crate::support::{Random, weightprint};
use half::bf16;

const HIDDEN: usize = 4096;
const VOCABULARY: usize = 32_000;

/// The published rows of a model.
fn published(model: &str) -> HashMap<usize, f64> {
    let record =
        weightprint::internals::published::norms::published().iter().find(|record| record.model == model).unwrap();
    record.rows.iter().map(|&(id, norm)| (id as usize, norm)).collect()
}

/// A sparse file of LLaMA-2-7B's shapes in bf16: 13.5 GB of zeros but for the embedding, whose rows have the given
/// norms, or plausible ones where none is given.
fn llama_2_7b(path: &Path, norms: &HashMap<usize, f64>, factor: f64) {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..32 {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![11_008, HIDDEN]),
            ("mlp.up_proj", vec![11_008, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, 11_008]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    tensors.push(("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]));
    let (mut header, mut at) = (serde_json::Map::new(), 0u64);
    for (name, shape) in tensors {
        let len = 2 * shape.iter().product::<usize>() as u64;
        header.insert(name, serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len]}));
        at += len;
    }
    let json = serde_json::to_vec(&header).unwrap();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    let mut random = Random(42);
    for row in 0..VOCABULARY {
        // Llama-2-7b's own mean and standard deviation of row norms: 1.08 and about a tenth of it.
        let norm = norms.get(&row).map_or(1.08 + 0.1 * random.normal(), |norm| norm * factor);
        file.write_all(&direction(&mut random, norm)).unwrap();
    }
    let end = 8 + json.len() as u64 + at;
    file.flush().unwrap();
    file.get_ref().set_len(end).unwrap();
    file.seek(SeekFrom::Start(end)).unwrap();
}

/// A random row of the given norm, rounded to bf16.
fn direction(random: &mut Random, norm: f64) -> Vec<u8> {
    let signs: Vec<f64> = (0..HIDDEN).map(|_| random.uniform() - 0.5).collect();
    let length = signs.iter().map(|v| v * v).sum::<f64>().sqrt();
    signs.iter().flat_map(|v| bf16::from_f64(v * norm / length).to_le_bytes()).collect()
}

#[test]
fn llama_2_7bs_embedding_is_recognised_from_the_embedded_catalog_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    llama_2_7b(&path, &published("meta-llama/Llama-2-7b-hf"), 1.0);
    let run = weightprint(["scan", path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "shares-components", "{}", report["verdict"]["summary"]);
    let references: Vec<_> = report["verdict"]["references"].as_array().unwrap().iter().map(|r| &r["id"]).collect();
    assert_eq!(references, ["meta-llama/Llama-2-7b-hf"], "and neither Llama-2-13b nor any other");
    assert_eq!(report["candidates"][0]["components"], serde_json::json!(["embedding"]));
    assert!(report["verdict"]["log10_p"].as_f64().unwrap() <= -10.0);
    // Everything else is zero, and the report does not pretend to have tested it.
    assert!(report["subject"]["coverage"].as_f64().unwrap() < 0.05);
    let codes: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
    assert!(codes.contains(&&serde_json::json!("constant-tensor")));
    assert!(codes.contains(&&serde_json::json!("weights-not-tested")), "its weights have no fingerprint here");
}
