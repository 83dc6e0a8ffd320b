//! Which models lie below a path: the components of one that is put together from several, or all of a tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{OpenOptions, inventory, plan};
use crate::bytes::{Entry, EntryKind, Folder, Store};
use crate::limits::{MAX_FOLDER_DEPTH, MAX_LISTED_FILES};
use crate::{Error, ErrorKind, Result};

/// The components of what lies at `path`: the folders in it that hold weights of their own, where it has none and either
/// says that it is put together (`model_index.json`) or each of them has a configuration. Otherwise `path` itself.
///
/// # Errors
/// If the folder cannot be listed.
pub(crate) fn components(path: &Path, options: OpenOptions) -> Result<Vec<PathBuf>> {
    let own = || vec![path.to_path_buf()];
    let Some(folder) = folder(path, options)? else { return Ok(own()) };
    if !matches!(models_in(path, &folder), Found::Nothing) {
        return Ok(own());
    }
    let is_assembled = folder.contains("model_index.json");
    let mut found = Vec::new();
    for place in folders(&folder)? {
        let (below, _) = Folder::locate(&place, options)?;
        let has_config = below.contains("config.json");
        if (is_assembled || has_config) && matches!(models_in(&place, &below), Found::Models(_)) {
            found.push(place);
        }
    }
    Ok(if found.is_empty() { own() } else { found })
}

/// Every model at `path` and below it, hidden folders too, sorted by folder; `path` itself if there is none.
///
/// # Errors
/// If a folder cannot be listed; [`ErrorKind::Limit`] if there are too many files, or they lie too deep.
pub(crate) fn below(path: &Path, options: OpenOptions) -> Result<Vec<PathBuf>> {
    let mut tree = Tree { options, left: MAX_LISTED_FILES, entered: BTreeSet::new(), found: Vec::new() };
    if let Some(folder) = folder(path, options)? {
        tree.enter(path, &folder, 0)?;
    }
    Ok(if tree.found.is_empty() { vec![path.to_path_buf()] } else { tree.found })
}

/// The folder at `path`, if it is one and not a file.
fn folder(path: &Path, options: OpenOptions) -> Result<Option<Folder>> {
    if !path.is_dir() {
        return Ok(None);
    }
    match Folder::locate(path, options) {
        Ok((folder, named)) => Ok(named.is_none().then_some(folder)),
        // Of several snapshots one has to be named: whoever opens it says so.
        Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::Nothing) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a folder itself holds.
enum Found {
    Nothing,
    /// The folder, or files in it that are models of their own.
    Models(Vec<PathBuf>),
}

fn models_in(path: &Path, folder: &Folder) -> Found {
    match plan::plan(folder, None) {
        Ok(_) => Found::Models(vec![path.to_path_buf()]),
        Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::Nothing) => {
            let mut names = folder.list().unwrap_or_default();
            names.sort_unstable();
            names.retain(|name| inventory::is_weights(folder, name));
            match &names[..] {
                [] => Found::Nothing,
                names => Found::Models(names.iter().map(|name| folder.path(name)).collect()),
            }
        }
        // Opening it says what is wrong.
        Err(_) => Found::Models(vec![path.to_path_buf()]),
    }
}

/// The folders in a folder, sorted.
fn folders(folder: &Folder) -> Result<Vec<PathBuf>> {
    let entries = folder.entries("", MAX_LISTED_FILES)?;
    let is_folder = |entry: &&Entry| entry.kind == EntryKind::Folder;
    Ok(entries.iter().filter(is_folder).map(|entry| folder.path(&entry.name)).collect())
}

struct Tree {
    options: OpenOptions,
    left: usize,
    entered: BTreeSet<PathBuf>,
    found: Vec<PathBuf>,
}

impl Tree {
    fn enter(&mut self, path: &Path, folder: &Folder, depth: usize) -> Result<()> {
        if depth > MAX_FOLDER_DEPTH {
            return Err(Error::limit(path, "depth of folders", depth as u64, MAX_FOLDER_DEPTH as u64));
        }
        if let Found::Models(models) = models_in(path, folder) {
            self.found.extend(models);
        }
        let entries = folder.entries("", self.left)?;
        self.left -= entries.len();
        for entry in entries.into_iter().filter(|entry| entry.kind == EntryKind::Folder) {
            let place = folder.path(&entry.name);
            if self.entered.insert(entry.location)
                && let Some(below) = self::folder(&place, self.options)?
            {
                self.enter(&place, &below, depth + 1)?;
            }
        }
        Ok(())
    }
}
