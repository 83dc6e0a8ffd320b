//! Ranges of bytes, and of rows.

/// A range of bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Extent {
    /// Index of the shard.
    pub shard: usize,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// The byte after the last; saturates.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// Rows of a matrix, one after the other or with others between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first one.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// How much further on the next one is; 1 or more.
    pub step: u64,
}

impl Run {
    /// Rows that follow each other.
    pub fn new(first: u64, count: u64) -> Self {
        Self { first, count, step: 1 }
    }

    /// The row after its last one; `None` where it has no rows, or that overflows.
    pub fn end(&self) -> Option<u64> {
        self.first.checked_add(self.count.checked_sub(1)?.checked_mul(self.step)?)?.checked_add(1)
    }
}
