//! A folder of this machine as a store: how far links in it may lead, and which Hugging Face repository it belongs to.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::hub_cache;
use super::local::LocalFile;
use super::store::{self, Object, Origin, Store};
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "checkpoint";

/// Longest file under `refs/`; it holds one commit hash.
const MAX_REF_BYTES: u64 = 256;

/// A folder, and the folder that links in it must not lead out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// As the user spelled it where possible.
    root: PathBuf,
    /// Without links; holds everything that a link in `root` may lead to.
    boundary: PathBuf,
    name: Option<String>,
    origin: Option<Origin>,
    named: Option<Named>,
    mmap: bool,
}

/// A file that the user named. Where it is a link, that is the user's own and is followed wherever it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    /// As the user spelled it, which may be no Unicode.
    path: PathBuf,
}

impl Folder {
    /// The folder that `path` names; or the one that holds the file that it names, and that file's name. Of the folder of
    /// a repository in a Hugging Face cache it is the snapshot that `refs/main` names, or the only one. Links in `path`
    /// itself are the user's own and are followed. With `mmap`, files are mapped where the system allows it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if there is nothing at `path`;
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if it is neither folder nor file, or the cache names a
    /// snapshot that is not there; [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) if it has none;
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if it has several.
    pub fn locate(path: &Path, mmap: bool) -> Result<(Self, Option<String>)> {
        let found = fs::metadata(path).map_err(|source| Error::io(path, "open", source))?;
        if found.is_dir() {
            let folder = Self::at(path.to_path_buf(), mmap)?;
            let folder = match folder.snapshots() {
                Some(snapshots) => {
                    let snapshot = folder.choose_snapshot(&snapshots)?;
                    folder.resolve(&snapshot)?;
                    Self::at(snapshot, mmap)?
                }
                None => folder,
            };
            return Ok((folder, None));
        }
        if !found.is_file() {
            return Err(Error::malformed(path, FORMAT, "not a regular file"));
        }
        let root = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().map_or_else(|| lossy(path.as_os_str()), lossy);
        let named = Some(Named { name: name.clone(), path: path.to_path_buf() });
        Ok((Self { named, ..Self::at(root.to_path_buf(), mmap)? }, Some(name)))
    }

    fn at(root: PathBuf, mmap: bool) -> Result<Self> {
        let real = fs::canonicalize(&root).map_err(|source| Error::io(&root, "open", source))?;
        let name = real.file_name().map(lossy);
        let (boundary, origin) = match hub_cache::snapshot_of(&real) {
            Some((repository, origin)) => (repository, Some(origin)),
            None => (real, None),
        };
        Ok(Self { root, boundary, name, origin, named: None, mmap })
    }

    /// The real path behind `path`, which lies in this folder.
    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Ok(target) = fs::read_link(path) else { return Err(Error::io(path, "open", error)) };
                let target = shown(&target.to_string_lossy());
                return Err(Error::malformed(path, FORMAT, format!("is a link to {target}, which does not exist")));
            }
            Err(error) => return Err(Error::io(path, "open", error)),
        };
        if real.starts_with(&self.boundary) {
            return Ok(real);
        }
        let (target, boundary) = (shown(&real.to_string_lossy()), shown(&self.boundary.to_string_lossy()));
        Err(Error::malformed(path, FORMAT, format!("is a link to {target}, which lies outside {boundary}")))
    }

    fn named(&self, name: &str) -> Option<&Named> {
        self.named.as_ref().filter(|named| named.name == name)
    }

    /// The `snapshots` folder, if this is the folder of a repository in a Hugging Face cache.
    fn snapshots(&self) -> Option<PathBuf> {
        let snapshots = self.root.join("snapshots");
        (hub_cache::repository(&self.boundary).is_some() && snapshots.is_dir()).then_some(snapshots)
    }

    fn choose_snapshot(&self, snapshots: &Path) -> Result<PathBuf> {
        let main = self.root.join("refs").join("main");
        if main.is_file() {
            let object = self.open("refs/main")?;
            let revision = String::from_utf8_lossy(&store::head(&*object, MAX_REF_BYTES)?).trim().to_owned();
            let is_plain = matches!(Path::new(&revision).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            let snapshot = snapshots.join(&revision);
            if is_plain && snapshot.is_dir() {
                return Ok(snapshot);
            }
            let what = format!("names snapshot {}, which is not there", shown(&revision));
            return Err(Error::malformed(main, FORMAT, what));
        }
        let is_folder = |name: &String| snapshots.join(name).is_dir();
        let mut revisions: Vec<String> = names(snapshots)?.into_iter().filter(is_folder).collect();
        revisions.sort_unstable();
        match revisions.as_slice() {
            [] => Err(Error::nothing(&self.root, "the cache folder has no snapshot".to_owned())),
            [only] => Ok(snapshots.join(only)),
            several => Err(Error::usage(format!(
                "{}: holds {} snapshots and no refs/main to choose by: {}; name one of them",
                self.root.display(),
                several.len(),
                listed(several)
            ))),
        }
    }
}

impl Store for Folder {
    fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.named(name).map_or_else(|| self.root.join(name), |named| named.path.clone())
    }

    fn folder(&self) -> Option<String> {
        self.name.clone()
    }

    fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    fn list(&self) -> Result<Vec<String>> {
        names(&self.root)
    }

    fn contains(&self, name: &str) -> bool {
        let is_absent =
            |error: io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        !fs::symlink_metadata(self.path(name)).is_err_and(is_absent)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Object>> {
        let path = self.path(name);
        let real = match self.named(name) {
            Some(_) => fs::canonicalize(&path).map_err(|source| Error::io(&path, "open", source))?,
            None => self.resolve(&path)?,
        };
        Ok(Box::new(LocalFile::open_as(path, real, self.mmap)?))
    }
}

/// The names in a folder.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::io(folder, "list", source);
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(lossy(&entry.map_err(failed)?.file_name()))).collect()
}

fn lossy(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
