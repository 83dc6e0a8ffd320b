//! `weightprint catalog`.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use weightprint::Catalog;
use weightprint::report::{FingerprintReport, KnownModel};

use super::args::{CatalogCommand, CatalogFolder};
use super::exit::{self, Usage};
use super::output::print;
use super::plan::Plan;

pub(super) fn run(command: CatalogCommand, plan: &Plan) -> Result<u8> {
    match command {
        CatalogCommand::Add { path, id, folder, force } => {
            let mut catalog = Catalog::create(writable(folder)?)?;
            if !force {
                catalog.check(&id)?;
            }
            let fingerprint = plan.scanner(true)?.fingerprint(path)?;
            let file = if force { catalog.replace(&id, fingerprint)? } else { catalog.add(&id, fingerprint)? };
            print(&format!("added {id} as {}\n", file.display()), None, false)?;
            Ok(exit::CLEAN)
        }
        CatalogCommand::List { embedded: true, .. } => {
            let row = |model: KnownModel| format!("{:<48} {:<12} {}\n", model.id, model.family, model.verification);
            print(&KnownModel::all().map(row).collect::<String>(), None, false)?;
            Ok(exit::CLEAN)
        }
        CatalogCommand::List { folder, .. } => list(folder),
        CatalogCommand::Show { id, folder } => show(&id, folder),
        CatalogCommand::Verify { folder } => verify(folder),
    }
}

/// The folder to write to, which need not exist.
fn writable(folder: CatalogFolder) -> Result<PathBuf> {
    let none = || Usage("this system has no data folder: name one with --catalog".to_owned());
    Ok(folder.catalog.into_iter().next().or_else(Catalog::default_folder).ok_or_else(none)?)
}

/// The catalogs that are named, or the user's own.
fn open(folder: CatalogFolder) -> Result<Vec<Catalog>> {
    if folder.catalog.is_empty() {
        let path = writable(folder)?;
        if !path.is_dir() {
            let what = format!("there is no catalog yet at {}; `weightprint catalog add` makes one", path.display());
            return Err(Usage(what).into());
        }
        return Ok(vec![Catalog::open(&path)?]);
    }
    folder.catalog.into_iter().map(|path| Ok(Catalog::open(path)?)).collect()
}

fn list(folder: CatalogFolder) -> Result<u8> {
    let mut out = String::new();
    for catalog in open(folder)? {
        for file in catalog.files() {
            let FingerprintReport { id, family, parameters, .. } = catalog.load(file)?.about();
            let _ = writeln!(out, "{:<48} {family:<12} {parameters} parameters", id.unwrap_or_default());
        }
    }
    print(&out, None, false)?;
    Ok(exit::CLEAN)
}

fn show(id: &str, folder: CatalogFolder) -> Result<u8> {
    let named = !folder.catalog.is_empty();
    let catalogs = match open(folder) {
        Ok(catalogs) => catalogs,
        // Without a catalog of one's own there is what is compiled in.
        Err(_) if !named => Vec::new(),
        Err(error) => return Err(error),
    };
    if let Some(catalog) = catalogs.iter().find(|catalog| catalog.contains(id)) {
        print(&describe(&catalog.find(id)?.about())?, None, false)?;
        return Ok(exit::CLEAN);
    }
    let Some(KnownModel { id, name, record, .. }) = KnownModel::find(id) else {
        let what = format!("no reference `{}`, in the catalog or compiled in", id.escape_debug());
        return Err(Usage(what).into());
    };
    let record = serde_json::to_string_pretty(&record)?;
    print(&format!("{id} ({name})\n  no weight fingerprint; architecture only\n{record}\n"), None, false)?;
    Ok(exit::CLEAN)
}

fn describe(reference: &FingerprintReport) -> Result<String> {
    let mut out = String::new();
    let _ = writeln!(out, "{}", reference.id.as_deref().unwrap_or(&reference.name));
    let _ = writeln!(out, "  taken from     {} ({})", reference.name, reference.format);
    let _ = writeln!(out, "  taken by       weightprint {}", reference.tool_version);
    let _ = writeln!(out, "  parameters     {}", reference.parameters);
    let _ = writeln!(out, "  tensors        {}", reference.tensors);
    for file in &reference.files {
        let _ = writeln!(out, "  file           {} ({} bytes)", file.path, file.bytes);
    }
    let _ = writeln!(out, "{}", serde_json::to_string_pretty(&reference.architecture)?);
    Ok(out)
}

fn verify(folder: CatalogFolder) -> Result<u8> {
    let (mut out, mut bad, mut all) = (String::new(), 0, 0);
    for catalog in open(folder)? {
        for file in catalog.files() {
            all += 1;
            match catalog.load(file) {
                Ok(reference) => {
                    let _ = writeln!(out, "ok   {}", reference.id().unwrap_or_default());
                }
                Err(error) => {
                    bad += 1;
                    let _ = writeln!(out, "BAD  {error}");
                }
            }
        }
    }
    let _ = writeln!(out, "{all} references, {bad} bad");
    print(&out, None, false)?;
    Ok(match (bad, all) {
        (0, 0) => exit::NOTHING,
        (0, _) => exit::CLEAN,
        _ => exit::MALFORMED,
    })
}
