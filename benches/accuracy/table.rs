//! The table of pairs: every disguise of the zoo's models against base-a.

use std::collections::BTreeMap;

use rayon::prelude::*;
use weightprint::report::{Candidate, ClassCode, TestCode, TestReport};

use super::support::pairs::{Pair, Truth, open, pairs};
use super::support::zoo;
use super::{Block, log10_p, markdown, rate};

/// Tests whose effects the table shows.
const SHOWN: [TestCode; 5] = [
    TestCode::ChannelLabels,
    TestCode::NeuronLabels,
    TestCode::NeuronAgreement,
    TestCode::NeuronShape,
    TestCode::HeadLabels,
];

struct Row {
    pair: Pair,
    class: ClassCode,
    candidate: Candidate,
}

impl Row {
    fn found(&self) -> bool {
        self.class >= ClassCode::Derived
    }

    fn test(&self, code: TestCode) -> Option<&TestReport> {
        self.candidate.tests.iter().find(|test| test.code == code && test.applicable)
    }

    /// The test with the smallest p.
    fn strongest(&self) -> Option<&TestReport> {
        let tests = self.candidate.tests.iter().filter(|test| test.applicable);
        tests
            .filter(|test| test.log10_p.is_some())
            .min_by(|a, b| a.log10_p.unwrap_or(0.0).total_cmp(&b.log10_p.unwrap_or(0.0)))
    }

    fn cells(&self) -> [String; 11] {
        let strongest = self.strongest();
        let p = strongest.and_then(|test| test.log10_p);
        let named = strongest.filter(|_| p < Some(-0.05)).map_or("–", |test| test.code.as_str());
        let effect = |code| self.test(code).map_or("–".to_owned(), |test| format!("{:.3}", test.effect));
        let [channels, labels, agreement, shape, heads] = SHOWN.map(effect);
        [
            self.pair.model.to_owned(),
            self.pair.disguise_name(),
            truth(self.pair.truth).to_owned(),
            format!("`{}`", self.class),
            p.map_or("–".to_owned(), log10_p),
            named.to_owned(),
            channels,
            labels,
            agreement,
            shape,
            heads,
        ]
    }
}

fn truth(truth: Truth) -> &'static str {
    match truth {
        Truth::Kin => "kin",
        Truth::Start => "initialisation",
        Truth::Independent => "independent",
    }
}

/// Every `step`-th pair.
pub(crate) fn study(step: usize) -> Vec<Block> {
    let reference = open(&zoo("base-a"), None);
    let rows: Vec<Row> = pairs()
        .into_par_iter()
        .step_by(step)
        .map(|pair| {
            let mut report = pair.report(&reference);
            Row { pair, class: report.verdict.class, candidate: report.candidates.swap_remove(0) }
        })
        .collect();
    let head = [
        "model",
        "disguise",
        "truth",
        "class",
        "log10 p",
        "of test",
        "channel-labels",
        "neuron-labels",
        "neuron-agreement",
        "neuron-shape",
        "head-labels",
    ];
    let table = markdown(head, rows.iter().map(Row::cells));
    vec![("errors", errors(&rows)), ("missed", missed(&rows)), ("pairs", table)]
}

fn errors(rows: &[Row]) -> String {
    let of = |truth: Truth| rows.iter().filter(move |row| row.pair.truth == truth).collect::<Vec<&Row>>();
    let (kin, apart) = (of(Truth::Kin), of(Truth::Independent));
    let line = |what: &str, k: usize, n: usize| {
        let [count, share, interval] = rate(k, n);
        [what.to_owned(), count, share, interval]
    };
    let found = |rows: &[&Row]| rows.iter().filter(|row| row.found()).count();
    let (plain, disguised): (Vec<&Row>, Vec<&Row>) = kin.iter().partition(|row| row.pair.disguise.is_none());
    let accused = |row: &Row| row.class.shares_weights();
    let by_model = |rows: &[&Row], right: &dyn Fn(&Row) -> bool| {
        let mut models: BTreeMap<&str, bool> = BTreeMap::new();
        for row in rows {
            *models.entry(row.pair.model).or_insert(true) &= right(row);
        }
        (models.values().filter(|&&all| all).count(), models.len())
    };
    let (always, kin_models) = by_model(&kin, &Row::found);
    let (never, apart_models) = by_model(&apart, &|row| !accused(row));
    let lines = [
        line("kin found (`derived` or above)", found(&kin), kin.len()),
        line("– as they are", found(&plain), plain.len()),
        line("– disguised", found(&disguised), disguised.len()),
        line("– models found under every disguise tried", always, kin_models),
        line(
            "independent pairs accused (`shared-initialisation` or above)",
            apart.iter().filter(|row| accused(row)).count(),
            apart.len(),
        ),
        line("– models accused under any disguise", apart_models - never, apart_models),
    ];
    markdown(["", "count", "rate", "95 % interval"], lines)
}

fn missed(rows: &[Row]) -> String {
    let wrong = |row: &&Row| match row.pair.truth {
        Truth::Kin => !row.found(),
        Truth::Start => row.class != ClassCode::SharedInitialisation,
        Truth::Independent => row.class.shares_weights(),
    };
    let mut lines = rows.iter().filter(wrong).map(|row| {
        let shape = row.test(TestCode::NeuronShape);
        let shape = shape.map_or("–".to_owned(), |test| {
            format!("{:.3}, {}", test.effect, test.log10_p.map_or("–".into(), log10_p))
        });
        let pair = format!("{}, {}", row.pair.model, row.pair.disguise_name());
        let truth = truth(row.pair.truth).to_owned();
        [pair, truth, format!("`{}`", row.class), shape, row.candidate.because.clone()]
    });
    let head = ["pair", "truth", "class", "neuron-shape: share, log10 p", "the report's reason"];
    match lines.next() {
        None => "None.".into(),
        Some(first) => markdown(head, std::iter::once(first).chain(lines)),
    }
}
