//! Where text goes: standard output, files, and what is told on standard error.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use weightprint::report::{FindingCode, Report};

use super::exit;

/// Writes a line to standard error. Where nobody can be told, there is nobody to tell that either: the exit code says
/// what it would have said.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

pub(crate) fn warn(what: &str) {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Yellow.into()));
    tell(&format!("{style}warning:{style:#} {what}"));
}

/// Fails before the work, not after it, where an output file exists.
pub(crate) fn refuse_overwriting(output: Option<&Path>, force: bool) -> Result<()> {
    match output {
        Some(path) if !force && path.exists() => Err(exit::in_the_way(path).into()),
        _ => Ok(()),
    }
}

/// Writes text to a file, without styles, or to standard output, with styles on a terminal only.
///
/// A reader that has seen enough and closed the pipe (`| head`) is no failure: the exit code is that of the whole text.
/// So a verdict keeps its code, and the pipe never turns one into a pass.
pub(crate) fn print(text: &str, output: Option<&Path>, force: bool) -> Result<()> {
    match output {
        Some(path) => {
            let plain = anstream::adapter::strip_str(text).to_string();
            Ok(weightprint::write_whole(path, plain.as_bytes(), force)?)
        }
        None => {
            let mut out = anstream::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written.context("cannot write to standard output"),
            }
        }
    }
}

/// Says which command comes next, where a finding asks for one.
pub(crate) fn advise(reports: &[Report]) {
    let mut told = Vec::new();
    for finding in reports.iter().flat_map(|report| &report.findings) {
        let next = match finding.code {
            FindingCode::WeightsNotTested => {
                let id = finding.location.as_deref().unwrap_or("ID");
                format!("`weightprint catalog add PATH --id {id}` adds its weights to the catalog")
            }
            FindingCode::NeedsBase => "`weightprint scan PATH --base BASE` scans an adapter with its base".to_owned(),
            _ => continue,
        };
        if !told.contains(&next) {
            tell(&format!("next: {next}"));
            told.push(next);
        }
    }
}
