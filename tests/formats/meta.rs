//! Meta's own layout: parts of every matrix in `consolidated.NN.pth`, rows of query and key in another order.

use std::fs;
use std::path::Path;

use crate::support::reports::verdict;
use crate::support::torch::{legacy, zip};
use crate::support::{Raw, load, prepare, write_file, zoo};
use safetensors::tensor::Dtype;
use weightprint::internals::cache::{Cache, DEFAULT_LIMIT};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::Code;
use weightprint::internals::fingerprint::Settings;
use weightprint::internals::scanner::{self, Cached, Prepared};
use weightprint::report::ClassCode;

/// How the token embeddings are cut.
#[derive(Clone, Copy, PartialEq)]
enum Generation {
    Llama2,
    Llama3,
}

/// The name in Meta's scheme.
fn renamed(name: &str) -> String {
    let name = name.strip_prefix("model.").unwrap_or(name);
    [
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// A model of the zoo as Meta would have it: renamed, and rows of query and key put side by side in pairs, the way
/// `convert_llama_weights_to_hf.py` undoes: `w.view(heads, 2, size / 2, dim).transpose(1, 2)`.
fn in_meta_layout(name: &str) -> Vec<Raw> {
    const HEAD: usize = 32;
    let turn = |tensor: Raw| {
        let is_rotary = tensor.name.contains("q_proj") || tensor.name.contains("k_proj");
        let row = tensor.bytes.len() / tensor.shape[0];
        let mut turned = Raw { name: renamed(&tensor.name), ..tensor };
        if is_rotary {
            let rows: Vec<Vec<u8>> = turned.bytes.chunks(row).map(<[u8]>::to_vec).collect();
            turned.bytes = (0..rows.len())
                .flat_map(|at| {
                    let (head, within) = (at / HEAD, at % HEAD);
                    rows[head * HEAD + within % 2 * (HEAD / 2) + within / 2].clone()
                })
                .collect();
        }
        turned
    };
    load(name).into_iter().map(turn).collect()
}

/// Part `at` of `parts` of a tensor.
fn slice(tensor: &Raw, at: usize, parts: usize, generation: Generation) -> Raw {
    let [rows, cols] = tensor.shape[..] else { return tensor.clone() };
    let by_columns = ["wo.weight", "w2.weight"].iter().any(|end| tensor.name.ends_with(end))
        || tensor.name.starts_with("tok_embeddings") && generation == Generation::Llama2;
    let width = tensor.bytes.len() / rows / cols;
    if !by_columns {
        let rows = rows / parts;
        let bytes = tensor.bytes[at * rows * cols * width..(at + 1) * rows * cols * width].to_vec();
        return Raw { shape: vec![rows, cols], bytes, ..tensor.clone() };
    }
    let part = cols / parts * width;
    let bytes = tensor.bytes.chunks(cols * width).flat_map(|row| row[at * part..(at + 1) * part].to_vec()).collect();
    Raw { shape: vec![rows, cols / parts], bytes, ..tensor.clone() }
}

const PARAMS: &str = r#"{"dim": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1}"#;

fn write(folder: &Path, tensors: &[Raw], parts: usize, generation: Generation) {
    for at in 0..parts {
        let own: Vec<Raw> = tensors.iter().map(|tensor| slice(tensor, at, parts, generation)).collect();
        let bytes = if at % 2 == 0 { zip(&own) } else { legacy(&own) };
        fs::write(folder.join(format!("consolidated.{at:02}.pth")), bytes).unwrap();
    }
    fs::write(folder.join("params.json"), PARAMS).unwrap();
}

#[test]
fn parts_are_joined_and_rows_put_back() {
    for (name, parts, generation, class) in [
        ("base-a", 1, Generation::Llama2, "identical"),
        ("base-a", 2, Generation::Llama2, "identical"),
        ("base-a", 2, Generation::Llama3, "identical"),
        ("a-sft", 2, Generation::Llama2, "derived"),
        ("base-b", 2, Generation::Llama3, "same-architecture"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &in_meta_layout(name), parts, generation);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert_eq!(checkpoint.findings, [], "{name} {parts}");
        assert_eq!((checkpoint.shards.len(), checkpoint.tensors.len()), (parts, load(name).len()));
        assert_eq!(verdict(folder.path()), (class.to_owned(), 1.0), "{name} {parts}");
    }
}

#[test]
fn every_value_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &in_meta_layout("base-a"), 2, Generation::Llama2);
    // Any part stands for all of them.
    let checkpoint = Checkpoint::open(
        &folder.path().join("consolidated.01.pth"),
        OpenOptions { mmap: false, ..OpenOptions::default() },
    )
    .unwrap();
    for original in load("base-a") {
        let tensor = checkpoint.tensors.iter().find(|tensor| tensor.name == renamed(&original.name)).unwrap();
        let mut out = vec![f32::NAN; tensor.elements() as usize];
        checkpoint.values(tensor, 0, &mut out, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(out, original.values(), "{}", original.name);
    }
}

#[test]
fn keys_that_several_parts_hold_are_taken_once() {
    let tensors = in_meta_layout("base-a");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &tensors, 4, Generation::Llama3);
    for at in 0..4 {
        let own: Vec<Raw> = tensors
            .iter()
            .map(|tensor| {
                let is_shared = tensor.name.contains("wk") || tensor.name.contains("wv");
                let (at, parts) = if is_shared { (at / 2, 2) } else { (at, 4) };
                slice(tensor, at, parts, Generation::Llama3)
            })
            .collect();
        fs::write(folder.path().join(format!("consolidated.{at:02}.pth")), zip(&own)).unwrap();
    }
    assert_eq!(verdict(folder.path()), ("identical".to_owned(), 1.0));
}

fn open_error(folder: &Path) -> String {
    Checkpoint::open(folder, OpenOptions::default()).unwrap_err().to_string()
}

#[test]
fn parts_that_do_not_make_a_model_are_refused() {
    let tensors = in_meta_layout("base-a");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &tensors, 4, Generation::Llama2);
    fs::remove_file(folder.path().join("consolidated.01.pth")).unwrap();
    let error = open_error(folder.path());
    assert!(error.contains("part `consolidated.01.pth` of the model is missing"), "{error}");
    fs::rename(folder.path().join("consolidated.03.pth"), folder.path().join("consolidated.01.pth")).unwrap();
    let error = open_error(folder.path());
    assert!(error.contains("make 96 residual channels instead of 128"), "{error}");
    write(folder.path(), &tensors, 4, Generation::Llama3);
    fs::remove_file(folder.path().join("consolidated.03.pth")).unwrap();
    let error = open_error(folder.path());
    assert!(error.contains("`layers.0.attention.wo.weight`") && error.contains("3 parts have 96 columns"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &tensors, 2, Generation::Llama2);
    let few: Vec<Raw> = tensors[1..].iter().map(|tensor| slice(tensor, 1, 2, Generation::Llama2)).collect();
    fs::write(folder.path().join("consolidated.01.pth"), zip(&few)).unwrap();
    let error = open_error(folder.path());
    assert!(error.contains("it is in 1 of 2 parts"), "{error}");
}

#[test]
fn what_cannot_be_put_back_is_told() {
    let mut tensors = in_meta_layout("base-a");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &tensors, 2, Generation::Llama2);
    fs::write(folder.path().join("params.json"), r#"{"dim": 128}"#).unwrap();
    let codes = |folder: &Path| -> Vec<Code> {
        let checkpoint = Checkpoint::open(folder, OpenOptions::default()).unwrap();
        checkpoint.findings.iter().map(|finding| finding.code).collect()
    };
    assert_eq!(codes(folder.path()), [Code::ConfigMismatch]);
    assert_eq!(verdict(folder.path()).0, "derived", "rows of query and key stay in another order");
    fs::write(folder.path().join("params.json"), "{").unwrap();
    assert_eq!(codes(folder.path()), [Code::SidecarUnreadable, Code::ConfigMismatch]);

    tensors.push(Raw::from_f32("layers.0.adapter.weight", &[4, 4], &[1.0; 16]));
    write(folder.path(), &tensors, 2, Generation::Llama2);
    assert_eq!(codes(folder.path()), [Code::ValuesNotRead]);
    let norm = tensors.iter().position(|tensor| tensor.name == "norm.weight").unwrap();
    tensors.pop();
    tensors[norm] = tensors[norm].cast(Dtype::F32);
    let other: Vec<Raw> = tensors.iter().map(|tensor| slice(tensor, 1, 2, Generation::Llama2)).collect();
    write(folder.path(), &in_meta_layout("base-a"), 2, Generation::Llama2);
    fs::write(folder.path().join("consolidated.01.pth"), zip(&other)).unwrap();
    assert_eq!(codes(folder.path()), [Code::PartsDisagree]);
}

/// One safetensors file with Meta's names and `params.json`, as Mistral publishes its models.
fn write_mistral(folder: &Path, name: &str) {
    write_file(&folder.join("consolidated.safetensors"), &in_meta_layout(name));
    let params = r#"{"dim": 128, "n_layers": 4, "head_dim": 32, "hidden_dim": 352, "n_heads": 4, "n_kv_heads": 2,
        "norm_eps": 1e-05, "vocab_size": 1024, "rope_theta": 1000000.0}"#;
    fs::write(folder.join("params.json"), params).unwrap();
}

#[test]
fn mistral_s_own_form_is_read_with_its_rows_put_back() {
    for (name, class) in [("base-a", "identical"), ("a-sft", "derived"), ("base-b", "same-architecture")] {
        let folder = tempfile::tempdir().unwrap();
        write_mistral(folder.path(), name);
        let file = folder.path().join("consolidated.safetensors");
        for path in [folder.path(), &file] {
            let checkpoint = Checkpoint::open(path, OpenOptions::default()).unwrap();
            assert_eq!(checkpoint.findings, [], "{name}");
            assert_eq!(verdict(path), (class.to_owned(), 1.0), "{name}");
        }
    }
}

#[test]
fn both_forms_of_one_model_in_one_folder_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    write_mistral(folder.path(), "base-a");
    crate::support::write_sharded(folder.path(), &load("base-a"), 2);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(checkpoint.shards.len(), 2, "the form that loaders look for");
    let told: Vec<&str> = checkpoint.findings.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(told, ["shard-extra"], "{:?}", checkpoint.findings);
    // The other form was not read, and half of what lies there is it.
    let (class, coverage) = verdict(folder.path());
    assert!(class == "identical" && (0.45..0.55).contains(&coverage), "{class} {coverage}");
    // The other form, when it is named.
    assert_eq!(verdict(&folder.path().join("consolidated.safetensors")), ("identical".to_owned(), 1.0));
}

#[test]
fn a_cached_fingerprint_is_not_that_of_another_layout() {
    let folder = tempfile::tempdir().unwrap();
    let (model, kept) = (folder.path().join("model"), folder.path().join("cache"));
    fs::create_dir(&model).unwrap();
    write(&model, &in_meta_layout("base-a"), 1, Generation::Llama2);
    let params = fs::read(model.join("params.json")).unwrap();
    fs::remove_file(model.join("params.json")).unwrap();
    let reference = prepare(&zoo("base-a"), &[]).unwrap();
    let lists: Vec<_> = reference.fingerprint().anchors().cloned().into_iter().collect();
    let cache = Cache::new(&kept, DEFAULT_LIMIT);
    let class = |cache: Option<&Cache>| {
        let checkpoint = Checkpoint::open(&model, OpenOptions::default()).unwrap();
        let settings = Settings { lists: &lists, ..Settings::default() };
        let (input, cached) = Prepared::take(&checkpoint, "model".into(), &settings, cache, &|_| ()).unwrap();
        (scanner::compare(&input, &reference).verdict.class, cached)
    };
    let (without, _) = class(Some(&cache));
    // It says how the rows of query and key follow each other, and no byte of a weight file changes with it.
    fs::write(model.join("params.json"), params).unwrap();
    assert_eq!(class(Some(&cache)), (ClassCode::Identical, Cached::Miss));
    assert_eq!(class(None), (ClassCode::Identical, Cached::Miss));
    assert_eq!(class(Some(&cache)), (ClassCode::Identical, Cached::Hit));
    assert_eq!(without, ClassCode::Derived);
}
