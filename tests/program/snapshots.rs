//! What the program prints: every class of a verdict, every command and its help, from one fixture.
//!
//! The program runs inside the fixture's folder, so that no path differs from machine to machine.

use std::path::Path;

use crate::support::{Raw, Run, load, obfuscate, weightprint_in, write_file, zoo};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

const REFERENCES: [&str; 2] = ["base-a", "base-b"];

/// Suspects taken from the zoo as they are, model card and all.
const TRAINED: [&str; 4] = ["a-sft", "a-same-init", "base-c", "moe-scratch"];

/// A suspect of each class, and the exit code of its scan. No row for `merged`, which this version never gives.
const SUSPECTS: [(&str, &str, i32); 8] = [
    ("identical", "shuffled", 1),
    ("re-encoded", "shuffled-f16", 1),
    ("derived", "a-sft", 1),
    ("shares-components", "borrowed-embedding", 1),
    ("shared-initialisation", "a-same-init", 0),
    ("same-architecture", "base-c", 0),
    ("no-evidence", "moe-scratch", 0),
    ("inconclusive", "constant", 5),
];

fn shuffled(dtype: Dtype) -> Vec<Raw> {
    let mut tensors: Vec<Raw> = load("base-a").iter().map(|tensor| tensor.cast(dtype)).collect();
    obfuscate(&mut tensors, 7);
    tensors
}

/// base-c, which is no reference, with the embedding of base-a.
fn borrowed_embedding() -> Vec<Raw> {
    let is_embedding = |tensor: &Raw| tensor.name == "model.embed_tokens.weight";
    let own = load("base-c").into_iter().filter(|tensor| !is_embedding(tensor));
    own.chain(load("base-a").into_iter().filter(is_embedding)).collect()
}

fn constant() -> Vec<Raw> {
    let of_ones = |tensor: &Raw| Raw::from_f32(&tensor.name, &tensor.shape, &vec![1.0; tensor.values().len()]);
    load("base-a").iter().map(of_ones).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A folder with the references, the suspects and a catalog of the references.
fn fixture() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in REFERENCES.iter().chain(&TRAINED) {
        copy(&zoo(name), &folder.path().join(name));
    }
    for (name, tensors) in [
        ("shuffled", shuffled(Dtype::F32)),
        ("shuffled-f16", shuffled(Dtype::F16)),
        ("borrowed-embedding", borrowed_embedding()),
        ("constant", constant()),
    ] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        write_file(&folder.path().join(name).join("model.safetensors"), &tensors);
    }
    for name in REFERENCES {
        let run = weightprint_in(
            folder.path(),
            ["catalog", "add", name, "--id", &format!("zoo/{name}"), "--catalog", "catalog"],
        );
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    folder
}

/// What a user sees of a run, and what a script does: both streams and the exit code.
fn seen(run: &Run) -> String {
    let stream = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("{name}:\n{text}\n") };
    let version = concat!("weightprint ", env!("CARGO_PKG_VERSION"));
    let text = stream("stdout", &run.stdout) + &stream("stderr", &run.stderr);
    text.replace(version, "weightprint [version]") + &format!("exit code: {}", run.code)
}

/// Keeps a text for people, in which nothing is wider than a terminal and nothing steers it.
fn keep(name: &str, run: &Run) {
    for line in run.stdout.lines() {
        assert!(line.chars().count() <= 80 && !line.contains('\x1b'), "{name}: {line:?}");
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!(name, seen(run)) });
}

fn keep_json(name: &str, mut report: Value) {
    abridge(&mut report, "");
    round(&mut report, "");
    insta::with_settings!({ omit_expression => true }, { insta::assert_json_snapshot!(name, report) });
}

/// Rounds what is not a whole number: the order in which a processor adds up the terms of a product shows in the last
/// digits.
fn round(value: &mut Value, key: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| round(item, key)),
        Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| round(field, key)),
        Value::Number(number) if number.is_f64() => {
            let exact = number.as_f64().unwrap();
            let text = if key == "log10_p" { format!("{exact:.1}") } else { format!("{exact:.2e}") };
            // Of a negative zero the sign is lost.
            *value = json!(text.parse::<f64>().unwrap() + 0.0);
        }
        _ => {}
    }
}

/// Cuts long lists to their first entry, and removes what differs from release to release.
fn abridge(value: &mut Value, key: &str) {
    match value {
        Value::Array(items) => {
            let left_out = items.len().saturating_sub(1);
            if left_out > 0 && ["counterparts", "nearest", "renamed", "tensors"].contains(&key) {
                items.truncate(1);
                items.push(json!(format!("[{left_out} more]")));
            }
            items.iter_mut().for_each(|item| abridge(item, ""));
        }
        Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| abridge(field, key)),
        Value::String(text) if ["version", "catalog_digest"].contains(&key) => *text = format!("[{key}]"),
        _ => {}
    }
}

#[test]
fn a_scan_of_each_class() {
    let folder = fixture();
    for (class, suspect, code) in SUSPECTS {
        let scan =
            |format| weightprint_in(folder.path(), ["scan", suspect, "--catalog", "catalog", "--format", format]);
        let (text, report) = (scan("human"), scan("json").json());
        assert_eq!((report["verdict"]["class"].as_str(), text.code), (Some(class), code), "{}", text.stdout);
        keep(&format!("scan-{class}"), &text);
        keep_json(&format!("scan-{class}-json"), report);
    }
    keep("scan-without-catalog", &weightprint_in(folder.path(), ["scan", "base-a"]));
}

#[test]
fn each_command() {
    let folder = fixture();
    let run = |line: &str| weightprint_in(folder.path(), line.split(' '));
    for (name, line) in [
        ("inspect", "inspect moe-scratch"),
        ("inspect-shuffled", "inspect shuffled"),
        ("compare", "compare a-sft base-a"),
        ("fingerprint", "fingerprint base-a -o base-a.weightprint.safetensors"),
        ("fingerprint-exists", "fingerprint base-a -o base-a.weightprint.safetensors"),
        ("compare-fingerprint", "compare shuffled base-a.weightprint.safetensors --fail-on never"),
        ("catalog-add", "catalog add base-a.weightprint.safetensors --id base-a --catalog another"),
        ("catalog-list", "catalog list --catalog catalog"),
        ("catalog-show", "catalog show zoo/base-a --catalog catalog"),
        ("catalog-show-embedded", "catalog show huggyllama/llama-7b --catalog catalog"),
        ("catalog-verify", "catalog verify --catalog catalog"),
        ("explain", "explain"),
        ("explain-code", "explain derived"),
    ] {
        keep(name, &run(line));
    }
    assert!(folder.path().join("base-a.weightprint.safetensors").is_file());
    keep_json("inspect-json", run("inspect moe-scratch --format json").json());
    let mut embedded = run("catalog list --embedded");
    embedded.stdout = embedded.stdout.lines().take(4).map(|line| format!("{line}\n")).collect();
    keep("catalog-list-embedded", &embedded);
}

#[test]
fn help_of_each_command() {
    for command in [
        "",
        "scan",
        "compare",
        "fingerprint",
        "inspect",
        "catalog",
        "catalog add",
        "catalog list",
        "catalog show",
        "catalog verify",
        "explain",
        "schema",
    ] {
        let run = weightprint_in(Path::new("."), command.split_whitespace().chain(["--help"]));
        keep(format!("help {command}").trim_end().replace(' ', "-").as_str(), &run);
    }
}
