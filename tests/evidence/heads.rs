//! `head-labels` on models of known kinship.

use std::path::Path;

use crate::support::model::Model;
use crate::support::pairs::{Disguise, open};
use crate::support::{Random, Raw, disguise, write_file, zoo};
use safetensors::tensor::Dtype;
use weightprint::internals::fingerprint::Fingerprint;
use weightprint::internals::scanner::{self, Prepared};
use weightprint::report::{TestCode, TestReport};

/// Heads and key-value groups of each model here, over all its four layers.
const HEADS: u64 = 16;
const GROUPS: u64 = 8;

/// log10 of 1/2! for the two groups of each layer and for the two heads of each group.
const ALL_EQUAL: f64 = -12.0 * std::f64::consts::LOG10_2;

fn test(suspect: &Prepared, reference: &Prepared) -> TestReport {
    let report = scanner::compare(suspect, reference);
    let mut tests = report.candidates[0].tests.iter();
    tests.find(|test| test.code == TestCode::HeadLabels).unwrap().clone()
}

/// Compares these tensors with base-a; `config` names the model whose configuration lies beside them.
fn written(tensors: &[Raw], config: Option<&str>) -> TestReport {
    let reference = open(&zoo("base-a"), None);
    let folder = tempfile::tempdir().unwrap();
    write_file(&folder.path().join("model.safetensors"), tensors);
    if let Some(model) = config {
        std::fs::copy(zoo(model).join("config.json"), folder.path().join("config.json")).unwrap();
    }
    test(&open(folder.path(), Some(&reference)), &reference)
}

fn as_it_is(model: &str) -> TestReport {
    let reference = open(&zoo("base-a"), None);
    test(&open(&zoo(model), Some(&reference)), &reference)
}

/// Equal heads, all heads, equal groups, all groups, agreeing heads, as the sentence tells them.
fn counts(test: &TestReport) -> [u64; 5] {
    let numbers = test.says.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    numbers.take(5).collect::<Vec<u64>>().try_into().unwrap_or_else(|_| panic!("{}", test.says))
}

#[test]
fn heads_of_kin_are_found_at_their_labels() {
    for model in ["base-a", "a-sft", "a-lora-merged", "a-vocab-extended", "a-width-pruned", "a-moe-upcycled"] {
        let test = as_it_is(model);
        assert_eq!(counts(&test), [HEADS, HEADS, GROUPS, GROUPS, HEADS], "{model}: {}", test.says);
        assert!((test.log10_p.unwrap() - ALL_EQUAL).abs() < 1e-3, "{model}: {:?}", test.log10_p);
        assert!(test.effect >= 0.5 && test.effect <= 1.0 + 1e-6, "{model}: {}", test.effect);
    }
    let [.., equal_groups, _, agreeing] = counts(&as_it_is("a-cpt"));
    assert!(equal_groups == GROUPS && agreeing >= 10, "{equal_groups} {agreeing}");
}

#[test]
fn dropped_and_repeated_layers_are_laid_beside_their_own() {
    let pruned = as_it_is("a-depth-pruned");
    assert_eq!(counts(&pruned), [12, 12, 6, 6, 12], "{}", pruned.says);
    // Of two copies of a layer one counts.
    let upscaled = as_it_is("a-depth-upscaled");
    assert_eq!(counts(&upscaled), [HEADS, HEADS, GROUPS, GROUPS, HEADS], "{}", upscaled.says);
}

#[test]
fn mixed_permuted_and_rotated_heads_still_agree() {
    for model in ["base-a", "a-sft"] {
        let mixed = written(&Disguise::Heads.apply(model, 9), Some(model));
        let [equal, .., agreeing] = counts(&mixed);
        assert!(equal < HEADS / 2 && agreeing >= HEADS - 1, "{model}: {}", mixed.says);
        let mut disguised = Model::load(model);
        disguise::everything(&mut disguised, &mut Random(4));
        let disguised = written(&disguised.to_raw(Dtype::BF16), Some(model));
        assert!(counts(&disguised)[4] >= HEADS - 1, "{model}: {}", disguised.says);
        let rotated = written(&Disguise::Rotated.apply(model, 9), Some(model));
        assert_eq!(counts(&rotated), [HEADS, HEADS, GROUPS, GROUPS, HEADS], "{model}: {}", rotated.says);
    }
}

#[test]
fn attention_is_found_where_mlps_were_replaced() {
    let (mut suspect, other) = (Model::load("base-a"), Model::load("base-b"));
    for (layer, other) in suspect.layers.iter_mut().zip(&other.layers) {
        layer.experts.clone_from(&other.experts);
    }
    disguise::rotate_residual(&mut suspect, &mut Random(8));
    let test = written(&suspect.to_raw(Dtype::BF16), Some("base-a"));
    assert_eq!(counts(&test), [HEADS, HEADS, GROUPS, GROUPS, HEADS], "{}", test.says);
}

#[test]
fn independent_models_agree_in_nothing() {
    for model in ["base-b", "base-c", "moe-scratch", "a-distilled"] {
        let mixed = written(&Disguise::Heads.apply(model, 9), Some(model));
        for test in [as_it_is(model), mixed] {
            // One probability in a hundred for each of eight pairs.
            assert!(test.log10_p.unwrap() > -2.0, "{model}: {} {:?}", test.says, test.log10_p);
            assert!(counts(&test)[4] <= HEADS / 4, "{model}: {}", test.says);
        }
    }
}

#[test]
fn a_missing_configuration_hides_no_heads() {
    let test = written(&crate::support::load("a-sft"), None);
    assert_eq!(counts(&test), [HEADS, HEADS, GROUPS, GROUPS, HEADS], "{}", test.says);
}

#[test]
fn undecided_roles_are_not_looked_at() {
    let test = written(&Disguise::Renamed.apply("a-sft", 9), Some("a-sft"));
    assert!(!test.applicable && test.log10_p.is_none(), "{}", test.says);
}

#[test]
fn heads_are_kept_in_the_file() {
    let input = open(&zoo("a-sft"), None);
    let print = input.fingerprint();
    let read = Fingerprint::from_bytes(print.to_bytes().unwrap(), Path::new("a-sft.wpf")).unwrap();
    assert_eq!(print.approximate.attentions.len(), 4);
    assert_eq!(read.approximate.attentions, print.approximate.attentions);
}
