//! Names of folders in a Hugging Face cache: `models--org--name/snapshots/REVISION`, whose files are links to
//! `models--org--name/blobs`.

use std::path::{Path, PathBuf};

use super::store::Origin;

/// The folder of the repository, and what that is, for a folder at or below one of its snapshots.
pub(super) fn snapshot_of(real: &Path) -> Option<(PathBuf, Origin)> {
    let mut below = real;
    while let Some(snapshots) = below.parent() {
        if snapshots.file_name().is_some_and(|name| name == "snapshots")
            && let Some(folder) = snapshots.parent()
            && let Some(repository) = repository(folder)
        {
            let revision = below.file_name()?.to_string_lossy().into_owned();
            return Some((folder.to_path_buf(), Origin { repository, revision }));
        }
        below = snapshots;
    }
    None
}

/// `org/name` for a folder called `models--org--name`.
pub(super) fn repository(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?.strip_prefix("models--")?;
    (!name.is_empty()).then(|| name.replacen("--", "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_cache_are_recognised_by_their_names() {
        let boundary = PathBuf::from("/hub/models--org--na--me");
        let origin = Origin { repository: "org/na--me".to_owned(), revision: "abc".to_owned() };
        let found = Some((boundary.clone(), origin));
        assert_eq!(snapshot_of(&boundary.join("snapshots/abc")), found);
        assert_eq!(snapshot_of(&boundary.join("snapshots/abc/original")), found);
        assert_eq!(snapshot_of(&boundary.join("snapshots")), None);
        assert_eq!(snapshot_of(&boundary.join("blobs/abc")), None);
        assert_eq!(snapshot_of(Path::new("/hub/org--name/snapshots/abc")), None);
        let gpt2 = snapshot_of(Path::new("/hub/models--gpt2/snapshots/abc")).map(|(_, origin)| origin.repository);
        assert_eq!(gpt2.as_deref(), Some("gpt2"));
    }
}
