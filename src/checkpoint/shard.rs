//! One file of a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::bytes::Object;
use crate::text::hex;

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    /// The path relative to the root, `/`-separated.
    pub name: String,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The free-form strings that the header keeps under `__metadata__`; of GGUF, the texts under `general.`;
    /// of ONNX, the producer and the properties.
    pub metadata: BTreeMap<String, String>,
    /// What is known of the file that this one stands for, if it is a Git-LFS pointer.
    pub stated: Option<Stated>,
    object: Box<dyn Object>,
    sha256: OnceLock<String>,
    #[cfg(test)]
    pub(crate) tally: Tally,
}

/// For tests: bytes that were handed out, and how many of them when it was last asked whether the file has changed.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) read: std::sync::atomic::AtomicU64,
    pub(crate) checked: std::sync::atomic::AtomicU64,
}

/// Digest and length of a whole weight file whose content was not downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// SHA-256 in lowercase hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl Shard {
    /// A file whose header was read.
    pub(super) fn new(name: String, metadata: BTreeMap<String, String>, object: Box<dyn Object>) -> Self {
        let object = object.for_values();
        Self {
            name,
            bytes: object.len(),
            metadata,
            stated: None,
            object,
            sha256: OnceLock::new(),
            #[cfg(test)]
            tally: Tally::default(),
        }
    }

    /// How messages name the file.
    pub fn path(&self) -> &Path {
        self.object.name()
    }

    /// Where the file really lies, links followed.
    pub fn location(&self) -> &Path {
        self.object.location()
    }

    /// What tells the state in which the file was opened from others ([`Object::identity`]).
    pub(crate) fn identity(&self) -> Vec<u8> {
        self.object.identity()
    }

    /// Bytes `[offset, offset + len)` of the file, header included: borrowed from the mapping, or read into `buf`.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file ends before that;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the system refuses.
    pub fn read<'a>(&'a self, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        #[cfg(test)]
        self.tally.read.fetch_add(len as u64, std::sync::atomic::Ordering::SeqCst);
        self.object.read(offset, len, buf)
    }

    /// Whether the file still is what was opened.
    pub(super) fn is_unchanged(&self) -> Result<bool> {
        #[cfg(test)]
        {
            let order = std::sync::atomic::Ordering::SeqCst;
            self.tally.checked.store(self.tally.read.load(order), order);
        }
        self.object.is_unchanged()
    }

    /// Says that bytes are not needed any more for now.
    pub(super) fn release(&self, offset: u64, len: u64) {
        self.object.release(offset, len);
    }

    /// SHA-256 of the whole file, header included, in lowercase hexadecimal: what hubs publish. Reads all of it,
    /// the first time that it is asked for.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub fn sha256(&self) -> Result<String> {
        const CHUNK: u64 = 1 << 20;
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let mut digest = Sha256::new();
        let mut buf = Vec::new();
        let mut offset = 0;
        while offset < self.bytes {
            let len = CHUNK.min(self.bytes - offset);
            digest.update(self.read(offset, len as usize, &mut buf)?);
            offset += len;
        }
        Ok(self.sha256.get_or_init(|| hex(&digest.finalize())).clone())
    }
}
