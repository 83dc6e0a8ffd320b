//! A model whose weight files are Git-LFS pointers: recognised by the digests that the pointers state, without weights.
//!
//! A pointer is a claim about a file that is not there. It is only taken where every weight file of the folder has a
//! digest that was published for one and the same model; otherwise there is nothing to scan.

use std::collections::{BTreeMap, BTreeSet};

use super::shard::{Shard, Stated};
use crate::Result;
use crate::bytes::Store;
use crate::finding::{Code, Finding, Level};
use crate::format::recognise::{Content, Pointer};
use crate::published::digests;

/// The files as shards without weights, if some are pointers and all are published files of one model. Files that are
/// there are read whole, but only if the pointers already name a model.
pub(super) fn recognise(
    store: &dyn Store,
    files: &[String],
    contents: &[Content],
) -> Result<Option<(Vec<Shard>, Finding)>> {
    let mut stated: Vec<Option<Stated>> = Vec::with_capacity(files.len());
    let mut models: Option<BTreeSet<&str>> = None;
    for content in contents {
        let Content::Pointer(pointer) = content else {
            stated.push(None);
            continue;
        };
        let Some(found) = read(pointer) else { return Ok(None) };
        narrow(&mut models, &found.sha256);
        stated.push(Some(found));
    }
    let mut shards = Vec::with_capacity(files.len());
    for (name, pointer) in files.iter().zip(stated) {
        if models.as_ref().is_none_or(BTreeSet::is_empty) {
            return Ok(None);
        }
        let mut shard = Shard::new(name.clone(), BTreeMap::new(), store.open(name)?);
        shard.stated = pointer;
        let bytes = shard.bytes;
        if shard.stated.is_none() {
            if !digests::could_match_size(bytes) {
                return Ok(None);
            }
            let sha256 = shard.sha256()?;
            narrow(&mut models, &sha256);
            shard.stated = Some(Stated { sha256, bytes });
        }
        shards.push(shard);
    }
    if models.is_none_or(|models| models.is_empty()) {
        return Ok(None);
    }
    let count = contents.iter().filter(|content| matches!(content, Content::Pointer(_))).count();
    let message = format!(
        "{count} of {} weight files are Git-LFS pointers: the model is recognised by the digests that they state, and no \
         weights were read",
        files.len()
    );
    let folder = store.root().file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Some((shards, Finding::new(Code::LfsPointer, Level::Warning, message, folder))))
}

/// Keeps the models for which this digest of a weight file was published.
fn narrow(models: &mut Option<BTreeSet<&'static str>>, sha256: &str) {
    let published = digests::lookup_sha256(sha256).into_iter().filter(|record| record.kind.is_weights());
    let own: BTreeSet<&str> = published.map(|record| record.model.as_str()).collect();
    *models = Some(match models.take() {
        Some(before) => before.intersection(&own).copied().collect(),
        None => own,
    });
}

/// Digest and length that a pointer states, if it keeps to the specification.
fn read(pointer: &Pointer) -> Option<Stated> {
    let sha256 = pointer.oid.strip_prefix("sha256:")?.to_ascii_lowercase();
    let is_digest = sha256.len() == 64 && sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
    Some(Stated { sha256, bytes: pointer.size.parse().ok()? }).filter(|_| is_digest)
}
