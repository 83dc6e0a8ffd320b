//! Scans against more references than are compared in full.

use std::path::Path;

use crate::support::model::Model;
use crate::support::pairs::open;
use crate::support::{Random, disguise, obfuscate, prepare, write_file, zoo};
use safetensors::tensor::Dtype;
use weightprint::internals::catalog::Catalog;
use weightprint::internals::evidence::{Depth, Suspect, compare};
use weightprint::internals::fingerprint::Fingerprint;
use weightprint::internals::scanner;
use weightprint::internals::verdict::{VerdictClass, judge};
use weightprint::report::{ClassCode, Report, TestCode};

/// Models of another recipe, to fill a catalog with.
const STRANGERS: usize = 12;

fn catalog(folder: &Path) -> Catalog {
    let mut catalog = Catalog::create(folder).unwrap();
    for name in ["base-a", "base-b", "base-c"] {
        let print = open(&zoo(name), None).into_fingerprint();
        catalog.add(&format!("zoo/{name}"), print, false).unwrap();
    }
    for seed in 0..STRANGERS {
        let file = format!("{}/fixtures/null/seed-{seed:03}.safetensors", env!("CARGO_MANIFEST_DIR"));
        catalog.add(&format!("null/{seed}"), Fingerprint::read(Path::new(&file)).unwrap(), false).unwrap();
    }
    catalog
}

fn scan(path: &Path, catalog: &Catalog) -> Report {
    let lists = catalog.anchors().unwrap();
    let subject = prepare(path, &lists).unwrap();
    scanner::scan(&subject, std::slice::from_ref(catalog), false).unwrap()
}

#[test]
fn a_match_at_equal_labels_is_looked_into_and_most_of_the_others_are_screened() {
    let folder = tempfile::tempdir().unwrap();
    let report = scan(&zoo("a-sft"), &catalog(folder.path()));
    assert_eq!(report.verdict.class, ClassCode::Derived);
    assert_eq!(report.candidates[0].id, "zoo/base-a");
    // The one that matches and the four that come nearest of the others.
    assert_eq!((report.tested.weights, report.tested.in_full), (3 + STRANGERS, 5));
    let test = |candidate: usize, code: TestCode| {
        report.candidates[candidate].tests.iter().find(|test| test.code == code).unwrap().clone()
    };
    assert!(test(0, TestCode::NeuronAgreement).effect > 0.9, "the reference that matches is compared in full");
}

#[test]
fn a_reference_of_which_a_first_look_was_taken_is_no_negative_result() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let subject = prepare(&zoo("base-b"), &catalog.anchors().unwrap()).unwrap();
    let suspect = Suspect::new(subject.fingerprint());
    let file = catalog.files().iter().find(|file| file.to_string_lossy().contains("base-c")).unwrap();
    let reference = catalog.load(file).unwrap().fingerprint;
    let class = |depth| judge(&compare(&suspect, &reference, depth), 1).class;
    assert_eq!(class(Depth::Labels), VerdictClass::Screened);
    assert_eq!(class(Depth::Full), VerdictClass::SameArchitecture);
}

#[test]
fn a_copy_among_the_references_hides_none_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut catalog = catalog(folder.path());
    let mut model = Model::load("a-cpt");
    disguise::everything(&mut model, &mut Random(9));
    let suspect = tempfile::tempdir().unwrap();
    write_file(&suspect.path().join("model.safetensors"), &model.to_raw(Dtype::BF16));
    let own = prepare(suspect.path(), &[]).unwrap().into_fingerprint();
    catalog.add("planted/copy", own, false).unwrap();
    let report = scan(suspect.path(), &catalog);
    let kin: Vec<&str> = report.verdict.references.iter().map(|reference| reference.id.as_str()).collect();
    assert_eq!(kin, ["planted/copy", "zoo/base-a"], "{}", report.verdict.summary);
}

#[test]
fn a_disguised_copy_is_found_among_many_by_a_few_of_its_neurons() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let mut model = Model::load("a-cpt-long");
    disguise::everything(&mut model, &mut Random(5));
    let mut tensors = model.to_raw(Dtype::BF16);
    obfuscate(&mut tensors, 5);
    let suspect = tempfile::tempdir().unwrap();
    write_file(&suspect.path().join("model.safetensors"), &tensors);
    let report = scan(suspect.path(), &catalog);
    assert_eq!(report.verdict.class, ClassCode::Derived, "{}", report.verdict.summary);
    assert_eq!(report.candidates[0].id, "zoo/base-a");
    // Among the four that come nearest is kin, among the next four none.
    assert_eq!((report.tested.weights, report.tested.in_full), (3 + STRANGERS, 8));
    assert!(report.candidates[1..].iter().all(|candidate| !candidate.class.shares_weights()));
}

#[test]
fn nobody_is_accused_because_many_were_tried() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let report = scan(&zoo("a-distilled"), &catalog);
    assert_eq!(report.verdict.class, ClassCode::SameArchitecture, "{}", report.verdict.summary);
    assert_eq!(report.tested.in_full, 4);
}
