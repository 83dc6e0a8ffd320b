//! The zoo's known kinship, as a user would see it: checkpoint in, verdict out.

use crate::support::{Raw, load, obfuscate, weightprint, write_file, write_sharded, zoo};
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::path::Path;

/// Compares two checkpoints and returns the report, after checking that it keeps to the published schema.
fn report(suspect: &Path, reference: &Path) -> Value {
    let run = weightprint([Path::new("compare"), suspect, reference, Path::new("--format"), Path::new("json")]);
    assert!([0, 1, 5].contains(&run.code), "{}", run.stderr);
    let report = run.json();
    let shares = !["same-architecture", "no-evidence", "inconclusive"].contains(&class(&report));
    assert_eq!(run.code, if class(&report) == "inconclusive" { 5 } else { i32::from(shares) });
    report
}

fn class(report: &Value) -> &str {
    report["verdict"]["class"].as_str().unwrap()
}

fn test<'a>(report: &'a Value, code: &str) -> &'a Value {
    let tests = report["candidates"][0]["tests"].as_array().unwrap();
    tests.iter().find(|test| test["code"] == code).unwrap()
}

fn log10_p(report: &Value) -> f64 {
    test(report, "channel-labels")["log10_p"].as_f64().expect("channel-labels applies")
}

/// A folder with the tensors as they are, for the second argument of a comparison.
fn file(folder: &tempfile::TempDir, tensors: &[Raw]) -> std::path::PathBuf {
    let path = folder.path().join("model.safetensors");
    write_file(&path, tensors);
    path
}

const KIN: [&str; 5] = ["a-sft", "a-lora-merged", "a-cpt", "a-cpt-long", "a-vocab-extended"];
const INDEPENDENT: [&str; 3] = ["base-b", "base-c", "a-distilled"];

#[test]
fn a_copy_in_other_clothes_is_identical() {
    let base = load("base-a");
    let mut shuffled = base.clone();
    obfuscate(&mut shuffled, 1);
    let widened: Vec<Raw> = base.iter().map(|tensor| tensor.cast(Dtype::F32)).collect();
    let mut widened_and_shuffled = widened.clone();
    obfuscate(&mut widened_and_shuffled, 2);
    for (what, tensors) in
        [("as it is", &base), ("shuffled", &shuffled), ("f32", &widened), ("f32 shuffled", &widened_and_shuffled)]
    {
        let folder = tempfile::tempdir().unwrap();
        let report = report(&file(&folder, tensors), &zoo("base-a"));
        assert_eq!(class(&report), "identical", "{what}: {}", report["verdict"]["summary"]);
        assert!(report["verdict"]["log10_p"].as_f64().unwrap() < -200.0, "{what}");
    }
    let folder = tempfile::tempdir().unwrap();
    write_sharded(folder.path(), &shuffled, 5);
    let report = report(folder.path(), &zoo("base-a"));
    assert_eq!(class(&report), "identical");
    assert_eq!(report["subject"]["files"].as_array().unwrap().len(), 5);
}

#[test]
fn a_lossy_cast_is_re_encoded() {
    for seed in [None, Some(3)] {
        let mut half: Vec<Raw> = load("base-a").iter().map(|tensor| tensor.cast(Dtype::F16)).collect();
        if let Some(seed) = seed {
            obfuscate(&mut half, seed);
        }
        let folder = tempfile::tempdir().unwrap();
        write_sharded(folder.path(), &half, 2);
        let report = report(folder.path(), &zoo("base-a"));
        assert_eq!(class(&report), "re-encoded", "{}", report["verdict"]["summary"]);
    }
}

#[test]
fn one_changed_tensor_is_no_longer_a_copy() {
    let mut tensors = load("base-a");
    let down = tensors.iter_mut().find(|tensor| tensor.name.ends_with("layers.2.mlp.down_proj.weight")).unwrap();
    let values: Vec<f32> = down.values().iter().map(|v| v * 1.25).collect();
    *down = Raw::from_f32(&down.name.clone(), &down.shape.clone(), &values).cast(Dtype::BF16);
    let folder = tempfile::tempdir().unwrap();
    let report = report(&file(&folder, &tensors), &zoo("base-a"));
    assert_eq!(class(&report), "derived", "{}", report["verdict"]["summary"]);
    assert_eq!(test(&report, "bits")["statistic"].as_f64(), Some(38.0));
}

#[test]
fn descendants_are_derived_and_say_with_what_probability() {
    for name in KIN {
        let report = report(&zoo(name), &zoo("base-a"));
        assert_eq!(class(&report), "derived", "{name}: {}", report["verdict"]["summary"]);
        assert!(log10_p(&report) <= -10.0, "{name}: {}", log10_p(&report));
        assert_eq!(report["declared"]["status"], "declared", "{name}: {}", report["declared"]);
    }
}

#[test]
fn independent_models_of_the_same_recipe_are_not_accused() {
    for name in INDEPENDENT {
        let report = report(&zoo(name), &zoo("base-a"));
        assert_eq!(class(&report), "same-architecture", "{name}: {}", report["verdict"]["summary"]);
        assert!(log10_p(&report) > -3.0, "{name}: {}", log10_p(&report));
        assert!(report["verdict"]["references"].as_array().unwrap().is_empty());
        assert_eq!(report["candidates"][0]["counterparts"], Value::Null, "{name}");
    }
}

#[test]
fn names_and_order_make_no_difference() {
    for (name, expected) in
        KIN.map(|name| (name, "derived")).into_iter().chain(INDEPENDENT.map(|n| (n, "same-architecture")))
    {
        let mut tensors = load(name);
        obfuscate(&mut tensors, 7);
        let folder = tempfile::tempdir().unwrap();
        let report = report(&file(&folder, &tensors), &zoo("base-a"));
        assert_eq!(class(&report), expected, "{name}: {}", report["verdict"]["summary"]);
        assert_eq!(report["architecture"]["family"], "llama", "{name}");
    }
}

#[test]
fn a_shuffled_checkpoint_is_mapped_back_to_the_names_of_its_reference() {
    let mut tensors = load("a-sft");
    let original = obfuscate(&mut tensors, 11);
    let folder = tempfile::tempdir().unwrap();
    let report = report(&file(&folder, &tensors), &zoo("base-a"));
    let renamed = report["architecture"]["renamed"].as_array().unwrap();
    assert_eq!(renamed.len(), 39);
    for row in renamed {
        let (found, canonical) = (row["found"].as_str().unwrap(), row["canonical"].as_str().unwrap());
        assert_eq!(canonical.replace("{layer}", "?"), blank_layer(&original[found]), "{found}");
    }
    for counterpart in report["candidates"][0]["counterparts"].as_array().unwrap() {
        assert_eq!(counterpart["reference"].as_str().unwrap(), original[counterpart["found"].as_str().unwrap()]);
    }
}

fn blank_layer(name: &str) -> String {
    let blank = |segment: &str| if segment.parse::<u32>().is_ok() { "?".to_owned() } else { segment.to_owned() };
    name.split('.').map(blank).collect::<Vec<_>>().join(".")
}

#[test]
fn pruned_layers_show_in_the_layer_map() {
    let report = report(&zoo("a-depth-pruned"), &zoo("base-a"));
    assert_eq!(class(&report), "derived", "{}", report["verdict"]["summary"]);
    let layers = report["candidates"][0]["layers"].as_array().unwrap();
    let map: Vec<_> =
        layers.iter().map(|l| (l["reference"].as_u64().unwrap(), l["suspect"].as_u64().unwrap())).collect();
    assert_eq!(map, [(0, 0), (1, 1), (3, 2)]);
}

#[test]
fn a_borrowed_embedding_is_a_shared_component() {
    let mut tensors = load("base-b");
    let embedding = load("base-a").into_iter().find(|tensor| tensor.name == "model.embed_tokens.weight").unwrap();
    *tensors.iter_mut().find(|tensor| tensor.name == embedding.name).unwrap() = embedding.clone();
    let folder = tempfile::tempdir().unwrap();
    let report = report(&file(&folder, &tensors), &zoo("base-a"));
    assert_eq!(class(&report), "shares-components", "{}", report["verdict"]["summary"]);
    assert_eq!(report["candidates"][0]["components"], serde_json::json!(["embedding"]));
}

#[test]
fn a_pruned_copy_whose_tensors_are_all_equal_is_not_identical() {
    let tensors: Vec<Raw> = load("base-a").into_iter().filter(|tensor| !tensor.name.contains("layers.3.")).collect();
    let folder = tempfile::tempdir().unwrap();
    let report = report(&file(&folder, &tensors), &zoo("base-a"));
    assert_eq!(class(&report), "derived", "{}", report["verdict"]["summary"]);
}

#[test]
fn the_declaration_is_held_against_the_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, &load("a-sft"));
    assert_eq!(report(&path, &zoo("base-a"))["declared"]["status"], "undeclared");
    std::fs::write(folder.path().join("README.md"), "---\nbase_model: base-b\n---\n").unwrap();
    assert_eq!(report(&path, &zoo("base-b"))["declared"]["status"], "contradicted");
    assert_eq!(report(&path, &zoo("base-a"))["declared"]["status"], "undeclared");
    std::fs::write(folder.path().join("README.md"), "---\nbase_model:\n- someone/base-a\nlicense: mit\n---\n").unwrap();
    let declared = &report(&path, &zoo("base-a"))["declared"];
    assert_eq!((declared["status"].as_str(), declared["license"].as_str()), (Some("declared"), Some("mit")));
}

#[test]
fn a_fingerprint_file_stands_for_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let print = folder.path().join("base-a.safetensors");
    let run = weightprint(["fingerprint".as_ref(), zoo("base-a").as_os_str(), "-o".as_ref(), print.as_os_str()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let (direct, stored) = (report(&zoo("a-cpt"), &zoo("base-a")), report(&zoo("a-cpt"), &print));
    assert_eq!(direct["verdict"], stored["verdict"]);
    assert_eq!(direct["candidates"], stored["candidates"]);
    let again = weightprint(["fingerprint".as_ref(), zoo("base-b").as_os_str(), "-o".as_ref(), print.as_os_str()]);
    assert_eq!(again.code, 2, "an existing file is not overwritten");
    assert!(again.stderr.contains("--force"));
}

#[test]
fn results_are_the_same_bytes_for_every_number_of_threads_and_way_of_reading() {
    let folder = tempfile::tempdir().unwrap();
    let run = |extra: &[&str], name: &str| {
        let print = folder.path().join(name);
        let (zoo_a, zoo_moe) = (zoo("base-a"), zoo("a-moe-upcycled"));
        let args = ["fingerprint", zoo_moe.to_str().unwrap(), "-o", print.to_str().unwrap()];
        assert_eq!(weightprint(args.iter().chain(extra)).code, 0);
        let args = ["compare", zoo_moe.to_str().unwrap(), zoo_a.to_str().unwrap(), "--format", "json"];
        (std::fs::read(print).unwrap(), weightprint(args.iter().chain(extra)).stdout)
    };
    let one = run(&["--threads", "1"], "1");
    assert_eq!(one, run(&["--threads", "2"], "2"));
    assert_eq!(one, run(&["--threads", "8"], "8"));
    assert_eq!(one, run(&["--threads", "8", "--no-mmap"], "pread"));
}
