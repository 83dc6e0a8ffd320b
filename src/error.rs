//! What went wrong, in which file, which tensor, at which byte.
//!
//! Messages are lower-case and complete: the binary prints them as they are. [`Error::class`] sorts them into the
//! documented exit codes.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a caller should take an error; the binary's exit codes follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request cannot be met as it was put (exit code 2).
    Usage,
    /// The input cannot be read, or is not what it claims to be (exit code 3).
    Malformed,
    /// There is nothing here that could be scanned (exit code 4).
    Nothing,
}

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's own error.
        source: io::Error,
    },
    /// A file is not what its format demands.
    #[error("{}: malformed {format}: {what}{}{}", path.display(), at_tensor(tensor.as_deref()), at_offset(*offset))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format it should be in.
        format: &'static str,
        /// The tensor concerned, if one is.
        tensor: Option<String>,
        /// The byte offset in the file at which the trouble lies, if it has one.
        offset: Option<u64>,
        /// What is wrong.
        what: String,
    },
    /// A ceiling of [`limits`](crate::limits) was hit.
    #[error("{}: {what} {found} is over the limit of {limit}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was counted.
        what: &'static str,
        /// How much the file states.
        found: u64,
        /// How much is taken.
        limit: u64,
    },
    /// The path holds nothing that this version can scan.
    #[error("{}: nothing to scan: {why}", path.display())]
    Nothing {
        /// The file or folder.
        path: PathBuf,
        /// What was found instead, and what to do.
        why: String,
    },
    /// The request cannot be met as it was put.
    #[error("{0}")]
    Usage(String),
    /// The file changed while it was being read, so no result about it can be trusted.
    #[error("{}: changed while it was being read; run again once it is complete", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

fn at_tensor(tensor: Option<&str>) -> String {
    tensor.map(|name| format!(", tensor `{}`", name.escape_debug())).unwrap_or_default()
}

fn at_offset(offset: Option<u64>) -> String {
    offset.map(|offset| format!(", at byte {offset}")).unwrap_or_default()
}

impl Error {
    /// An error of the operating system while doing `action` to `path`.
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// A file that breaks its format's rules; tensor and offset are added by [`Error::in_tensor`] and [`Error::at`].
    pub fn malformed(path: impl AsRef<Path>, format: &'static str, what: impl Into<String>) -> Self {
        Self::Malformed { path: path.as_ref().to_path_buf(), format, tensor: None, offset: None, what: what.into() }
    }

    /// The same error, naming the tensor concerned.
    #[must_use]
    pub fn in_tensor(mut self, name: impl Into<String>) -> Self {
        if let Self::Malformed { tensor, .. } = &mut self {
            *tensor = Some(name.into());
        }
        self
    }

    /// The same error, naming the byte offset.
    #[must_use]
    pub fn at(mut self, at: u64) -> Self {
        if let Self::Malformed { offset, .. } = &mut self {
            *offset = Some(at);
        }
        self
    }

    /// How a caller should take it.
    pub fn class(&self) -> Class {
        match self {
            Self::Usage(_) => Class::Usage,
            Self::Nothing { .. } => Class::Nothing,
            Self::Io { .. } | Self::Malformed { .. } | Self::Limit { .. } | Self::Changed { .. } => Class::Malformed,
        }
    }
}
