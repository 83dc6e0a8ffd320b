//! How often the verdicts are right: every disguise of every model of the zoo, models trained apart by one recipe, and
//! pairs whose labels are random by construction.
//!
//! `cargo bench --bench accuracy` writes the figures into `docs/accuracy.md`, between its markers. With `-- --take` it
//! takes the fingerprints of the models under `target/null` instead (`fixtures/null/README.md` says how to make them).
//! As a test it runs a few pairs of each study and writes nothing.
#![allow(clippy::disallowed_macros, reason = "a bench speaks to whoever runs it")]

#[path = "accuracy/levels.rs"]
mod levels;
#[path = "accuracy/null.rs"]
mod null;
#[path = "accuracy/simulated.rs"]
mod simulated;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "accuracy/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::time::Instant;

use weightprint::internals::math::tails;

/// A computed part of the document: the name in its marker, and the text.
type Block = (&'static str, String);

/// What a run looks at.
struct Effort {
    /// Takes every n-th row of the table of pairs.
    table_step: usize,
    /// Same-recipe models, each compared with each.
    null_models: usize,
    /// Divides the number of simulated pairs.
    simulated_divisor: usize,
}

const FULL: Effort = Effort { table_step: 1, null_models: usize::MAX, simulated_divisor: 1 };
const SMOKE: Effort = Effort { table_step: 40, null_models: 3, simulated_divisor: 500 };

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let given = |flag: &str| args.iter().any(|arg| arg == flag);
    // `cargo bench` says --bench; `cargo test` says nothing.
    match (given("--take"), given("--bench") && !given("--test")) {
        (true, _) => null::take(),
        (false, true) => write_document(&study(&FULL)),
        (false, false) => assert!(!study(&SMOKE).is_empty()),
    }
}

fn study(effort: &Effort) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut timed = |name: &str, part: &dyn Fn() -> Vec<Block>| {
        let start = Instant::now();
        blocks.extend(part());
        eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
    };
    let prints = null::prints(effort.null_models);
    timed("table of pairs", &|| table::study(effort.table_step));
    timed("null study", &|| null::study(&prints));
    timed("simulated pairs", &|| simulated::study(&prints, effort.simulated_divisor));
    blocks
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Puts each block between its markers.
fn write_document(blocks: &[Block]) {
    let path = repository().join("docs/accuracy.md");
    let mut document = std::fs::read_to_string(&path).unwrap();
    for (name, text) in blocks {
        let begin = format!("<!-- computed: {name} -->\n");
        let from = document.find(&begin).unwrap_or_else(|| panic!("no marker for `{name}`")) + begin.len();
        let to = from + document[from..].find("<!-- end -->").unwrap_or_else(|| panic!("`{name}` has no end"));
        document.replace_range(from..to, &format!("\n{}\n\n", text.trim_end()));
    }
    std::fs::write(&path, document).unwrap();
    eprintln!("wrote docs/accuracy.md");
}

/// A Markdown table.
fn markdown<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(N));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

/// `k` of `n` with the Clopper–Pearson interval.
fn rate(k: usize, n: usize) -> [String; 3] {
    let (low, high) = tails::clopper_pearson(k as u64, n as u64, 0.95);
    let share = 100.0 * k as f64 / (n as f64).max(1.0);
    [format!("{k} of {n}"), format!("{share:.1} %"), format!("{:.2} to {:.2} %", 100.0 * low, 100.0 * high)]
}

/// log10 p without a sign on zero.
fn log10_p(value: f64) -> String {
    let shown = format!("{value:.1}");
    if shown == "-0.0" { "0.0".into() } else { shown }
}
