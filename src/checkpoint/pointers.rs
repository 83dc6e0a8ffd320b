//! Weight files that are Git-LFS pointers: what each states of a file that is not there. Whether that makes a model which
//! is known is not decided here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::shard::{Shard, Stated};
use super::{Checkpoint, FORMAT};
use crate::bytes::Store;
use crate::finding::{Code, Finding, Level};
use crate::format::recognise::{Content, Pointer};
use crate::text::{from_hex, hex, listed, shown};
use crate::{Error, Result};

/// That some weight files of a checkpoint are pointers, so that it is no model by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointers {
    /// What was to be opened.
    pub(super) path: PathBuf,
    /// Where among the findings it belongs that the model was recognised.
    pub(super) told_at: usize,
}

/// The files as shards without weights, those that are pointers with what they state. `None` where none is a pointer, or
/// one does not keep to the specification.
pub(super) fn shards(store: &dyn Store, files: &[String], contents: &[Content]) -> Result<Option<Vec<Shard>>> {
    let mut stated: Vec<Option<Stated>> = Vec::with_capacity(files.len());
    for content in contents {
        stated.push(match content {
            Content::Pointer(pointer) => match read(pointer) {
                Some(found) => Some(found),
                None => return Ok(None),
            },
            _ => None,
        });
    }
    if stated.iter().all(Option::is_none) {
        return Ok(None);
    }
    let shard = |(name, stated): (&String, Option<Stated>)| {
        let mut shard = Shard::new(name.clone(), BTreeMap::new(), store.open(name)?);
        shard.stated = stated;
        Ok(shard)
    };
    files.iter().zip(stated).map(shard).collect::<Result<_>>().map(Some)
}

/// Digest and length that a pointer states, if it keeps to the specification.
fn read(pointer: &Pointer) -> Option<Stated> {
    let sha256 = from_hex(pointer.oid.strip_prefix("sha256:")?).filter(|sha256| sha256.len() == 32)?;
    Some(Stated { sha256: hex(&sha256), bytes: pointer.size.parse().ok()? })
}

/// That there is nothing to scan, where all of so many files are pointers, or that some of them are.
pub(super) fn refusal(path: PathBuf, pointers: &[(&str, Pointer)], files: usize) -> Error {
    let Some((name, pointer)) = pointers.first().filter(|_| pointers.len() == files) else {
        let found: Vec<&str> = pointers.iter().map(|(name, _)| *name).collect();
        let what = format!("{} of {files} files are Git-LFS pointers", found.len());
        let what = format!("{what}, not weights: {}; run `git lfs pull`", listed(&found));
        return Error::malformed(path, FORMAT, what);
    };
    let all = if files > 1 { format!(" (and so are all {files} weight files)") } else { String::new() };
    Error::nothing(path, pointer.advice(&shown(name)) + &all)
}

impl Pointers {
    /// Why a checkpoint with these shards is not scanned.
    pub(crate) fn refusal(&self, shards: &[Shard]) -> Error {
        let pointer = |shard: &Shard| {
            let Stated { sha256, bytes } = shard.stated.clone()?;
            Some(Pointer { oid: format!("sha256:{sha256}"), size: bytes.to_string() })
        };
        let pointers: Vec<(&str, Pointer)> =
            shards.iter().filter_map(|shard| Some((shard.name.as_str(), pointer(shard)?))).collect();
        refusal(self.path.clone(), &pointers, shards.len())
    }

    /// The findings of the checkpoint, with the one that says that it was recognised all the same.
    pub(crate) fn recognised(&self, checkpoint: &Checkpoint) -> Vec<Finding> {
        let Checkpoint { root, shards, findings, .. } = checkpoint;
        let count = shards.iter().filter(|shard| shard.stated.is_some()).count();
        let message = format!(
            "{count} of {} weight files are Git-LFS pointers: what they stand for is recognised by the digests that \
             they state, and no weights were read",
            shards.len()
        );
        let folder = root.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut findings = findings.clone();
        let at = self.told_at.min(findings.len());
        findings.insert(at, Finding::new(Code::LfsPointer, Level::Warning, message, folder));
        findings
    }
}
