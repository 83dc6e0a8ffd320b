//! A language model beside other towers, with Gemma's gains, or without a head of its own: the zoo in each keeps its
//! kinship and its labels.

use std::path::PathBuf;

use crate::support::reports::{class, report, say, test};
use crate::support::{Random, Raw, load, write_file, zoo};
use safetensors::tensor::Dtype;
use serde_json::Value;

fn written(folder: &tempfile::TempDir, name: &str, tensors: &[Raw]) -> PathBuf {
    let path = folder.path().join(name).join("model.safetensors");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_file(&path, tensors);
    path
}

fn effect(report: &Value, code: &str) -> f64 {
    test(report, code)["effect"].as_f64().unwrap()
}

/// A vision tower and a projector of random values, a sixth of the model's size.
fn tower(prefix: &str) -> Vec<Raw> {
    let mut random = Random(17);
    let mut make = |name: String, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|_| random.normal() as f32 * 0.05).collect();
        Raw::from_f32(&name, shape, &values).cast(Dtype::BF16)
    };
    let mut tensors =
        vec![make(format!("{prefix}vision_tower.vision_model.embeddings.patch_embedding.weight"), &[48, 3, 4, 4])];
    for layer in 0..3 {
        let name = |part: &str| format!("{prefix}vision_tower.vision_model.encoder.layers.{layer}.{part}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            tensors.push(make(name(&format!("self_attn.{part}.weight")), &[48, 48]));
            tensors.push(make(name(&format!("self_attn.{part}.bias")), &[48]));
        }
        tensors.push(make(name("mlp.fc1.weight"), &[160, 48]));
        tensors.push(make(name("mlp.fc2.weight"), &[48, 160]));
        tensors.push(make(name("layer_norm1.weight"), &[48]));
        tensors.push(make(name("layer_norm2.weight"), &[48]));
    }
    tensors.push(make(format!("{prefix}multi_modal_projector.linear_1.weight"), &[128, 48]));
    tensors.push(make(format!("{prefix}multi_modal_projector.linear_2.weight"), &[128, 128]));
    tensors
}

#[test]
fn a_language_model_among_other_towers_is_found_by_its_labels() {
    let folder = tempfile::tempdir().unwrap();
    // Prefixes of the decoder, of the head, and of what stands beside them: LLaVA's, then transformers 5's.
    for (decoder, head, beside) in
        [("language_model.model.", "language_model.lm_head.", ""), ("model.language_model.", "lm_head.", "model.")]
    {
        let within = |name: &str| {
            let mut tensors = load(name);
            for tensor in &mut tensors {
                let renamed = tensor.name.strip_prefix("model.").map(|rest| format!("{decoder}{rest}"));
                tensor.name = renamed.unwrap_or_else(|| tensor.name.replacen("lm_head.", head, 1));
            }
            tensors.extend(tower(beside));
            tensors
        };
        let copy = report(&written(&folder, "copy", &within("base-a")), &zoo("base-a"));
        let kin = report(&written(&folder, "kin", &within("a-sft")), &zoo("base-a"));
        let stranger = report(&written(&folder, "stranger", &within("base-a")), &zoo("base-b"));
        say(&format!(
            "{decoder}: copy {} ({}; coverage {}), kin {}, stranger {}",
            class(&copy),
            test(&copy, "bits")["says"],
            copy["subject"]["coverage"],
            class(&kin),
            class(&stranger)
        ));
        // The tower has no counterpart, so the whole is no copy; every tensor of the language model is.
        assert_eq!(class(&copy), "derived", "{}", copy["verdict"]["summary"]);
        assert!(test(&copy, "bits")["says"].as_str().unwrap().starts_with("39 of 78 tensors equal bit for bit"));
        assert_eq!(class(&kin), "derived", "{}", kin["verdict"]["summary"]);
        assert!(["same-architecture", "no-evidence"].contains(&class(&stranger)), "{}", stranger["verdict"]["summary"]);
        for found in [&copy, &kin] {
            for code in ["neuron-labels", "head-labels", "channel-labels"] {
                say(&format!("{decoder}: {}", test(found, code)));
                assert!(effect(found, code) > 0.9, "{}", test(found, code));
            }
            assert_eq!(found["architecture"]["family"], "llama");
            let fields = &found["architecture"]["fields"];
            assert_eq!((&fields["layers"], &fields["hidden_size"]), (&4.into(), &128.into()));
        }
    }
}

/// The model with a second pair of norms in each layer, as Gemma 2 has them, and all gains stored less one.
fn gemma(name: &str, folded: bool) -> Vec<Raw> {
    let tensors = load(name);
    let gain = |name: String| tensors.iter().find(|tensor| tensor.name == name).unwrap().values();
    let mut out = Vec::new();
    for tensor in &tensors {
        let (dtype, mut values, mut renamed) = (Dtype::F32, tensor.values(), tensor.name.clone());
        let layer = tensor.name.split("layers.").nth(1).and_then(|rest| rest.split('.').next());
        if let Some(layer) = layer.filter(|_| tensor.shape.len() == 2 && folded) {
            let prefix = format!("model.layers.{layer}.");
            let norm = match () {
                () if ["q_proj", "k_proj", "v_proj"].iter().any(|part| tensor.name.contains(part)) => "input_layernorm",
                () if ["gate_proj", "up_proj"].iter().any(|part| tensor.name.contains(part)) => {
                    "post_attention_layernorm"
                }
                () => "",
            };
            if !norm.is_empty() {
                let gains = gain(format!("{prefix}{norm}.weight"));
                for row in values.chunks_mut(gains.len()) {
                    row.iter_mut().zip(&gains).for_each(|(value, gain)| *value *= gain);
                }
            }
        }
        if tensor.shape.len() == 1 {
            let is_last = tensor.name == "model.norm.weight";
            values.iter_mut().for_each(|value| *value = if folded && !is_last { 0.0 } else { *value - 1.0 });
            // What stands in front of the MLP has another name there, and its own stands behind the attention.
            renamed = renamed.replace("post_attention_layernorm", "pre_feedforward_layernorm");
        }
        if let Some(prefix) = tensor.name.strip_suffix("input_layernorm.weight") {
            for norm in ["post_attention_layernorm", "post_feedforward_layernorm"] {
                out.push(Raw::from_f32(&format!("{prefix}{norm}.weight"), &tensor.shape, &vec![0.0; values.len()]));
            }
        }
        out.push(Raw::from_f32(&renamed, &tensor.shape, &values).cast(dtype));
    }
    out
}

#[test]
fn gains_that_are_stored_less_one_are_folded_as_they_act() {
    let folder = tempfile::tempdir().unwrap();
    let reference = written(&folder, "gemma", &gemma("base-a", false));
    let copy = report(&written(&folder, "folded", &gemma("base-a", true)), &reference);
    assert_eq!(copy["architecture"]["family"], "gemma2");
    say(&format!("gains folded: {} {}", class(&copy), test(&copy, "neuron-labels")));
    assert_eq!(class(&copy), "derived", "{}", copy["verdict"]["summary"]);
    assert!(effect(&copy, "neuron-labels") > 0.99, "{}", test(&copy, "neuron-labels"));
    assert!(effect(&copy, "head-labels") > 0.99, "{}", test(&copy, "head-labels"));
    let stranger = report(&written(&folder, "other", &gemma("base-b", true)), &reference);
    assert_eq!(class(&stranger), "same-architecture", "{}", stranger["verdict"]["summary"]);
}

/// The head left out, as a model has it whose embedding serves as its head.
fn tied(name: &str) -> Vec<Raw> {
    load(name).into_iter().filter(|tensor| !tensor.name.starts_with("lm_head")).collect()
}

#[test]
fn a_model_without_a_head_of_its_own_keeps_its_labels() {
    let folder = tempfile::tempdir().unwrap();
    let reference = written(&folder, "tied", &tied("base-a"));
    let copy = report(&written(&folder, "copy", &tied("base-a")), &reference);
    assert_eq!(class(&copy), "identical", "{}", copy["verdict"]["summary"]);
    assert_eq!(copy["architecture"]["fields"]["tied"], true);
    let kin = report(&written(&folder, "kin", &tied("a-sft")), &reference);
    assert_eq!(class(&kin), "derived", "{}", kin["verdict"]["summary"]);
    for code in ["neuron-labels", "head-labels"] {
        assert!(effect(&kin, code) > 0.9, "{}", test(&kin, code));
    }
    let stranger = report(&written(&folder, "other", &tied("base-b")), &reference);
    assert_eq!(class(&stranger), "same-architecture", "{}", stranger["verdict"]["summary"]);
    // Of a pair with one head, what both have is compared.
    let other = report(&written(&folder, "half", &tied("a-sft")), &zoo("base-a"));
    assert_eq!(class(&other), "derived", "{}", other["verdict"]["summary"]);
}
