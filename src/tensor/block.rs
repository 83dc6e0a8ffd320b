//! Element types whose values are stored in blocks that share scales: those of ggml.
//!
//! Sizes, names and numbers are those of ggml's `ggml.h` and `ggml-common.h`. What a block holds is known to the decoder
//! only.

use std::fmt;

/// A type whose values are stored in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block(usize);

/// How a block type turns its codes into values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Each value is rounded by itself to evenly spaced levels.
    Even,
    /// Each value is rounded by itself to a few levels that are not evenly spaced.
    Levels,
    /// Several values together are rounded to an entry of a code book.
    CodeBook,
    /// The type is known, its values are not decoded.
    Unread,
}

struct Row {
    name: &'static str,
    number: u32,
    values: u64,
    bytes: u64,
    grid: Grid,
}

const fn row(name: &'static str, number: u32, values: u64, bytes: u64, grid: Grid) -> Row {
    Row { name, number, values, bytes, grid }
}

static TYPES: [Row; 27] = [
    row("Q4_0", 2, 32, 18, Grid::Even),
    row("Q4_1", 3, 32, 20, Grid::Even),
    row("Q5_0", 6, 32, 22, Grid::Even),
    row("Q5_1", 7, 32, 24, Grid::Even),
    row("Q8_0", 8, 32, 34, Grid::Even),
    row("Q8_1", 9, 32, 36, Grid::Even),
    row("Q2_K", 10, 256, 84, Grid::Even),
    row("Q3_K", 11, 256, 110, Grid::Even),
    row("Q4_K", 12, 256, 144, Grid::Even),
    row("Q5_K", 13, 256, 176, Grid::Even),
    row("Q6_K", 14, 256, 210, Grid::Even),
    row("Q8_K", 15, 256, 292, Grid::Even),
    row("IQ2_XXS", 16, 256, 66, Grid::CodeBook),
    row("IQ2_XS", 17, 256, 74, Grid::CodeBook),
    row("IQ3_XXS", 18, 256, 98, Grid::CodeBook),
    row("IQ1_S", 19, 256, 50, Grid::CodeBook),
    row("IQ4_NL", 20, 32, 18, Grid::Levels),
    row("IQ3_S", 21, 256, 110, Grid::CodeBook),
    row("IQ2_S", 22, 256, 82, Grid::CodeBook),
    row("IQ4_XS", 23, 256, 136, Grid::Levels),
    row("IQ1_M", 29, 256, 56, Grid::CodeBook),
    row("TQ1_0", 34, 256, 54, Grid::Even),
    row("TQ2_0", 35, 256, 66, Grid::Even),
    row("MXFP4", 39, 32, 17, Grid::Levels),
    // A second scale of the whole tensor lies in another tensor.
    row("NVFP4", 40, 64, 36, Grid::Unread),
    // No second implementation to hold a decoder to.
    row("Q1_0", 41, 128, 18, Grid::Unread),
    row("Q2_0", 42, 64, 18, Grid::Unread),
];

impl Block {
    /// All of them, by ggml's number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TYPES.len()).map(Self)
    }

    /// The type of a name as ggml spells it.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|block| block.as_str() == name)
    }

    /// The type of a number in a GGUF file.
    pub fn numbered(number: u32) -> Option<Self> {
        Self::all().find(|block| block.number() == number)
    }

    /// The name as ggml spells it.
    pub fn as_str(self) -> &'static str {
        TYPES[self.0].name
    }

    /// The number in a GGUF file.
    pub fn number(self) -> u32 {
        TYPES[self.0].number
    }

    /// Values in one block.
    pub fn values(self) -> u64 {
        TYPES[self.0].values
    }

    /// Bytes of one block.
    pub fn bytes(self) -> u64 {
        TYPES[self.0].bytes
    }

    /// How codes become values.
    pub fn grid(self) -> Grid {
        TYPES[self.0].grid
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
