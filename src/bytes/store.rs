//! The seam between where bytes lie and what they mean: a store holds objects under names, an object is bytes.
//!
//! Readers of checkpoints see these two traits alone, so that a folder, a hub and an object store are one to them.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Bytes that are read at offsets and stay the same while they are read.
pub trait Object: Debug + Send + Sync {
    /// How messages name it.
    fn name(&self) -> &Path;

    /// Where it really lies, links followed: what is reached under two names has one location.
    fn location(&self) -> &Path;

    /// Length in bytes when it was opened.
    fn len(&self) -> u64;

    /// Whether it had no bytes when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes `[offset, offset + len)`: borrowed where they lie in memory, or read into `buf`, which grows to `len` bytes
    /// at most.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) if it no longer reaches that far, or never did;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if they cannot be had.
    fn read<'a>(&'a self, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]>;

    /// What tells the state in which it was opened from other states and other objects: equal bytes mean that nothing is
    /// known to have changed.
    fn identity(&self) -> Vec<u8>;

    /// Whether it still is what was opened.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if it can no longer be examined; an object that is gone has changed.
    fn is_unchanged(&self) -> Result<bool>;

    /// Says that the bytes `[offset, offset + len)` are not needed any more for now. A hint: they can be read again.
    fn release(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// The same object, made ready for all of its bytes to be read. Up to here it was asked for a header at most.
    #[must_use]
    fn for_values(self: Box<Self>) -> Box<dyn Object>;
}

/// A folder of objects. Names are relative to it and `/`-separated.
pub trait Store: Debug + Send + Sync {
    /// How messages name the folder.
    fn root(&self) -> &Path;

    /// How messages name what has this name.
    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The folder's own name, whatever it was called to get here.
    fn folder(&self) -> Option<String> {
        self.root().file_name().map(|name| name.to_string_lossy().into_owned())
    }

    /// The repository that the folder belongs to, if it is one.
    fn origin(&self) -> Option<&Origin>;

    /// The names in the folder itself, folders among them, in any order.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if they cannot be listed.
    fn list(&self) -> Result<Vec<String>>;

    /// What lies in the folder of this name, an empty one for the folder itself, sorted by name; `most` entries at most.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if it cannot be listed; [`ErrorKind::Limit`](crate::ErrorKind::Limit) if
    /// there are more. Where nothing but [`Store::list`] is known, an object that cannot be opened.
    fn entries(&self, folder: &str, most: usize) -> Result<Vec<Entry>> {
        if !folder.is_empty() {
            return Ok(Vec::new());
        }
        let mut names = self.list()?;
        names.sort_unstable();
        check_count(&self.path(folder), names.len(), most)?;
        let entry = |name: String| {
            let object = self.open(&name)?;
            Ok(Entry { kind: EntryKind::Object, bytes: object.len(), location: object.location().to_path_buf(), name })
        };
        names.into_iter().map(entry).collect()
    }

    /// Whether there is anything of this name; a link counts wherever it leads.
    fn contains(&self, name: &str) -> bool;

    /// Opens the object of this name. A store has a boundary: what lies beyond it is not opened, whatever leads there.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if it is no object (but a folder, say), or a link that
    /// leads nowhere or beyond the boundary; [`ErrorKind::Io`](crate::ErrorKind::Io) if there is none, or it cannot be
    /// opened.
    fn open(&self, name: &str) -> Result<Box<dyn Object>>;
}

/// What lies in a folder of a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name in that folder.
    pub name: String,
    /// What it is, links followed.
    pub kind: EntryKind,
    /// Length of a file, and of a file that a link leads to.
    pub bytes: u64,
    /// Where it really lies.
    pub location: PathBuf,
}

/// What something in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Something that can be opened.
    Object,
    /// A folder.
    Folder,
    /// A link that leads nowhere or beyond the store's boundary, which is not followed.
    Beyond,
    /// A pipe, a device, a socket: opening one would wait, or do something.
    Special,
}

/// Refuses a folder with more entries than are listed.
pub(super) fn check_count(folder: &Path, found: usize, most: usize) -> Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(Error::limit(folder, "number of files in a folder", found as u64, most as u64))
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `org/name`.
    pub repository: String,
    /// A commit hash as a rule.
    pub revision: String,
}

/// Reads an object from its first byte on, `most` bytes at most.
///
/// # Errors
/// As [`Object::read`].
pub(crate) fn head(object: &dyn Object, most: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(object.len().min(most)).unwrap_or(usize::MAX);
    let mut buf = Vec::new();
    let borrowed = object.read(0, len, &mut buf)?.to_vec();
    Ok(borrowed)
}
