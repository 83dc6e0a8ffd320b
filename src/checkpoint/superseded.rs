//! Tensors that lie in two shards, where the index says which of the two is read.
//!
//! Tools that change some tensors of a large model write those to a shard of their own and name it in the index. Loaders
//! follow the index; what it does not name is never loaded, and counts as not read.

use std::collections::HashMap;

use super::index::Index;
use super::shard::Shard;
use crate::finding::{Capped, Code, Finding, Level};
use crate::tensor::TensorMeta;
use crate::text::shown;
use crate::unread::{Unread, UnreadKind};

/// Drops the tensors that have another of their name in the shard that the index names for it.
pub(super) fn drop(index: &Index, shards: &[Shard], tensors: &mut Vec<TensorMeta>) -> (Vec<Finding>, Vec<Unread>) {
    let shard_of = |tensor: &TensorMeta| tensor.first_extent().shard;
    let mut holders: HashMap<String, Vec<usize>> = HashMap::new();
    for tensor in tensors.iter() {
        holders.entry(tensor.name.clone()).or_default().push(shard_of(tensor));
    }
    let is_superseded = |tensor: &TensorMeta| {
        let all = holders.get(&tensor.name).map_or(&[][..], Vec::as_slice);
        let stated = index.stated(&tensor.name).filter(|stated| all.len() > 1 && all.contains(stated));
        stated.is_some_and(|stated| stated != shard_of(tensor))
    };
    let mut found = Capped::new(Code::IndexMismatch, Level::Error);
    let mut unread = Vec::new();
    tensors.retain(|tensor| {
        let is_superseded = is_superseded(tensor);
        if is_superseded {
            let (name, file) = (shown(&tensor.name), &shards[shard_of(tensor)].name);
            let what = || format!("tensor {name} is in {} too, which the index does not name for it", shown(file));
            found.push(what, || tensor.name.clone());
            unread.push(Unread::new(format!("{file}: tensor {name}"), tensor.stored_bytes(), UnreadKind::Gap));
        }
        !is_superseded
    });
    (found.finish("more tensors that are in two shards"), unread)
}
