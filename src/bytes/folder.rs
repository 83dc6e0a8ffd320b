//! A folder of this machine as a store: how far links in it may lead, and which Hugging Face repository it belongs to.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::hub_cache;
use super::local::LocalFile;
use super::store::{self, Entry, EntryKind, Object, Origin, Store};
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
    access: Access,
}

/// How the files of a checkpoint are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Map the files instead of reading them. Where the system refuses a mapping, they are read all the same. Files
    /// that are mapped must not be truncated while the checkpoint lives: the system would end the process.
    pub mmap: bool,
    /// Follow links out of the folder, as stores of data versions (DVC, git-annex) need it. Without it such a link is an
    /// error: a checkpoint that was handed in must not make this program read other files of its host.
    pub follow_links: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self { mmap: true, follow_links: false }
    }
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
    /// a repository in a Hugging Face cache it is the snapshot that `refs/main` names, or the only one; a cache with one
    /// repository and nothing else stands for that. Links in `path` itself are the user's own and are followed.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if there is nothing at `path`;
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if it is neither folder nor file, or the cache names a
    /// snapshot that is not there; [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) if it has none;
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if it has several.
    pub fn locate(path: &Path, access: Access) -> Result<(Self, Option<String>)> {
        let found = fs::metadata(path).map_err(|source| Error::io(path, "open", source))?;
        if found.is_dir() {
            let folder = Self::at(path.to_path_buf(), access)?;
            let folder = match folder.only_repository()? {
                Some(repository) => Self::at(repository, access)?,
                None => folder,
            };
            let folder = match folder.snapshots() {
                Some(snapshots) => {
                    let snapshot = folder.choose_snapshot(&snapshots)?;
                    folder.resolve(&snapshot)?;
                    Self::at(snapshot, access)?
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
        Ok((Self { named, ..Self::at(root.to_path_buf(), access)? }, Some(name)))
    }

    fn at(root: PathBuf, access: Access) -> Result<Self> {
        let real = fs::canonicalize(&root).map_err(|source| Error::io(&root, "open", source))?;
        let name = real.file_name().map(lossy);
        let (boundary, origin) = match hub_cache::snapshot_of(&real) {
            Some((repository, origin)) => (repository, Some(origin)),
            None => (real, None),
        };
        Ok(Self { root, boundary, name, origin, named: None, access })
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
        if self.access.follow_links || real.starts_with(&self.boundary) {
            return Ok(real);
        }
        let (target, boundary) = (shown(&real.to_string_lossy()), shown(&self.boundary.to_string_lossy()));
        Err(Error::outside(path, target, boundary))
    }

    /// The path of a name of this store. A name that is no Unicode was told with marks in place of what could not be
    /// told, so that it has to be looked for.
    fn spelled(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        if !name.contains(char::REPLACEMENT_CHARACTER) || fs::symlink_metadata(&path).is_ok() {
            return path;
        }
        let mut found = self.root.clone();
        for part in name.split('/') {
            let own = fs::read_dir(&found).ok().and_then(|entries| {
                let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
                names.filter(|own| lossy(own) == part).min()
            });
            found.push(own.unwrap_or_else(|| part.into()));
        }
        found
    }

    /// The one repository of a Hugging Face cache that holds nothing else but what its client keeps there.
    fn only_repository(&self) -> Result<Option<PathBuf>> {
        const BESIDE: [&str; 4] = [".locks", "version.txt", "CACHEDIR.TAG", ".DS_Store"];
        if hub_cache::repository(&self.boundary).is_some() {
            return Ok(None);
        }
        let mut others = names(&self.root)?;
        others.retain(|name| !BESIDE.contains(&name.as_str()));
        let [only] = &others[..] else { return Ok(None) };
        let folder = self.root.join(only);
        Ok((hub_cache::repository(&folder).is_some() && self.resolve(&folder)?.is_dir()).then_some(folder))
    }

    /// What `found`, which lies at `path`, is behind all links.
    fn entry(&self, path: &Path, found: &fs::DirEntry) -> Entry {
        let name = lossy(&found.file_name());
        let beyond = || {
            let bytes = fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |target| target.len());
            Entry { name: name.clone(), kind: EntryKind::Beyond, bytes, location: path.to_path_buf() }
        };
        let Ok(location) = self.resolve(path) else { return beyond() };
        let Ok(target) = fs::metadata(&location) else { return beyond() };
        let kind = match target.file_type() {
            kind if kind.is_file() => EntryKind::Object,
            kind if kind.is_dir() => EntryKind::Folder,
            _ => EntryKind::Special,
        };
        let bytes = if kind == EntryKind::Object { target.len() } else { 0 };
        Entry { name, kind, bytes, location }
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
        self.named(name).map_or_else(|| self.spelled(name), |named| named.path.clone())
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

    fn entries(&self, folder: &str, most: usize) -> Result<Vec<Entry>> {
        let place = if folder.is_empty() { self.root.clone() } else { self.spelled(folder) };
        let failed = |source| Error::io(&place, "list", source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&place).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            found.push(self.entry(&entry.path(), &entry));
            store::check_count(&place, found.len(), most)?;
        }
        found.sort_unstable();
        Ok(found)
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
        Ok(Box::new(LocalFile::open_as(path, real, self.access.mmap)?))
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
