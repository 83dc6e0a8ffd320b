//! Element types whose values are stored in blocks that share scales: those of ggml.
//!
//! Sizes, names and numbers are those of ggml's `ggml.h` and `ggml-common.h`. What a block holds is known to the decoder
//! only.

use std::fmt;

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

macro_rules! blocks {
    ($($(#[$doc:meta])* $name:ident: $number:literal, $values:literal, $bytes:literal, $grid:ident;)*) => {
        /// A type whose values are stored in blocks, as ggml calls it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, missing_docs, reason = "ggml's own names, which say all there is to say")]
        pub enum Block {
            $($(#[$doc])* $name,)*
        }

        impl Block {
            const ALL: &[Self] = &[$(Self::$name),*];

            const fn row(self) -> Row {
                let (name, number, values, bytes, grid) = match self {
                    $(Self::$name => (stringify!($name), $number, $values, $bytes, Grid::$grid),)*
                };
                Row { name, number, values, bytes, grid }
            }
        }
    };
}

// Its number in a GGUF file, the values and the bytes of a block.
blocks! {
    Q4_0: 2, 32, 18, Even;
    Q4_1: 3, 32, 20, Even;
    Q5_0: 6, 32, 22, Even;
    Q5_1: 7, 32, 24, Even;
    Q8_0: 8, 32, 34, Even;
    Q8_1: 9, 32, 36, Even;
    Q2_K: 10, 256, 84, Even;
    Q3_K: 11, 256, 110, Even;
    Q4_K: 12, 256, 144, Even;
    Q5_K: 13, 256, 176, Even;
    Q6_K: 14, 256, 210, Even;
    Q8_K: 15, 256, 292, Even;
    IQ2_XXS: 16, 256, 66, CodeBook;
    IQ2_XS: 17, 256, 74, CodeBook;
    IQ3_XXS: 18, 256, 98, CodeBook;
    IQ1_S: 19, 256, 50, CodeBook;
    IQ4_NL: 20, 32, 18, Levels;
    IQ3_S: 21, 256, 110, CodeBook;
    IQ2_S: 22, 256, 82, CodeBook;
    IQ4_XS: 23, 256, 136, Levels;
    IQ1_M: 29, 256, 56, CodeBook;
    TQ1_0: 34, 256, 54, Even;
    TQ2_0: 35, 256, 66, Even;
    MXFP4: 39, 32, 17, Levels;
    /// A second scale of the whole tensor lies in another tensor.
    NVFP4: 40, 64, 36, Unread;
    /// No second implementation to hold a decoder to.
    Q1_0: 41, 128, 18, Unread;
    /// No second implementation to hold a decoder to.
    Q2_0: 42, 64, 18, Unread;
}

impl Block {
    /// All of them, by ggml's number.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied()
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
        self.row().name
    }

    /// The number in a GGUF file.
    pub fn number(self) -> u32 {
        self.row().number
    }

    /// Values in one block.
    pub fn values(self) -> u64 {
        self.row().values
    }

    /// Bytes of one block.
    pub fn bytes(self) -> u64 {
        self.row().bytes
    }

    /// How codes become values.
    pub fn grid(self) -> Grid {
        self.row().grid
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
