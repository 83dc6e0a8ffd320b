//! A real LLaMA: SmolLM2-135M-Instruct, fetched and converted by `fixtures/fetch-real.sh`. Without it these tests say
//! SKIPPED.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::model::Model;
use crate::support::pairs::open;
use crate::support::{Random, Raw, disguise, load_file, obfuscate, weightprint, write_file};
use half::f16;
use safetensors::tensor::Dtype;
use weightprint::internals::scanner::{self, Prepared};
use weightprint::report::{ClassCode, Report, TestCode, TestReport};

const SMOLLM2: &str = "SmolLM2-135M-Instruct";
const MINILM: &str = "all-MiniLM-L6-v2";

/// Heads, and heads of keys and values, which shapes do not say.
const HEADS: (usize, usize) = (9, 3);

/// Share of the neurons that must agree in a copy that was fully disguised and rounded to bf16.
const LEAST_AGREEMENT: f64 = 0.5;

#[allow(clippy::disallowed_macros, reason = "a skipped test must be heard, and so must what a real model shows")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn real(name: &str) -> Option<PathBuf> {
    let target = option_env!("CARGO_TARGET_DIR").unwrap_or("target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("real").join(name);
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    say(&format!("SKIPPED: {} is missing; run fixtures/fetch-real.sh", folder.display()));
    None
}

/// The model as a reference, read once for all tests.
fn reference() -> Option<&'static Prepared> {
    static REFERENCE: OnceLock<Option<Prepared>> = OnceLock::new();
    REFERENCE.get_or_init(|| real(SMOLLM2).map(|folder| open(&folder, None))).as_ref()
}

fn tensors() -> Vec<Raw> {
    load_file(&real(SMOLLM2).unwrap().join("model.safetensors"))
}

/// Compares tensors, with nothing beside them, with the model.
fn against_the_model(what: &str, tensors: &[Raw], reference: &Prepared) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_file(&path, tensors);
    let report = scanner::compare(&open(&path, Some(reference)), reference);
    tell(what, &report);
    report
}

fn test(report: &Report, code: TestCode) -> &TestReport {
    report.candidates[0].tests.iter().find(|test| test.code == code).unwrap()
}

/// What every test said, and which two layers have most in common.
fn tell(what: &str, report: &Report) {
    let candidate = &report.candidates[0];
    let mut lines = vec![format!("{what}: {}: {}", report.verdict.class, candidate.because)];
    for test in &candidate.tests {
        let p = test.log10_p.map_or("none".into(), |p| format!("{p:.1}"));
        lines.push(format!("    {:<16} effect {:.4}, log10 p {p}: {}", test.code.as_str(), test.effect, test.says));
    }
    if let Some(best) = candidate.layers.iter().max_by(|a, b| a.share.total_cmp(&b.share)) {
        let share = 100.0 * best.share;
        lines.push(format!("    most alike: its layer {}, {share:.1} % in layer {}", best.suspect, best.reference));
    }
    say(&lines.join("\n"));
}

/// Rounded to E5M2, ties to even: the upper half of an f16.
fn to_e5m2(tensor: &Raw) -> Raw {
    let round = |value: f32| {
        let bits = f16::from_f32(value).to_bits();
        ((bits + 0x7f + (bits >> 8 & 1)) >> 8) as u8
    };
    let bytes = tensor.values().into_iter().map(round).collect();
    Raw { dtype: Dtype::F8_E5M2, bytes, ..tensor.clone() }
}

#[test]
fn the_architecture_is_made_out_with_and_without_names() {
    let Some(model) = real(SMOLLM2) else { return };
    let inspect = |path: &Path| {
        let run = weightprint(["inspect".as_ref(), path.as_os_str(), "--format".as_ref(), "json".as_ref()]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.json()
    };
    let folder = tempfile::tempdir().unwrap();
    let nameless = folder.path().join("model.safetensors");
    let mut copy = tensors();
    obfuscate(&mut copy, 3);
    write_file(&nameless, &copy);
    let (named, nameless) = (inspect(&model), inspect(&nameless));
    assert_eq!(named["anatomy"]["by"], "names");
    assert_eq!(nameless["anatomy"]["by"], "shapes");
    for report in [&named, &nameless] {
        let nearest = &report["nearest"][0];
        assert_eq!(nearest["equal"], true, "{nearest}");
        assert!(nearest["group"].as_array().unwrap().contains(&"HuggingFaceTB/SmolLM2-135M".into()), "{nearest}");
        assert_eq!(report["anatomy"]["architecture"]["family"], "llama");
    }
    let fields = named["anatomy"]["architecture"].as_object().unwrap();
    let differs = fields.iter().filter(|&(name, value)| nameless["anatomy"]["architecture"][name] != *value);
    let differs: Vec<&str> = differs.map(|(name, _)| name.as_str()).collect();
    assert_eq!(differs, ["head_dim", "heads", "kv_heads"], "what is not visible in shapes");
}

#[test]
fn a_renamed_shuffled_copy_in_another_type_is_identical() {
    let Some(reference) = reference() else { return };
    let tensors = tensors();
    let mut copy: Vec<Raw> = tensors.iter().map(|tensor| tensor.cast(Dtype::F16)).collect();
    // What comes from a GGUF in four bits has few bits: f16 loses none of them, as it would from most models in bf16.
    assert!(tensors.iter().zip(&copy).all(|(before, after)| before.values() == after.values()));
    obfuscate(&mut copy, 7);
    let report = against_the_model("renamed, shuffled, in f16", &copy, reference);
    assert_eq!(report.verdict.class, ClassCode::Identical);
}

#[test]
fn a_copy_rounded_to_eight_bits_is_re_encoded() {
    let Some(reference) = reference() else { return };
    let copy: Vec<Raw> = tensors().iter().map(to_e5m2).collect();
    let report = against_the_model("rounded to E5M2", &copy, reference);
    assert_eq!(report.verdict.class, ClassCode::ReEncoded);
}

#[test]
fn a_fully_disguised_copy_is_derived() {
    let Some(reference) = reference() else { return };
    let mut model = Model::from_raw(&tensors(), HEADS.0, HEADS.1);
    disguise::everything(&mut model, &mut Random(11));
    let mut copy = model.to_raw(Dtype::BF16);
    drop(model);
    obfuscate(&mut copy, 11);
    let report = against_the_model("fully disguised", &copy, reference);
    assert_eq!(report.architecture.family, "llama");
    assert!(report.verdict.class >= ClassCode::Derived, "{}", report.verdict.summary);
    assert!(test(&report, TestCode::NeuronAgreement).effect >= LEAST_AGREEMENT);
}

#[test]
fn a_model_of_another_kind_is_not_accused() {
    let (Some(smollm2), Some(minilm)) = (real(SMOLLM2), real(MINILM)) else { return };
    let Some(reference) = reference() else { return };
    let other = open(&minilm, None);
    let pairs = [
        ("all-MiniLM-L6-v2 with SmolLM2", scanner::compare(&open(&minilm, Some(reference)), reference)),
        ("SmolLM2 with all-MiniLM-L6-v2", scanner::compare(&open(&smollm2, Some(&other)), &other)),
    ];
    for (what, report) in pairs {
        tell(what, &report);
        assert!(!report.verdict.class.shares_weights(), "{}", report.verdict.summary);
        assert!(test(&report, TestCode::NeuronAgreement).applicable, "the vocabularies have words in common");
    }
}
