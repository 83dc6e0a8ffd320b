//! Weights stored as codes whose scales lie in other tensors: GPTQ, AWQ, MLX, and 8-bit floats with scales.
//!
//! A packed tensor is one matrix of (out, in) with one role, whichever way its codes lie. Reading it is the checkpoint's
//! work; nothing here touches a file.

use super::DType;
use super::layout::Extent;

/// A packed type, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(usize);

impl Kind {
    /// The type that reports call so.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| *known == name).map(Self)
    }

    /// The name that reports have.
    pub fn as_str(self) -> &'static str {
        NAMES[self.0]
    }
}

const NAMES: [&str; 9] =
    ["GPTQ-2", "GPTQ-4", "GPTQ-8", "AWQ-4", "MLX-2", "MLX-4", "MLX-8", "F8_E4M3-SCALED", "F8_E5M2-SCALED"];

/// How codes and scales become values. `q` is a code, `s` its scale, `z` its zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `(q - z - plus)·s`; codes packed along the ins, zero points along the outs, lowest bits first. `plus` is 1 in
    /// the first version of the format, 0 in the second.
    Gptq {
        /// What is added to a stored zero point.
        plus: u32,
    },
    /// `(q - z)·s`; codes of (in, out), eight outs to a word in the order 0, 2, 4, 6, 1, 3, 5, 7.
    Awq,
    /// `q·s + b`; codes packed along the ins, lowest bits first.
    Mlx,
    /// `q·s`, codes being 8-bit floats; one scale for each block of rows and columns.
    Scaled {
        /// Rows and columns of a block.
        block: (u64, u64),
    },
}

/// A stored matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its type.
    pub dtype: DType,
    /// Rows as stored.
    pub rows: u64,
    /// Columns as stored.
    pub cols: u64,
    /// Where its bytes lie.
    pub extent: Extent,
}

/// A packed tensor's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// How they become values.
    pub packing: Packing,
    /// Bits of a code.
    pub bits: u32,
    /// Ins that share a scale, unless `order` says otherwise; not used for [`Packing::Scaled`].
    pub group: u64,
    /// The codes.
    pub codes: Stored,
    /// The scales.
    pub scales: Stored,
    /// Zero points, or what is added.
    pub offsets: Option<Stored>,
    /// The group of each in.
    pub order: Option<Stored>,
}

impl Packed {
    /// The parts in the order in which the stored digest takes their bytes.
    pub fn stored(&self) -> impl Iterator<Item = &Stored> {
        [Some(&self.codes), Some(&self.scales), self.offsets.as_ref(), self.order.as_ref()].into_iter().flatten()
    }
}
