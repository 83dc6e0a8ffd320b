//! A model whose weight files are Git-LFS pointers: recognised by the digests that the pointers state, without weights.
//!
//! A pointer is a claim about a file that is not there. It is only taken where every weight file of the folder has a
//! digest that was published for one and the same model; otherwise there is nothing to scan. Whether the files are all
//! that the model has is not known here.

use std::collections::BTreeSet;

use super::place::Place;
use super::shards::File;
use super::sniff::{Content, Pointer};
use super::source::Source;
use super::text::{from_hex, hex};
use super::{Shard, Stated};
use crate::Result;
use crate::catalog::digests::{self, Container};
use crate::finding::{Code, Finding, Level};

/// The files as shards without weights, if some are pointers and all are published files of one model. Files that are
/// there are read whole, but only if the pointers already name a model.
pub(super) fn recognise(place: &Place, files: &[File], contents: &[Content]) -> Result<Option<(Vec<Shard>, Finding)>> {
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
    for ((File { name, path }, pointer), content) in files.iter().zip(stated).zip(contents) {
        if models.as_ref().is_none_or(BTreeSet::is_empty) {
            return Ok(None);
        }
        let source = Source::open(path)?;
        let bytes = source.len();
        let mut shard = Shard {
            name: name.clone(),
            path: path.clone(),
            bytes,
            metadata: Default::default(),
            source,
            stated: pointer,
        };
        if shard.stated.is_none() {
            if !digests::could_be(bytes, container(content)) {
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
        "{count} of {} weight files are Git-LFS pointers: what they stand for is recognised by the digests that they \
         state, and no weights were read",
        files.len()
    );
    let folder = place.root.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Some((shards, Finding::new(Code::LfsPointer, Level::Warning, message, folder))))
}

/// What a file that is there is, as far as published digests tell containers apart.
fn container(content: &Content) -> Option<Container> {
    match content {
        Content::Gguf => Some(Container::Gguf),
        Content::Torch => Some(Container::Torch),
        Content::Weights | Content::Onnx | Content::Pointer(_) | Content::Foreign(_) => None,
    }
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
    let sha256 = from_hex(pointer.oid.strip_prefix("sha256:")?).filter(|sha256| sha256.len() == 32)?;
    Some(Stated { sha256: hex(&sha256), bytes: pointer.size.parse().ok()? })
}
