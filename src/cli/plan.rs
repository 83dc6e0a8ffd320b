//! From raw arguments to what the library takes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use weightprint::{Catalog, Event, Input, Scanner};

use super::args::{Base, Global};
use super::output::{tell, warn};
use super::progress;

/// What every command has in common.
pub(crate) struct Plan {
    global: Global,
}

impl Plan {
    pub(crate) fn new(global: Global) -> Self {
        Self { global }
    }

    /// A scanner without references. `reads` says whether the command reads weights, so that products may be taken.
    pub(crate) fn scanner(&self, reads: bool) -> Result<Scanner> {
        let Global { no_mmap, follow_links, memory, device, no_cache, cache, quiet, .. } = &self.global;
        if reads {
            weightprint::choose_device(device.open()?)?;
        }
        let scanner =
            Scanner::new().with_mapped_files(!no_mmap).with_followed_links(*follow_links).with_memory(*memory);
        let folder = cache.clone().or_else(Scanner::default_cache_folder).filter(|_| !no_cache);
        let scanner = match folder {
            Some(folder) => scanner.with_cache(folder),
            None => scanner,
        };
        let (quiet, bar) = (*quiet, progress::Bar::default());
        Ok(scanner.with_observer(move |event| match event {
            Event::Begin { bytes, .. } => bar.begin(bytes, quiet),
            Event::Read { bytes } => bar.advance(bytes),
            Event::End { .. } => bar.end(),
            Event::Cached { path } if !quiet => {
                tell(&format!("note: {}: unchanged, fingerprint taken from the cache", path.display()));
            }
            Event::CacheUnusable { why } => warn(&format!("the cache is not used: {why}")),
            _ => {}
        }))
    }
}

/// A checkpoint, with the base that was named for it.
pub(crate) fn input(path: PathBuf, base: &Base) -> Input {
    match &base.base {
        Some(base) => Input::new(path).with_base(base),
        None => Input::new(path),
    }
}

/// What is scanned for a path that was given: all models at and below it, or the components of what is put together.
pub(crate) fn expand(scanner: &Scanner, path: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    Ok(if recursive { scanner.models_below(path)? } else { scanner.components_of(path)? })
}

/// The catalogs that are named, or the user's own if there is one.
pub(crate) fn catalogs(folders: &[PathBuf]) -> Result<Vec<Catalog>> {
    let own = Catalog::default_folder().filter(|folder| folders.is_empty() && folder.is_dir());
    let all = folders.iter().cloned().chain(own);
    all.map(|folder| Ok(Catalog::open(&folder)?)).collect()
}
