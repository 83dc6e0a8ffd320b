//! The program at its edges: what a user who feeds it something odd gets to see, and the shape of what it prints.

use std::path::{Path, PathBuf};

use crate::support::{Raw, Run, load, obfuscate, weightprint, write_file, write_sharded, zoo};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

fn scan(path: &Path, extra: &[&str]) -> Run {
    weightprint(["scan", path.to_str().unwrap()].iter().chain(extra))
}

/// A catalog with the zoo models of these names.
fn catalog(folder: &Path, names: &[&str]) -> PathBuf {
    let catalog = folder.join("catalog");
    for name in names {
        let (model, id) = (zoo(name), format!("zoo/{name}"));
        let args = ["catalog", "add", model.to_str().unwrap(), "--id", &id, "--catalog", catalog.to_str().unwrap()];
        let run = weightprint(args);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    catalog
}

fn written(tensors: &[Raw]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_file(&path, tensors);
    (folder, path)
}

#[test]
fn the_committed_schema_is_the_reports_schema_and_reports_keep_to_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/report.schema.json");
    let printed = weightprint(["schema"]).stdout;
    if std::env::var_os("WEIGHTPRINT_BLESS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed, "WEIGHTPRINT_BLESS=1 rewrites the file");
    let schema: Value = serde_json::from_str(&printed).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path(), &["base-a", "base-b"]);
    for name in ["base-a", "a-cpt", "a-same-init", "base-c", "a-width-pruned"] {
        let report = scan(&zoo(name), &["--catalog", catalog.to_str().unwrap(), "--format", "json"]).json();
        let errors: Vec<String> = validator.iter_errors(&report).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        let mut damaged = report.clone();
        damaged["verdict"]["class"] = json!("stolen");
        assert!(!validator.is_valid(&damaged));
    }
}

#[test]
fn the_strongest_reference_comes_first_and_an_unrelated_one_is_kept_for_contrast() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path(), &["base-a", "base-b", "base-c"]);
    let run = scan(&zoo("a-sft"), &["--catalog", catalog.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.code, 1);
    let report = run.json();
    let candidates: Vec<_> = report["candidates"].as_array().unwrap().iter().map(|c| (&c["id"], &c["class"])).collect();
    assert_eq!(candidates[0], (&json!("zoo/base-a"), &json!("derived")));
    assert!(candidates[1..].iter().all(|(_, class)| **class == json!("same-architecture")) && candidates.len() > 1);
    // The smallest p of six label tests on each of three references: log10 18 is added.
    let tests = report["candidates"][0]["tests"].as_array().unwrap();
    let raw = tests.iter().skip(1).filter_map(|test| test["log10_p"].as_f64()).fold(0.0, f64::min);
    let corrected = report["verdict"]["log10_p"].as_f64().unwrap();
    assert!((corrected - raw - 18f64.log10()).abs() < 1e-9);
    assert_eq!(report["tested"]["weights"], 3);
}

#[test]
fn fail_on_decides_the_exit_code() {
    let (suspect, reference) = (zoo("a-sft"), zoo("base-a"));
    let code = |class: &str| {
        weightprint(["compare", suspect.to_str().unwrap(), reference.to_str().unwrap(), "--fail-on", class]).code
    };
    assert_eq!([code("identical"), code("derived"), code("shares-components"), code("never")], [0, 1, 1, 0]);
    let same = weightprint(["compare", zoo("base-b").to_str().unwrap(), reference.to_str().unwrap()]);
    assert_eq!(same.code, 0);
}

#[test]
fn with_nothing_to_compare_with_a_scan_is_inconclusive_and_never_a_pass() {
    let run = scan(&zoo("base-a"), &[]);
    assert_eq!(run.code, 5, "{}", run.stdout);
    assert!(run.stdout.starts_with("INCONCLUSIVE"));
    assert_eq!(scan(&zoo("base-a"), &["--fail-on", "never"]).code, 5);
}

#[test]
fn a_corrupt_reference_stops_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path(), &["base-a", "base-b"]);
    let file = catalog.join("zoo--base-b.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let run = scan(&zoo("a-sft"), &["--catalog", catalog.to_str().unwrap()]);
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("zoo--base-b.safetensors") && run.stderr.contains("digest"), "{}", run.stderr);
    let verify = weightprint(["catalog", "verify", "--catalog", catalog.to_str().unwrap()]);
    assert_eq!(verify.code, 3);
    assert!(verify.stdout.contains("ok   zoo/base-a") && verify.stdout.contains("2 references, 1 bad"));
    for len in [0, 7, 50, bytes.len() / 2] {
        std::fs::write(&file, &bytes[..len]).unwrap();
        assert_eq!(scan(&zoo("a-sft"), &["--catalog", catalog.to_str().unwrap()]).code, 3, "cut to {len}");
    }
}

#[test]
fn catalog_entries_are_listed_shown_and_never_replaced_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path(), &["base-a"]);
    let at = ["--catalog", catalog.to_str().unwrap()];
    let run = |args: &[&str]| weightprint(["catalog"].iter().chain(args).chain(&at));
    assert!(run(&["list"]).stdout.starts_with("zoo/base-a "));
    assert!(run(&["show", "zoo/base-a"]).stdout.contains("\"family\": \"llama\""));
    assert!(run(&["show", "meta-llama/Llama-2-7b-hf"]).stdout.contains("no weight fingerprint"));
    assert_eq!(run(&["show", "nobody/nothing"]).code, 2);
    let model = zoo("base-b");
    let again = run(&["add", model.to_str().unwrap(), "--id", "zoo/base-a"]);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("--force"));
    assert_eq!(run(&["add", model.to_str().unwrap(), "--id", "../evil"]).code, 2);
    assert_eq!(run(&["verify"]).code, 0);
}

#[test]
fn nan_and_infinity_everywhere_are_reported_and_nothing_is_concluded() {
    let bad = |value: f32| -> Vec<Raw> {
        let tensors = load("base-a");
        tensors.iter().map(|t| Raw::from_f32(&t.name, &t.shape, &vec![value; t.values().len()])).collect()
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (_folder, path) = written(&bad(value));
        let run = weightprint(["compare", path.to_str().unwrap(), zoo("base-a").to_str().unwrap(), "--format", "json"]);
        assert_eq!(run.code, 5, "{}", run.stderr);
        let report = run.json();
        assert_eq!(report["verdict"]["class"], "inconclusive");
        assert_eq!(report["subject"]["coverage"], 0.0);
        let finding = &report["findings"][0];
        assert_eq!((finding["code"].as_str(), finding["level"].as_str()), (Some("non-finite"), Some("error")));
    }
}

#[test]
fn a_few_nans_do_not_hide_a_copy() {
    let mut tensors: Vec<Raw> = load("base-a").iter().map(|tensor| tensor.cast(Dtype::F32)).collect();
    for tensor in &mut tensors {
        let mut values = tensor.values();
        values[0] = f32::NAN;
        *tensor = Raw::from_f32(&tensor.name, &tensor.shape, &values);
    }
    let (_folder, path) = written(&tensors);
    let run = weightprint(["compare", path.to_str().unwrap(), zoo("base-a").to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.json()["verdict"]["class"], "derived");
}

#[test]
fn constant_weights_and_zeros_are_no_evidence_of_anything() {
    let zeros: Vec<Raw> =
        load("base-a").iter().map(|t| Raw::from_f32(&t.name, &t.shape, &vec![0.0; t.values().len()])).collect();
    let (_folder, path) = written(&zeros);
    let run = weightprint(["compare", path.to_str().unwrap(), path.to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.code, 5);
    assert_eq!(run.json()["verdict"]["class"], "inconclusive");
}

#[test]
fn zero_size_tensors_are_legal_and_a_file_of_nothing_else_is_nothing_to_scan() {
    let empty = Raw::from_f32("empty", &[0, 128], &[]);
    let mut tensors = load("base-a");
    tensors.push(empty.clone());
    let (_folder, path) = written(&tensors);
    let run = weightprint(["compare", path.to_str().unwrap(), zoo("base-a").to_str().unwrap(), "--format", "json"]);
    assert_eq!(run.json()["verdict"]["class"], "identical", "{}", run.stderr);
    let (_folder, path) = written(&[empty]);
    let run = scan(&path, &[]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("nothing to scan"));
}

#[test]
fn an_unknown_dtype_lowers_the_coverage_and_never_fails_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_file(&path, &load("base-a"));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(14).position(|window| window == br#""dtype":"BF16""#).unwrap();
    bytes[at + 9..at + 13].copy_from_slice(b"QX16");
    std::fs::write(&path, bytes).unwrap();
    let run = weightprint(["compare", path.to_str().unwrap(), zoo("base-a").to_str().unwrap(), "--format", "json"]);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "derived", "{}", run.stderr);
    let coverage = report["subject"]["coverage"].as_f64().unwrap();
    // Of what is not decoded every byte may be two weights.
    assert!(coverage < 0.8 && coverage > 0.5, "{coverage}");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["code"] == "dtype-unknown"));
}

#[test]
fn malformed_input_names_the_file_and_exits_with_3() {
    let (folder, path) = written(&load("base-a"));
    let bytes = std::fs::read(&path).unwrap();
    for (what, content) in [
        ("truncated", &bytes[..bytes.len() - 1000]),
        ("inside the header", &bytes[..100]),
        ("empty", &bytes[..0]),
        ("five bytes", &bytes[..5]),
    ] {
        std::fs::write(&path, content).unwrap();
        for command in ["scan", "inspect"] {
            let run = weightprint([command, path.to_str().unwrap()]);
            assert_eq!(run.code, 3, "{what}: {}", run.stderr);
            assert!(run.stderr.contains("model.safetensors") && run.stderr.contains("byte"), "{what}: {}", run.stderr);
            assert!(run.stdout.is_empty(), "{what}");
        }
    }
    assert_eq!(scan(&folder.path().join("missing"), &[]).code, 3);
}

#[test]
fn other_things_than_weights_exit_with_4_and_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(scan(folder.path(), &[]).code, 4, "an empty folder");
    std::fs::write(folder.path().join("tf_model.h5"), b"\x89HDF\r\n\x1a\n").unwrap();
    let run = scan(folder.path(), &[]);
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains("tf_model.h5") && run.stderr.contains("not read"), "{}", run.stderr);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:".to_owned() + &"0".repeat(64) + "\nsize 9\n";
    std::fs::write(folder.path().join("model.safetensors"), pointer).unwrap();
    let run = scan(&folder.path().join("model.safetensors"), &[]);
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains("git lfs pull"), "{}", run.stderr);
}

#[test]
fn two_models_in_one_folder_are_not_guessed_between() {
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder.path().join("one.safetensors"), &load("base-a"));
    write_file(&folder.path().join("two.safetensors"), &load("base-b"));
    let run = scan(folder.path(), &[]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("one.safetensors") && run.stderr.contains("two.safetensors"), "{}", run.stderr);
}

#[test]
fn one_bad_path_among_several_is_told_and_the_others_are_still_reported() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path(), &["base-a"]);
    let (good, bad) = (zoo("a-sft"), folder.path().join("nothing"));
    let at = catalog.to_str().unwrap();
    let args = ["scan", good.to_str().unwrap(), bad.to_str().unwrap(), "--catalog", at, "--format", "json"];
    let run = weightprint(args);
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("nothing"));
    assert_eq!(run.json().as_array().unwrap().len(), 1);
}

#[test]
fn output_files_are_whole_plain_and_never_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report.txt");
    let (a, b) = (zoo("a-sft"), zoo("base-a"));
    let run = |extra: &[&str]| {
        let args = ["compare", a.to_str().unwrap(), b.to_str().unwrap(), "-o", out.to_str().unwrap()];
        weightprint(args.iter().chain(extra))
    };
    assert_eq!(run(&[]).code, 1);
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.starts_with("DERIVED\n"));
    let again = run(&[]);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("--force"));
    assert_eq!(run(&["--force", "--format", "json"]).code, 1);
    assert!(std::fs::read_to_string(&out).unwrap().starts_with('{'));
    let nowhere = folder.path().join("no/such/folder/report.txt");
    let args = ["compare", a.to_str().unwrap(), b.to_str().unwrap(), "-o", nowhere.to_str().unwrap()];
    assert_eq!(weightprint(args).code, 3);
}

#[test]
fn hostile_names_cannot_steer_the_terminal() {
    let mut tensors = load("a-sft");
    for (index, tensor) in tensors.iter_mut().enumerate() {
        tensor.name = format!("\u{1b}[2J\u{202e}t{index}\n");
    }
    let (_folder, path) = written(&tensors);
    for run in [
        weightprint(["compare", path.to_str().unwrap(), zoo("base-a").to_str().unwrap()]),
        weightprint(["inspect", path.to_str().unwrap()]),
    ] {
        assert!(!run.stdout.contains('\u{1b}') && !run.stdout.contains('\u{202e}'), "{:?}", run.stdout);
    }
}

#[test]
fn a_missing_shard_is_malformed_and_names_the_shard() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = load("base-a");
    obfuscate(&mut tensors, 9);
    write_sharded(folder.path(), &tensors, 3);
    std::fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    let run = scan(folder.path(), &[]);
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("model-00002-of-00003.safetensors"), "{}", run.stderr);
}

#[test]
fn every_code_in_a_report_can_be_explained() {
    let list = weightprint(["explain"]).stdout;
    for code in ["derived", "channel-labels", "published-norms", "header-gap"] {
        assert!(list.lines().any(|line| line == code));
        let run = weightprint(["explain", code]);
        assert_eq!(run.code, 0);
        assert!(run.stdout.len() > 60);
    }
    assert_eq!(weightprint(["explain", "nonsense"]).code, 2);
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in
        [&["scan"][..], &["frobnicate"], &["scan", "x", "--fail-on", "no-such-class"], &["scan", "x", "--threads", "0"]]
    {
        assert_eq!(weightprint(args).code, 2, "{args:?}");
    }
}

#[test]
fn a_model_of_other_shapes_is_not_taken_under_a_known_name_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let add = |extra: &[&str]| {
        let model = zoo("base-a");
        let common = ["--id", "meta-llama/Llama-2-7b-hf", "--catalog"];
        let mut args: Vec<&Path> = vec![Path::new("catalog"), Path::new("add"), &model];
        args.extend(common.map(Path::new));
        args.push(folder.path());
        args.extend(extra.iter().map(Path::new));
        weightprint(args)
    };
    let refused = add(&[]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("hidden_size"), "{}", refused.stderr);
    let forced = add(&["--force"]);
    assert_eq!(forced.code, 0, "{}", forced.stderr);
    let missing = folder.path().join("nothing");
    let run = weightprint([Path::new("scan"), &zoo("base-a"), Path::new("--catalog"), &missing]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}
