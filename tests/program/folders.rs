//! Folders as the command line sees them: several models below one path, links out of a folder, files that are no weights.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{Run, weightprint, weightprint_in, zoo};

fn put_model(folder: &Path, from: &str) {
    fs::create_dir_all(folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(zoo(from).join(name), folder.join(name)).unwrap();
    }
}

fn paths(run: &Run, root: &Path) -> Vec<String> {
    let reports = run.json();
    let path = |report: &serde_json::Value| {
        let path = report["subject"]["path"].as_str().unwrap();
        Path::new(path).strip_prefix(root).unwrap().to_str().unwrap().to_owned()
    };
    reports.as_array().unwrap().iter().map(path).collect()
}

#[test]
fn components_are_scanned_each_and_a_tree_whole() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put_model(&root.join("text_encoder"), "base-a");
    put_model(&root.join("transformer"), "base-b");
    put_model(&root.join("transformer/.old"), "a-sft");
    fs::write(root.join("model_index.json"), "{}").unwrap();
    let at = root.to_str().unwrap();
    let run = weightprint(["scan", at, "--format", "json"]);
    assert_eq!(paths(&run, root), ["text_encoder", "transformer"], "{}", run.stderr);
    let run = weightprint(["scan", at, "--recursive", "--format", "json"]);
    assert_eq!(paths(&run, root), ["text_encoder", "transformer", "transformer/.old"], "{}", run.stderr);
    fs::write(root.join("text_encoder/model.safetensors"), "x").unwrap();
    let run = weightprint(["scan", at, "--recursive", "--format", "json"]);
    assert_eq!(run.code, 3, "a model that cannot be read is told, and the others are still reported");
    assert_eq!(paths(&run, root).len(), 2);
}

#[test]
fn a_link_out_of_the_folder_is_followed_when_asked() {
    let store = tempfile::tempdir().unwrap();
    fs::copy(zoo("base-a").join("model.safetensors"), store.path().join("ab12")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(store.path().join("ab12"), folder.path().join("model.safetensors")).unwrap();
    let at = folder.path().to_str().unwrap();
    let run = weightprint(["inspect", at]);
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("lies outside") && run.stderr.contains("--follow-links"), "{}", run.stderr);
    let run = weightprint(["inspect", at, "--follow-links"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn a_copy_of_what_was_read_is_not_something_else() {
    let folder = tempfile::tempdir().unwrap();
    put_model(folder.path(), "base-b");
    let scan = || {
        let (at, base) = (folder.path().to_str().unwrap(), zoo("base-a"));
        weightprint(["compare", at, base.to_str().unwrap(), "--format", "json"])
    };
    let alone = scan();
    let copy = folder.path().join(".git/lfs/objects/ab/cd");
    fs::create_dir_all(copy.parent().unwrap()).unwrap();
    fs::copy(zoo("base-b").join("model.safetensors"), &copy).unwrap();
    assert_eq!(scan().code, alone.code, "{}", scan().stdout);
    fs::copy(zoo("base-a").join("model.safetensors"), &copy).unwrap();
    assert_eq!(scan().code, 5, "{}", scan().stdout);
}

#[test]
fn the_folder_that_one_stands_in_has_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    put_model(&folder.path().join("some-model"), "base-a");
    let run = weightprint_in(&folder.path().join("some-model"), ["scan", "."]);
    assert!(run.stdout.contains("The weights of some-model"), "{}", run.stdout);
}

#[test]
fn a_readme_is_no_weight_file() {
    let run = weightprint(["inspect", concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")]);
    assert!(run.code == 4 && run.stderr.contains("not a weight file"), "{}", run.stderr);
}
