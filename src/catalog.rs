//! References: what is compiled into the binary, and folders of fingerprints on disk.
//!
//! Every record names where it came from. A reference that cannot be read is an error, never skipped: a scan that
//! quietly tested less would be a clean bill of health.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fingerprint::{Anchor, Fingerprint};
use crate::model::{Architecture, known};

/// A folder of fingerprint files, one for each reference.
#[derive(Debug, Clone)]
pub struct Catalog {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

/// A reference as it was read.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// SHA-256 over its record, which states the digest of its arrays: two references with equal digests are equal.
    pub digest: [u8; 32],
}

const EXTENSION: &str = "safetensors";

impl Catalog {
    /// The folder used where none is named: `weightprint/catalog` in the user's data folder, if the system has one.
    pub fn default_folder() -> Option<PathBuf> {
        dirs::data_dir().map(|data| data.join("weightprint").join("catalog"))
    }

    /// Lists the references of a folder, in the order of their file names.
    ///
    /// # Errors
    /// Of kind [`Usage`](crate::ErrorKind::Usage) if there is no such folder; if it cannot be listed.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::usage(format!("{}: there is no such folder of references", folder.display())));
        }
        let failed = |source| Error::io(folder, "list", source);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push(path);
            }
        }
        files.sort();
        Ok(Self { folder: folder.to_path_buf(), files })
    }

    /// As [`Catalog::open`], but a folder that is not there is an empty catalog, and made for the first reference.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn create(folder: &Path) -> Result<Self> {
        match folder.try_exists() {
            Ok(false) => Ok(Self { folder: folder.to_path_buf(), files: Vec::new() }),
            _ => Self::open(folder),
        }
    }

    /// The files of the references.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Reads the reference in one of the catalog's files.
    ///
    /// # Errors
    /// If it is not a fingerprint, or carries no identifier, or another one than its file name says.
    pub fn load(&self, file: &Path) -> Result<Reference> {
        let bad = |what: String| Error::malformed(file, "catalog entry", what);
        if !Fingerprint::is_fingerprint(file) {
            return Err(bad("not a fingerprint; a catalog holds nothing else".to_owned()));
        }
        let (fingerprint, digest) = Fingerprint::read_with_digest(file)?;
        let id = fingerprint
            .exact
            .subject
            .id
            .as_deref()
            .ok_or_else(|| bad("the fingerprint has no identifier".to_owned()))?;
        if file.file_name() != Some(file_name(id).as_ref()) {
            return Err(bad(format!("holds `{id}`, which belongs into {}", file_name(id))));
        }
        Ok(Reference { fingerprint, digest })
    }

    /// Whether there is a file for this identifier, readable or not.
    pub fn contains(&self, id: &str) -> bool {
        self.files.contains(&self.folder.join(file_name(id)))
    }

    /// The reference with this identifier.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn find(&self, id: &str) -> Result<Fingerprint> {
        let file = self.folder.join(file_name(id));
        if !self.contains(id) {
            return Err(Error::usage(format!("no reference `{id}` in {}", self.folder.display())));
        }
        Ok(self.load(&file)?.fingerprint)
    }

    /// Adds a reference to the folder, which is made if need be, and returns the file.
    ///
    /// # Errors
    /// If the identifier is not of the form `name` or `organisation/name`; unless it is to `replace` what is known, if it
    /// is there already, or is that of a known model of other shapes; if the fingerprint is of no whole model, or if the file cannot be written.
    pub fn add(&mut self, id: &str, mut fingerprint: Fingerprint, replace: bool) -> Result<PathBuf> {
        self.check(id, replace)?;
        fingerprint.require_model(&self.folder)?;
        if !replace {
            check_shapes(id, &fingerprint.exact.architecture)?;
        }
        std::fs::create_dir_all(&self.folder).map_err(|source| Error::io(&self.folder, "make", source))?;
        fingerprint.exact.subject.id = Some(id.to_owned());
        let file = self.folder.join(file_name(id));
        fingerprint.write(&file, replace)?;
        if let Err(place) = self.files.binary_search(&file) {
            self.files.insert(place, file.clone());
        }
        Ok(file)
    }

    /// Whether [`Catalog::add`] would take this identifier; for asking before the work of taking a fingerprint.
    ///
    /// # Errors
    /// If the identifier has another form, or is there already and is not to be replaced.
    pub fn check(&self, id: &str, replace: bool) -> Result<()> {
        check_id(id)?;
        let file = self.folder.join(file_name(id));
        if !replace && file.exists() {
            return Err(Error::exists(&file));
        }
        Ok(())
    }

    /// The anchor lists of all references, each once: a suspect's neurons must be described along them to be compared.
    ///
    /// # Errors
    /// If a reference cannot be read.
    pub fn anchors(&self) -> Result<Vec<Vec<Anchor>>> {
        let mut lists = Vec::new();
        for file in &self.files {
            lists.extend(Fingerprint::read_anchors(file)?);
        }
        lists.sort_unstable();
        lists.dedup();
        Ok(lists)
    }
}

/// `/` does not go into file names: `--` stands for it, as on hubs.
fn file_name(id: &str) -> String {
    format!("{}.{EXTENSION}", id.replace('/', "--"))
}

/// Refuses a model under the name of a known one whose shapes it does not have: every scan would be held against it.
fn check_shapes(id: &str, architecture: &Architecture) -> Result<()> {
    let differs = known::contradictions(id, architecture);
    if differs.is_empty() {
        return Ok(());
    }
    let each = differs.iter().map(|one| format!("{} {} instead of {}", one.field, one.found, one.expected));
    let each = each.collect::<Vec<_>>().join(", ");
    Err(Error::usage(format!("this is not the model known as `{id}`: {each}")))
}

fn check_id(id: &str) -> Result<()> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("--")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let parts: Vec<&str> = id.split('/').collect();
    if id.len() > 200 || parts.len() > 2 || !parts.iter().all(|p| part(p)) {
        let form = "`name` or `organisation/name`, of letters, digits, `.`, `_` and single `-`";
        return Err(Error::usage(format!("`{}` is no identifier: it must be {form}", id.escape_debug())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_could_leave_the_folder_or_collide_are_refused() {
        for good in ["base-a", "meta-llama/Llama-2-7b-hf", "01-ai/Yi_34B.v1"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a/", "../x", "a/b/c", "a--b", ".hidden", "a b", "a/../b", "a\\b", "-x"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
