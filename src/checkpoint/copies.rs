//! Files beside a model that are byte for byte files of it, such as those that Git LFS keeps of every clone.

use std::path::Path;

use super::{Checkpoint, Shard};
use crate::bytes::{Object, local::LocalFile};
use crate::unread::{Unread, UnreadKind};
use crate::{Error, Result};

const CHUNK: u64 = 1 << 20;

impl Checkpoint {
    /// What was not read, without weight files that equal one that was. Reads as much of them as is equal.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) and [`ErrorKind::Io`](crate::ErrorKind::Io) if a file cannot be
    /// read to its end.
    pub(crate) fn unread_but_copies(&self) -> Result<Vec<Unread>> {
        let mut unread = self.unread.clone();
        let mut failed: Option<Error> = None;
        unread.retain(|entry| {
            let copy = is_copy(&self.root, entry, &self.shards);
            !copy.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                false
            })
        });
        failed.map_or(Ok(unread), Err)
    }

    /// Leaves out what was not read of this checkpoint alone, and is one of `shards`.
    pub(crate) fn read_elsewhere(&mut self, shards: &[Shard]) {
        let root = self.root.clone();
        self.unread.retain(|entry| {
            let real = std::fs::canonicalize(root.join(&entry.place));
            !real.is_ok_and(|real| shards.iter().any(|shard| shard.location() == real))
        });
    }
}

fn is_copy(root: &Path, entry: &Unread, shards: &[Shard]) -> Result<bool> {
    let of_its_length = |shard: &&Shard| shard.bytes == entry.bytes && entry.what == UnreadKind::WeightFile;
    for shard in shards.iter().filter(of_its_length) {
        // A place that is no file of this machine stays what it is: not read.
        let Ok(file) = LocalFile::open(&root.join(&entry.place)) else { return Ok(false) };
        if file.len() == shard.bytes && is_equal(&file, shard)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_equal(file: &LocalFile, shard: &Shard) -> Result<bool> {
    let (mut one, mut other, mut at) = (Vec::new(), Vec::new(), 0);
    while at < shard.bytes {
        let len = CHUNK.min(shard.bytes - at);
        if file.read(at, len as usize, &mut one)? != shard.read(at, len as usize, &mut other)? {
            return Ok(false);
        }
        shard.release(at, len);
        at += len;
    }
    Ok(true)
}
