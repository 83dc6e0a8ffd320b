//! Checkpoints whose weight files are Git-LFS pointers: recognised by the digests that the pointers state.
//!
//! A pointer is a claim about a file that is not there. It is only taken where every weight file of the folder has a
//! digest that was published for one and the same model; otherwise there is nothing to scan. Whether the files are all
//! that the model has is judged by their digests.

use std::collections::BTreeSet;

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::finding::Finding;
use crate::published::digests::{self, Container};

/// The findings of a checkpoint, with the one that says that its pointers make a known model. Files that are there are
/// read whole, but only if the pointers name a model.
///
/// # Errors
/// That the files are pointers, if some are and they make no such model; as
/// [`Shard::sha256`](crate::checkpoint::Shard::sha256).
pub(super) fn findings(checkpoint: &Checkpoint) -> Result<Vec<Finding>> {
    let Some(pointers) = &checkpoint.pointers else { return Ok(checkpoint.findings.clone()) };
    let mut models: Option<BTreeSet<&str>> = None;
    for stated in checkpoint.shards.iter().filter_map(|shard| shard.stated.as_ref()) {
        narrow(&mut models, &stated.sha256);
    }
    let is_none = |models: &Option<BTreeSet<&str>>| models.as_ref().is_none_or(BTreeSet::is_empty);
    for shard in checkpoint.shards.iter().filter(|shard| shard.stated.is_none()) {
        if is_none(&models) || !digests::could_be(shard.bytes, Container::of_name(&shard.name)) {
            return Err(pointers.refusal(&checkpoint.shards));
        }
        narrow(&mut models, &shard.sha256()?);
    }
    if is_none(&models) {
        return Err(pointers.refusal(&checkpoint.shards));
    }
    Ok(pointers.recognised(checkpoint))
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
