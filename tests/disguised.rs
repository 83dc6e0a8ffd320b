//! Disguises: every one of them alone and all together, on models of known kinship.

mod support;

use support::pairs::{Truth, open, pairs};
use support::zoo;
use weightprint::compare::TestCode;
use weightprint::verdict::Class;

#[test]
fn kin_is_found_under_every_disguise_and_independent_models_under_none() {
    let reference = open(&zoo("base-a"), None);
    let mut wrong = Vec::new();
    for pair in pairs() {
        let report = pair.report(&reference);
        let class = report.verdict.class;
        let tests = &report.candidates[0].tests;
        let p = |code: TestCode| {
            let test = tests.iter().find(|test| test.code == code).unwrap();
            if test.applicable {
                format!("{:.1}/{:.3}", test.log10_p.unwrap_or(0.0), test.effect)
            } else {
                "n/a".into()
            }
        };
        let row = format!(
            "{:<24} {:<42} {:<22} ch {} nl {} no {} na {} [{}]",
            pair.model,
            pair.disguise_name(),
            class.as_str(),
            p(TestCode::ChannelLabels),
            p(TestCode::NeuronLabels),
            p(TestCode::NeuronOrder),
            p(TestCode::NeuronAgreement),
            report.architecture.family,
        );
        let right = match pair.truth {
            Truth::Kin => class >= Class::Derived,
            Truth::Start => matches!(class, Class::SharedInitialisation | Class::Derived),
            Truth::Independent => !class.shares_weights(),
        };
        eprintln!("{} {row}", if right { "  " } else { "✗ " });
        if !right {
            wrong.push(row);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
