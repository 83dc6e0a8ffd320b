//! Norm gains that are stored less one: a copy that llama.cpp wrote, with the one added, has the same gains.

use std::path::{Path, PathBuf};

use crate::support::gguf::{Gguf, Meta, Stored, name};
use crate::support::reports::{class, report, test};
use crate::support::{Random, Raw, weightprint, write_file};
use half::bf16;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

const WIDTH: usize = 64;
const HIDDEN: usize = 160;
const HEAD: usize = 16;
const VOCABULARY: usize = 512;
const LAYERS: usize = 3;

/// Gemma's generations as far as norms tell them apart.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gemma {
    One,
    Two,
    Three,
}

impl Gemma {
    fn model_type(self) -> &'static str {
        match self {
            Self::One => "gemma",
            Self::Two => "gemma2",
            Self::Three => "gemma3",
        }
    }

    /// The norms of a layer with the names that llama.cpp gives them.
    fn norms(self) -> Vec<(&'static str, &'static str, usize)> {
        let mut norms = vec![("input_layernorm", "attn_norm", WIDTH)];
        if self == Self::One {
            norms.push(("post_attention_layernorm", "ffn_norm", WIDTH));
        } else {
            norms.push(("post_attention_layernorm", "post_attention_norm", WIDTH));
            norms.push(("pre_feedforward_layernorm", "ffn_norm", WIDTH));
            norms.push(("post_feedforward_layernorm", "post_ffw_norm", WIDTH));
        }
        if self == Self::Three {
            norms.extend([("self_attn.q_norm", "attn_q_norm", HEAD), ("self_attn.k_norm", "attn_k_norm", HEAD)]);
        }
        norms
    }

    fn config(self) -> Value {
        json!({"model_type": self.model_type(), "num_attention_heads": 4, "head_dim": HEAD, "hidden_size": WIDTH})
    }

    /// A model with random weights, gains stored less one: some far from zero, some so near that their last bits are
    /// lost when one is added, some so far below that the type's grid is coarser than where the sum lies.
    fn model(self, seed: u64) -> Vec<Raw> {
        let mut random = Random(seed);
        let mut tensor = |name: String, shape: &[usize], gain: bool| {
            let value = |at: usize, normal: f64| match at % 8 {
                _ if !gain => 0.05 * normal,
                0 => 1e-7 * normal,
                1 => -0.97 + 0.01 * normal,
                2 => 7.0 + normal,
                _ => 0.2 * normal,
            };
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|at| value(at, random.normal()) as f32).collect();
            Raw::from_f32(&format!("{name}.weight"), shape, &values)
        };
        let mut tensors = vec![tensor("model.embed_tokens".into(), &[VOCABULARY, WIDTH], false)];
        for layer in 0..LAYERS {
            let own = |part: &str| format!("model.layers.{layer}.{part}");
            for (part, shape) in [
                ("self_attn.q_proj", [4 * HEAD, WIDTH]),
                ("self_attn.k_proj", [2 * HEAD, WIDTH]),
                ("self_attn.v_proj", [2 * HEAD, WIDTH]),
                ("self_attn.o_proj", [WIDTH, 4 * HEAD]),
                ("mlp.gate_proj", [HIDDEN, WIDTH]),
                ("mlp.up_proj", [HIDDEN, WIDTH]),
                ("mlp.down_proj", [WIDTH, HIDDEN]),
            ] {
                tensors.push(tensor(own(part), &shape, false));
            }
            for (part, _, size) in self.norms() {
                tensors.push(tensor(own(part), &[size], true));
            }
        }
        tensors.push(tensor("model.norm".into(), &[WIDTH], true));
        tensors
    }

    /// The name that llama.cpp gives a tensor.
    fn exported(self, theirs: &str) -> String {
        let norm = |(part, own, _): &(&str, &str, usize)| {
            let layer = theirs.strip_prefix("model.layers.")?.strip_suffix(&format!(".{part}.weight"))?;
            Some(format!("blk.{layer}.{own}.weight"))
        };
        self.norms().iter().find_map(norm).unwrap_or_else(|| name(theirs))
    }

    /// The file that llama.cpp's exporter makes of a checkpoint in `F32`: the one is added to every gain, in `f16` where
    /// the checkpoint is, otherwise in `f32`; the embedding is not scaled.
    fn gguf(self, tensors: &[Raw]) -> Gguf {
        let family = self.model_type();
        let own = |key: &str, value: usize| (format!("{family}.{key}"), Meta::U32(value as u32));
        let stored = |raw: &Raw| {
            let mut values = raw.values();
            if raw.name.ends_with("norm.weight") {
                values.iter_mut().for_each(|value| *value += 1.0);
                if raw.dtype == Dtype::F16 {
                    values.iter_mut().for_each(|value| *value = half::f16::from_f32(*value).to_f32());
                }
            }
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let shape = raw.shape.iter().map(|&size| size as u64).collect();
            Stored { name: self.exported(&raw.name), shape, kind: 0, bytes }
        };
        Gguf {
            version: 3,
            alignment: 32,
            meta: vec![
                ("general.architecture".to_owned(), Meta::Text(family.to_owned())),
                own("block_count", LAYERS),
                own("embedding_length", WIDTH),
                own("feed_forward_length", HIDDEN),
                own("attention.head_count", 4),
                own("attention.head_count_kv", 2),
                own("attention.key_length", HEAD),
            ],
            tensors: tensors.iter().map(stored).collect(),
        }
    }
}

fn cast(tensors: &[Raw], dtype: Dtype) -> Vec<Raw> {
    tensors.iter().map(|raw| raw.cast(dtype)).collect()
}

/// A folder with the checkpoint and, if given, its configuration.
fn written(folder: &Path, name: &str, tensors: &[Raw], config: Option<&Value>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).unwrap();
    write_file(&path.join("model.safetensors"), tensors);
    if let Some(config) = config {
        std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    }
    path
}

const ALL: [Gemma; 3] = [Gemma::One, Gemma::Two, Gemma::Three];

#[test]
fn the_last_bits_of_small_gains_are_lost_when_one_is_added() {
    let model = cast(&Gemma::Two.model(1), Dtype::BF16);
    let gains: Vec<f32> = model.iter().filter(|raw| raw.name.ends_with("norm.weight")).flat_map(Raw::values).collect();
    let back = |gain: f32| bf16::from_f32((gain + 1.0) - 1.0).to_f32();
    assert!(gains.iter().any(|&gain| back(gain) != gain), "so that taking the one off would not do");
}

#[test]
fn a_gguf_copy_of_a_gemma_is_identical_to_it() {
    let folder = tempfile::tempdir().unwrap();
    for gemma in ALL {
        let model = cast(&gemma.model(1), Dtype::BF16);
        let config = gemma.config();
        let own = written(folder.path(), gemma.model_type(), &model, Some(&config));
        let path = folder.path().join("copy.gguf");
        gemma.gguf(&model).write(&path);
        for found in [report(&path, &own), report(&own, &path)] {
            assert_eq!(class(&found), "identical", "{gemma:?}: {}", found["verdict"]["summary"]);
            assert_eq!(test(&found, "bits")["effect"], 1.0, "{gemma:?}");
            assert_eq!(test(&found, "channel-labels")["effect"], 1.0, "{gemma:?}: profiles with the gains folded in");
        }
        let other = cast(&gemma.model(2), Dtype::BF16);
        gemma.gguf(&other).write(&path);
        assert_eq!(class(&report(&path, &own)), "same-architecture", "{gemma:?}");
        let mut tuned = gemma.model(1);
        let norm = tuned.last_mut().unwrap();
        let moved: Vec<f32> = norm.values().iter().map(|gain| gain * 1.03 + 0.01).collect();
        *norm = Raw::from_f32(&norm.name, &norm.shape, &moved);
        gemma.gguf(&cast(&tuned, Dtype::BF16)).write(&path);
        assert_eq!(class(&report(&path, &own)), "derived", "{gemma:?}: one norm is another one");
    }
}

#[test]
fn a_copy_in_another_type_is_what_a_copy_of_any_model_is() {
    let folder = tempfile::tempdir().unwrap();
    for gemma in ALL {
        let (model, config) = (gemma.model(3), gemma.config());
        let wide = written(folder.path(), "wide", &model, Some(&config));
        for dtype in [Dtype::BF16, Dtype::F16] {
            let coarse = cast(&model, dtype);
            let copy = written(folder.path(), "coarse", &coarse, Some(&config));
            assert_eq!(class(&report(&copy, &wide)), "re-encoded", "{gemma:?} {dtype:?}");
            let widened = written(folder.path(), "widened", &cast(&coarse, Dtype::F32), Some(&config));
            assert_eq!(class(&report(&widened, &copy)), "identical", "{gemma:?} {dtype:?}");
        }
        // The exporter adds the one in halves here, which rounds the sum.
        let halves = cast(&model, Dtype::F16);
        let copy = written(folder.path(), "coarse", &halves, Some(&config));
        let path = folder.path().join("copy.gguf");
        gemma.gguf(&halves).write(&path);
        assert_eq!(class(&report(&path, &copy)), "re-encoded", "{gemma:?}");
    }
}

#[test]
fn the_convention_is_told_and_claims_need_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let inspected = |path: &Path| weightprint(["inspect", path.to_str().unwrap(), "--format", "json"]).json();
    let gain = |found: &Value| found["anatomy"]["architecture"]["norm_gain"].clone();
    for gemma in ALL {
        let model = cast(&gemma.model(4), Dtype::BF16);
        let found = inspected(&written(folder.path(), "own", &model, Some(&gemma.config())));
        assert_eq!(gain(&found), "less-one", "{gemma:?}");
        let parts = |tensor: &Value| tensor.get("parts").is_some();
        assert!(!found["tensors"].as_array().unwrap().iter().any(parts), "a gain is read as itself");
        let silent = inspected(&written(folder.path(), "silent", &model, None));
        // The first Gemma has LLaMA's shapes.
        let expected = if gemma == Gemma::One { Value::Null } else { json!("less-one") };
        assert_eq!(gain(&silent), expected, "{gemma:?}");
        let path = folder.path().join("copy.gguf");
        gemma.gguf(&model).write(&path);
        assert_eq!(gain(&inspected(&path)), Value::Null, "{gemma:?}");
    }
    let llama = crate::support::load("base-a");
    let found = inspected(&written(folder.path(), "liar", &llama, Some(&json!({"model_type": "gemma2"}))));
    assert_eq!(gain(&found), Value::Null, "two norms in a layer are no Gemma 2's");
}

#[test]
fn a_copy_without_its_configuration_is_still_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    for gemma in ALL {
        let model = cast(&gemma.model(5), Dtype::BF16);
        let own = written(folder.path(), "own", &model, Some(&gemma.config()));
        for dtype in [Dtype::BF16, Dtype::F32] {
            let silent = written(folder.path(), "silent", &cast(&model, dtype), None);
            for found in [report(&silent, &own), report(&own, &silent)] {
                assert_eq!(class(&found), "identical", "{gemma:?} {dtype:?}: {}", found["verdict"]["summary"]);
            }
        }
    }
}
