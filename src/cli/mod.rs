//! The command line: arguments in, a report out, an exit code. The only place that prints.

mod args;
mod catalog;
mod exit;
mod output;
mod plan;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weightprint::Scanner;
use weightprint::report::{self, ClassCode, Report};

use self::args::{Base, Cli, Command, FailOn, Output};
use self::output::{print, refuse_overwriting, tell, warn};
use self::plan::Plan;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(threads) = cli.global.threads {
        // Fails only if a pool exists already, and none does before the first parallel call.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
    }
    let code = run(cli).unwrap_or_else(|error| complain(&error));
    if let Some(why) = weightprint::device().trouble() {
        warn(&format!("{} failed, so products were taken on the processor: {why}", weightprint::device().name()));
    }
    ExitCode::from(code)
}

/// Prints an error and returns its exit code.
fn complain(error: &anyhow::Error) -> u8 {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    let hint = exit::hint(error);
    tell(&format!("{style}error:{style:#} {error:#}{hint}"));
    exit::of_error(error)
}

fn run(cli: Cli) -> Result<u8> {
    let plan = Plan::new(cli.global);
    match cli.command {
        Command::Scan { paths, catalog, recursive, allow_untested, base, output } => {
            refuse_overwriting(output.output.as_deref(), output.force)?;
            let mut scanner = plan.scanner(true)?.with_untested_models_allowed(allow_untested);
            for catalog in plan::catalogs(&catalog)? {
                scanner = scanner.with_catalog(&catalog)?;
            }
            let expanded = paths.iter().map(|path| plan::expand(&scanner, path, recursive)).collect();
            scan(&scanner, expanded, &base, &output)
        }
        Command::Compare { suspect, reference, base, output } => {
            refuse_overwriting(output.output.as_deref(), output.force)?;
            let report = plan.scanner(true)?.compare(plan::input(suspect, &base), reference)?;
            finish(&[report], false, &output)
        }
        Command::Fingerprint { path, base, output, force } => {
            refuse_overwriting(Some(&output), force)?;
            let fingerprint = plan.scanner(true)?.fingerprint(plan::input(path, &base))?;
            if force {
                fingerprint.replace(&output)?;
            } else {
                fingerprint.write(&output)?;
            }
            Ok(exit::CLEAN)
        }
        Command::Inspect { path, base, format, output, force } => {
            refuse_overwriting(output.as_deref(), force)?;
            let inspection = plan.scanner(false)?.inspect(plan::input(path, &base))?;
            print(&format.write_inspection(&inspection)?, output.as_deref(), force)?;
            Ok(exit::CLEAN)
        }
        Command::Catalog(command) => catalog::run(command, &plan),
        Command::Explain { code } => explain(code.as_deref()),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&Report::json_schema())? + "\n";
            print(&schema, None, false)?;
            Ok(exit::CLEAN)
        }
    }
}

/// Scans every path, of which some could not be looked at; a failure of one does not keep the others from being told.
fn scan(scanner: &Scanner, expanded: Vec<Result<Vec<PathBuf>>>, base: &Base, output: &Output) -> Result<u8> {
    let (mut inputs, mut reports, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for paths in expanded {
        match paths {
            Ok(paths) => inputs.extend(paths.into_iter().map(|path| plan::input(path, base))),
            Err(error) => codes.push(complain(&error)),
        }
    }
    let many = inputs.len() + codes.len() > 1;
    for input in inputs {
        match scanner.scan(input) {
            Ok(report) => reports.push(report),
            Err(error) if many => codes.push(complain(&error.into())),
            Err(error) => return Err(error.into()),
        }
    }
    codes.push(finish(&reports, many, output)?);
    Ok(exit::gravest(codes))
}

/// Writes the reports and returns their exit code.
fn finish(reports: &[Report], many: bool, output: &Output) -> Result<u8> {
    let text = output.format.write(reports, many)?;
    print(&text, output.output.as_deref(), output.force)?;
    output::advise(reports);
    let codes = reports.iter().map(|report| code(report, output.fail_on));
    Ok(if reports.is_empty() { exit::NOTHING } else { exit::gravest(codes) })
}

/// What is found fails by its class; short of that, nothing passes that was not looked at whole.
fn code(report: &Report, fail_on: FailOn) -> u8 {
    let class = report.verdict.class;
    match fail_on.0 {
        Some(weakest) if class != ClassCode::Inconclusive && class >= weakest => exit::FOUND,
        _ if class == ClassCode::Inconclusive || !report.verdict.obstacles.is_empty() => exit::INCONCLUSIVE,
        _ => exit::CLEAN,
    }
}

fn explain(code: Option<&str>) -> Result<u8> {
    let Some(code) = code else {
        let list: String = report::explain::entries().map(|(name, _)| format!("{name}\n")).collect();
        print(&list, None, false)?;
        return Ok(exit::CLEAN);
    };
    let Some(text) = report::explain::explain(code) else {
        let what = format!("`{}` is no code; `weightprint explain` lists them", code.escape_debug());
        return Err(exit::Usage(what).into());
    };
    print(&report::text::prose(text), None, false)?;
    Ok(exit::CLEAN)
}
