//! Layouts: the zoo with fused, grouped, stacked and turned matrices keeps its kinship and its labels.

use std::path::Path;

use crate::support::gguf::{Kind, Meta, Stored, from_llama};
use crate::support::reports::{class, report, say, test};
use crate::support::{Raw, load, obfuscate, weightprint, write_file, zoo};
use safetensors::tensor::Dtype;

/// Heads of queries, of keys, and their size.
const HEADS: usize = 4;
const GROUPS: usize = 2;
const HEAD: usize = 32;

fn of<'a>(tensors: &'a [Raw], name: &str) -> &'a Raw {
    tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("{name}"))
}

/// Rows of several matrices one after the other.
fn fused(name: String, parts: &[&[u8]], cols: usize) -> Raw {
    let bytes = parts.concat();
    Raw { name, dtype: Dtype::BF16, shape: vec![bytes.len() / 2 / cols, cols], bytes }
}

/// Every layer's matrices replaced by what `change` makes of them; the rest stays.
fn by_layer(tensors: &[Raw], change: impl Fn(&str, &dyn Fn(&str) -> Raw) -> Vec<Raw>) -> Vec<Raw> {
    let mut out: Vec<Raw> = tensors.iter().filter(|tensor| !tensor.name.contains("proj")).cloned().collect();
    let layers = tensors.iter().filter(|tensor| tensor.name.ends_with("input_layernorm.weight")).count();
    for layer in 0..layers {
        let prefix = format!("model.layers.{layer}.");
        out.extend(change(&prefix, &|part| of(tensors, &format!("{prefix}{part}.weight")).clone()));
    }
    out
}

/// As Phi-3 has it: q, k, v in turn, gate and up in turn.
fn phi3(tensors: &[Raw]) -> Vec<Raw> {
    by_layer(tensors, |prefix, part| {
        let [q, k, v] = ["q", "k", "v"].map(|which| part(&format!("self_attn.{which}_proj")));
        let [gate, up] = ["gate", "up"].map(|which| part(&format!("mlp.{which}_proj")));
        let d = q.shape[1];
        vec![
            fused(format!("{prefix}self_attn.qkv_proj.weight"), &[&q.bytes, &k.bytes, &v.bytes], d),
            fused(format!("{prefix}mlp.gate_up_proj.weight"), &[&gate.bytes, &up.bytes], d),
            part("self_attn.o_proj"),
            part("mlp.down_proj"),
        ]
    })
}

/// As InternLM2 has it: for each group its queries, its key, its value; and its names.
fn internlm2(tensors: &[Raw]) -> Vec<Raw> {
    let mut out = by_layer(tensors, |prefix, part| {
        let [q, k, v] = ["q", "k", "v"].map(|which| part(&format!("self_attn.{which}_proj")));
        let d = q.shape[1];
        let rows = |raw: &Raw, first: usize, count: usize| raw.bytes[first * d * 2..(first + count) * d * 2].to_vec();
        let queries = HEADS / GROUPS * HEAD;
        let groups: Vec<Vec<u8>> = (0..GROUPS)
            .flat_map(|g| [rows(&q, g * queries, queries), rows(&k, g * HEAD, HEAD), rows(&v, g * HEAD, HEAD)])
            .collect();
        let groups: Vec<&[u8]> = groups.iter().map(Vec::as_slice).collect();
        let renamed = |name: &str, to: &str| Raw { name: format!("{prefix}{to}.weight"), ..part(name) };
        vec![
            fused(format!("{prefix}attention.wqkv.weight"), &groups, d),
            renamed("self_attn.o_proj", "attention.wo"),
            renamed("mlp.gate_proj", "feed_forward.w1"),
            renamed("mlp.up_proj", "feed_forward.w3"),
            renamed("mlp.down_proj", "feed_forward.w2"),
        ]
    });
    for tensor in &mut out {
        tensor.name = tensor
            .name
            .replace("embed_tokens", "tok_embeddings")
            .replace("input_layernorm", "attention_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("lm_head", "output");
    }
    out
}

/// Every matrix of the layers stored by (in, out), as Conv1D has it.
fn turned(tensors: &[Raw]) -> Vec<Raw> {
    by_layer(tensors, |_, part| {
        let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
        let names = names.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
        names.map(|name| turn(part(name))).collect()
    })
}

fn turn(raw: Raw) -> Raw {
    let [rows, cols] = raw.shape[..] else { panic!("a matrix") };
    let at = |col: usize, row: usize| &raw.bytes[(row * cols + col) * 2..][..2];
    let bytes = (0..cols).flat_map(|col| (0..rows).flat_map(move |row| [row, col])).collect::<Vec<_>>();
    let bytes = bytes.chunks(2).flat_map(|place| at(place[1], place[0]).to_vec()).collect();
    Raw { shape: vec![cols, rows], bytes, ..raw }
}

fn check(what: &str, layout: &dyn Fn(&[Raw]) -> Vec<Raw>, labels: &[&str]) {
    let (reference, kin, stranger) = ("base-a", "a-sft", "base-b");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = zoo(reference).join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    let run = |name: &str, against: &str| {
        write_file(&path, &layout(&load(name)));
        report(&path, &zoo(against))
    };
    let (copy, derived, other) = (run(reference, reference), run(kin, reference), run(reference, stranger));
    say(&format!(
        "{what}: copy {} ({}), derived {}, other {}",
        class(&copy),
        test(&copy, "bits")["says"],
        class(&derived),
        class(&other)
    ));
    assert_eq!(class(&copy), "identical", "{what}: {}", copy["verdict"]["summary"]);
    assert_eq!(class(&derived), "derived", "{what}: {}", derived["verdict"]["summary"]);
    assert_eq!(class(&other), "same-architecture", "{what}: {}", other["verdict"]["summary"]);
    assert_eq!(copy["subject"]["coverage"], 1.0, "{what}");
    for found in [&copy, &derived] {
        for code in labels {
            let test = test(found, code);
            assert!(test["effect"].as_f64().unwrap() > 0.9, "{what}: {test}");
        }
    }
}

#[test]
fn query_key_value_and_gate_up_fused_in_turn() {
    check("phi3", &phi3, &["neuron-labels", "head-labels"]);
}

#[test]
fn query_key_value_fused_by_group() {
    check("internlm2", &internlm2, &["neuron-labels", "head-labels"]);
}

#[test]
fn matrices_stored_the_other_way_round() {
    check("turned", &turned, &["neuron-labels", "neuron-agreement", "head-labels"]);
    // Without names gate and up are told apart by what their neurons read and write.
    let nameless = |tensors: &[Raw]| {
        let mut tensors = turned(tensors);
        obfuscate(&mut tensors, 5);
        tensors
    };
    check("turned and nameless", &nameless, &["neuron-labels", "neuron-agreement"]);
}

/// Without names a fused matrix is taken apart in the order that most have, in both models alike.
#[test]
fn a_nameless_copy_of_a_fused_model_is_still_a_copy() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (what, layout) in [("phi3", &phi3 as &dyn Fn(&[Raw]) -> Vec<Raw>), ("internlm2", &internlm2)] {
        let tensors = layout(&load("base-a"));
        write_file(&folder.path().join("model.safetensors"), &tensors);
        std::fs::copy(zoo("base-a").join("config.json"), folder.path().join("config.json")).unwrap();
        let mut copy = tensors;
        obfuscate(&mut copy, 5);
        write_file(&other.path().join("model.safetensors"), &copy);
        let found = report(other.path(), folder.path());
        say(&format!("{what}, nameless: {} ({})", class(&found), test(&found, "bits")["says"]));
        let expected = if what == "phi3" { "identical" } else { "derived" };
        assert_eq!(class(&found), expected, "{what}: {}", found["verdict"]["summary"]);
    }
}

/// As transformers 5 has Mixtral: gate and up of all experts in one tensor, down of all in another.
fn stacked(tensors: &[Raw]) -> Vec<Raw> {
    let mut out: Vec<Raw> = tensors.iter().filter(|tensor| !tensor.name.contains(".experts.")).cloned().collect();
    let layers = tensors.iter().filter(|tensor| tensor.name.ends_with("input_layernorm.weight")).count();
    for layer in 0..layers {
        let (gate_up, down) = stacks(tensors, layer);
        let prefix = format!("model.layers.{layer}.block_sparse_moe.experts");
        out.push(Raw { name: format!("{prefix}.gate_up_proj"), ..gate_up });
        out.push(Raw { name: format!("{prefix}.down_proj"), ..down });
    }
    out
}

/// Gate and up, and down, of all experts of a layer.
fn stacks(tensors: &[Raw], layer: usize) -> (Raw, Raw) {
    let expert = |which: &str, expert: usize| {
        let name = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{which}.weight");
        tensors.iter().find(|tensor| tensor.name == name).cloned()
    };
    let count = (0..).take_while(|&index| expert("w1", index).is_some()).count();
    let stack = |parts: &[&str]| {
        let each: Vec<Raw> =
            (0..count).flat_map(|index| parts.iter().map(move |part| expert(part, index).unwrap())).collect();
        let rows = each[0].shape[0] * parts.len();
        let shape = vec![count, rows, each[0].shape[1]];
        Raw {
            name: String::new(),
            dtype: Dtype::BF16,
            shape,
            bytes: each.iter().flat_map(|raw| raw.bytes.clone()).collect(),
        }
    };
    (stack(&["w1", "w3"]), stack(&["w2"]))
}

#[test]
fn experts_stacked_in_one_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_file(&path, &stacked(&load("a-moe-upcycled")));
    let copy = report(&path, &zoo("a-moe-upcycled"));
    say(&format!("stacked experts: {} ({})", class(&copy), test(&copy, "bits")["says"]));
    assert_eq!(class(&copy), "identical", "{}", copy["verdict"]["summary"]);
    assert_eq!(class(&report(&path, &zoo("base-a"))), "derived");
    assert_eq!(class(&report(&path, &zoo("moe-scratch"))), "same-architecture");
}

#[test]
fn experts_stacked_as_llama_cpp_has_them() {
    let tensors = load("a-moe-upcycled");
    let rest: Vec<Raw> = tensors.iter().filter(|tensor| !tensor.name.contains("block_sparse_moe")).cloned().collect();
    let mut gguf = from_llama(&rest, (HEADS, GROUPS), Kind::Bf16);
    let layers = rest.iter().filter(|tensor| tensor.name.ends_with("input_layernorm.weight")).count();
    for layer in 0..layers {
        let expert = |which: &str, expert: usize| {
            let name = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{which}.weight");
            tensors.iter().find(|tensor| tensor.name == name)
        };
        for (ours, which) in [("gate", "w1"), ("up", "w3"), ("down", "w2")] {
            let each: Vec<&Raw> = (0..).map_while(|index| expert(which, index)).collect();
            gguf.tensors.push(Stored {
                name: format!("blk.{layer}.ffn_{ours}_exps.weight"),
                shape: vec![each.len() as u64, each[0].shape[0] as u64, each[0].shape[1] as u64],
                kind: 30,
                bytes: each.iter().flat_map(|raw| raw.bytes.clone()).collect(),
            });
        }
        let router = of(&tensors, &format!("model.layers.{layer}.block_sparse_moe.gate.weight"));
        gguf.tensors.push(Stored {
            name: format!("blk.{layer}.ffn_gate_inp.weight"),
            shape: router.shape.iter().map(|&size| size as u64).collect(),
            kind: 30,
            bytes: router.bytes.clone(),
        });
    }
    gguf.meta.push(("llama.expert_count".into(), Meta::U32(4)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf.write(&path);
    let copy = report(&path, &zoo("a-moe-upcycled"));
    say(&format!("stacked experts in GGUF: {} ({})", class(&copy), test(&copy, "bits")["says"]));
    assert_eq!(class(&copy), "identical", "{}", copy["verdict"]["summary"]);
    assert_eq!(class(&report(&path, &zoo("base-a"))), "derived");
}

#[test]
fn inspect_tells_what_fused_matrices_are_read_as() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let inspect = |format: &str| {
        let run = weightprint([Path::new("inspect"), &path, Path::new("--format"), Path::new(format)]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    };
    write_file(&path, &phi3(&load("base-a")));
    let text = inspect("human").stdout;
    for told in [
        "read as attn_q [128 x 128], attn_k [64 x 128], attn_v [64 x 128]",
        "read as ffn_gate [256 x 128], ffn_up [256 x 128]",
    ] {
        assert!(text.contains(told), "`{told}` is not in: {text}");
    }
    let found = inspect("json").json();
    let tensors = found["tensors"].as_array().unwrap();
    let fused = tensors.iter().find(|row| row["name"] == "model.layers.2.self_attn.qkv_proj.weight").unwrap();
    let names: Vec<&str> =
        fused["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["q", "k", "v"].map(|part| format!("model.layers.2.self_attn.qkv_proj.weight#{part}")));
    assert_eq!((&fused["parts"][1]["roles"][0], &fused["parts"][1]["layer"]), (&"attn_k".into(), &2.into()));
    let whole = tensors.iter().find(|row| row["name"] == "model.layers.2.self_attn.o_proj.weight").unwrap();
    assert!(whole.get("parts").is_none(), "{whole}");

    write_file(&path, &turned(&load("base-a")));
    assert!(inspect("human").stdout.contains("read as ffn_down [128 x 256]"), "{}", inspect("human").stdout);
    write_file(&path, &stacked(&load("a-moe-upcycled")));
    let text = inspect("human").stdout;
    assert!(text.contains("of expert 0 [") && text.contains("of expert 2 [256 x 128]"), "{text}");
    write_file(&path, &load("base-a"));
    assert!(!inspect("human").stdout.contains("read as"));
}
