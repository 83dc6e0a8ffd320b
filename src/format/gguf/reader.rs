//! Numbers and strings of a header in order, through a window on the file, so that no more is read than the header has.

use std::path::Path;

use super::FORMAT;
use crate::bytes::Object;
use crate::limits::MAX_HEADER_BYTES;
use crate::{Error, Result};

/// Bytes read at a time.
const WINDOW: u64 = 1 << 16;

/// A position in a header.
pub(crate) struct Reader<'a> {
    object: &'a dyn Object,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    buf: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(object: &'a dyn Object) -> Self {
        Self { object, at: 0, window: Vec::new(), window_at: 0, buf: Vec::new() }
    }

    /// The byte that is read next.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Goes back to a byte that was passed.
    pub(crate) fn back(&mut self, at: u64) {
        self.at = self.at.min(at);
    }

    pub(crate) fn path(&self) -> &Path {
        self.object.name()
    }

    /// Bytes from here to the end of the file.
    pub(crate) fn left(&self) -> u64 {
        self.object.len().saturating_sub(self.at)
    }

    pub(crate) fn refuse_at(&self, at: u64, what: impl Into<String>) -> Error {
        Error::malformed(self.path(), FORMAT, what).at(at)
    }

    /// The next bytes, which are `what`.
    pub(crate) fn bytes(&mut self, len: u64, what: &str) -> Result<&[u8]> {
        let begin = self.pass(len, what)?;
        let window_end = self.window_at + self.window.len() as u64;
        if begin < self.window_at || begin + len > window_end {
            let wanted = len.max(WINDOW.min(self.object.len() - begin));
            let read = self.object.read(begin, wanted as usize, &mut self.buf)?;
            self.window.clear();
            self.window.extend_from_slice(read);
            self.window_at = begin;
        }
        Ok(&self.window[(begin - self.window_at) as usize..][..len as usize])
    }

    /// Steps over `len` bytes, which are `what`, and says where they begin.
    pub(crate) fn pass(&mut self, len: u64, what: &str) -> Result<u64> {
        let begin = self.at;
        if len > self.left() {
            let end = self.object.len();
            let what = format!("the file ends at byte {end}, inside {what}, which takes {len} bytes");
            return Err(self.refuse_at(begin, what));
        }
        let found = begin + len;
        if found > MAX_HEADER_BYTES {
            let (path, limit) = (self.path().to_path_buf(), MAX_HEADER_BYTES);
            return Err(Error::limit(path, "header length in bytes", found, limit));
        }
        self.at = found;
        Ok(begin)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let at = self.at;
        let bytes = self.bytes(N as u64, what)?;
        bytes.first_chunk().copied().ok_or_else(|| self.refuse_at(at, "the file ends"))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of `what`, each of which takes `least` bytes at least.
    pub(crate) fn count(&mut self, least: u64, what: &str) -> Result<u64> {
        let at = self.at;
        let count = self.u64(what)?;
        if count > self.left() / least.max(1) {
            let what = format!("it states {count} {what}, more than its {} bytes could hold", self.object.len());
            return Err(self.refuse_at(at, what));
        }
        Ok(count)
    }

    /// A string of at most `limit` bytes; over it the error says `what`.
    pub(crate) fn string(&mut self, limit: u64, what: &'static str) -> Result<String> {
        let at = self.at;
        let len = self.count(1, "bytes of a string")?;
        if len > limit {
            return Err(Error::limit(self.path(), what, len, limit));
        }
        let text = self.bytes(len, what)?.to_vec();
        String::from_utf8(text).map_err(|_| self.refuse_at(at, "a string is not UTF-8"))
    }
}
