//! Where a checkpoint lies: which folder PATH means, which Hugging Face repository that belongs to, and how far links
//! may lead.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "checkpoint";

/// Longest file under `refs/`; it holds one commit hash.
const MAX_REF_BYTES: u64 = 256;

/// What PATH names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A folder that holds one model.
    Folder,
    /// An index, whose shards lie beside it.
    Index(PathBuf),
    /// One weight file.
    File(PathBuf),
}

/// A folder with the files of a model, and the folder that links must not lead out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder, as the user spelled it where possible.
    pub(crate) root: PathBuf,
    /// The folder, without links, that holds everything a link in `root` may lead to.
    pub(crate) boundary: PathBuf,
    pub(crate) repository: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) target: Target,
}

impl Place {
    /// Finds out what `path` names. Links in `path` itself are the user's own and are followed.
    pub(crate) fn locate(path: &Path) -> Result<Self> {
        let found = fs::metadata(path).map_err(|source| Error::io(path, "open", source))?;
        if found.is_dir() {
            let place = Self::at(path.to_path_buf(), Target::Folder)?;
            return match place.snapshots() {
                Some(snapshots) => {
                    let snapshot = place.choose_snapshot(&snapshots)?;
                    place.resolve(&snapshot)?;
                    Self::at(snapshot, Target::Folder)
                }
                None => Ok(place),
            };
        }
        if !found.is_file() {
            return Err(Error::malformed(path, FORMAT, "not a regular file"));
        }
        let root = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_path_buf(),
            None => PathBuf::from("."),
        };
        let is_index = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let target = if is_index { Target::Index(path.to_path_buf()) } else { Target::File(path.to_path_buf()) };
        Self::at(root, target)
    }

    fn at(root: PathBuf, target: Target) -> Result<Self> {
        let real = fs::canonicalize(&root).map_err(|source| Error::io(&root, "open", source))?;
        let place = Self { root, boundary: real.clone(), repository: None, revision: None, target };
        Ok(match in_cache(&real) {
            Some((boundary, repository, revision)) => {
                Self { boundary, repository: Some(repository), revision: Some(revision), ..place }
            }
            None => place,
        })
    }

    /// The real path behind `path`, which lies in this folder.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming link and target if a link leads nowhere or out of the boundary; [`Error::Io`] if
    /// there is nothing at `path`, or the system refuses.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf> {
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

    /// The `snapshots` folder, if this is the folder of a repository in a Hugging Face cache.
    fn snapshots(&self) -> Option<PathBuf> {
        let snapshots = self.root.join("snapshots");
        (repository_name(&self.boundary).is_some() && snapshots.is_dir()).then_some(snapshots)
    }

    fn choose_snapshot(&self, snapshots: &Path) -> Result<PathBuf> {
        let main = self.root.join("refs").join("main");
        if main.is_file() {
            let revision = read_ref(&self.resolve(&main)?)?;
            let is_plain = matches!(Path::new(&revision).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            let snapshot = snapshots.join(&revision);
            if is_plain && snapshot.is_dir() {
                return Ok(snapshot);
            }
            let what = format!("names snapshot {}, which is not there", shown(&revision));
            return Err(Error::malformed(main, FORMAT, what));
        }
        let mut revisions = Vec::new();
        for entry in fs::read_dir(snapshots).map_err(|source| Error::io(snapshots, "list", source))? {
            let entry = entry.map_err(|source| Error::io(snapshots, "list", source))?;
            if entry.path().is_dir() {
                revisions.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        revisions.sort_unstable();
        match revisions.as_slice() {
            [] => Err(Error::Nothing { path: self.root.clone(), why: "the cache folder has no snapshot".to_owned() }),
            [only] => Ok(snapshots.join(only)),
            several => Err(Error::Usage(format!(
                "{}: holds {} snapshots and no refs/main to choose by: {}; name one of them",
                self.root.display(),
                several.len(),
                listed(several)
            ))),
        }
    }
}

/// The boundary, repository and revision of a folder at or below `models--org--name/snapshots/REVISION`.
fn in_cache(real: &Path) -> Option<(PathBuf, String, String)> {
    let mut below = real;
    while let Some(snapshots) = below.parent() {
        if snapshots.file_name().is_some_and(|name| name == "snapshots")
            && let Some(repository) = snapshots.parent()
            && let Some(name) = repository_name(repository)
        {
            let revision = below.file_name()?.to_string_lossy().into_owned();
            return Some((repository.to_path_buf(), name, revision));
        }
        below = snapshots;
    }
    None
}

/// `org/name` for a folder called `models--org--name`.
fn repository_name(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?.strip_prefix("models--")?;
    (!name.is_empty()).then(|| name.replacen("--", "/", 1))
}

fn read_ref(main: &Path) -> Result<String> {
    let mut text = Vec::new();
    let read = fs::File::open(main).and_then(|file| file.take(MAX_REF_BYTES).read_to_end(&mut text));
    read.map_err(|source| Error::io(main, "read", source))?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_cache_are_recognised_by_their_names() {
        let boundary = PathBuf::from("/hub/models--org--na--me");
        let found = Some((boundary.clone(), "org/na--me".to_owned(), "abc".to_owned()));
        assert_eq!(in_cache(&boundary.join("snapshots/abc")), found);
        assert_eq!(in_cache(&boundary.join("snapshots/abc/original")), found);
        assert_eq!(in_cache(&boundary.join("snapshots")), None);
        assert_eq!(in_cache(&boundary.join("blobs/abc")), None);
        assert_eq!(in_cache(Path::new("/hub/org--name/snapshots/abc")), None);
        let gpt2 = in_cache(Path::new("/hub/models--gpt2/snapshots/abc")).map(|(_, name, _)| name);
        assert_eq!(gpt2.as_deref(), Some("gpt2"));
    }
}
