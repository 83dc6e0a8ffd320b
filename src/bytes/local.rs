//! Bytes of one file at an offset: mapped where the system allows it, read otherwise.
//!
//! The crate's only `unsafe` is the mapping below. Nothing here knows what the bytes mean.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapOptions};

use super::store::Object;
use crate::{Error, Result};

/// A regular file, opened for reading at offsets.
///
/// It starts out with positioned reads, so that a header can be read without faulting in pages of a mapping;
/// [`LocalFile::mapped`] then maps it.
#[derive(Debug)]
pub struct LocalFile {
    access: Access,
    name: PathBuf,
    real: PathBuf,
    opened: Metadata,
    mmap: bool,
}

#[derive(Debug)]
enum Access {
    Mapped(Mmap),
    Read(File),
}

impl LocalFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the system refuses;
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) for a folder, pipe, device or socket, which is recognised
    /// before it is opened because opening a pipe would wait for a writer.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path.to_path_buf(), path.to_path_buf(), true)
    }

    /// Opens the regular file at `real`, which messages call `name`: behind a link there may be a blob called by its
    /// digest. With `mmap` it will be mapped for its values.
    ///
    /// # Errors
    /// As [`LocalFile::open`].
    pub(super) fn open_as(name: PathBuf, real: PathBuf, mmap: bool) -> Result<Self> {
        let refuse = || Error::malformed(&name, "checkpoint", "not a regular file");
        let found = fs::metadata(&real).map_err(|source| Error::io(&name, "open", source))?;
        if !found.is_file() {
            return Err(refuse());
        }
        let file = File::open(&real).map_err(|source| Error::io(&name, "open", source))?;
        let opened = file.metadata().map_err(|source| Error::io(&name, "examine", source))?;
        if !opened.is_file() {
            return Err(refuse());
        }
        Ok(Self { access: Access::Read(file), name, real, opened, mmap })
    }

    /// The same file, mapped. Where the system refuses a mapping (or the file is empty) it stays with positioned
    /// reads. A mapped file holds no file descriptor.
    #[must_use]
    pub fn mapped(self) -> Self {
        let Access::Read(file) = &self.access else { return self };
        match map(file) {
            Ok(map) if !self.is_empty() => Self { access: Access::Mapped(map), ..self },
            _ => self.read_once(),
        }
    }

    /// The same file with positioned reads; the system is told that it is read in order and once, so that a scan of a
    /// large checkpoint does not push everything else out of the page cache.
    fn read_once(self) -> Self {
        #[cfg(target_os = "linux")]
        if let Access::Read(file) = &self.access {
            // Only hints: a system that ignores them reads the same bytes.
            for advice in [rustix::fs::Advice::Sequential, rustix::fs::Advice::NoReuse] {
                let _ = rustix::fs::fadvise(file, 0, None, advice);
            }
        }
        self
    }

    /// All bytes of the file, where it is mapped.
    pub(crate) fn all(&self) -> Option<&[u8]> {
        match &self.access {
            Access::Mapped(map) => Some(map),
            Access::Read(_) => None,
        }
    }

    fn slice<'a>(&'a self, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let beyond = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len()).ok_or_else(beyond)?;
        match &self.access {
            Access::Mapped(map) => {
                let start = usize::try_from(offset).map_err(|_| beyond())?;
                let end = usize::try_from(end).map_err(|_| beyond())?;
                map.get(start..end).ok_or_else(beyond)
            }
            Access::Read(file) => {
                if buf.len() < len {
                    buf.resize(len, 0);
                }
                let taken = &mut buf[..len];
                read_exact_at(file, taken, offset)?;
                Ok(taken)
            }
        }
    }
}

impl Object for LocalFile {
    fn name(&self) -> &Path {
        &self.name
    }

    fn location(&self) -> &Path {
        &self.real
    }

    fn len(&self) -> u64 {
        self.opened.len()
    }

    fn read<'a>(&'a self, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.slice(offset, len, buf).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::changed(&self.name),
            _ => Error::io(&self.name, "read", error),
        })
    }

    /// Length, times and inode.
    fn identity(&self) -> Vec<u8> {
        let mut identity = self.len().to_le_bytes().to_vec();
        let since = self.opened.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        identity.extend(since.map_or(0, |since| since.as_nanos()).to_le_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            identity.extend(self.opened.dev().to_le_bytes());
            identity.extend(self.opened.ino().to_le_bytes());
            identity.extend(self.opened.ctime().to_le_bytes());
            identity.extend(self.opened.ctime_nsec().to_le_bytes());
        }
        identity
    }

    /// Whether length and modification time are those with which it was opened.
    fn is_unchanged(&self) -> Result<bool> {
        let state = |metadata: &Metadata| (metadata.len(), metadata.modified().ok());
        match fs::metadata(&self.real) {
            Ok(now) => Ok(state(&now) == state(&self.opened)),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::io(&self.name, "examine", source)),
        }
    }

    /// Of a mapping, the pages leave this process. They stay in the page cache, where pages of a mapping that is read in
    /// sequence are the first that the system takes back when it needs memory.
    fn release(&self, offset: u64, len: u64) {
        #[cfg(unix)]
        if let Access::Mapped(map) = &self.access {
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

    fn for_values(self: Box<Self>) -> Box<dyn Object> {
        Box::new(if self.mmap { self.mapped() } else { self.read_once() })
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
        let read = LocalFile::open(&path).unwrap();
        let mapped = LocalFile::open(&path).unwrap().mapped();
        assert!(mapped.all().is_some() && read.all().is_none());
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
        let source = LocalFile::open(&path).unwrap().mapped();
        assert!(source.is_empty() && source.all().is_none());
    }

    #[test]
    fn a_file_that_grew_or_went_away_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"0123").unwrap();
        let source = LocalFile::open(&path).unwrap();
        assert!(source.is_unchanged().unwrap());
        fs::write(&path, b"01234").unwrap();
        assert!(!source.is_unchanged().unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!source.is_unchanged().unwrap());
    }
}
