//! The report for people: the verdict's sentence first, then the evidence, then the contrast, in 80 columns.
//!
//! Text is written with ANSI styles; whoever prints it strips them where there is no terminal. Names that come from
//! files are stripped of control characters.

mod inspect;

use std::borrow::Cow;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use textwrap::core::{Word, display_width};
use textwrap::{WordSeparator, WordSplitter, WrapAlgorithm};

pub(super) use self::inspect::inspection;
use super::{Candidate, ClassCode, Report, TestReport, UntestedReport, WriteError, words};
use crate::finding::Level;

/// Columns of the text.
const WIDTH: usize = 80;

/// Most rows of the table of names and of the list of findings; the JSON report has all.
const MAX_ROWS: usize = 10;

/// Most rows of what was not compared.
const MAX_UNTESTED: usize = 5;

/// Of what was not compared, less than one part in so many of the files' bytes is left to the JSON report.
const TOLD_SHARE: u64 = 1000;

/// Unrelated references beyond the first are shown if their corrected log10 p is at most this.
const SUGGESTIVE: f64 = -3.0;

const LABEL: usize = 14;

/// Reports one after another, be there `_many` or one.
pub(super) fn reports(reports: &[Report], _many: bool) -> Result<String, WriteError> {
    Ok(reports.iter().map(render).collect::<Vec<_>>().join("\n"))
}

/// Running text, broken into lines.
pub fn prose(text: &str) -> String {
    wrap(text, WIDTH).join("\n") + "\n"
}

/// One report.
fn render(report: &Report) -> String {
    let mut out = String::new();
    let class = report.verdict.class;
    let style = class_style(class);
    let _ = writeln!(out, "{style}{}{style:#}", class.as_str().to_uppercase());
    paragraph(&mut out, "", &report.verdict.summary);
    out.push('\n');
    facts(&mut out, report);
    let mut contrasted = false;
    for candidate in &report.candidates {
        let related = candidate.class.shares_weights();
        let suggestive = candidate.log10_p.is_some_and(|p| p <= SUGGESTIVE);
        if !related && !suggestive && contrasted {
            continue;
        }
        contrasted |= !related;
        let heading = match (related, report.verdict.class.shares_weights()) {
            (true, _) | (false, false) => "EVIDENCE",
            (false, true) => "CONTRAST",
        };
        evidence(&mut out, heading, candidate);
    }
    names(&mut out, report);
    findings(&mut out, report);
    out
}

fn class_style(class: ClassCode) -> Style {
    let colour = match class {
        ClassCode::NoEvidence | ClassCode::SameArchitecture => AnsiColor::Green,
        ClassCode::Inconclusive | ClassCode::Screened | ClassCode::SharedInitialisation => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    Style::new().bold().fg_color(Some(colour.into()))
}

fn facts(out: &mut String, report: &Report) {
    let architecture = &report.architecture;
    let known = match (&architecture.reference, architecture.equal) {
        (Some(id), true) => {
            let others =
                architecture.nearest.first().map_or(0, |n| n.group.iter().filter(|other| *other != id).count());
            match others {
                0 => format!(", the shapes of {id}"),
                n => format!(", the shapes of {id} and {n} other known {}", if n == 1 { "model" } else { "models" }),
            }
        }
        (Some(id), false) => format!(", no known model's shapes (nearest {id})"),
        (None, _) => String::new(),
    };
    fact(out, "Architecture", &format!("{}{known}", architecture.family));
    fact(out, "", &sizes(report));
    let naming = architecture.naming_scheme.as_deref().unwrap_or("no known scheme");
    let renamed: usize = architecture.renamed.iter().map(|row| row.count).sum();
    let naming = match renamed {
        0 => naming.to_owned(),
        1 => format!("{naming}; 1 tensor renamed"),
        n => format!("{naming}; {n} tensors renamed"),
    };
    fact(out, "Names", &naming);
    fact(out, "Declared", &format!("{} ({})", report.declared.says, report.declared.status.as_str()));
    let subject = &report.subject;
    let coverage = format!("{} of {} parameters", words::percent(subject.coverage), thousands(subject.parameters));
    fact(out, "Tested", &format!("{coverage}, {}", tested(report)));
    untested(out, report);
}

/// What was not compared, the largest first, as far as it amounts to anything.
fn untested(out: &mut String, report: &Report) {
    let all: u64 = report.subject.files.iter().map(|file| file.bytes).sum();
    let told = |row: &&UntestedReport| row.bytes.saturating_mul(TOLD_SHARE) >= all;
    let rows: Vec<&UntestedReport> = report.subject.untested.iter().filter(told).collect();
    for (index, row) in rows.iter().take(MAX_UNTESTED).enumerate() {
        let count = if row.tensors > 1 { format!(" (x{})", row.tensors) } else { String::new() };
        let label = if index == 0 { "Not tested" } else { "" };
        fact(out, label, &format!("{}{count}, {}: {}", clean(&row.place), bytes(row.bytes), row.why));
    }
    if rows.len() > MAX_UNTESTED {
        fact(out, "", &format!("... and {} more: the JSON report has all", rows.len() - MAX_UNTESTED));
    }
}

/// A number of bytes, in the unit that suits it.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let unit = UNITS.iter().enumerate().rev().find(|(power, _)| number >= 1000u64.pow(*power as u32));
    match unit {
        Some((power, unit)) if power > 0 => format!("{:.1} {unit}", number as f64 / 1000f64.powi(power as i32)),
        _ => format!("{number} bytes"),
    }
}

fn tested(report: &Report) -> String {
    let tested = &report.tested;
    let plural = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let mut parts = vec![format!("against the weights of {}", plural(tested.weights, "reference"))];
    if tested.in_full < tested.weights {
        parts.push(format!("{} of them in full", tested.in_full));
    }
    if tested.published_norms > 0 {
        parts.push(format!("the published norms of {}", plural(tested.published_norms, "model")));
    }
    if tested.published_digests > 0 {
        parts.push(format!("{} published digests", thousands(tested.published_digests as u64)));
    }
    parts.join(", ")
}

fn sizes(report: &Report) -> String {
    let field = |name: &str| report.architecture.fields.get(name).and_then(serde_json::Value::as_u64);
    let known = [
        ("hidden_size", "channel"),
        ("layers", "layer"),
        ("heads", "head"),
        ("kv_heads", "KV head"),
        ("intermediate_size", "neuron"),
        ("experts", "expert"),
        ("vocab_size", "token"),
    ];
    let sizes = known.iter().filter_map(|(name, what)| {
        let number = field(name)?;
        Some(format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" }))
    });
    sizes.collect::<Vec<_>>().join(", ")
}

fn evidence(out: &mut String, heading: &str, candidate: &Candidate) {
    let bold = Style::new().bold();
    let style = class_style(candidate.class);
    let _ = writeln!(out, "\n{bold}{heading}{bold:#}  {}: {style}{}{style:#}", clean(&candidate.id), candidate.class);
    let _ = writeln!(out, "  {:<16}{:>10}{:>9}{:>12}{:>9}", "test", "statistic", "of", "log10 p", "effect");
    for test in &candidate.tests {
        row(out, test);
    }
    for test in &candidate.tests {
        paragraph(out, "  ", &format!("{}: {}.", test.code.as_str(), test.says));
    }
    if !candidate.changes.is_empty() {
        paragraph(out, "  ", &format!("Changed: {}.", candidate.changes.join("; ")));
    }
    if candidate.parts.iter().any(|part| part.matched > 0.0) {
        let parts = candidate.parts.iter().map(|share| {
            format!("{} {:.0} % (r {:.2})", share.part.as_str(), 100.0 * share.matched, share.correlation)
        });
        paragraph(out, "  ", &format!("Counterparts: {}.", parts.collect::<Vec<_>>().join(", ")));
        layers(out, candidate);
    }
}

fn row(out: &mut String, test: &TestReport) {
    let log10_p = test.log10_p.map_or("-".to_owned(), |p| format!("{p:.1}"));
    let statistic = match test.statistic {
        whole if whole.fract() == 0.0 => format!("{whole}"),
        fraction => format!("{fraction:.3}"),
    };
    let code = test.code.as_str();
    let _ = if test.applicable {
        writeln!(out, "  {code:<16}{statistic:>10}{:>9}{log10_p:>12}{:>9.3}", test.n, test.effect)
    } else {
        writeln!(out, "  {code:<16}{:>10}", "n/a")
    };
}

/// The layer map, where it is not the plain one.
fn layers(out: &mut String, candidate: &Candidate) {
    let layers = &candidate.layers;
    if layers.is_empty() || layers.iter().all(|layer| layer.reference == layer.suspect) {
        return;
    }
    let map: Vec<String> = layers.iter().map(|layer| format!("{}->{}", layer.reference, layer.suspect)).collect();
    paragraph(out, "  ", &format!("Layers (reference->subject): {}.", map.join(" ")));
}

fn names(out: &mut String, report: &Report) {
    let renamed = &report.architecture.renamed;
    if renamed.is_empty() {
        return;
    }
    let bold = Style::new().bold();
    let _ = writeln!(out, "\n{bold}RENAMED{bold:#}  found = canonical");
    for row in renamed.iter().take(MAX_ROWS) {
        let count = if row.count > 1 { format!(" (x{})", row.count) } else { String::new() };
        let one_line = format!("  {} = {}{count}", clean(&row.found), clean(&row.canonical));
        if display_width(&one_line) <= WIDTH {
            let _ = writeln!(out, "{one_line}");
        } else {
            let _ = writeln!(out, "  {}\n    = {}{count}", cut(&row.found, WIDTH - 2), cut(&row.canonical, WIDTH - 14));
        }
    }
    more(out, renamed.len());
}

fn findings(out: &mut String, report: &Report) {
    if report.findings.is_empty() {
        return;
    }
    let bold = Style::new().bold();
    let _ = writeln!(out, "\n{bold}FINDINGS{bold:#}");
    // The gravest first, so that no number of notes pushes an error out of sight.
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    for finding in findings.into_iter().take(MAX_ROWS) {
        let (level, colour) = match finding.level {
            Level::Note => ("note", AnsiColor::Cyan),
            Level::Warning => ("warning", AnsiColor::Yellow),
            Level::Error => ("error", AnsiColor::Red),
        };
        let style = Style::new().fg_color(Some(colour.into()));
        let place = finding.location.as_deref().map(|place| format!(" [{place}]")).unwrap_or_default();
        let text = format!("{}: {}{place}", finding.code.as_str(), finding.message);
        for (index, line) in wrap(&text, WIDTH - 10).into_iter().enumerate() {
            let level = if index == 0 { level } else { "" };
            let _ = writeln!(out, "  {style}{level:<8}{style:#}{line}");
        }
    }
    more(out, report.findings.len());
}

fn more(out: &mut String, rows: usize) {
    if rows > MAX_ROWS {
        let _ = writeln!(out, "  ... and {} more: the JSON report has all", rows - MAX_ROWS);
    }
}

fn fact(out: &mut String, label: &str, text: &str) {
    for (index, line) in wrap(text, WIDTH - LABEL).into_iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        let _ = writeln!(out, "{label:<LABEL$}{line}");
    }
}

fn paragraph(out: &mut String, indent: &str, text: &str) {
    for line in wrap(text, WIDTH - indent.len()) {
        let _ = writeln!(out, "{indent}{line}");
    }
}

/// Lines of at most `width` columns, broken at spaces; a longer word is broken anywhere. Runs of spaces become one.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let text = clean(text);
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let options = textwrap::Options::new(width.max(1))
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::wrap(&words.join(" "), options).into_iter().map(Cow::into_owned).collect()
}

/// Text from a file without anything that could steer a terminal.
fn clean(text: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if hostile(c) { '\u{fffd}' } else { c }).collect()
}

/// The text in at most `width` columns, its end left out where it is longer.
fn cut(text: &str, width: usize) -> String {
    let text = clean(text);
    if display_width(&text) <= width {
        return text;
    }
    let fits = Word::from(&text).break_apart(width - 3).next().map_or("", |word| word.word);
    format!("{fits}...")
}

/// Digits in groups of three.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_longer_than_asked_and_lose_nothing() {
        let text = "a verdict that its reader could defend in public 0123456789012345678901234567890123456789";
        for width in [10, 20, 79] {
            let lines = wrap(text, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            let kept: String = lines.concat().chars().filter(|c| *c != ' ').collect();
            assert_eq!(kept, text.replace(' ', ""));
        }
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let name = "\u{6a21}\u{578b}".repeat(40);
        let lines = wrap(&format!("{name} \u{1f999} is a name"), 20);
        assert!(lines.iter().all(|line| display_width(line) <= 20), "{lines:?}");
        assert_eq!(lines.concat().chars().filter(|c| *c == '\u{6a21}').count(), 40);
        assert_eq!(cut(&name, 20), format!("{}...", &name[..8 * 3]));
        assert_eq!(cut("model.layers.0.weight", 12), "model.lay...");
    }

    #[test]
    fn runs_of_spaces_are_one_space_and_hyphens_do_not_break() {
        assert_eq!(wrap("    1 x  a-b-c-d-e", 8), ["1 x", "a-b-c-d-", "e"]);
        assert_eq!(wrap("", 8), [""]);
    }

    #[test]
    fn control_characters_from_files_never_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\u{202e}"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn digits_come_in_groups_of_three() {
        assert_eq!(thousands(6_738_415_616), "6,738,415,616");
    }
}
