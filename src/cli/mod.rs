//! The command line: arguments in, a report out, an exit code. The only place that prints.

mod args;
mod catalog;
mod exit;
mod progress;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use weightprint::assemble;
use weightprint::cache::Cache;
use weightprint::catalog::Catalog;
use weightprint::checkpoint::{Checkpoint, OpenOptions};
use weightprint::fingerprint::{Anchor, Settings};
use weightprint::math::linalg;
use weightprint::report::{ClassCode, Report};
use weightprint::scanner::{self, Cached, Input};

use args::{Cli, Command, FailOn, Global, Output};

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(threads) = cli.global.threads {
        // Fails only if a pool exists already, and none does before the first parallel call.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
    }
    let code = run(cli).unwrap_or_else(|error| complain(&error));
    if let Some(why) = linalg::device().trouble() {
        warn(&format!("{} failed, so products were taken on the processor: {why}", linalg::device().name()));
    }
    ExitCode::from(code)
}

/// Prints an error and returns its exit code.
fn complain(error: &anyhow::Error) -> u8 {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    tell(&format!("{style}error:{style:#} {error:#}"));
    exit::of_error(error)
}

/// Writes a line to standard error. Where nobody can be told, there is nobody to tell that either: the exit code says
/// what it would have said.
fn tell(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

fn run(cli: Cli) -> Result<u8> {
    let global = &cli.global;
    if matches!(
        cli.command,
        Command::Scan { .. } | Command::Compare { .. } | Command::Fingerprint { .. } | Command::Catalog(_)
    ) {
        linalg::choose(global.device.open()?)?;
    }
    match cli.command {
        Command::Scan { paths, catalog, base, output } => {
            scan_paths(&paths, &catalog, base.base.as_deref(), &output, global)
        }
        Command::Compare { suspect, reference, base, output } => {
            refuse_overwriting(output.output.as_deref(), output.force)?;
            let path = reference;
            let reference = read(&path, None, &[], global)?;
            reference.fingerprint().require_model(&path)?;
            let lists: Vec<_> = reference.fingerprint().anchors().cloned().into_iter().collect();
            let suspect = read(&suspect, base.base.as_deref(), &lists, global)?;
            let report = scanner::compare(&suspect, &reference);
            finish(&[report], false, &output)
        }
        Command::Fingerprint { path, base, output, force } => {
            refuse_overwriting(Some(&output), force)?;
            read_checkpoint(&path, base.base.as_deref(), &[], global)?.into_fingerprint().write(&output, force)?;
            Ok(exit::CLEAN)
        }
        Command::Inspect { path, base, format, output, force } => {
            refuse_overwriting(output.as_deref(), force)?;
            let checkpoint = open(&path, base.base.as_deref(), global)?;
            let inspection = scanner::inspect(&path, &checkpoint)?;
            print(&format.write_inspection(&inspection)?, output.as_deref(), force)?;
            Ok(exit::CLEAN)
        }
        Command::Catalog(command) => catalog::run(command, global),
        Command::Explain { code } => explain(code.as_deref()),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&Report::json_schema())? + "\n";
            print(&schema, None, false)?;
            Ok(exit::CLEAN)
        }
    }
}

fn options(global: &Global) -> OpenOptions {
    OpenOptions { mmap: !global.no_mmap }
}

/// Opens a checkpoint, or an adapter together with its base.
fn open(path: &Path, base: Option<&Path>, global: &Global) -> Result<Checkpoint> {
    Ok(match base {
        Some(base) => assemble::open_merged(path, base, options(global))?,
        None => Checkpoint::open(path, options(global))?,
    })
}

/// Reads a checkpoint or fingerprint with a progress bar.
fn read(path: &Path, base: Option<&Path>, lists: &[Vec<Anchor>], global: &Global) -> Result<Input> {
    if base.is_none() && weightprint::fingerprint::Fingerprint::is_fingerprint(path) {
        return Ok(Input::read(path, options(global), lists, &|_| ())?);
    }
    read_checkpoint(path, base, lists, global)
}

fn read_checkpoint(path: &Path, base: Option<&Path>, lists: &[Vec<Anchor>], global: &Global) -> Result<Input> {
    let checkpoint = open(path, base, global)?;
    let cache = cache(global);
    let scratch = cache.as_ref().and_then(Cache::folder);
    let settings = Settings { lists, memory: global.memory, scratch, ..Settings::default() };
    let bar = progress::bar(checkpoint.total_bytes(), global.quiet);
    let shown = path.display().to_string();
    let (input, cached) = Input::take_with(&checkpoint, shown, &settings, cache.as_ref(), &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    match cached {
        Cached::Hit if !global.quiet => {
            tell(&format!("note: {}: unchanged, fingerprint taken from the cache", path.display()));
        }
        Cached::Trouble(why) => warn(&format!("the cache is not used: {why}")),
        Cached::Hit | Cached::Miss => {}
    }
    Ok(input)
}

/// The cache, unless there is to be none or the system has no place for one.
fn cache(global: &Global) -> Option<Cache> {
    let folder = global.cache.clone().or_else(Cache::default_folder).filter(|_| !global.no_cache)?;
    Some(Cache::new(&folder, weightprint::cache::DEFAULT_LIMIT))
}

fn warn(what: &str) {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Yellow.into()));
    tell(&format!("{style}warning:{style:#} {what}"));
}

fn scan_paths(
    paths: &[PathBuf],
    folders: &[PathBuf],
    base: Option<&Path>,
    output: &Output,
    global: &Global,
) -> Result<u8> {
    refuse_overwriting(output.output.as_deref(), output.force)?;
    let catalogs = open_catalogs(folders)?;
    let mut lists = Vec::new();
    for catalog in &catalogs {
        lists.extend(catalog.anchors()?);
    }
    lists.sort_unstable();
    lists.dedup();
    let (mut reports, mut codes) = (Vec::new(), Vec::new());
    for path in paths {
        let result = read(path, base, &lists, global).and_then(|input| Ok(scanner::scan(&input, &catalogs)?));
        match result {
            Ok(report) => reports.push(report),
            Err(error) if paths.len() > 1 => codes.push(complain(&error)),
            Err(error) => return Err(error),
        }
    }
    codes.push(finish(&reports, paths.len() > 1, output)?);
    Ok(exit::gravest(codes))
}

/// The catalogs that are named, or the user's own if there is one.
fn open_catalogs(folders: &[PathBuf]) -> Result<Vec<Catalog>> {
    let own = Catalog::default_folder().filter(|folder| folders.is_empty() && folder.is_dir());
    let all = folders.iter().cloned().chain(own);
    all.map(|folder| Ok(Catalog::open(&folder)?)).collect()
}

/// Writes the reports and returns their exit code.
fn finish(reports: &[Report], many: bool, output: &Output) -> Result<u8> {
    let text = output.format.write(reports, many)?;
    print(&text, output.output.as_deref(), output.force)?;
    let codes = reports.iter().map(|report| code(report.verdict.class, output.fail_on));
    Ok(if reports.is_empty() { exit::NOTHING } else { exit::gravest(codes) })
}

fn code(class: ClassCode, fail_on: FailOn) -> u8 {
    match fail_on.0 {
        _ if class == ClassCode::Inconclusive => exit::INCONCLUSIVE,
        Some(weakest) if class >= weakest => exit::FOUND,
        _ => exit::CLEAN,
    }
}

/// Fails before the work, not after it, where an output file exists.
fn refuse_overwriting(output: Option<&Path>, force: bool) -> Result<()> {
    match output {
        Some(path) if !force && path.exists() => {
            let what = format!("{} exists; give --force to replace it", path.display());
            Err(weightprint::Error::Usage(what).into())
        }
        _ => Ok(()),
    }
}

/// Writes text to a file, without styles, or to standard output, with styles on a terminal only.
///
/// A reader that has seen enough and closed the pipe (`| head`) is no failure: the exit code is that of the whole text.
/// So a verdict keeps its code, and the pipe never turns one into a pass.
fn print(text: &str, output: Option<&Path>, force: bool) -> Result<()> {
    match output {
        Some(path) => {
            let plain = anstream::adapter::strip_str(text).to_string();
            Ok(weightprint::bytes::write_whole(path, plain.as_bytes(), force)?)
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

fn explain(code: Option<&str>) -> Result<u8> {
    let Some(code) = code else {
        let list: String = weightprint::report::explain::entries().map(|(name, _)| format!("{name}\n")).collect();
        print(&list, None, false)?;
        return Ok(exit::CLEAN);
    };
    let Some(text) = weightprint::report::explain::explain(code) else {
        let what = format!("`{}` is no code; `weightprint explain` lists them", code.escape_debug());
        return Err(weightprint::Error::Usage(what).into());
    };
    print(&weightprint::report::text::prose(text), None, false)?;
    Ok(exit::CLEAN)
}
