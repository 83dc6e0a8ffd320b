//! What went wrong, of which kind, in which file, which tensor, at which byte.
//!
//! Messages are lower-case and complete. What an error is made of is not public, so that more can be told later; a
//! caller asks [`Error::kind`], [`Error::path`], [`Error::tensor`] and [`Error::offset`].

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be met as it was put: several models where one is wanted, an identifier of no known form.
    Usage,
    /// Something is there already, and nobody said that it may be replaced.
    Exists,
    /// There is nothing here that could be scanned.
    Nothing,
    /// A file is not what its format demands.
    Malformed,
    /// A link leads out of the folder that is looked at, and was not followed.
    Outside,
    /// A file states more of something than is taken from any.
    Limit,
    /// A file changed while it was being read, so no result about it can be trusted.
    Changed,
    /// The operating system refused.
    Io,
}

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Fault>);

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io { path: PathBuf, action: &'static str, cause: io::Error },
    #[error("{}: malformed {format}: {what}{}{}", path.display(), at_tensor(tensor.as_deref()), at_offset(*offset))]
    Malformed { path: PathBuf, format: &'static str, tensor: Option<String>, offset: Option<u64>, what: String },
    #[error("{}: malformed checkpoint: is a link to {target}, which lies outside {boundary}", path.display())]
    Outside { path: PathBuf, target: String, boundary: String },
    #[error("{}: {what} {found} is over the limit of {limit}", path.display())]
    Limit { path: PathBuf, what: &'static str, found: u64, limit: u64 },
    #[error("{}: nothing to scan: {why}", path.display())]
    Nothing { path: PathBuf, why: String },
    #[error("{0}")]
    Usage(String),
    #[error("{}: exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{}: changed while it was being read; run again once it is complete", path.display())]
    Changed { path: PathBuf },
}

fn at_tensor(tensor: Option<&str>) -> String {
    tensor.map(|name| format!(", tensor `{}`", name.escape_debug())).unwrap_or_default()
}

fn at_offset(offset: Option<u64>) -> String {
    offset.map(|offset| format!(", at byte {offset}")).unwrap_or_default()
}

/// The path as an error keeps it.
fn owned(path: impl AsRef<Path>) -> PathBuf {
    path.as_ref().to_path_buf()
}

impl Error {
    fn of(fault: Fault) -> Self {
        Self(Box::new(fault))
    }

    /// An error of the operating system while doing `action` to `path`.
    #[doc(hidden)]
    pub fn io(path: impl AsRef<Path>, action: &'static str, cause: io::Error) -> Self {
        Self::of(Fault::Io { path: owned(path), action, cause })
    }

    /// A file that breaks its format's rules; tensor and offset are added by [`Error::in_tensor`] and [`Error::at`].
    pub(crate) fn malformed(path: impl AsRef<Path>, format: &'static str, what: impl Into<String>) -> Self {
        Self::of(Fault::Malformed { path: owned(path), format, tensor: None, offset: None, what: what.into() })
    }

    /// A link that leads to `target`, out of the folder `boundary`; both as messages show them.
    pub(crate) fn outside(path: impl AsRef<Path>, target: String, boundary: String) -> Self {
        Self::of(Fault::Outside { path: owned(path), target, boundary })
    }

    /// A ceiling of [`limits`](crate::limits) that was hit: how much of `what` the file states, and how much is taken.
    pub(crate) fn limit(path: impl AsRef<Path>, what: &'static str, found: u64, limit: u64) -> Self {
        Self::of(Fault::Limit { path: owned(path), what, found, limit })
    }

    /// A path that holds nothing to scan: what was found instead, and what to do.
    pub(crate) fn nothing(path: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Self::of(Fault::Nothing { path: owned(path), why: why.into() })
    }

    /// A request that cannot be met.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::of(Fault::Usage(what.into()))
    }

    /// Something that is in the way.
    pub(crate) fn exists(path: impl AsRef<Path>) -> Self {
        Self::of(Fault::Exists { path: owned(path) })
    }

    /// A file that is not what it was.
    #[doc(hidden)]
    pub fn changed(path: impl AsRef<Path>) -> Self {
        Self::of(Fault::Changed { path: owned(path) })
    }

    /// The same error, naming the tensor concerned.
    #[must_use]
    pub(crate) fn in_tensor(mut self, name: impl Into<String>) -> Self {
        if let Fault::Malformed { tensor, .. } = &mut *self.0 {
            *tensor = Some(name.into());
        }
        self
    }

    /// The same error, naming the byte offset.
    #[must_use]
    pub(crate) fn at(mut self, at: u64) -> Self {
        if let Fault::Malformed { offset, .. } = &mut *self.0 {
            *offset = Some(at);
        }
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Fault::Io { .. } => ErrorKind::Io,
            Fault::Malformed { .. } => ErrorKind::Malformed,
            Fault::Outside { .. } => ErrorKind::Outside,
            Fault::Limit { .. } => ErrorKind::Limit,
            Fault::Nothing { .. } => ErrorKind::Nothing,
            Fault::Usage(_) => ErrorKind::Usage,
            Fault::Exists { .. } => ErrorKind::Exists,
            Fault::Changed { .. } => ErrorKind::Changed,
        }
    }

    /// The file or folder concerned; `None` for a request that is about no single one.
    pub fn path(&self) -> Option<&Path> {
        match &*self.0 {
            Fault::Io { path, .. }
            | Fault::Malformed { path, .. }
            | Fault::Outside { path, .. }
            | Fault::Limit { path, .. }
            | Fault::Nothing { path, .. }
            | Fault::Exists { path }
            | Fault::Changed { path } => Some(path),
            Fault::Usage(_) => None,
        }
    }

    /// The tensor concerned, as the file spells it.
    pub fn tensor(&self) -> Option<&str> {
        match &*self.0 {
            Fault::Malformed { tensor, .. } => tensor.as_deref(),
            _ => None,
        }
    }

    /// The byte of the file at which the trouble lies.
    pub fn offset(&self) -> Option<u64> {
        match &*self.0 {
            Fault::Malformed { offset, .. } => *offset,
            _ => None,
        }
    }

    /// The operating system's own error, which the message ends with.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &*self.0 {
            Fault::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_file_tensor_and_byte() {
        let error = Error::malformed("a/model.gguf", "GGUF file", "its offset is odd").in_tensor("blk.0\u{1b}").at(17);
        let told = "a/model.gguf: malformed GGUF file: its offset is odd, tensor `blk.0\\u{1b}`, at byte 17";
        assert_eq!(error.to_string(), told);
        let places = (error.path(), error.tensor(), error.offset());
        assert_eq!(places, (Some(Path::new("a/model.gguf")), Some("blk.0\u{1b}"), Some(17)));
        assert_eq!((error.kind(), error.io_error().is_none()), (ErrorKind::Malformed, true));
    }

    #[test]
    fn the_systems_reason_is_told_once() {
        let error = Error::io("x", "open", io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string().matches("os error 2").count(), 1);
        assert!(std::error::Error::source(&error).is_none());
        assert_eq!(error.io_error().map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }
}
