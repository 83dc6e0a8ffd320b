//! The account of a weight file's bytes: what is header, tensor or padding, and what is left over.
//!
//! What is left over may be anything, weights among it, so it is counted as unread. Loaders step over it.

use crate::Result;
use crate::bytes::Object;
use crate::finding::{Capped, Code, Finding, Level};
use crate::unread::{Unread, UnreadKind};

/// Zeros up to this many bytes are counted, but not worth a remark: a page, which is what allocators round to.
pub(crate) const PAGE: u64 = 4096;

/// Padding is shorter than the largest page of any system, whatever alignment a file states.
pub(crate) const MAX_PADDING: u64 = 1 << 16;

/// Most places of one file that are listed one by one.
const MOST_PLACES: usize = 20;

/// What a format leaves over of a file.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    pub(crate) unread: Vec<Unread>,
    pub(crate) findings: Vec<Finding>,
}

/// The ranges of a file that are accounted for.
pub(crate) struct Account<'a> {
    object: &'a dyn Object,
    /// As findings name the file.
    name: &'a str,
    taken: Vec<(u64, u64)>,
}

impl<'a> Account<'a> {
    pub(crate) fn new(object: &'a dyn Object, name: &'a str) -> Self {
        Self { object, name, taken: Vec::new() }
    }

    /// Bytes `[from, to)` are accounted for.
    pub(crate) fn take(&mut self, from: u64, to: u64) {
        if from < to {
            self.taken.push((from, to));
        }
    }

    /// What is left over. Zeros shorter than `alignment` are padding; at an alignment of one there is none, and every
    /// byte is told.
    pub(crate) fn settle(self, alignment: u64) -> Result<Rest> {
        let mut told = Capped::new(Code::HeaderGap, Level::Warning);
        let mut rest = Rest::default();
        let (mut more, mut more_bytes) = (0u64, 0u64);
        let mut buf = Vec::new();
        for (from, to) in self.gaps() {
            let len = to - from;
            let looked_at = alignment > 1 && len <= MAX_PADDING.max(PAGE);
            let is_zero = looked_at && self.object.read(from, len as usize, &mut buf)?.iter().all(|byte| *byte == 0);
            if is_zero && len < alignment.min(MAX_PADDING) {
                continue;
            }
            if !is_zero || len > PAGE {
                told.push(|| format!("{len} bytes at byte {from} belong to no tensor"), || self.name.to_owned());
            }
            if rest.unread.len() < MOST_PLACES {
                rest.unread.push(Unread::new(format!("{}: at byte {from}", self.name), len, UnreadKind::Gap));
            } else {
                (more, more_bytes) = (more + 1, more_bytes + len);
            }
        }
        if more > 0 {
            let place = format!("{}: {more} more places", self.name);
            rest.unread.push(Unread::new(place, more_bytes, UnreadKind::Gap));
        }
        rest.findings = told.finish("more gaps between tensors");
        Ok(rest)
    }

    /// The ranges between those that were taken, in order.
    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut taken = self.taken.clone();
        taken.sort_unstable();
        let (mut gaps, mut covered) = (Vec::new(), 0);
        for (from, to) in taken.into_iter().chain([(self.object.len(), self.object.len())]) {
            if from > covered {
                gaps.push((covered, from));
            }
            covered = covered.max(to);
        }
        gaps
    }
}
