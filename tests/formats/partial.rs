//! What is not a whole model: adapters without their base, and Git-LFS pointers without their weights. Neither ever
//! passes for a clean one.

use std::fs;
use std::path::Path;

use crate::support::torch::zip;
use crate::support::{Random, Raw, Run, load, weightprint, write_file, zoo};
use serde_json::Value;

fn scan(path: &Path) -> Run {
    weightprint([Path::new("scan"), path, Path::new("--format"), Path::new("json")])
}

fn findings(report: &Value, code: &str) -> Vec<String> {
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["code"] == code)
        .map(|finding| finding["message"].as_str().unwrap().to_owned())
        .collect()
}

/// Rank-4 factors for query and value of base-a's four layers, as PEFT names them.
fn adapter() -> Vec<Raw> {
    let mut random = Random(7);
    let mut factor = |name: &str, shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| random.normal() as f32 * 0.02).collect();
        Raw::from_f32(name, &shape, &values)
    };
    let mut tensors = Vec::new();
    for layer in 0..4 {
        for (module, rows) in [("q_proj", 128), ("v_proj", 64)] {
            let stem = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
            tensors.push(factor(&format!("{stem}.lora_A.weight"), [4, 128]));
            tensors.push(factor(&format!("{stem}.lora_B.weight"), [rows, 4]));
        }
    }
    tensors
}

const CONFIG: &str = r#"{"peft_type": "LORA", "base_model_name_or_path": "zoo/base-a", "r": 4, "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"]}"#;

#[test]
fn an_adapter_alone_is_told_and_never_clean() {
    for form in ["adapter_model.safetensors", "adapter_model.bin"] {
        let folder = tempfile::tempdir().unwrap();
        match form {
            "adapter_model.bin" => fs::write(folder.path().join(form), zip(&adapter())).unwrap(),
            _ => write_file(&folder.path().join(form), &adapter()),
        }
        fs::write(folder.path().join("adapter_config.json"), CONFIG).unwrap();
        let run = scan(folder.path());
        assert_eq!(run.code, 5, "{form}: {}", run.stderr);
        let report = run.json();
        assert_eq!(report["verdict"]["class"], "inconclusive");
        assert_eq!(report["subject"]["coverage"], 0.0);
        let told = findings(&report, "needs-base");
        assert_eq!(told.len(), 1, "{form}");
        for part in ["`LORA` adapter of rank 4", "`q_proj`, `v_proj`", "declares `zoo/base-a` as its base"] {
            assert!(told[0].contains(part), "`{part}` is not in: {}", told[0]);
        }
        assert_eq!(report["declared"]["base_models"], serde_json::json!(["zoo/base-a"]));
        assert_eq!(report["declared"]["relation"], "adapter");
        // Nor does a reference at hand make it clean, though it shares no weights with it.
        let run = weightprint([Path::new("compare"), folder.path(), &zoo("base-b")]);
        assert_eq!(run.code, 5, "{form}: {}", run.stdout);
        let run = weightprint([Path::new("compare"), &zoo("base-b"), folder.path()]);
        assert_eq!(run.code, 4, "{form}: {}", run.stdout);
    }
}

#[test]
fn an_adapter_is_recognised_by_its_names_and_with_whole_tensors_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = adapter();
    let embedding = load("base-b").into_iter().find(|tensor| tensor.name.contains("embed_tokens")).unwrap();
    tensors.push(Raw { name: "base_model.model.model.embed_tokens.weight".to_owned(), ..embedding });
    write_file(&folder.path().join("model.safetensors"), &tensors);
    let run =
        weightprint([Path::new("compare"), folder.path(), &zoo("base-a"), Path::new("--format"), Path::new("json")]);
    assert_eq!(run.code, 5, "most of its values were compared, and it is no model all the same");
    let told = findings(&run.json(), "needs-base");
    assert!(told[0].contains("an adapter of rank 4") && told[0].contains("1 tensors replaced whole"), "{}", told[0]);
    assert!(told[0].contains("declares no base"), "{}", told[0]);
}

#[test]
fn adapters_of_other_methods_and_tools_are_no_models_either() {
    for name in [
        "blk.0.attn_q.weight.lora_a",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "base_model.model.model.layers.0.self_attn.k_proj.ia3_l",
        "base_model.model.model.layers.0.self_attn.k_proj.hada_w1_a",
        "base_model.model.model.layers.0.self_attn.k_proj.oft_R.weight",
        "prompt_embeddings",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..128).map(|i| (i as f32).sin()).collect();
        write_file(&folder.path().join("model.safetensors"), &[Raw::from_f32(name, &[2, 64], &values)]);
        let run = scan(folder.path());
        assert_eq!(run.code, 5, "{name}: {}", run.stderr);
        let told = findings(&run.json(), "needs-base");
        assert!(told.len() == 1 && told[0].contains("together with its base"), "{name}: {told:?}");
    }
}

fn pointer(sha256: &str, bytes: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {bytes}\n")
}

/// The two files of tiiuae/falcon-7b and one of its sister, as the catalog has them.
const FALCON: [(&str, u64); 2] = [
    ("1c4b989693576ce79edf5f8f1a2d199d66c1448d35a126e52ba09cb67ca5da39", 9_951_028_193),
    ("11822397cd22f88cc56344b019cac4f04e4970e3775b7d5fc9263bc9fca8bdb1", 4_483_421_659),
];
const SISTER: (&str, u64) = ("1de823c84b1c8b9889ac2a6c670ec6002a71776abd42cdf51bb3acd4c9938b29", 4_483_421_659);

fn shard(folder: &Path, number: usize, (sha256, bytes): (&str, u64)) {
    fs::write(folder.join(format!("pytorch_model-0000{number}-of-00002.bin")), pointer(sha256, bytes)).unwrap();
}

#[test]
fn pointers_to_published_files_tell_the_model() {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path(), 1, FALCON[0]);
    shard(folder.path(), 2, FALCON[1]);
    let run = scan(folder.path());
    assert_eq!(run.code, 1, "{}", run.stderr);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "identical");
    assert_eq!(report["verdict"]["references"][0]["id"], "tiiuae/falcon-7b");
    assert_eq!(report["subject"]["format"], "lfs-pointers");
    assert_eq!(report["subject"]["files"][0]["bytes"], FALCON[0].1);
    assert!(findings(&report, "lfs-pointer")[0].starts_with("2 of 2 weight files are Git-LFS pointers"));
    // There is nothing to take a fingerprint of, or to compare.
    let out = folder.path().join("print");
    let run = weightprint([Path::new("fingerprint"), folder.path(), Path::new("-o"), &out]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(!out.exists());
    let run = weightprint([Path::new("compare"), folder.path(), &zoo("base-a")]);
    assert_eq!(run.code, 5, "{}{}", run.stdout, run.stderr);
    let run = weightprint([Path::new("compare"), &zoo("base-a"), folder.path()]);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert_eq!(weightprint([Path::new("inspect"), folder.path()]).code, 0);
}

#[test]
fn some_of_the_published_files_are_not_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("pytorch_model.bin");
    fs::write(&renamed, pointer(FALCON[0].0, FALCON[0].1)).unwrap();
    let run = scan(folder.path());
    assert_eq!(run.code, 1, "{}", run.stderr);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "shares-components");
    assert_eq!(report["candidates"][0]["effect"], 0.5);
    let summary = report["verdict"]["summary"].as_str().unwrap();
    let says = "its one weight file has the SHA-256 of a file published for tiiuae/falcon-7b, 1 of the 2 in that form";
    assert!(summary.contains(says), "{summary}");
    // The same file twice is not the other one.
    fs::remove_file(renamed).unwrap();
    shard(folder.path(), 1, FALCON[0]);
    shard(folder.path(), 2, FALCON[0]);
    assert_eq!(scan(folder.path()).json()["verdict"]["class"], "shares-components");
}

#[test]
fn a_scan_says_how_many_published_digests_its_files_were_held_against() {
    let folder = tempfile::tempdir().unwrap();
    let torch = folder.path().join("model.pth");
    fs::write(&torch, zip(&load("base-a"))).unwrap();
    for (path, hashed) in [(torch, true), (zoo("base-a"), false)] {
        let report = scan(&path).json();
        assert_eq!(report["tested"]["published_digests"], 493, "{}", path.display());
        // Older PyTorch files were published without a size; all sizes of safetensors are known.
        assert_eq!(report["subject"]["files"][0]["sha256"].is_string(), hashed, "{}", path.display());
    }
    let run = weightprint([Path::new("compare"), &zoo("base-a"), &zoo("base-a"), Path::new("--format=json")]);
    assert_eq!(run.json()["tested"]["published_digests"], 0);
}

#[test]
fn other_pointers_are_nothing_to_scan() {
    let unknown = "0".repeat(64);
    for (what, second) in
        [("files of two models", SISTER), ("one unknown file", (unknown.as_str(), 9)), ("no digest", ("11822397", 9))]
    {
        let folder = tempfile::tempdir().unwrap();
        shard(folder.path(), 1, FALCON[0]);
        shard(folder.path(), 2, second);
        let run = scan(folder.path());
        assert_eq!(run.code, 4, "{what}: {}", run.stdout);
        assert!(run.stderr.contains("git lfs pull"), "{what}: {}", run.stderr);
    }
    // A file that is there and is not the published one.
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path(), 1, FALCON[0]);
    fs::write(folder.path().join("pytorch_model-00002-of-00002.bin"), zip(&adapter())).unwrap();
    let run = scan(folder.path());
    assert_eq!(run.code, 3, "{}", run.stdout);
    assert!(run.stderr.contains("1 of 2 files are Git-LFS pointers"), "{}", run.stderr);
}
