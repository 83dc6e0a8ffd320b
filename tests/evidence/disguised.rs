//! Disguises: every one of them alone and all together, on models of known kinship.

use crate::support::model::Model;
use crate::support::pairs::{Disguise, Pair, Truth, open, pairs};
use crate::support::{Random, Raw, load, write_file, zoo};

use safetensors::tensor::Dtype;
use weightprint::internals::scanner;
use weightprint::report::{ClassCode, Report, TestCode};

/// The one pair that this version cannot see: its embedding was replaced, its trunk trained on for half as long again,
/// and then everything else was disguised. Only `neuron-shape` could tell, and it does not survive that much training.
const KNOWN_MISS: (&str, Option<Disguise>) = ("a-embeddings-retrained", Some(Disguise::Everything));

fn effect(report: &Report, code: TestCode) -> f64 {
    report.candidates[0].tests.iter().find(|test| test.code == code).unwrap().effect
}

#[test]
fn kin_is_found_under_every_disguise_and_independent_models_under_none() {
    let reference = open(&zoo("base-a"), None);
    let mut wrong = Vec::new();
    for pair in pairs() {
        let report = pair.report(&reference);
        let class = report.verdict.class;
        let missed = (pair.model, pair.disguise) == KNOWN_MISS;
        let right = match pair.truth {
            Truth::Kin if missed => class == ClassCode::SameArchitecture,
            Truth::Kin => class >= ClassCode::Derived,
            Truth::Start => class == ClassCode::SharedInitialisation,
            Truth::Independent => !class.shares_weights(),
        };
        if !right {
            wrong.push(format!("{} {}: {}", pair.model, pair.disguise_name(), report.verdict.summary));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_report_says_what_was_changed() {
    let reference = open(&zoo("base-a"), None);
    let changes = |model: &'static str, disguise: Option<Disguise>| -> String {
        let report = Pair { model, disguise, truth: Truth::Kin }.report(&reference);
        report.candidates[0].changes.join("; ")
    };
    let permuted = changes("a-cpt-long", Some(Disguise::Channels));
    assert!(permuted.contains("channels of the residual stream are permuted (128 of 128 paired"), "{permuted}");
    assert!(changes("a-sft", Some(Disguise::Rotated)).contains("residual stream is rotated"));
    assert!(changes("a-sft", Some(Disguise::Neurons)).contains("neurons are permuted in all layers"));
    assert_eq!(changes("a-sft", Some(Disguise::Folded)), "norm gains are folded into the matrices behind them");
    let everything = changes("a-cpt", Some(Disguise::Everything));
    for part in ["rotated", "neurons are permuted", "gains are folded"] {
        assert!(everything.contains(part), "{everything}");
    }
    assert_eq!(changes("a-sft", None), "");
    assert_eq!(changes("a-depth-pruned", None), "layers dropped: 2");
    assert_eq!(changes("a-depth-upscaled", None), "layers repeated: 1, 2");
    assert_eq!(changes("a-vocab-extended", None), "the vocabulary has 1152 tokens, not 1024");
    assert_eq!(changes("a-moe-upcycled", None), "each MLP became 4 experts");
    let pruned = changes("a-width-pruned", None);
    assert!(pruned.contains("96 channels, not 128") && pruned.contains("dropped or inserted"), "{pruned}");
}

#[test]
fn a_recovered_transform_explains_matrices_that_took_no_part_in_finding_it() {
    let reference = open(&zoo("base-a"), None);
    let explained = |model, truth| {
        let report = Pair { model, disguise: Some(Disguise::Everything), truth }.report(&reference);
        let tests = &report.candidates[0].tests;
        tests.iter().find(|test| test.code == TestCode::AlignedWeights).unwrap().statistic
    };
    assert!(explained("base-a", Truth::Kin) > 0.99);
    assert!(explained("a-sft", Truth::Kin) > 0.95);
    assert!(explained("base-b", Truth::Independent) < 0.1);
}

#[test]
fn a_shuffled_vocabulary_is_followed_through_the_tokenizers() {
    let (original, shuffled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tokenizer = std::fs::read(zoo("tokenizer.json")).unwrap();
    write_file(&original.path().join("model.safetensors"), &load("base-a"));
    std::fs::write(original.path().join("tokenizer.json"), &tokenizer).unwrap();
    let (mut model, random) = (Model::load("a-sft"), &mut Random(21));
    let order = crate::support::disguise::permute_vocabulary(&mut model, random);
    crate::support::disguise::everything(&mut model, random);
    let mut tokenizer = serde_json::from_slice(&tokenizer).unwrap();
    crate::support::disguise::reorder_tokenizer(&mut tokenizer, &order);
    write_file(&shuffled.path().join("model.safetensors"), &model.to_raw(Dtype::BF16));
    let reference = open(original.path(), None);
    // Without a tokenizer the rows are taken by number, and that is the wrong row.
    let blind = scanner::compare(&open(shuffled.path(), Some(&reference)), &reference);
    assert!(effect(&blind, TestCode::NeuronAgreement) < 0.05);
    std::fs::write(shuffled.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let report = scanner::compare(&open(shuffled.path(), Some(&reference)), &reference);
    assert_eq!(report.verdict.class, ClassCode::Derived, "{}", report.verdict.summary);
    assert!(effect(&report, TestCode::NeuronAgreement) > 0.95);
}

/// Singular values, per-tensor standard deviations, norm gains, configuration and tokenizer as in `base-a`, and an
/// embedding with the same Gram matrix up to a little noise; but every matrix between is turned by rotations of its own,
/// so that nothing but these likenesses is left of the weights.
fn lookalike() -> Vec<Raw> {
    let random = &mut Random(77);
    let turned = |raw: &Raw, random: &mut Random| -> Raw {
        let (rows, cols) = (raw.shape[0], raw.shape[1]);
        let mut values: Vec<f64> = raw.values().iter().map(|&v| f64::from(v)).collect();
        // Random Givens rotations of rows and of columns keep every singular value.
        for _ in 0..40 * rows.max(cols) {
            let angle = std::f64::consts::TAU * random.uniform();
            let (sin, cos) = angle.sin_cos();
            let (i, j) = (random.below(rows), random.below(rows));
            let (k, l) = (random.below(cols), random.below(cols));
            if i != j && !raw.name.contains("embed") && !raw.name.contains("lm_head") {
                for c in 0..cols {
                    let (a, b) = (values[i * cols + c], values[j * cols + c]);
                    (values[i * cols + c], values[j * cols + c]) = (cos * a - sin * b, sin * a + cos * b);
                }
            }
            if k != l {
                for r in 0..rows {
                    let (a, b) = (values[r * cols + k], values[r * cols + l]);
                    (values[r * cols + k], values[r * cols + l]) = (cos * a - sin * b, sin * a + cos * b);
                }
            }
        }
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        Raw::from_f32(&raw.name, &raw.shape, &values)
    };
    let gains = |raw: &Raw, random: &mut Random| -> Raw {
        // Near one as all trained gains are: an uncentred cosine of .99 that means nothing.
        let values: Vec<f32> = raw.values().iter().map(|_| (1.0 + 0.05 * random.normal()) as f32).collect();
        Raw::from_f32(&raw.name, &raw.shape, &values)
    };
    load("base-a")
        .iter()
        .map(|raw| if raw.shape.len() == 2 { turned(raw, random) } else { gains(raw, random) })
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn likeness_that_shared_data_and_recipes_produce_is_not_evidence() {
    let (base, other) = (load("base-a"), lookalike());
    let mut stds = (Vec::new(), Vec::new());
    for (a, b) in base.iter().zip(&other) {
        let (x, y) = (a.values(), b.values());
        if a.shape.len() == 1 {
            assert!(cosine(&x, &y) >= 0.95, "{}: norm gains are alike", a.name);
        } else {
            let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
            stds.0.push(norm(&x));
            stds.1.push(norm(&y));
        }
        if a.name.contains("embed") {
            let gram = |v: &[f32]| -> Vec<f32> {
                let rows: Vec<&[f32]> = v.chunks(128).take(200).collect();
                rows.iter().flat_map(|p| rows.iter().map(|q| cosine(p, q) as f32)).collect()
            };
            assert!(cosine(&gram(&x), &gram(&y)) >= 0.95, "the embeddings' Gram matrices are alike");
        }
    }
    assert!(cosine(&stds.0, &stds.1) >= 0.95, "spectra and standard deviations are alike");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_file(&path, &other);
    std::fs::copy(zoo("base-a").join("config.json"), folder.path().join("config.json")).unwrap();
    let reference = open(&zoo("base-a"), None);
    let report = scanner::compare(&open(&path, Some(&reference)), &reference);
    assert_eq!(report.verdict.class, ClassCode::SameArchitecture, "{}", report.verdict.summary);
}
