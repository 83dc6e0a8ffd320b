//! The tables of `docs/performance.md`.

use super::measure::{Cost, Spent};
use super::pairs::Pair;
use super::{Row, THREADS, repository};

/// Seconds and ratios of every row, as a Markdown table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from("|  |");
    rows.iter().for_each(|row| text += &format!(" {:.1} GB |", row.bytes as f64 / 1e9));
    text += &format!("\n|---|{}\n", "---|".repeat(rows.len()));
    let shown = |spent: Option<Spent>| {
        spent.map_or("–".to_owned(), |spent| format!("{:.1} s ({:.1})", spent.seconds, spent.processor))
    };
    let mut line = |name: &str, cell: &dyn Fn(&Row) -> String| {
        text += &format!("| {name} |");
        rows.iter().for_each(|row| text += &format!(" {} |", cell(row)));
        text.push('\n');
    };
    line("headers and architecture, s (processor s)", &|row| shown(Some(row.open.spent())));
    line("statistics and digests", &|row| shown(Some(row.statistics.spent())));
    line("full fingerprint", &|row| shown(Some(row.fingerprint.spent())));
    line("the matrix product alone, from memory", &|row| shown(Some(row.product.spent())));
    line("`cat` to nowhere, one process", &|row| shown(row.cat));
    line(&format!("`sha256sum`, {THREADS} processes"), &|row| shown(row.sha256sum));
    line("mean and standard deviation with NumPy", &|row| shown(row.numpy));
    line("statistics and digests / `sha256sum`", &|row| ratio(row.statistics.spent(), row.sha256sum));
    line("full fingerprint / `sha256sum`", &|row| ratio(row.fingerprint.spent(), row.sha256sum));
    line("full fingerprint / (statistics and digests + product)", &|row| {
        ratio(row.fingerprint.spent(), Some(row.statistics.spent().and(row.product.spent())))
    });
    line("full fingerprint / NumPy", &|row| ratio(row.fingerprint.spent(), row.numpy));
    line("full fingerprint, GB/s", &|row| format!("{:.2}", row.bytes as f64 / 1e9 / row.fingerprint.seconds));
    line("anonymous memory, statistics", &|row| gigabytes(row.statistics.anonymous));
    line("anonymous memory, full fingerprint", &|row| gigabytes(row.fingerprint.anonymous));
    line("resident memory, full fingerprint", &|row| gigabytes(row.fingerprint.resident));
    text
}

/// By the wall clock, and by processor time.
fn ratio(ours: Spent, theirs: Option<Spent>) -> String {
    theirs.map_or("–".to_owned(), |theirs| {
        format!("{:.2} ({:.2})", ours.seconds / theirs.seconds, ours.processor / theirs.processor)
    })
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// What this program and the rival make of pairs, as a Markdown table.
pub(crate) fn pairs(pairs: &[Pair]) -> String {
    let mut text =
        String::from("| suspect, against base-a | weightprint | s (processor s) | the rival | s (processor s) |\n");
    text += "|---|---|---|---|---|\n";
    for Pair { suspect, relation, ours, kit } in pairs {
        let cells = |(says, spent): &(String, Spent)| format!("{says} | {:.1} ({:.1})", spent.seconds, spent.processor);
        let kit = kit.as_ref().map_or("not installed | –".to_owned(), cells);
        text += &format!("| {suspect}: {relation} | {} | {kit} |\n", cells(ours));
    }
    text
}

/// Puts the tables between the markers of the document.
pub(crate) fn write(rows: &[Row], (bytes, sparse): (u64, Cost), all: &[Pair]) {
    let holes = format!(
        "|  | 70B-shaped, {:.0} GB of holes |\n|---|---|\n| full fingerprint | {:.0} s |\n| anonymous memory | {} |\n\
         | resident memory | {} |\n",
        bytes as f64 / 1e9,
        sparse.seconds,
        gigabytes(sparse.anonymous),
        gigabytes(sparse.resident)
    );
    let path = repository().join("docs/performance.md");
    let mut document = std::fs::read_to_string(&path).unwrap();
    for (name, text) in [("machine", machine()), ("table", table(rows)), ("holes", holes), ("pairs", pairs(all))] {
        let begin = format!("<!-- computed: {name} -->\n");
        let from = document.find(&begin).unwrap_or_else(|| panic!("no marker for `{name}`")) + begin.len();
        let to = from + document[from..].find("<!-- end -->").unwrap_or_else(|| panic!("`{name}` has no end"));
        document.replace_range(from..to, &format!("\n{}\n\n", text.trim_end()));
    }
    std::fs::write(&path, document).unwrap();
    eprintln!("wrote docs/performance.md");
}

/// Processor, cores and memory, in a sentence.
fn machine() -> String {
    let line = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let value = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = line("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0) / 1e6;
    let flags = line("/proc/cpuinfo", "flags");
    let has = |flag: &str| flags.split(' ').any(|found| found == flag);
    let instructions: Vec<&str> = ["avx2", "avx512f", "sha_ni"].into_iter().filter(|flag| has(flag)).collect();
    format!(
        "{} ({}), {cores} cores, {memory:.0} GB of memory, {}; {THREADS} threads.",
        line("/proc/cpuinfo", "model name"),
        if instructions.is_empty() { "no vector instructions known".to_owned() } else { instructions.join(", ") },
        std::env::consts::OS
    )
}
