//! The zoo in every packing keeps its kinship and its labels.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::tensor::{DType, TensorMeta};

use super::{GROUP, Pack, floats, integers, packed};
use crate::support::reports::{class, report, say, test};
use crate::support::{Raw, load, write_file, write_sharded, zoo};

/// What it is, its type in reports, how it is made, and what `config.json` says of it.
pub(super) type Kind = (&'static str, &'static str, Pack, Value);

fn write(folder: &Path, tensors: &[Raw], config: &Value) {
    write_file(&folder.join("model.safetensors"), tensors);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

pub(super) fn check(kinds: Vec<Kind>) {
    let (base, tuned) = (load("base-a"), load("a-sft"));
    for (what, dtype, pack, config) in kinds {
        let folder = tempfile::tempdir().unwrap();
        let compare = |tensors: &[Raw], reference: &str| {
            write(folder.path(), &packed(tensors, pack), &config);
            report(folder.path(), &zoo(reference))
        };
        let (copy, derived, other) = (compare(&base, "base-a"), compare(&tuned, "base-a"), compare(&base, "base-b"));
        say(&format!(
            "{what}: {} ({}), {} ({}), {}",
            class(&copy),
            test(&copy, "bits")["says"],
            class(&derived),
            test(&derived, "neuron-labels")["effect"],
            class(&other)
        ));
        assert_eq!(class(&copy), "re-encoded", "{what}: {}", copy["verdict"]["summary"]);
        assert_eq!(class(&derived), "derived", "{what}: {}", derived["verdict"]["summary"]);
        assert_eq!(class(&other), "same-architecture", "{what}: {}", other["verdict"]["summary"]);
        assert_eq!(copy["subject"]["coverage"], 1.0, "{what}");
        for found in [&copy, &derived] {
            for code in ["neuron-labels", "head-labels"] {
                assert!(test(found, code)["effect"].as_f64().unwrap() > 0.9, "{what}: {}", test(found, code));
            }
        }
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert_eq!(checkpoint.tensors.len(), base.len(), "{what}");
        let named = |meta: &&TensorMeta| meta.dtype == DType::from(dtype.to_owned());
        assert_eq!(checkpoint.tensors.iter().filter(named).count(), 28, "{what}");
    }
}

#[test]
fn gptq_and_awq() {
    let format = |name: &str| json!({"quantization_config": {"quant_method": "gptq", "checkpoint_format": name}});
    check(vec![
        ("GPTQ, 2 bits", "GPTQ-2", |raw| integers::gptq(raw, 2, 1, false), json!({})),
        ("GPTQ, 3 bits", "GPTQ-3", |raw| integers::gptq(raw, 3, 1, false), format("gptq")),
        ("GPTQ, 4 bits, act-order", "GPTQ-4", |raw| integers::gptq(raw, 4, 1, true), format("gptq")),
        ("GPTQ, 8 bits", "GPTQ-8", |raw| integers::gptq(raw, 8, 1, false), json!({})),
        ("GPTQ, second version", "GPTQ-4", |raw| integers::gptq(raw, 4, 0, false), format("gptq_v2")),
        ("AWQ", "AWQ-4", integers::awq, json!({})),
    ]);
}

#[test]
fn mlx() {
    let config = |bits: u32| json!({"quantization": {"group_size": GROUP, "bits": bits}});
    check(vec![
        ("MLX, 2 bits", "MLX-2", |raw| integers::mlx(raw, 2), config(2)),
        ("MLX, 3 bits", "MLX-3", |raw| integers::mlx(raw, 3), config(3)),
        ("MLX, 4 bits", "MLX-4", |raw| integers::mlx(raw, 4), config(4)),
        ("MLX, 6 bits", "MLX-6", |raw| integers::mlx(raw, 6), config(6)),
        ("MLX, 8 bits", "MLX-8", |raw| integers::mlx(raw, 8), config(8)),
    ]);
}

#[test]
fn bitsandbytes() {
    check(vec![
        ("LLM.int8", "BNB-INT8", integers::llm_int8, json!({})),
        ("NF4", "BNB-NF4", floats::bnb_nf4, json!({})),
        ("NF4, nested scales", "BNB-NF4", floats::bnb_nested, json!({})),
        ("NF4, bytes said to be wider", "BNB-NF4", floats::bnb_wide, json!({})),
        ("FP4", "BNB-FP4", floats::bnb_fp4, json!({})),
    ]);
}

#[test]
fn compressed_tensors() {
    check(vec![
        ("pack-quantized, 2 bits", "INT2-PACKED", |raw| integers::compressed(raw, 2, false), json!({})),
        ("pack-quantized, 4 bits", "INT4-PACKED", |raw| integers::compressed(raw, 4, false), json!({})),
        ("pack-quantized, 4 bits, act-order", "INT4-PACKED", |raw| integers::compressed(raw, 4, true), json!({})),
        ("pack-quantized, 8 bits", "INT8-PACKED", |raw| integers::compressed(raw, 8, false), json!({})),
        ("int-quantized", "I8-SCALED", integers::int_rows, json!({})),
        ("nvfp4-pack-quantized", "NVFP4-SCALED", floats::compressed_nvfp4, json!({})),
        ("mxfp4-pack-quantized", "MXFP4-SCALED", floats::compressed_mxfp4, json!({})),
    ]);
}

#[test]
fn small_floats() {
    check(vec![
        ("FP8 in blocks", "F8_E4M3-SCALED", floats::fp8, json!({})),
        ("FP8, one scale", "F8_E4M3-SCALED", floats::fp8_tensor, json!({})),
        ("MXFP8", "MXFP8-SCALED", floats::mxfp8, json!({})),
        ("MXFP4, scales of a type of their own", "MXFP4-SCALED", floats::typed_mxfp4, json!({})),
        ("NVFP4 of ModelOpt", "NVFP4-SCALED", floats::modelopt_nvfp4, json!({})),
    ]);
}

#[test]
fn parts_in_several_files() {
    let base = load("base-a");
    for (what, pack) in [
        ("NF4, nested scales", floats::bnb_nested as Pack),
        ("GPTQ", |raw| integers::gptq(raw, 4, 1, true)),
        ("pack-quantized", |raw| integers::compressed(raw, 4, true)),
        ("MXFP4", floats::typed_mxfp4),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_sharded(folder.path(), &packed(&base, pack), 3);
        let copy = report(folder.path(), &zoo("base-a"));
        say(&format!("{what} in three files: {} ({})", class(&copy), test(&copy, "bits")["says"]));
        assert_eq!(class(&copy), "re-encoded", "{what}: {}", copy["verdict"]["summary"]);
        assert_eq!(copy["subject"]["coverage"], 1.0, "{what}");
        let unknown = |finding: &&Value| finding["code"] == "dtype-unknown";
        assert_eq!(copy["findings"].as_array().unwrap().iter().filter(unknown).count(), 0, "{what}");
    }
}

fn named(tensors: &[Raw], name: &str) -> Raw {
    tensors.iter().find(|raw| raw.name == name).unwrap_or_else(|| panic!("{name}")).clone()
}

/// Rows of several matrices one after the other.
fn fused(name: String, parts: &[Raw]) -> Raw {
    let rows = parts.iter().map(|part| part.shape[0]).sum();
    let bytes = parts.iter().flat_map(|part| part.bytes.clone()).collect();
    Raw { name, shape: vec![rows, parts[0].shape[1]], bytes, dtype: parts[0].dtype }
}

/// As Phi-3 and vLLM have it: q, k, v in one matrix, gate and up in one.
fn phi3(tensors: &[Raw]) -> Vec<Raw> {
    let mut out: Vec<Raw> = tensors
        .iter()
        .filter(|raw| {
            !["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].iter().any(|part| raw.name.contains(part))
        })
        .cloned()
        .collect();
    for layer in 0..4 {
        let part = |name: &str| named(tensors, &format!("model.layers.{layer}.{name}_proj.weight"));
        let qkv = ["self_attn.q", "self_attn.k", "self_attn.v"].map(part);
        out.push(fused(format!("model.layers.{layer}.self_attn.qkv_proj.weight"), &qkv));
        out.push(fused(format!("model.layers.{layer}.mlp.gate_up_proj.weight"), &["mlp.gate", "mlp.up"].map(part)));
    }
    out
}

#[test]
fn fused_matrices_are_taken_apart() {
    let (base, tuned) = (phi3(&load("base-a")), phi3(&load("a-sft")));
    let kinds: [(&str, Pack); 8] = [
        ("GPTQ", |raw| integers::gptq(raw, 4, 1, false)),
        ("AWQ", integers::awq),
        ("LLM.int8", integers::llm_int8),
        ("NF4, nested scales", floats::bnb_nested),
        ("pack-quantized with zero points", |raw| integers::compressed(raw, 4, false)),
        ("NVFP4", floats::compressed_nvfp4),
        ("FP8, one scale", floats::fp8_tensor),
        ("FP8 in blocks", floats::fp8),
    ];
    let config = std::fs::read_to_string(zoo("base-a").join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    for (what, pack) in kinds {
        let folder = tempfile::tempdir().unwrap();
        let compare = |tensors: &[Raw], reference: &str| {
            write(folder.path(), &packed(tensors, pack), &config);
            report(folder.path(), &zoo(reference))
        };
        let (copy, derived, other) = (compare(&base, "base-a"), compare(&tuned, "base-a"), compare(&base, "base-b"));
        say(&format!("{what}, fused: {} ({})", class(&copy), test(&copy, "bits")["says"]));
        assert_eq!(class(&copy), "re-encoded", "{what}: {}", copy["verdict"]["summary"]);
        assert_eq!(class(&derived), "derived", "{what}: {}", derived["verdict"]["summary"]);
        assert_eq!(class(&other), "same-architecture", "{what}: {}", other["verdict"]["summary"]);
        assert_eq!(copy["subject"]["coverage"], 1.0, "{what}");
        for code in ["neuron-labels", "head-labels"] {
            assert!(test(&derived, code)["effect"].as_f64().unwrap() > 0.9, "{what}: {}", test(&derived, code));
        }
    }
}

/// The experts of a layer stacked: rows of gate and up in turn, and down; (experts, outs, ins).
fn stacks(tensors: &[Raw], layer: usize) -> [Raw; 2] {
    let prefix = format!("model.layers.{layer}.block_sparse_moe.experts");
    let part = |expert: usize, which: &str| named(tensors, &format!("{prefix}.{expert}.{which}.weight"));
    let (mut both, mut down) = (Vec::new(), Vec::new());
    for expert in 0..4 {
        let (gate, up) = (part(expert, "w1"), part(expert, "w3"));
        let line = gate.shape[1] * 2;
        both.extend(gate.bytes.chunks(line).zip(up.bytes.chunks(line)).flat_map(|(gate, up)| [gate, up].concat()));
        down.extend(part(expert, "w2").bytes);
    }
    let [rows, cols] = part(0, "w1").shape[..] else { panic!("a matrix") };
    let stack = |name: &str, shape: [usize; 3], bytes| Raw {
        name: format!("model.layers.{layer}.mlp.experts.{name}"),
        dtype: Dtype::BF16,
        shape: shape.to_vec(),
        bytes,
    };
    [stack("gate_up_proj", [4, 2 * rows, cols], both), stack("down_proj", [4, cols, rows], down)]
}

/// Of each matrix of a stack, the columns as rows.
fn turned(raw: &Raw) -> Raw {
    let [count, rows, cols] = raw.shape[..] else { panic!("a stack") };
    let pair = |at: usize| &raw.bytes[2 * at..2 * at + 2];
    let bytes = (0..count * rows * cols).flat_map(|at| {
        let (matrix, row, col) = (at / (rows * cols), at % rows, at / rows % cols);
        pair((matrix * rows + row) * cols + col).to_vec()
    });
    Raw { shape: vec![count, cols, rows], bytes: bytes.collect(), ..raw.clone() }
}

/// A mixture of experts by gpt-oss's names and in its arrangement.
fn gpt_oss(tensors: &[Raw], pack: Pack) -> Vec<Raw> {
    let mut out: Vec<Raw> = tensors.iter().filter(|raw| !raw.name.contains(".experts.")).cloned().collect();
    out.iter_mut().for_each(|raw| raw.name = raw.name.replace("block_sparse_moe.gate", "mlp.router"));
    out.extend((0..4).flat_map(|layer| stacks(tensors, layer)).flat_map(|stack| pack(&stack)));
    out
}

#[test]
fn experts_as_gpt_oss_has_them() {
    let config = json!({"model_type": "gpt_oss", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32});
    let mixture = load("a-moe-upcycled");
    let folder = tempfile::tempdir().unwrap();
    let compare = |pack: Pack, reference: &str| {
        write(folder.path(), &gpt_oss(&mixture, pack), &config);
        let report = report(folder.path(), &zoo(reference));
        say(&format!("gpt-oss against {reference}: {} ({})", class(&report), test(&report, "bits")["says"]));
        assert_eq!(report["subject"]["coverage"], 1.0);
        report
    };
    // In 16 bits its stacks are (experts, ins, outs).
    let plain = compare(|stack| vec![turned(stack)], "a-moe-upcycled");
    assert_eq!(class(&plain), "identical", "{}", plain["verdict"]["summary"]);
    let copy = compare(floats::gpt_oss, "a-moe-upcycled");
    assert_eq!(class(&copy), "re-encoded", "{}", copy["verdict"]["summary"]);
    assert!(test(&copy, "neuron-labels")["effect"].as_f64().unwrap() > 0.9, "{}", test(&copy, "neuron-labels"));
    assert_eq!(class(&compare(floats::gpt_oss, "base-a")), "derived");
    assert_eq!(class(&compare(floats::gpt_oss, "moe-scratch")), "same-architecture");
}

/// As MLX has Mixtral: the experts' gates in one stack, their ups and downs in others, each with its own groups.
fn switch(tensors: &[Raw], bits: u32) -> Vec<Raw> {
    let mut out: Vec<Raw> = tensors.iter().filter(|raw| !raw.name.contains(".experts.")).cloned().collect();
    for (layer, (which, called)) in
        (0..4).flat_map(|layer| [("w1", "gate"), ("w3", "up"), ("w2", "down")].map(|pair| (layer, pair)))
    {
        let prefix = format!("model.layers.{layer}.block_sparse_moe");
        let each: Vec<Raw> =
            (0..4).map(|expert| named(tensors, &format!("{prefix}.experts.{expert}.{which}.weight"))).collect();
        let together = fused(format!("{prefix}.switch_mlp.{called}_proj.weight"), &each);
        out.extend(integers::mlx(&together, bits).into_iter().map(|part| {
            let [rows, cols] = part.shape[..] else { panic!("a matrix") };
            Raw { shape: vec![4, rows / 4, cols], ..part }
        }));
    }
    out
}

#[test]
fn experts_as_mlx_has_them() {
    let mut config = json!({"quantization": {"group_size": 64, "bits": 8}});
    for (layer, which) in (0..4).flat_map(|layer| ["gate", "up", "down"].map(|which| (layer, which))) {
        let name = format!("model.layers.{layer}.block_sparse_moe.switch_mlp.{which}_proj");
        config["quantization"][name] = json!({"group_size": GROUP, "bits": 5});
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &switch(&load("a-moe-upcycled"), 5), &config);
    let against = |reference: &str| {
        let report = report(folder.path(), &zoo(reference));
        say(&format!("MLX experts against {reference}: {} ({})", class(&report), test(&report, "bits")["says"]));
        assert_eq!(report["subject"]["coverage"], 1.0);
        report
    };
    let copy = against("a-moe-upcycled");
    assert_eq!(class(&copy), "re-encoded", "{}", copy["verdict"]["summary"]);
    assert!(test(&copy, "neuron-labels")["effect"].as_f64().unwrap() > 0.9, "{}", test(&copy, "neuron-labels"));
    assert_eq!(class(&against("base-a")), "derived");
    assert_eq!(class(&against("moe-scratch")), "same-architecture");
}

/// AWQ takes a factor for each channel out of the norm gain and into the matrices that read it, before it rounds.
/// Values at equal labels are then no longer those of the base within rounding: labels stay, `re-encoded` is lost.
#[test]
fn awq_with_scales_folded_into_the_norms() {
    let mut tensors = load("base-a");
    let factor = |channel: usize| 0.5 + (channel * 37 % 101) as f32 / 50.0;
    for raw in &mut tensors {
        let (reads, gain) = (
            ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].iter().any(|part| raw.name.contains(part)),
            raw.name.contains("layernorm"),
        );
        if reads || gain {
            let cols = *raw.shape.last().unwrap();
            let change = |(at, value): (usize, f32)| if gain { value / factor(at) } else { value * factor(at % cols) };
            let values: Vec<f32> = raw.values().into_iter().enumerate().map(change).collect();
            *raw = Raw::from_f32(&raw.name, &raw.shape, &values).cast(Dtype::F16);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &packed(&tensors, integers::awq), &json!({}));
    let (copy, other) = (report(folder.path(), &zoo("base-a")), report(folder.path(), &zoo("base-b")));
    say(&format!("AWQ, folded: {} ({})", class(&copy), test(&copy, "bits")["says"]));
    assert_eq!(class(&copy), "derived", "{}", copy["verdict"]["summary"]);
    assert_eq!(class(&other), "same-architecture", "{}", other["verdict"]["summary"]);
    for code in ["neuron-labels", "head-labels"] {
        assert!(test(&copy, code)["effect"].as_f64().unwrap() > 0.9, "{}", test(&copy, code));
    }
}
