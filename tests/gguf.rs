//! GGUF as llama.cpp writes it: the zoo's models in it keep their kinship and their labels.

mod support;

use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use serde_json::Value;
use support::gguf::{Gguf, Kind, from_llama};
use support::{load, weightprint, zoo};

/// Heads of the zoo's models.
const HEADS: (usize, usize) = (4, 2);

fn report(suspect: &Path, reference: &Path) -> Value {
    let run = weightprint([Path::new("compare"), suspect, reference, Path::new("--format"), Path::new("json")]);
    assert!([0, 1, 5].contains(&run.code), "{}", run.stderr);
    run.json()
}

fn class(report: &Value) -> &str {
    report["verdict"]["class"].as_str().unwrap()
}

fn test<'a>(report: &'a Value, code: &str) -> &'a Value {
    let tests = report["candidates"][0]["tests"].as_array().unwrap();
    tests.iter().find(|test| test["code"] == code).unwrap()
}

#[allow(clippy::disallowed_macros, reason = "what was measured should be seen when a test is read")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn written(folder: &tempfile::TempDir, gguf: &Gguf) -> PathBuf {
    let path = folder.path().join("model.gguf");
    gguf.write(&path);
    path
}

const KINDS: [(&str, Kind); 12] = [
    ("F32", Kind::F32),
    ("F16", Kind::F16),
    ("BF16", Kind::Bf16),
    ("Q8_0", Kind::Quantised(GgmlDType::Q8_0)),
    ("Q6_K", Kind::Quantised(GgmlDType::Q6K)),
    ("Q5_K", Kind::Quantised(GgmlDType::Q5K)),
    ("Q4_K", Kind::Quantised(GgmlDType::Q4K)),
    ("Q5_1", Kind::Quantised(GgmlDType::Q5_1)),
    ("Q4_0", Kind::Quantised(GgmlDType::Q4_0)),
    ("Q4_1", Kind::Quantised(GgmlDType::Q4_1)),
    ("IQ4_NL", Kind::Iq4Nl),
    ("Q3_K", Kind::Quantised(GgmlDType::Q3K)),
];

#[test]
fn the_zoo_in_every_type_keeps_its_kinship_and_labels() {
    let (base, tuned) = (load("base-a"), load("a-sft"));
    for (name, kind) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let path = written(&folder, &from_llama(&base, HEADS, kind));
        let copy = report(&path, &zoo("base-a"));
        let other = report(&path, &zoo("base-b"));
        let derived = report(&written(&folder, &from_llama(&tuned, HEADS, kind)), &zoo("base-a"));
        say(&format!(
            "{name}: copy {} ({}), other {}, derived {} ({})",
            class(&copy),
            test(&copy, "bits")["says"],
            class(&other),
            class(&derived),
            test(&derived, "bits")["says"],
        ));
        let expected = if matches!(kind, Kind::F32 | Kind::Bf16) { "identical" } else { "re-encoded" };
        assert_eq!(class(&copy), expected, "{name}: {}", copy["verdict"]["summary"]);
        assert_eq!(class(&other), "same-architecture", "{name}: {}", other["verdict"]["summary"]);
        assert_eq!(class(&derived), "derived", "{name}: {}", derived["verdict"]["summary"]);
        for found in [&copy, &derived] {
            assert_eq!(found["subject"]["format"], "gguf");
            assert_eq!(found["subject"]["coverage"], 1.0, "{name}");
            for code in ["neuron-labels", "head-labels"] {
                let test = test(found, code);
                assert!(test["effect"].as_f64().unwrap() > 0.9, "{name}: {test}");
            }
        }
        // Every tensor, query and key among them, lies on its own counterpart.
        let pairs = copy["candidates"][0]["counterparts"].as_array().cloned().unwrap_or_default();
        for pair in &pairs {
            let theirs = support::gguf::name(pair["reference"].as_str().unwrap());
            assert_eq!(pair["found"], theirs, "{name}");
        }
        assert_eq!(pairs.len(), base.len(), "{name}");
    }
}
