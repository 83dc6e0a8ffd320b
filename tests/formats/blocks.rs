//! Every block type of GGUF through the file: a model in it keeps its kinship and its labels, as well as the type allows.
//!
//! Rows of the zoo are shorter than blocks of 256 values, so the model here is one of its own, with rows of 256.

use std::path::Path;

use crate::support::gguf::{Gguf, Kind, Stored, from_llama};
use crate::support::quantise::{Quantiser, levels};
use crate::support::reports::{class, report, say, test};
use crate::support::{Random, Raw, write_file};
use candle_core::quantized::GgmlDType;
use weightprint::internals::tensor::Block;

const HIDDEN: usize = 256;
const LAYERS: usize = 2;
const HEADS: (usize, usize) = (4, 2);

/// A LLaMA of normal weights; `seed` makes another one.
fn model(seed: u64) -> Vec<Raw> {
    let mut random = Random(seed);
    let mut make = |name: String, shape: &[usize], mean: f64, deviation: f64| {
        let values: Vec<f32> =
            (0..shape.iter().product::<usize>()).map(|_| (mean + random.normal() * deviation) as f32).collect();
        Raw::from_f32(&name, shape, &values)
    };
    let d = HIDDEN;
    let mut tensors = vec![make("model.embed_tokens.weight".into(), &[512, d], 0.0, 0.05)];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.push(make(name("input_layernorm"), &[d], 1.0, 0.2));
        tensors.push(make(name("post_attention_layernorm"), &[d], 1.0, 0.2));
        for (part, rows) in [("q", d), ("k", d / 2), ("v", d / 2), ("o", d)] {
            tensors.push(make(name(&format!("self_attn.{part}_proj")), &[rows, d], 0.0, 0.04));
        }
        for part in ["gate", "up", "down"] {
            tensors.push(make(name(&format!("mlp.{part}_proj")), &[d, d], 0.0, 0.03));
        }
    }
    tensors.push(make("model.norm.weight".into(), &[d], 1.0, 0.2));
    tensors.push(make("lm_head.weight".into(), &[512, d], 0.0, 0.05));
    tensors
}

/// The model after some training, which moves every value by about a fifth.
fn tuned(tensors: &[Raw]) -> Vec<Raw> {
    let mut random = Random(99);
    let moved = |raw: &Raw| {
        let values = raw.values();
        let size = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        let values: Vec<f32> = values.iter().map(|v| v + 0.2 * size * random.normal() as f32).collect();
        Raw::from_f32(&raw.name, &raw.shape, &values)
    };
    tensors.iter().map(moved).collect()
}

/// The model with its matrices in one type; where every byte has to be searched for, those of the MLPs only.
fn encoded(tensors: &[Raw], name: &str) -> Gguf {
    let candle = match name {
        "Q2_K" => Some(GgmlDType::Q2K),
        "Q3_K" => Some(GgmlDType::Q3K),
        "Q4_K" => Some(GgmlDType::Q4K),
        "Q5_K" => Some(GgmlDType::Q5K),
        "Q6_K" => Some(GgmlDType::Q6K),
        _ => None,
    };
    if let Some(kind) = candle {
        return from_llama(tensors, HEADS, Kind::Quantised(kind));
    }
    let block = Block::named(name).unwrap();
    let by_levels = levels(name);
    let searched = by_levels.is_none().then(|| Quantiser::new(name));
    let mut gguf = from_llama(tensors, HEADS, Kind::F32);
    let chosen = |tensor: &&mut Stored| tensor.shape.len() == 2 && (searched.is_none() || tensor.name.contains("ffn"));
    for tensor in gguf.tensors.iter_mut().filter(chosen) {
        let values: Vec<f32> = tensor.bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let blocks = values.chunks(block.values() as usize);
        tensor.kind = block.number();
        tensor.bytes = match (&searched, by_levels) {
            (Some(quantiser), _) => quantiser.quantise(&values),
            (None, Some(encode)) => blocks.flat_map(encode).collect(),
            (None, None) => unreachable!(),
        };
    }
    gguf
}

/// Types with the class that a copy in them has, and the least share of neurons at their own labels.
fn check(types: &[(&str, &str, f64)]) {
    let folder = tempfile::tempdir().unwrap();
    let base = model(1);
    let plain = |name: &str, tensors: &[Raw]| {
        let path = folder.path().join(name).join("model.safetensors");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_file(&path, tensors);
        path
    };
    let (same, kin, other) = (plain("same", &base), plain("kin", &tuned(&base)), plain("other", &model(2)));
    for &(name, expected, least) in types {
        let path = folder.path().join("model.gguf");
        encoded(&base, name).write(&path);
        let against = |reference: &Path| report(&path, reference);
        let (copy, derived, stranger) = (against(&same), against(&kin), against(&other));
        let labels = test(&copy, "neuron-labels")["effect"].as_f64().unwrap();
        say(&format!(
            "{name}: copy {} (labels {labels:.3}; {}), of kin {} ({:.3}), stranger {}",
            class(&copy),
            test(&copy, "bits")["says"],
            class(&derived),
            test(&derived, "neuron-labels")["effect"].as_f64().unwrap(),
            class(&stranger),
        ));
        assert_eq!(class(&copy), expected, "{name}: {}", copy["verdict"]["summary"]);
        assert_eq!(class(&derived), "derived", "{name}: {}", derived["verdict"]["summary"]);
        assert_eq!(class(&stranger), "same-architecture", "{name}: {}", stranger["verdict"]["summary"]);
        assert!(labels >= least, "{name}: {labels}");
        assert_eq!(copy["subject"]["coverage"], 1.0, "{name}");
        let dtypes = crate::support::weightprint([Path::new("inspect"), &path]).stdout;
        assert!(dtypes.contains(name), "{name} is what the file holds: {dtypes}");
    }
}

/// Each value is rounded by itself, to levels that its block tells.
#[test]
fn types_of_levels_are_re_encodings() {
    let names = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"];
    check(&names.map(|name| (name, "re-encoded", 0.9)));
}

/// Several values are rounded together to an entry of a code book, which no distance of levels explains.
#[test]
fn types_of_code_books_are_found_by_their_labels() {
    let names = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"];
    check(&names.map(|name| (name, "derived", 0.9)));
}
