//! Adapters together with their base: the view has the values of the merged file that was never written, and the kinship
//! and labels of it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::gguf::{Kind, from_llama};
use crate::support::reports::{class, say, test};
use crate::support::torch::zip;
use crate::support::{Random, Raw, Run, load, load_file, weightprint, write_file, zoo};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use weightprint::internals::assemble;
use weightprint::internals::cache::Cache;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::fingerprint::Settings;
use weightprint::internals::scanner::{Cached, Prepared};
use weightprint::internals::tensor::TensorMeta;

fn read(checkpoint: &Checkpoint, tensor: &TensorMeta, first: u64, count: u64) -> Vec<f32> {
    let (mut out, mut buf) = (vec![f32::NAN; count as usize], Vec::new());
    checkpoint.values(tensor, first, &mut out, &mut buf).unwrap().unwrap();
    out
}

/// Every case of `fixtures/peft/merge.py`: bit for bit in `bf16`, and in `f32` two steps of values up to 1 apart at most,
/// because the sums over the rank and the squares of DoRA are taken in another order.
#[test]
fn values_are_those_that_peft_writes() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/peft");
    let mut seen = 0;
    for folder in fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let (adapter, base) = (folder.join("adapter_model.safetensors"), folder.join("base.safetensors"));
        let merged = load_file(&folder.join("merged.safetensors"));
        let before = load_file(&base);
        for mmap in [true, false] {
            let checkpoint =
                assemble::open_merged(&adapter, &base, OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
            assert_eq!(checkpoint.tensors.len(), before.len(), "{name}");
            let (mut worst, mut changed) = (0f32, 0);
            for own in &before {
                let tensor = checkpoint.tensors.iter().find(|tensor| tensor.name == own.name).unwrap();
                let whole = read(&checkpoint, tensor, 0, tensor.elements());
                let theirs = merged.iter().find(|other| other.name == own.name);
                changed += usize::from(theirs.is_some());
                let expected = theirs.unwrap_or(own).values();
                for (a, b) in whole.iter().zip(&expected) {
                    worst = worst.max((a - b).abs());
                    assert!(theirs.is_some() || a == b, "{name}: {} is not changed", own.name);
                }
                let cols = *tensor.shape.last().unwrap();
                for row in 0..tensor.elements() / cols {
                    let line = &whole[(row * cols) as usize..][..cols as usize];
                    assert_eq!(read(&checkpoint, tensor, row * cols, cols), line, "{name}: a row alone");
                    assert_eq!(read(&checkpoint, tensor, row * cols + 1, cols - 2), line[1..cols as usize - 1]);
                }
            }
            assert_eq!(changed, merged.len(), "{name}");
            say(&format!("{name}: {changed} tensors, {worst:e} apart at most"));
            let allowed = if name == "bf16" { 0.0 } else { 2.0 * f32::EPSILON };
            assert!(worst <= allowed, "{name}: {worst:e}");
        }
        seen += 1;
    }
    assert_eq!(seen, 12);
}

/// A change of a module. The factors are small multiples of 1/64, so that sums of their products are exact and in every
/// order the same.
struct Change {
    module: String,
    a: Raw,
    b: Raw,
}

fn change(module: String, [outs, ins]: [usize; 2], rank: usize, random: &mut Random) -> Change {
    let mut factor = |name: &str, shape: [usize; 2]| {
        let values: Vec<f32> =
            (0..shape[0] * shape[1]).map(|_| (random.normal() * 3.0).round() as f32 / 64.0).collect();
        Raw::from_f32(&format!("base_model.model.{module}.{name}.weight"), &shape, &values)
    };
    let (a, b) = (factor("lora_A", [rank, ins]), factor("lora_B", [outs, rank]));
    Change { module, a, b }
}

/// The change computed by candle and rounded as a merged file has it.
fn merged(base: &Raw, change: &Change, scale: f64) -> Raw {
    let tensor = |raw: &Raw| Tensor::from_vec(raw.values(), &raw.shape[..], &Device::Cpu).unwrap();
    let product = (tensor(&change.b).matmul(&tensor(&change.a)).unwrap() * scale).unwrap();
    let sum = (tensor(base) + product).unwrap().flatten_all().unwrap();
    let values = sum.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
    Raw::from_f32(&base.name, &base.shape, &values).cast(base.dtype)
}

const RANK: usize = 8;
const ALPHA: f64 = 16.0;

fn write_adapter(folder: &Path, changes: &[Change], config: Value) {
    let mut whole = json!({"peft_type": "LORA", "base_model_name_or_path": "zoo/base-a", "r": RANK,
        "lora_alpha": ALPHA, "init_lora_weights": true});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), whole.to_string()).unwrap();
    let tensors: Vec<Raw> = changes.iter().flat_map(|change| [change.a.clone(), change.b.clone()]).collect();
    write_file(&folder.join("adapter_model.safetensors"), &tensors);
}

fn with_base(command: &str, adapter: &Path, base: &Path, rest: &[&Path]) -> Run {
    let mut args = vec![Path::new(command), adapter];
    args.extend(rest);
    args.extend([Path::new("--base"), base]);
    weightprint(args)
}

fn compared(adapter: &Path, base: &Path, reference: &Path) -> Value {
    let run = with_base("compare", adapter, base, &[reference, Path::new("--format"), Path::new("json")]);
    assert!([0, 1].contains(&run.code), "{}", run.stderr);
    run.json()
}

/// Changes of all layers' query, value, gate and down projections.
fn changes(tensors: &[Raw], names: &[&str]) -> Vec<Change> {
    let mut random = Random(11);
    let hit = |tensor: &&Raw| names.iter().any(|name| tensor.name.contains(name));
    let matrices = tensors.iter().filter(hit);
    matrices
        .map(|tensor| {
            let module = tensor.name.trim_end_matches(".weight").to_owned();
            change(module, [tensor.shape[0], tensor.shape[1]], RANK, &mut random)
        })
        .collect()
}

fn merged_file(folder: &Path, tensors: &[Raw], changes: &[Change], scale: f64) -> PathBuf {
    let own = |tensor: &Raw| {
        let found = changes.iter().find(|change| tensor.name == format!("{}.weight", change.module));
        found.map_or_else(|| tensor.clone(), |change| merged(tensor, change, scale))
    };
    fs::create_dir_all(folder).unwrap();
    let path = folder.join("model.safetensors");
    write_file(&path, &tensors.iter().map(own).collect::<Vec<_>>());
    path
}

#[test]
fn an_adapter_with_its_base_is_the_merged_model() {
    let folder = tempfile::tempdir().unwrap();
    let (adapter, base) = (folder.path().join("tuned"), zoo("base-a"));
    let tensors = load("base-a");
    let changes = changes(&tensors, &["q_proj", "v_proj", "gate_proj", "down_proj"]);
    write_adapter(&adapter, &changes, json!({}));
    let file = merged_file(&folder.path().join("merged"), &tensors, &changes, ALPHA / RANK as f64);

    let same = compared(&adapter, &base, &file);
    assert_eq!(class(&same), "identical", "{}", test(&same, "bits")["says"]);
    let kin = compared(&adapter, &base, &zoo("base-a"));
    assert_eq!(class(&kin), "derived", "{}", kin["verdict"]["summary"]);
    let plain = weightprint([Path::new("compare"), &file, &base, Path::new("--format"), Path::new("json")]).json();
    for code in ["neuron-labels", "head-labels", "channel-labels"] {
        assert_eq!(test(&kin, code), test(&plain, code), "{code}");
        assert!(test(&kin, code)["effect"].as_f64().unwrap() > 0.5, "{}", test(&kin, code));
    }
    let other = compared(&adapter, &base, &zoo("base-b"));
    assert_eq!(class(&other), "same-architecture", "{}", other["verdict"]["summary"]);

    let subject = &kin["subject"];
    assert_eq!(
        (&subject["format"], &subject["name"], &subject["coverage"]),
        (&json!("merged"), &json!("tuned"), &json!(1.0))
    );
    let expected = json!({"adapter": "tuned", "base": "base-a", "method": "LORA", "ranks": [8],
        "modules": ["down_proj", "gate_proj", "q_proj", "v_proj"], "changed": changes.len(), "replaced": 0,
        "adapter_files": 1});
    assert_eq!(subject["merged"], expected);
    let digests: Vec<&str> =
        subject["files"].as_array().unwrap().iter().map(|f| f["sha256"].as_str().unwrap()).collect();
    let expected = [base.join("model.safetensors"), adapter.join("adapter_model.safetensors")];
    let own = expected.map(|path| Checkpoint::open(&path, OpenOptions::default()).unwrap().shards[0].sha256().unwrap());
    assert_eq!(digests, own);
    assert_eq!(kin["declared"]["base_models"], json!(["zoo/base-a"]));
    let codes: Vec<&str> = kin["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"adapter-merged") && !codes.contains(&"needs-base"), "{codes:?}");

    // As `torch.save` writes adapters, it is the same model.
    let pickled = folder.path().join("pickled");
    write_adapter(&pickled, &changes, json!({}));
    let parts = load_file(&pickled.join("adapter_model.safetensors"));
    fs::remove_file(pickled.join("adapter_model.safetensors")).unwrap();
    fs::write(pickled.join("adapter_model.bin"), zip(&parts)).unwrap();
    assert_eq!(class(&compared(&pickled, &base, &file)), "identical");

    // A fingerprint serves as a reference, and headers can be looked at.
    let print = folder.path().join("print");
    let run = with_base("fingerprint", &adapter, &base, &[Path::new("-o"), &print]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let run = weightprint([Path::new("compare"), &file, &print, Path::new("--format"), Path::new("json")]);
    assert_eq!(class(&run.json()), "identical");
    let run = with_base("inspect", &adapter, &base, &[]);
    assert!(run.code == 0 && run.stdout.contains("adapter-merged"), "{}{}", run.stdout, run.stderr);
    let run = with_base("scan", &adapter, &base, &[]);
    assert!(run.code == 5 && run.stdout.contains("was merged into"), "no reference: {}{}", run.stdout, run.stderr);
}

/// One after the other in one matrix, as Phi-3 has them.
fn fused(tensors: &[Raw]) -> Vec<Raw> {
    let mut out: Vec<Raw> = Vec::new();
    let find = |name: String| tensors.iter().find(|tensor| tensor.name == name).unwrap();
    for tensor in tensors {
        let Some((prefix, _)) = tensor.name.split_once("self_attn.q_proj").or(tensor.name.split_once("mlp.gate_proj"))
        else {
            if !["k_proj", "v_proj", "up_proj"].iter().any(|part| tensor.name.contains(part)) {
                out.push(tensor.clone());
            }
            continue;
        };
        let (name, parts) = if tensor.name.contains("q_proj") {
            ("self_attn.qkv_proj", ["q", "k", "v"].map(|part| format!("{prefix}self_attn.{part}_proj.weight")).to_vec())
        } else {
            ("mlp.gate_up_proj", ["gate", "up"].map(|part| format!("{prefix}mlp.{part}_proj.weight")).to_vec())
        };
        let bytes: Vec<u8> = parts.into_iter().flat_map(|part| find(part).bytes.clone()).collect();
        let cols = tensor.shape[1];
        let shape = vec![bytes.len() / 2 / cols, cols];
        out.push(Raw { name: format!("{prefix}{name}.weight"), dtype: Dtype::BF16, shape, bytes });
    }
    out
}

#[test]
fn changes_of_fused_matrices_reach_their_parts() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = fused(&load("base-a"));
    let base = folder.path().join("base");
    let changes = changes(&tensors, &["qkv_proj", "gate_up_proj"]);
    merged_file(&base, &tensors, &[], 1.0);
    let file = merged_file(&folder.path().join("merged"), &tensors, &changes, ALPHA / (RANK as f64).sqrt());
    for (path, to) in [(&base, "config.json"), (&folder.path().join("merged"), "config.json")] {
        fs::copy(zoo("base-a").join("config.json"), path.join(to)).unwrap();
    }
    let adapter = folder.path().join("tuned");
    write_adapter(&adapter, &changes, json!({"use_rslora": true}));
    let same = compared(&adapter, &base, &file);
    assert_eq!(class(&same), "identical", "{}", test(&same, "bits")["says"]);
    assert!(same["candidates"][0]["counterparts"].to_string().contains("qkv_proj.weight#k"));
    let kin = compared(&adapter, &base, &zoo("base-a"));
    assert_eq!(class(&kin), "derived", "{}", kin["verdict"]["summary"]);
    assert!(test(&kin, "neuron-labels")["effect"].as_f64().unwrap() > 0.9);
}

#[test]
fn changes_of_matrices_that_are_stored_turned_are_turned_with_them() {
    let turned = |raw: &Raw| {
        let ([rows, cols], values) = (raw.shape[..].try_into().unwrap(), raw.values());
        let other: Vec<f32> =
            (0..cols).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| values[r * cols + c]).collect();
        Raw::from_f32(&raw.name, &[cols, rows], &other).cast(raw.dtype)
    };
    let turn = |tensors: &[Raw]| -> Vec<Raw> {
        tensors.iter().map(|raw| if raw.name.contains("proj") { turned(raw) } else { raw.clone() }).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let tensors = load("base-a");
    let changes = changes(&tensors, &["q_proj", "up_proj", "down_proj"]);
    let upright = merged_file(&folder.path().join("merged"), &tensors, &changes, ALPHA / RANK as f64);
    let base = folder.path().join("base");
    merged_file(&base, &turn(&tensors), &[], 1.0);
    fs::copy(zoo("base-a").join("config.json"), base.join("config.json")).unwrap();
    let adapter = folder.path().join("tuned");
    write_adapter(&adapter, &changes, json!({"fan_in_fan_out": true}));
    let same = compared(&adapter, &base, &upright);
    assert_eq!(class(&same), "identical", "{}", test(&same, "bits")["says"]);
    // The lengths of DoRA go along the same way, whichever way the matrix lies.
    let lengths: Vec<Raw> = changes
        .iter()
        .map(|change| {
            let name = format!("base_model.model.{}.lora_magnitude_vector", change.module);
            Raw::from_f32(&name, &[change.b.shape[0]], &vec![1.5; change.b.shape[0]])
        })
        .collect();
    let mut all = load_file(&adapter.join("adapter_model.safetensors"));
    all.extend(lengths);
    write_file(&adapter.join("adapter_model.safetensors"), &all);
    for (fan, base) in [(true, base.clone()), (false, zoo("base-a"))] {
        write_config(&adapter, json!({"use_dora": true, "fan_in_fan_out": fan}));
        let print = folder.path().join(format!("print-{fan}"));
        let run = with_base("fingerprint", &adapter, &base, &[Path::new("-o"), &print]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    let prints = [folder.path().join("print-true"), folder.path().join("print-false")];
    let run = weightprint([Path::new("compare"), &prints[0], &prints[1], Path::new("--format"), Path::new("json")]);
    let both = run.json();
    say(&format!("DoRA turned and upright: {}", test(&both, "bits")["says"]));
    assert!(["identical", "re-encoded"].contains(&class(&both)), "{}", both["verdict"]["summary"]);
}

/// A matrix as whole numbers with a scale for each row, and what it comes to.
fn quantised(raw: &Raw) -> ([Raw; 2], Raw) {
    let (values, cols) = (raw.values(), raw.shape[1]);
    let (mut codes, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for row in values.chunks(cols) {
        let scale = row.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
        let own: Vec<i8> = row.iter().map(|value| (value / scale).round() as i8).collect();
        back.extend(own.iter().map(|&code| f32::from(code) * scale));
        codes.extend(own.iter().map(|&code| code as u8));
        scales.push(scale);
    }
    let scale = Raw::from_f32(&raw.name.replace(".weight", ".weight_scale"), &[raw.shape[0], 1], &scales);
    let codes = Raw { name: raw.name.clone(), dtype: Dtype::I8, shape: raw.shape.clone(), bytes: codes };
    ([codes, scale], Raw::from_f32(&raw.name, &raw.shape, &back))
}

/// As QLoRA trains them: the base is quantised, the adapter is not. A whole tensor of the adapter's is quantised too.
#[test]
fn a_quantised_base_is_changed_by_what_its_codes_come_to() {
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<Raw> = load("base-a").iter().map(|tensor| tensor.cast(Dtype::F32)).collect();
    let (mut stored, mut values) = (Vec::new(), Vec::new());
    for tensor in &tensors {
        if tensor.name.contains("_proj") {
            let (parts, back) = quantised(tensor);
            stored.extend(parts);
            values.push(back);
        } else {
            stored.push(tensor.clone());
            values.push(tensor.clone());
        }
    }
    let changes = changes(&values, &["q_proj", "v_proj", "gate_proj", "down_proj"]);
    let (adapter, base) = (folder.path().join("tuned"), folder.path().join("base.safetensors"));
    write_file(&base, &stored);
    write_adapter(&adapter, &changes, json!({"modules_to_save": ["o_proj"]}));
    // Other weights in the place of one matrix, so that reading the base's instead would be seen.
    let place = "model.layers.2.self_attn.o_proj.weight";
    let saved = load("base-b").iter().find(|tensor| tensor.name == place).unwrap().cast(Dtype::F32);
    let (parts, back) = quantised(&saved);
    let mut own = load_file(&adapter.join("adapter_model.safetensors"));
    own.extend(parts.map(|part| Raw { name: format!("base_model.model.{}", part.name), ..part }));
    write_file(&adapter.join("adapter_model.safetensors"), &own);
    *values.iter_mut().find(|tensor| tensor.name == place).unwrap() = back;
    let file = merged_file(&folder.path().join("merged"), &values, &changes, ALPHA / RANK as f64);
    let found = compared(&adapter, &base, &file);
    assert_eq!(class(&found), "identical", "{}", test(&found, "bits")["says"]);
    assert_eq!((&found["subject"]["merged"]["replaced"], &found["subject"]["coverage"]), (&json!(1), &json!(1.0)));
    assert_eq!(class(&compared(&adapter, &base, &zoo("base-a"))), "derived");
}

/// Names, and rows of query and key, are those of Hugging Face in the adapter and llama.cpp's in its base.
#[test]
fn a_base_in_gguf_is_changed_where_its_names_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<Raw> = load("base-a").iter().map(|tensor| tensor.cast(Dtype::F32)).collect();
    let changes = changes(&tensors, &["q_proj", "k_proj", "o_proj", "gate_proj", "lm_head"]);
    let adapter = folder.path().join("tuned");
    write_adapter(&adapter, &changes, json!({}));
    let file = merged_file(&folder.path().join("merged"), &tensors, &changes, ALPHA / RANK as f64);
    let base = folder.path().join("base.gguf");
    for (kind, expected) in [(Kind::F32, "identical"), (Kind::Quantised(GgmlDType::Q8_0), "derived")] {
        from_llama(&tensors, (4, 2), kind).write(&base);
        let found = compared(&adapter, &base, &file);
        say(&format!("{kind:?}: {} ({})", class(&found), test(&found, "bits")["says"]));
        assert_eq!(class(&found), expected, "{}", found["verdict"]["summary"]);
        assert_eq!(found["subject"]["merged"]["changed"], changes.len());
        for code in ["neuron-labels", "head-labels"] {
            assert!(test(&found, code)["effect"].as_f64().unwrap() > 0.99, "{}", test(&found, code));
        }
    }
}

fn write_config(folder: &Path, config: Value) {
    let mut whole = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    fs::write(folder.join("adapter_config.json"), whole.to_string()).unwrap();
}

#[test]
fn what_does_not_fit_or_is_not_merged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("tuned");
    let tensors = load("base-a");
    let good = || changes(&tensors, &["layers.1.self_attn.q_proj"]);
    let refused = |code: i32, told: &[&str]| {
        let run = with_base("inspect", &adapter, &zoo("base-a"), &[]);
        assert_eq!(run.code, code, "{}{}", run.stdout, run.stderr);
        for part in told {
            assert!(run.stderr.contains(part), "`{part}` is not in: {}", run.stderr);
        }
    };
    write_adapter(&adapter, &good(), json!({}));
    assert_eq!(with_base("inspect", &adapter, &zoo("base-a"), &[]).code, 0);
    for (config, told) in [
        (json!({"peft_type": "IA3"}), "`IA3` are not merged"),
        (json!({"peft_type": null}), "unstated method"),
        (json!({"layer_replication": [[0, 4]]}), "layer_replication"),
        (json!({"init_lora_weights": "pissa"}), "changes its base too"),
    ] {
        write_adapter(&adapter, &good(), config);
        refused(4, &[told]);
    }
    for (config, told) in [
        (json!({"lora_alpha": null}), "no lora_alpha"),
        (json!({"r": 4}), "states rank 4, the factors have rank 8"),
        (json!({"use_dora": true}), "lacks the lengths"),
        (json!({"alpha_pattern": {"(": 1}}), "pattern `(` is not read"),
    ] {
        write_adapter(&adapter, &good(), config);
        refused(3, &[told]);
    }
    let wrong = |change_of: &dyn Fn(&mut Vec<Change>), told: &[&str]| {
        let mut changes = good();
        change_of(&mut changes);
        write_adapter(&adapter, &changes, json!({}));
        refused(3, told);
    };
    let (file, name) = ("adapter_model.safetensors", "layers.1.self_attn.q_proj.lora_B.weight");
    let fresh = |module: &str, shape: [usize; 2]| change(module.to_owned(), shape, RANK, &mut Random(3));
    wrong(
        &|all| all[0] = fresh("model.layers.1.self_attn.q_proj", [96, 128]),
        &[file, name, "96 outs and 128 ins does not fit"],
    );
    wrong(&|all| all[0] = fresh("model.layers.9.self_attn.q_proj", [128, 128]), &[file, "layers.9", "has no tensor"]);
    wrong(&|all| all[0] = fresh("model.norm", [128, 128]), &[file, "has shape [128]"]);
    wrong(&|all| all[0].b.name = "base_model.model.q.ia3_l".to_owned(), &[file, "ia3_l", "no part of a LoRA adapter"]);
    wrong(&|all| all[0].b.name = "base_model.model.other.lora_B.weight".to_owned(), &["lacks one of its two factors"]);
    wrong(&|all| all[0].a.shape = vec![16, 64], &["no common rank"]);
    wrong(&|all| all[0].a.shape = vec![8, 128, 1], &["convolutions are not merged"]);
    wrong(&|all| all.push(fresh("layers.1.self_attn.q_proj", [128, 128])), &["changed twice"]);
    wrong(&|all| all[0].b = Raw::from_f32("base_model.model.model.elsewhere.weight", &[1, 1], &[1.0]), &["elsewhere"]);

    write_adapter(&adapter, &good(), json!({}));
    fs::remove_file(adapter.join("adapter_config.json")).unwrap();
    refused(3, &["adapter_config.json"]);
    let run = with_base("scan", &zoo("base-b"), &zoo("base-a"), &[]);
    assert!(run.code == 2 && run.stderr.contains("is no adapter"), "{}", run.stderr);
    write_adapter(&adapter, &good(), json!({}));
    let run = with_base("scan", &adapter, &adapter, &[]);
    assert!(run.code == 4 && run.stderr.contains("no model that an adapter could change"), "{}", run.stderr);
}

#[test]
fn whole_tensors_replace_the_base_s_and_a_grown_vocabulary_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("tuned");
    let tensors = load("base-a");
    write_adapter(&adapter, &changes(&tensors, &["layers.0.self_attn.q_proj"]), json!({}));
    let path = adapter.join("adapter_model.safetensors");
    let mut all = load_file(&path);
    let embedding = tensors.iter().find(|tensor| tensor.name.contains("embed_tokens")).unwrap();
    let grown = [&embedding.bytes[..], &embedding.bytes[..2 * embedding.shape[1] * 16]].concat();
    let shape = vec![embedding.shape[0] + 16, embedding.shape[1]];
    let name = "base_model.model.model.embed_tokens.weight".to_owned();
    all.push(Raw { name, dtype: embedding.dtype, shape, bytes: grown });
    write_file(&path, &all);
    let kin = compared(&adapter, &zoo("base-a"), &zoo("base-a"));
    assert_eq!(class(&kin), "derived", "{}", kin["verdict"]["summary"]);
    assert_eq!(kin["subject"]["merged"]["replaced"], 1);
    assert_eq!(kin["architecture"]["fields"]["vocab_size"], json!(embedding.shape[0] + 16));
}

#[test]
fn neither_threads_nor_the_way_of_reading_nor_a_cache_leave_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let (adapter, base) = (folder.path().join("tuned"), zoo("base-a"));
    let changes = changes(&load("base-a"), &["q_proj", "up_proj"]);
    write_adapter(&adapter, &changes, json!({}));
    let mut prints = Vec::new();
    for extra in [&["--threads", "1"][..], &["--threads", "5"], &["--threads", "2", "--no-mmap", "--memory", "1K"]] {
        let print = folder.path().join(format!("print-{}", prints.len()));
        let rest: Vec<&Path> = [Path::new("-o"), &print].into_iter().chain(extra.iter().map(Path::new)).collect();
        let run = with_base("fingerprint", &adapter, &base, &rest);
        assert_eq!(run.code, 0, "{}", run.stderr);
        prints.push(fs::read(&print).unwrap());
    }
    assert!(prints[0] == prints[1] && prints[0] == prints[2]);

    let cache = Cache::new(&folder.path().join("cache"), 1 << 30);
    let take = || {
        let checkpoint = assemble::open_merged(&adapter, &base, OpenOptions::default()).unwrap();
        let settings = Settings::default();
        let (input, cached) = Prepared::take(&checkpoint, "tuned".into(), &settings, Some(&cache), &|_| ()).unwrap();
        (input.into_fingerprint().to_bytes().unwrap(), cached)
    };
    let (first, second) = (take(), take());
    assert_eq!((&first.1, &second.1), (&Cached::Miss, &Cached::Hit));
    assert!(first.0 == second.0);
    // The files of weights are the same, the scale is not.
    write_adapter(&adapter, &changes, json!({"lora_alpha": 4}));
    let third = take();
    assert_eq!(third.1, Cached::Miss);
    assert!(third.0 != first.0);
}
