//! Pairs of small models: what this program and a rival make of them, and what it costs.
//!
//! The rival wants a tokenizer beside every model; copies of the zoo's models get the zoo's.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::measure::{self, Spent};
use super::repository;

/// Suspects, and how they are related to base-a.
const SUSPECTS: [(&str, &str); 3] =
    [("a-sft", "fine-tuned from it"), ("a-cpt", "trained on from it"), ("base-b", "trained apart, same recipe")];

/// What one pair comes to.
pub(crate) struct Pair {
    pub(crate) suspect: &'static str,
    pub(crate) relation: &'static str,
    /// Class, and what the run took.
    pub(crate) ours: (String, Spent),
    /// The rival's decision, and what the run took; `None` where it is not installed.
    pub(crate) kit: Option<(String, Spent)>,
}

/// Compares each suspect with base-a.
pub(crate) fn pairs() -> Vec<Pair> {
    let base = model("base-a");
    let kit = std::env::var("WEIGHTPRINT_BENCH_KIT").unwrap_or_else(|_| "provenancekit".into());
    let pair = |(suspect, relation): (&'static str, &'static str)| {
        let path = model(suspect);
        let run = |program: &str, arguments: &[&str]| {
            let paths = [path.as_os_str(), base.as_os_str()];
            let arguments = arguments.iter().map(|argument| argument.as_ref());
            measure::output(program, std::iter::once("compare".as_ref()).chain(paths).chain(arguments))
        };
        let arguments = ["--format", "json", "--fail-on", "never", "--no-cache"];
        let (text, spent) = run(env!("CARGO_BIN_EXE_weightprint"), &arguments).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let class = report["verdict"]["class"].as_str().unwrap().to_owned();
        let kit = run(&kit, &["--plain", "--no-cache"]).map(|(text, spent)| {
            let decision = text.lines().find_map(|line| line.strip_prefix("provenance_decision:"));
            (decision.unwrap_or("no decision").trim().to_owned(), spent)
        });
        Pair { suspect, relation, ours: (class, spent), kit }
    };
    SUSPECTS.map(pair).into()
}

/// A copy of a model of the zoo with a tokenizer, made anew.
fn model(name: &str) -> PathBuf {
    let (from, to) =
        (repository().join("fixtures/zoo").join(name), Path::new(env!("CARGO_TARGET_TMPDIR")).join("pairs").join(name));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::copy(repository().join("fixtures/zoo/tokenizer.json"), to.join("tokenizer.json")).unwrap();
    let settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    std::fs::write(to.join("tokenizer_config.json"), settings.to_string()).unwrap();
    to
}
