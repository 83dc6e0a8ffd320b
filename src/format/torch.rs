//! One file that `torch.save` wrote: which tensors its pickle names, and where in the file their bytes lie.
//!
//! Two containers are known: a zip archive whose members are stored as they are, and the older sequence of pickles
//! followed by raw storages. Nothing is executed, no tensor's bytes are read, and the tensors stay ranges of the file.

mod archive;
mod directory;
mod legacy;
mod quantised;
mod state;
mod tensors;

use std::collections::HashMap;
use std::path::Path;

use super::Header;
use super::pickle::{self, Fault, Pickle, Refusal, Why};
use crate::bytes::Object;
use crate::finding::{Capped, Code, Finding, Level};
use crate::limits::MAX_PICKLE_BYTES;
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "PyTorch checkpoint";

/// PyTorch begins storages at multiples of this, and gives tensors room that is rounded up to it.
const STORAGE_ALIGNMENT: u64 = 64;

/// Where the bytes of a storage lie: first byte in the file, and how many.
type Ranges = HashMap<String, (u64, u64)>;

/// A file of which errors and findings speak.
#[derive(Clone, Copy)]
struct Named<'a> {
    /// As errors name it.
    path: &'a Path,
    /// As findings name it.
    name: &'a str,
    object: &'a dyn Object,
}

/// Reads what the file says of its tensors; findings call it `name`.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) with the byte offset wherever the file breaks its format, is
/// compressed or big-endian, or has no tensors that can be found; [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a
/// ceiling of [`limits`](crate::limits); [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) for an archive that is no
/// checkpoint; [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file shrank meanwhile.
pub(super) fn read(object: &dyn Object, name: &str) -> Result<Header> {
    let file = Named { path: object.name(), name, object };
    let mut buf = Vec::new();
    let head = object.read(0, object.len().min(4) as usize, &mut buf)?;
    if head.starts_with(b"PK\x03\x04") { archive::read(file) } else { legacy::read(file) }
}

/// Whether a file that begins with `head` is in the older form: its first pickle is a number that stands for that.
pub(super) fn is_legacy(head: &[u8]) -> bool {
    pickle::load(head).is_ok_and(|pickle| legacy::has_magic(&pickle))
}

impl Named<'_> {
    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::malformed(self.path, FORMAT, what)
    }

    /// The error for a fault of the pickle at byte `start` of the file.
    fn fault(&self, fault: Fault, start: u64) -> Error {
        let at = start + fault.at as u64;
        match fault.why {
            Why::CutOff => self.malformed("its pickle is cut off").at(at),
            Why::Broken(what) => self.malformed(format!("broken pickle: {what}")).at(at),
            Why::Over { what, found, limit } => Error::limit(self.path, what, found, limit),
        }
    }

    /// Hands the pickle at byte `start` to `take`. It has `len` bytes at most; where it may be much shorter than that,
    /// only as much is read as is needed.
    fn pickle<T>(&self, start: u64, len: u64, take: impl FnOnce(&Pickle<'_>) -> Result<T>) -> Result<T> {
        const FIRST: u64 = 1 << 16;
        let mut buf = Vec::new();
        let mut window = FIRST;
        loop {
            let taken = window.min(len).min(MAX_PICKLE_BYTES);
            let bytes = self.object.read(start, taken as usize, &mut buf)?;
            match pickle::load(bytes) {
                Ok(pickle) => return take(&pickle),
                Err(Fault { why: Why::CutOff, .. }) if taken < len.min(MAX_PICKLE_BYTES) => window *= 8,
                Err(Fault { why: Why::CutOff, .. }) if taken < len => {
                    let (path, limit) = (self.path.to_path_buf(), MAX_PICKLE_BYTES);
                    return Err(Error::limit(path, "length of a pickle in bytes", len, limit));
                }
                Err(fault) => return Err(self.fault(fault, start)),
            }
        }
    }

    /// One finding for each function that the pickle names and that was refused.
    fn refusals(&self, refused: &[Refusal]) -> Vec<Finding> {
        let is_object = |refusal: &&Refusal| refusal.built && !refusal.called;
        let (mut modules, mut scripts) = (Vec::new(), 0usize);
        for refusal in refused.iter().filter(is_object) {
            match refusal.name.starts_with("__torch__") {
                true => scripts += 1,
                false => modules.push(refusal.name.as_str()),
            }
        }
        let mut told = Vec::new();
        let mut tell = |level, message| {
            told.push(Finding::new(Code::PickleRefused, level, message, self.name.to_owned()));
        };
        if !modules.is_empty() {
            let (count, names) = (modules.len(), listed(&modules));
            tell(
                Level::Warning,
                format!("the pickle holds objects of {count} classes that a loader would import: {names}"),
            );
        }
        if scripts > 0 {
            tell(Level::Note, "a TorchScript archive, whose code a loader would run; it was not looked at".to_owned());
        }
        let mut found = Capped::new(Code::PickleRefused, Level::Warning);
        for refusal in refused.iter().filter(|refusal| !is_object(refusal)) {
            let what = || format!("the pickle {}, which was refused", asks(refusal));
            found.push(what, || self.name.to_owned());
        }
        told.extend(found.finish("more functions that the pickle names and that were refused"));
        told
    }

    /// The error for a pickle whose root is nothing to look for tensors in.
    fn no_state(&self, pickle: &Pickle<'_>) -> Error {
        let asked = pickle.refused.iter().find(|refusal| refusal.called).or_else(|| pickle.refused.first());
        let what = match asked {
            Some(refusal) => format!("it holds no dictionary of tensors, and {}, which was refused", asks(refusal)),
            None => "it holds no dictionary of tensors".to_owned(),
        };
        self.malformed(what)
    }
}

/// What the pickle wants of a function that is not listed.
fn asks(Refusal { name, called, .. }: &Refusal) -> String {
    format!("{} {}", if *called { "asks to call" } else { "names" }, shown(name))
}
