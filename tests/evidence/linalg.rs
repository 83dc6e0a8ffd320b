//! Products have one door, and a report does not change with the device behind it.

use std::path::{Path, PathBuf};

use crate::support::{Run, weightprint, zoo};
use weightprint::internals::fingerprint::Fingerprint;

/// Every Rust file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn one_file_alone_names_a_crate_of_linear_algebra() {
    let named = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        ["faer", "candle_core"]
            .iter()
            .any(|name| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *name))
    };
    let all = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let naming: Vec<PathBuf> = all.into_iter().filter(named).collect();
    assert_eq!(naming.len(), 1, "{naming:?}");
}

fn fingerprint(model: &str, device: &str, folder: &Path) -> Fingerprint {
    let path = folder.join(format!("{model}-{device}.weightprint.safetensors"));
    let (model, out) = (zoo(model), path.to_str().unwrap());
    let run = weightprint(["fingerprint", model.to_str().unwrap(), "-o", out, "--device", device, "--no-cache"]);
    assert_eq!((run.code, &*run.stderr), (0, ""));
    Fingerprint::read(&path).unwrap()
}

/// What products of `f32` have no part in is equal; descriptors, which are products rounded to 8 bits, are off by one
/// step at most, and hardly any is.
#[test]
fn the_exact_half_of_a_fingerprint_does_not_depend_on_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let [cpu, candle] = ["cpu", "candle-cpu"].map(|device| fingerprint("base-a", device, folder.path()));
    assert_eq!(cpu.exact, candle.exact);
    assert_eq!(cpu.approximate.frames, candle.approximate.frames);
    assert_eq!(cpu.approximate.units.len(), candle.approximate.units.len());
    let (mut count, mut off) = (0, 0);
    for (ours, theirs) in cpu.approximate.units.iter().zip(&candle.approximate.units) {
        assert_eq!((ours.layer, &ours.labels), (theirs.layer, &theirs.labels));
        for (ours, theirs) in ours.frames.iter().flatten().zip(theirs.frames.iter().flatten()) {
            assert_eq!(ours.len(), theirs.len());
            count += ours.len();
            for (&a, &b) in ours.iter().zip(&theirs[..]) {
                assert!(a.abs_diff(b) <= 1, "{a} {b}");
                off += usize::from(a != b);
            }
        }
    }
    assert!(count > 0 && off * 1000 < count, "{off} of {count}");
}

fn compare(suspect: &str, extra: &[&str]) -> Run {
    let (suspect, reference) = (zoo(suspect), zoo("base-a"));
    let args = ["compare", suspect.to_str().unwrap(), reference.to_str().unwrap(), "--format", "json", "--no-cache"];
    weightprint(args.iter().chain(extra))
}

#[test]
fn verdicts_do_not_depend_on_the_device() {
    for suspect in ["a-sft", "base-b"] {
        let [cpu, candle] = ["cpu", "candle-cpu"].map(|device| compare(suspect, &["--device", device]));
        assert_eq!((cpu.code, &*candle.stderr), (candle.code, ""));
        let [cpu, candle] = [cpu.json(), candle.json()];
        assert_eq!(cpu["verdict"]["class"], candle["verdict"]["class"]);
        let log10_p = |report: &serde_json::Value| report["verdict"]["log10_p"].as_f64().unwrap();
        assert!((log10_p(&cpu) - log10_p(&candle)).abs() < 0.01 * log10_p(&cpu).abs() + 1e-9, "{suspect}");
    }
}

#[test]
fn a_device_that_the_build_lacks_is_wrong_usage() {
    for (device, built_in) in [("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))] {
        if built_in {
            continue;
        }
        let run = compare("base-b", &["--device", device]);
        assert_eq!(run.code, 2);
        assert!(run.stderr.contains(&format!("the feature `{device}`")), "{}", run.stderr);
    }
    assert_eq!(compare("base-b", &["--device", "gpu"]).code, 2);
    assert_eq!(compare("base-b", &["--device", "auto"]).code, 0);
}
