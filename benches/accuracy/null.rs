//! The null study: models that were trained by one recipe from different seeds, each compared with each.

use rayon::prelude::*;
use weightprint::internals::evidence::{self, Depth, Suspect, TestKind};
use weightprint::internals::fingerprint::Fingerprint;
use weightprint::internals::verdict;
use weightprint::report::{ClassCode, TestCode};

use super::levels::Levels;
use super::support::pairs::open;
use super::{Block, markdown, rate, repository};

/// What stands in the document where the models are missing.
const MISSING: &str = "Not run: fixtures/null holds no fingerprints. Make the models as its README says, then take \
                       the fingerprints with `cargo bench --bench accuracy -- --take`.";

/// Takes the fingerprints of the models under `target/null`.
pub(crate) fn take() {
    let models = repository().join("target/null");
    let mut bytes = 0;
    let mut names: Vec<String> = std::fs::read_dir(&models)
        .unwrap_or_else(|error| panic!("{}: {error}", models.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("seed-"))
        .collect();
    names.sort_unstable();
    for name in &names {
        let path = repository().join("fixtures/null").join(format!("{name}.safetensors"));
        open(&models.join(name), None).fingerprint().write(&path, true).unwrap();
        bytes += path.metadata().unwrap().len();
    }
    eprintln!("{} fingerprints, {:.1} MB", names.len(), bytes as f64 / 1e6);
}

/// The fingerprints kept in the repository, in the order of their seeds.
pub(crate) fn prints(most: usize) -> Vec<Fingerprint> {
    let folder = repository().join("fixtures/null");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ext| ext == "safetensors")).collect();
    files.sort_unstable();
    files.iter().take(most).map(|path| Fingerprint::read(path).unwrap()).collect()
}

/// What is kept of a pair.
struct Outcome {
    places: (usize, usize),
    class: ClassCode,
    /// Statistic, effect and log10 p by test.
    tests: Vec<(TestKind, f64, f64, Option<f64>)>,
    /// Share of the suspect's parameters in tensors that have a counterpart.
    matched: f64,
}

fn outcome(places: (usize, usize), suspect: &Fingerprint, reference: &Fingerprint) -> Outcome {
    let comparison = evidence::compare(&Suspect::new(suspect), reference, Depth::Full);
    let matched: u64 = comparison.matches.iter().map(|found| suspect.exact.tensors[found.suspect].elements()).sum();
    let all: u64 = suspect.exact.tensors.iter().map(|tensor| tensor.elements()).sum();
    let class = verdict::judge(&comparison, 1).class.into();
    let tests = comparison.evidence.iter().filter_map(|evidence| {
        let measure = evidence.measure()?;
        Some((evidence.test, measure.statistic, measure.effect, measure.log10_p))
    });
    let tests = tests.collect();
    Outcome { places, class, tests, matched: matched as f64 / all as f64 }
}

/// Every pair of the models.
pub(crate) fn study(prints: &[Fingerprint]) -> Vec<Block> {
    if prints.len() < 2 {
        return ["null-errors", "null-effects", "null-p"].map(|name| (name, MISSING.to_owned())).to_vec();
    }
    let pairs: Vec<(usize, usize)> =
        (0..prints.len()).flat_map(|i| (i + 1..prints.len()).map(move |j| (i, j))).collect();
    let outcomes: Vec<Outcome> = pairs.into_par_iter().map(|(i, j)| outcome((i, j), &prints[j], &prints[i])).collect();
    vec![("null-errors", errors(&outcomes)), ("null-effects", effects(&outcomes)), ("null-p", p_values(&outcomes))]
}

fn errors(outcomes: &[Outcome]) -> String {
    let disjoint = |outcome: &&Outcome| outcome.places.0.is_multiple_of(2) && outcome.places.1 == outcome.places.0 + 1;
    let line = |what: &str, outcomes: Vec<&Outcome>| {
        let accused = outcomes.iter().filter(|outcome| outcome.class.shares_weights()).count();
        let [count, share, interval] = rate(accused, outcomes.len());
        [what.to_owned(), count, share, interval]
    };
    let lines = [
        line("all pairs", outcomes.iter().collect()),
        line("disjoint pairs (seeds 0 and 1, 2 and 3, …)", outcomes.iter().filter(disjoint).collect()),
    ];
    let mut text = markdown(["", "accused", "rate", "95 % interval"], lines);
    text += "\nClasses: ";
    let count = |&class: &ClassCode| (class, outcomes.iter().filter(|outcome| outcome.class == class).count());
    let seen = ClassCode::ALL.iter().rev().map(count).filter(|(_, count)| *count > 0);
    text += &seen.map(|(class, count)| format!("`{class}` {count}")).collect::<Vec<_>>().join(", ");
    text + ".\n"
}

fn effects(outcomes: &[Outcome]) -> String {
    let of = |code: TestKind, pick: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
        let tests = outcomes.iter().flat_map(|outcome| &outcome.tests).filter(|test| test.0 == code);
        tests.map(|test| pick(test.1, test.2)).collect()
    };
    let line = |what: &str, mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        let n = values.len().max(1);
        let mean = values.iter().sum::<f64>() / n as f64;
        let at = |share: f64| values.get(((n - 1) as f64 * share) as usize).copied().unwrap_or(0.0);
        let number = |value: f64| format!("{value:.4}");
        [what.to_owned(), values.len().to_string(), number(mean), number(at(0.99)), number(at(1.0))]
    };
    let (statistic, effect) = (|statistic: f64, _: f64| statistic, |_: f64, effect: f64| effect);
    let lines = [
        line("channel-labels: r of the profiles", of(TestKind::ChannelLabels, &statistic)),
        line("neuron-labels: share at equal labels", of(TestKind::NeuronLabels, &effect)),
        line("neuron-order: r of the labels", of(TestKind::NeuronOrder, &statistic)),
        line("neuron-agreement: share", of(TestKind::NeuronAgreement, &effect)),
        line("neuron-shape: share", of(TestKind::NeuronShape, &effect)),
        line("head-labels: share at equal labels times cosine", of(TestKind::HeadLabels, &effect)),
        line("aligned-weights: R² times share", of(TestKind::AlignedWeights, &effect)),
        line("parameters with a counterpart", outcomes.iter().map(|outcome| outcome.matched).collect()),
    ];
    markdown(["", "pairs", "mean", "99 % of pairs below", "largest"], lines)
}

fn p_values(outcomes: &[Outcome]) -> String {
    let line = |what: &str, cells: [String; 7]| {
        let [pairs, a, b, c, d, smallest, holds] = cells;
        [what.to_owned(), pairs, a, b, c, d, smallest, holds]
    };
    let expected = line("*if p were exact*", Levels::expected(outcomes.len() as u64));
    let tests = TestKind::of_labels().map(|code| {
        let tests = outcomes.iter().flat_map(|outcome| &outcome.tests).filter(|test| test.0 == code);
        let levels = Levels::of(tests.filter_map(|test| test.3));
        line(TestCode::from(code).as_str(), levels.cells())
    });
    let head =
        ["test", "pairs", "≤ .1", "≤ .01", "≤ .001", "≤ .0001", "smallest log10 p", "p ≤ α at most as often as α"];
    markdown(head, std::iter::once(expected).chain(tests))
}
