//! Descriptors of all neurons of a checkpoint: held in memory while they are few, in a temporary file when they are many.
//!
//! A 7B model has 270 MB of them, a 70B one 1.8 GB. The file is mapped, so what is looked at is read when it is needed
//! and the system can take the pages back.

use std::fmt;
use std::io::{self, Write};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::NamedTempFile;

use super::local::LocalFile;
use super::store::Object;
use crate::error::{Error, Result};

/// Bytes that are held in memory before a file is used.
const HELD: usize = 32 << 20;

/// Signed 8-bit numbers, in memory or in a mapped file. They compare and print as what they are, wherever they lie.
#[derive(Clone, Default)]
pub struct Numbers {
    held: Arc<Held>,
    range: Range<usize>,
}

enum Held {
    Memory(Vec<u8>),
    Mapped(Box<LocalFile>),
}

impl Default for Held {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Numbers {
    /// A part of them. A range that is not within them is empty.
    #[must_use]
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        let whole = range.start <= range.end && range.end <= self.range.len();
        let range = if whole { self.range.start + range.start..self.range.start + range.end } else { 0..0 };
        Self { held: Arc::clone(&self.held), range }
    }
}

impl Deref for Numbers {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        let all = match &*self.held {
            Held::Memory(numbers) => numbers.as_slice(),
            Held::Mapped(file) => file.all().unwrap_or_default(),
        };
        bytemuck::cast_slice(all.get(self.range.clone()).unwrap_or_default())
    }
}

impl From<Vec<u8>> for Numbers {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { held: Arc::new(Held::Memory(bytes)), range }
    }
}

impl From<Vec<i8>> for Numbers {
    fn from(numbers: Vec<i8>) -> Self {
        // Of one size and alignment, so the memory is taken over.
        bytemuck::cast_vec::<i8, u8>(numbers).into()
    }
}

impl PartialEq for Numbers {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Where descriptors are put during a pass.
pub(crate) struct Spool {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is not in the file yet.
    held: Vec<i8>,
    file: Option<NamedTempFile>,
    written: usize,
}

impl Spool {
    /// A spool whose file, should it need one, lies in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), state: Mutex::default() }
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(&self.folder, "write a temporary file in", error)
    }

    /// Puts numbers away; the range says where.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the file cannot be written.
    pub(crate) fn put(&self, numbers: &[i8]) -> Result<Range<usize>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.written + state.held.len();
        state.held.extend_from_slice(numbers);
        if state.held.len() > HELD {
            state.flush(&self.folder).map_err(|error| self.failed(error))?;
        }
        Ok(start..start + numbers.len())
    }

    /// Everything that was put away, as one run of numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the file cannot be written or read again.
    pub(crate) fn finish(self) -> Result<Numbers> {
        let mut state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if state.file.is_none() {
            return Ok(Numbers::from(state.held));
        }
        state.flush(&self.folder).map_err(|error| self.failed(error))?;
        // Dropped at the end of this function, which removes its name: what is mapped stays.
        let Some(file) = &state.file else { return Ok(Numbers::default()) };
        Numbers::map(file.path())
    }
}

impl State {
    fn flush(&mut self, folder: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(NamedTempFile::new_in(folder)?),
        };
        file.write_all(bytemuck::cast_slice(&self.held))?;
        self.written += self.held.len();
        self.held.clear();
        Ok(())
    }
}

impl Numbers {
    /// The bytes of a file as numbers: mapped, or read into memory where the system refuses a mapping.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = LocalFile::open(path)?.mapped();
        let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
        let held = if file.all().is_some() {
            Held::Mapped(Box::new(file))
        } else {
            let mut bytes = Vec::new();
            file.read(0, len, &mut bytes)?;
            Held::Memory(bytes)
        };
        Ok(Self { held: Arc::new(held), range: 0..len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_away_comes_back_from_memory_and_from_a_file() {
        for pieces in [3, 9] {
            let folder = tempfile::tempdir().unwrap();
            let spool = Spool::new(folder.path());
            let piece = |index: usize| -> Vec<i8> { (0..8 << 20).map(|i: usize| (i % 100 + index) as i8).collect() };
            let places: Vec<_> = (0..pieces).map(|index| spool.put(&piece(index)).unwrap()).collect();
            let all = spool.finish().unwrap();
            assert_eq!(matches!(*all.held, Held::Mapped(_)), pieces > 4);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name any more");
            for (index, place) in places.into_iter().enumerate() {
                assert!(*all.part(place) == piece(index)[..]);
            }
            assert!(all.part(5..usize::MAX).is_empty());
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let spool = Spool::new(Path::new("/no/such/folder"));
        let error = (0..9).find_map(|_| spool.put(&[0; 8 << 20]).err()).unwrap();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
