//! Bytes of one file at an offset: mapped where the system allows it, read otherwise.
//!
//! The crate's only `unsafe` is the mapping below. Nothing here knows what the bytes mean.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

use crate::{Error, Result};

/// A regular file, opened for reading at offsets.
///
/// It starts out with positioned reads, so that a header can be read without faulting in pages of a mapping;
/// [`Source::mapped`] then maps it.
#[derive(Debug)]
pub struct Source {
    store: Store,
    identity: Identity,
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

#[derive(Debug)]
enum Store {
    Mapped(Mmap),
    Read(File),
}

/// What tells that a file is still the one that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    len: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Source {
    /// Opens a regular file.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; [`Error::Malformed`] for a folder, pipe, device or socket, which is
    /// recognised before it is opened because opening a pipe would wait for a writer.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = || Error::malformed(path, "checkpoint", "not a regular file");
        let found = fs::metadata(path).map_err(|source| Error::io(path, "open", source))?;
        if !found.is_file() {
            return Err(refuse());
        }
        let file = File::open(path).map_err(|source| Error::io(path, "open", source))?;
        let opened = file.metadata().map_err(|source| Error::io(path, "examine", source))?;
        if !opened.is_file() {
            return Err(refuse());
        }
        Ok(Self {
            store: Store::Read(file),
            identity: Identity::of(&opened),
            #[cfg(test)]
            tally: Tally::default(),
        })
    }

    /// The same file, mapped. Where the system refuses a mapping (or the file is empty) it stays with positioned
    /// reads. A mapped file holds no file descriptor.
    #[must_use]
    pub fn mapped(self) -> Self {
        let Store::Read(file) = &self.store else { return self };
        match map(file) {
            Ok(map) if self.identity.len > 0 => Self { store: Store::Mapped(map), ..self },
            _ => self.read_once(),
        }
    }

    /// The same file with positioned reads; the system is told that it is read in order and once, so that a scan of a
    /// large checkpoint does not push everything else out of the page cache.
    #[must_use]
    pub fn read_once(self) -> Self {
        #[cfg(target_os = "linux")]
        if let Store::Read(file) = &self.store {
            // Only hints: a system that ignores them reads the same bytes.
            for advice in [rustix::fs::Advice::Sequential, rustix::fs::Advice::NoReuse] {
                let _ = rustix::fs::fadvise(file, 0, None, advice);
            }
        }
        self
    }

    /// Whether the bytes come from a mapping.
    pub fn is_mapped(&self) -> bool {
        matches!(self.store, Store::Mapped(_))
    }

    /// Length of the file in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.identity.len
    }

    /// Whether the file had no bytes when it was opened.
    pub fn is_empty(&self) -> bool {
        self.identity.len == 0
    }

    /// Bytes `[offset, offset + len)` of the file, which errors call `path`: borrowed from the mapping, or read into
    /// `buf`, which grows to `len` bytes at most.
    ///
    /// # Errors
    /// [`Error::Changed`] if the file no longer reaches that far, or never did; [`Error::Io`] if the system refuses.
    pub fn read<'a>(&'a self, path: &Path, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.slice(offset, len, buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Changed { path: path.to_path_buf() },
            _ => Error::io(path, "read", error),
        })
    }

    fn slice<'a>(&'a self, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len()).ok_or_else(beyond)?;
        #[cfg(test)]
        self.tally.read.fetch_add(len as u64, std::sync::atomic::Ordering::SeqCst);
        match &self.store {
            Store::Mapped(map) => {
                let start = usize::try_from(offset).map_err(|_| beyond())?;
                let end = usize::try_from(end).map_err(|_| beyond())?;
                map.get(start..end).ok_or_else(beyond)
            }
            Store::Read(file) => {
                if buf.len() < len {
                    buf.resize(len, 0);
                }
                let taken = &mut buf[..len];
                read_exact_at(file, taken, offset)?;
                Ok(taken)
            }
        }
    }

    /// All bytes of the file, where it is mapped.
    pub(crate) fn all(&self) -> Option<&[u8]> {
        match &self.store {
            Store::Mapped(map) => Some(map),
            Store::Read(_) => None,
        }
    }

    /// Says that the bytes `[offset, offset + len)` are not needed any more for now: of a mapping, the pages leave this
    /// process. They stay in the page cache, where pages of a mapping that is read in sequence are the first that the
    /// system takes back when it needs memory. What is read again comes back from there or from the file.
    pub fn release(&self, offset: u64, len: u64) {
        #[cfg(unix)]
        if let Store::Mapped(map) = &self.store {
            let (Ok(start), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else { return };
            // The pages at both ends may hold a neighbour's bytes; a whole page more or less does not matter.
            let start = start.next_multiple_of(PAGE);
            let len = len.saturating_sub(PAGE) / PAGE * PAGE;
            if len == 0 || start.checked_add(len).is_none_or(|end| end > map.len()) {
                return;
            }
            release(map, start, len);
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }

    /// Whether the file at `path` still has the length and modification time with which it was opened.
    ///
    /// # Errors
    /// [`Error::Io`] if it can no longer be examined; a file that is gone has changed.
    pub fn is_unchanged(&self, path: &Path) -> Result<bool> {
        #[cfg(test)]
        self.tally
            .checked
            .store(self.tally.read.load(std::sync::atomic::Ordering::SeqCst), std::sync::atomic::Ordering::SeqCst);
        match fs::metadata(path) {
            Ok(now) => Ok(Identity::of(&now) == self.identity),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::io(path, "examine", source)),
        }
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a mapping is sound as long as nobody truncates or rewrites the file while it lives. The file is opened
    // read-only and never written by this crate; that no other process does so is a documented condition on callers,
    // and `Checkpoint::check_unchanged` compares length and modification time before a result is reported. No
    // reference into the mapping is interpreted as anything but plain bytes.
    let map = unsafe { MmapOptions::new().map(file)? };
    #[cfg(unix)]
    {
        // Only a hint: a system that ignores it reads the same bytes.
        let _ = map.advise(memmap2::Advice::Sequential);
    }
    Ok(map)
}

/// A multiple of the page size of every system that this runs on.
#[cfg(unix)]
const PAGE: usize = 1 << 16;

#[cfg(unix)]
#[allow(unsafe_code)]
fn release(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the advice drops pages of a mapping that is shared with the file, read-only and never written through:
    // the next access finds the same bytes in the file. That nobody else changes the file is the condition of `map`.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buf = &mut buf[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_and_read_give_the_same_bytes_and_refuse_the_same_ranges() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        let read = Source::open(&path).unwrap();
        let mapped = Source::open(&path).unwrap().mapped();
        assert!(mapped.is_mapped() && !read.is_mapped());
        for source in [&read, &mapped] {
            let mut buf = Vec::new();
            assert_eq!(source.slice(3, 4, &mut buf).unwrap(), b"3456");
            assert_eq!(source.slice(10, 0, &mut buf).unwrap(), b"");
            for (offset, len) in [(10, 1), (0, 11), (u64::MAX, 1), (1, usize::MAX)] {
                let refused = source.slice(offset, len, &mut buf).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    #[test]
    fn an_empty_file_is_not_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"").unwrap();
        let source = Source::open(&path).unwrap().mapped();
        assert!(source.is_empty() && !source.is_mapped());
    }

    #[test]
    fn a_file_that_grew_or_went_away_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123").unwrap();
        let source = Source::open(&path).unwrap();
        assert!(source.is_unchanged(&path).unwrap());
        fs::write(&path, b"01234").unwrap();
        assert!(!source.is_unchanged(&path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!source.is_unchanged(&path).unwrap());
    }
}
