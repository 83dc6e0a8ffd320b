//! `weightprint catalog`.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use weightprint::catalog::Catalog;
use weightprint::fingerprint::Fingerprint;
use weightprint::model::known;

use super::args::{CatalogCommand, CatalogFolder, Global};
use super::{exit, print, read};

pub(super) fn run(command: CatalogCommand, global: &Global) -> Result<u8> {
    match command {
        CatalogCommand::Add { path, id, folder, force } => {
            let folder = writable(folder)?;
            Catalog::check(&folder, &id, force)?;
            let print_of = read(&path, None, &[], global)?.into_fingerprint();
            let file = Catalog::add(&folder, &id, print_of, force)?;
            print(&format!("added {id} as {}\n", file.display()), None, false)?;
            Ok(exit::CLEAN)
        }
        CatalogCommand::List { embedded: true, .. } => {
            let mut out = String::new();
            for record in known::records() {
                let _ = writeln!(out, "{:<48} {:<12} {}", record.hf_repo, record.family, record.verification);
            }
            print(&out, None, false)?;
            Ok(exit::CLEAN)
        }
        CatalogCommand::List { folder, .. } => list(folder),
        CatalogCommand::Show { id, folder } => show(&id, folder),
        CatalogCommand::Verify { folder } => verify(folder),
    }
}

/// The folder to write to, which need not exist.
fn writable(folder: CatalogFolder) -> Result<PathBuf> {
    let none = || weightprint::Error::Usage("this system has no data folder: name one with --catalog".to_owned());
    Ok(folder.catalog.or_else(Catalog::default_folder).ok_or_else(none)?)
}

fn open(folder: CatalogFolder) -> Result<Catalog> {
    let named = folder.catalog.is_some();
    let path = writable(folder)?;
    if !named && !path.is_dir() {
        let what = format!("there is no catalog yet at {}; `weightprint catalog add` makes one", path.display());
        return Err(weightprint::Error::Usage(what).into());
    }
    Ok(Catalog::open(&path)?)
}

fn list(folder: CatalogFolder) -> Result<u8> {
    let catalog = open(folder)?;
    let mut out = String::new();
    for file in catalog.files() {
        let reference = catalog.load(file)?.print;
        let (subject, architecture) = (&reference.subject, &reference.architecture);
        let id = subject.id.as_deref().unwrap_or_default();
        let _ = writeln!(out, "{id:<48} {:<12} {} parameters", architecture.family, subject.parameters);
    }
    print(&out, None, false)?;
    Ok(exit::CLEAN)
}

fn show(id: &str, folder: CatalogFolder) -> Result<u8> {
    let named = folder.catalog.is_some();
    let catalog = match open(folder) {
        Ok(catalog) => Some(catalog),
        // Without a catalog of one's own there is what is compiled in.
        Err(_) if !named => None,
        Err(error) => return Err(error),
    };
    if let Some(catalog) = catalog.filter(|catalog| catalog.contains(id)) {
        print(&describe(&catalog.find(id)?)?, None, false)?;
        return Ok(exit::CLEAN);
    }
    let Some(record) = known::find(id) else {
        let what = format!("no reference `{}`, in the catalog or compiled in", id.escape_debug());
        return Err(weightprint::Error::Usage(what).into());
    };
    let text = format!(
        "{} ({})\n  no weight fingerprint; architecture only\n{}\n",
        record.hf_repo,
        record.name,
        serde_json::to_string_pretty(record)?
    );
    print(&text, None, false)?;
    Ok(exit::CLEAN)
}

fn describe(reference: &Fingerprint) -> Result<String> {
    let subject = &reference.subject;
    let mut out = String::new();
    let _ = writeln!(out, "{}", subject.id.as_deref().unwrap_or(&subject.name));
    let _ = writeln!(out, "  taken from     {} ({})", subject.name, subject.format);
    let _ = writeln!(out, "  taken by       weightprint {}", subject.tool_version);
    let _ = writeln!(out, "  parameters     {}", subject.parameters);
    let _ = writeln!(out, "  tensors        {}", reference.tensors.len());
    for file in &subject.files {
        let _ = writeln!(out, "  file           {} ({} bytes)", file.path, file.bytes);
    }
    let _ = writeln!(out, "{}", serde_json::to_string_pretty(&reference.architecture)?);
    Ok(out)
}

fn verify(folder: CatalogFolder) -> Result<u8> {
    let catalog = open(folder)?;
    let (mut out, mut bad) = (String::new(), 0);
    for file in catalog.files() {
        match catalog.load(file) {
            Ok(reference) => {
                let _ = writeln!(out, "ok   {}", reference.print.subject.id.as_deref().unwrap_or_default());
            }
            Err(error) => {
                bad += 1;
                let _ = writeln!(out, "BAD  {error}");
            }
        }
    }
    let _ = writeln!(out, "{} references, {bad} bad", catalog.files().len());
    print(&out, None, false)?;
    Ok(if bad > 0 {
        exit::MALFORMED
    } else if catalog.files().is_empty() {
        exit::NOTHING
    } else {
        exit::CLEAN
    })
}
