//! Fingerprints and catalogs as users of the library see them.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::report::FingerprintReport;
use crate::{catalog, fingerprint};

/// What is kept of a checkpoint, so that others can be compared with it without its weights: a few megabytes for a model
/// of any size.
///
/// ```
/// use weightprint::{Fingerprint, Scanner};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("base-a.weightprint.safetensors");
/// Scanner::new().fingerprint("fixtures/zoo/base-a")?.write(&file)?;
/// assert_eq!(Fingerprint::read(&file)?.about().tensors, 39);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Fingerprint(fingerprint::Fingerprint);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fingerprint").field(&self.about()).finish()
    }
}

impl Fingerprint {
    pub(super) fn of(inner: fingerprint::Fingerprint) -> Self {
        Self(inner)
    }

    /// Reads a fingerprint file.
    ///
    /// # Errors
    /// If it cannot be read, is none, or is damaged.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        fingerprint::Fingerprint::read(path.as_ref()).map(Self)
    }

    /// Writes a fingerprint file, whole or not at all.
    ///
    /// # Errors
    /// Of kind [`Exists`](crate::ErrorKind::Exists) if there is something at `path` already; or if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.0.write(path.as_ref(), false)
    }

    /// As [`Fingerprint::write`], and replaces the file that is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn replace(&self, path: impl AsRef<Path>) -> Result<()> {
        self.0.write(path.as_ref(), true)
    }

    /// The name under which the checkpoint is reported: its repository if known, otherwise that of its folder or file.
    pub fn name(&self) -> &str {
        &self.0.exact.subject.name
    }

    /// Its identifier, if it is a reference of a catalog.
    pub fn id(&self) -> Option<&str> {
        self.0.exact.subject.id.as_deref()
    }

    /// What it was taken from, without the arrays.
    pub fn about(&self) -> FingerprintReport {
        FingerprintReport::from(&self.0)
    }
}

/// A folder of fingerprints, one for each reference.
///
/// ```
/// use weightprint::{Catalog, Scanner};
///
/// let folder = tempfile::tempdir()?;
/// let mut catalog = Catalog::create(folder.path())?;
/// catalog.add("zoo/base-a", Scanner::new().fingerprint("fixtures/zoo/base-a")?)?;
/// assert_eq!(catalog.find("zoo/base-a")?.id(), Some("zoo/base-a"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Catalog(catalog::Catalog);

impl Catalog {
    /// The catalog of the user: `weightprint/catalog` in the data folder, if the system has one.
    pub fn default_folder() -> Option<PathBuf> {
        catalog::Catalog::default_folder()
    }

    /// Opens the catalog in a folder.
    ///
    /// # Errors
    /// Of kind [`Usage`](crate::ErrorKind::Usage) if there is no such folder; if it cannot be listed.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        catalog::Catalog::open(folder.as_ref()).map(Self)
    }

    /// Opens the catalog in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If the folder cannot be made or listed.
    pub fn create(folder: impl AsRef<Path>) -> Result<Self> {
        catalog::Catalog::create(folder.as_ref()).map(Self)
    }

    pub(super) fn inner(&self) -> &catalog::Catalog {
        &self.0
    }

    /// The files of the references, in the order of their names.
    pub fn files(&self) -> &[PathBuf] {
        self.0.files()
    }

    /// Reads the reference in one of the catalog's files.
    ///
    /// # Errors
    /// If it is not a fingerprint, or carries no identifier, or another one than its file name says.
    pub fn load(&self, file: impl AsRef<Path>) -> Result<Fingerprint> {
        self.0.load(file.as_ref()).map(|reference| Fingerprint(reference.fingerprint))
    }

    /// Whether there is a reference with this identifier, readable or not.
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// The reference with this identifier.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn find(&self, id: &str) -> Result<Fingerprint> {
        self.0.find(id).map(Fingerprint)
    }

    /// Adds a reference and returns its file. `id` is `name` or `organisation/name`.
    ///
    /// # Errors
    /// Of kind [`Usage`](crate::ErrorKind::Usage) if the identifier has another form, or is that of a known model of other
    /// shapes, [`Exists`](crate::ErrorKind::Exists)
    /// if it is there already, [`Nothing`](crate::ErrorKind::Nothing) if the fingerprint is of no whole model; or if the
    /// file cannot be written.
    pub fn add(&mut self, id: &str, fingerprint: Fingerprint) -> Result<PathBuf> {
        self.0.add(id, fingerprint.0, false)
    }

    /// As [`Catalog::add`], and replaces the reference that is there; shapes that are known of the identifier's model do
    /// not matter.
    ///
    /// # Errors
    /// As [`Catalog::add`], but for a reference that is there already.
    pub fn replace(&mut self, id: &str, fingerprint: Fingerprint) -> Result<PathBuf> {
        self.0.add(id, fingerprint.0, true)
    }

    /// Whether [`Catalog::add`] would take this identifier; for asking before a fingerprint is taken.
    ///
    /// # Errors
    /// As [`Catalog::add`], of kinds [`Usage`](crate::ErrorKind::Usage) and [`Exists`](crate::ErrorKind::Exists).
    pub fn check(&self, id: &str) -> Result<()> {
        self.0.check(id, false)
    }
}
