//! Weights stored as codes whose scales lie in other tensors: GPTQ, AWQ, MLX, bitsandbytes, compressed-tensors, HQQ,
//! BitNet, microscaled floats, and whole numbers with scales.
//!
//! A packed tensor is one matrix of (out, in), or a stack of such, with one role, whichever way its codes lie. Reading
//! it is the checkpoint's work; nothing here touches a file.

use super::DType;
use super::extent::{Extent, Run};

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

const NAMES: [&str; 30] = [
    "GPTQ-2",
    "GPTQ-3",
    "GPTQ-4",
    "GPTQ-8",
    "AWQ-4",
    "MLX-2",
    "MLX-3",
    "MLX-4",
    "MLX-5",
    "MLX-6",
    "MLX-8",
    "F8_E4M3-SCALED",
    "F8_E5M2-SCALED",
    "I8-SCALED",
    "BNB-INT8",
    "BNB-NF4",
    "BNB-FP4",
    "INT1-PACKED",
    "INT2-PACKED",
    "INT3-PACKED",
    "INT4-PACKED",
    "INT5-PACKED",
    "INT6-PACKED",
    "INT7-PACKED",
    "INT8-PACKED",
    "NVFP4-SCALED",
    "MXFP4-SCALED",
    "MXFP8-SCALED",
    "U8-SCALED",
    "I32-SCALED",
];

/// How codes and scales become values. `q` is a code, `s` its scale, `z` its zero point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `(q - z - plus)·s`; codes of (in, out), those of a column one after the other, lowest bits first; zero points
    /// the same along the out features.
    Gptq {
        /// Bits of a code.
        bits: u32,
        /// In features that share a scale, unless an order says otherwise.
        group: u64,
        /// What is added to a stored zero point: 1 in the first version of the format, 0 in the second.
        plus: u32,
    },
    /// `(q - z)·s`; codes of (in, out), eight out features to a word in the order 0, 2, 4, 6, 1, 3, 5, 7.
    Awq {
        /// In features that share a scale.
        group: u64,
    },
    /// Codes of (out, in), one scale for each block of rows and columns.
    ByRow(ByRow),
    /// `(q - z)·s`, as ONNX has it.
    Linear(Linear),
    /// `(q - z)·s`; codes packed across the rows of a matrix, whose values are read on in order.
    Slabs(Slabs),
    /// `level[q]·s`; two codes to a byte, the high half first, and one scale for each run of values in reading order.
    Flat {
        /// What codes stand for.
        levels: Levels,
        /// Columns of the matrix.
        cols: u64,
        /// Values that share a scale.
        block: u64,
        /// How scales are themselves stored as codes.
        nested: Option<Nested>,
    },
}

/// Whole numbers with one scale for all, one for each out, or one for each run of in features of an out. Zero points
/// lie like the scales, and are as wide as the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Bits of a code, 2, 4 or 8; those of a row one after the other, lowest bits first.
    pub bits: u32,
    /// The zero point where none is stored beside the codes.
    pub middle: i32,
    /// Whether codes lie by (in, out); only those of 8 bits do.
    pub transposed: bool,
    /// In features that share a scale.
    pub group: u64,
}

/// Codes packed across rows: of a matrix with `n` stored rows the element (r, c) holds the codes of (r, c), (r + n, c),
/// (r + 2n, c), …. The matrix is the tensor's values in reading order, whatever its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slabs {
    /// Bits of a code, 8 at most; as many codes as fit whole share an element.
    pub bits: u32,
    /// Whether the first rows are in the high bits.
    pub high_first: bool,
    /// What is taken from the code where no zero points are stored.
    pub middle: u32,
    /// Columns of the tensor.
    pub cols: u64,
    /// Which values share a scale.
    pub shared: Shared,
    /// How a scale is stored.
    pub scale: Scale,
}

/// Which of the values in reading order share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// Runs of that many.
    Runs(u64),
    /// Every so many-th.
    Every(u64),
}

/// Codes of (out, in), each row by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByRow {
    /// What a code stands for.
    pub code: Code,
    /// Rows and columns that share a scale; an order of columns comes before.
    pub block: (u64, u64),
    /// How a scale is stored.
    pub scale: Scale,
    /// What the offsets are.
    pub offset: Offset,
}

/// What a code stands for, before scale and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A number of its stored type.
    Number,
    /// An unsigned number of that many bits (8 at most), lowest bits first, the codes of a row one after the other, less
    /// `middle`.
    Bits {
        /// Bits of a code.
        bits: u32,
        /// What is taken from the code.
        middle: u32,
    },
    /// A 4-bit float of 2 exponent bits and 1 mantissa bit, the low half of a byte first.
    E2m1,
}

/// How a scale is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As a number.
    Plain,
    /// As the number that 127 stands for.
    Of127,
    /// As an exponent of two, plus 127; 255 is no number.
    Exponent,
    /// As a number, times the one number of the second scales.
    Times,
    /// As a number, divided by the one number of the second scales.
    Over,
    /// As the number that codes are divided by.
    Inverse,
    /// Not among the scales: one for all, the bits of an `f32`.
    Stated(u32),
}

/// What a code's offset does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    /// There is none.
    None,
    /// `q·s + b`, one for each scale.
    Added,
    /// `(q - z)·s`, one for each scale.
    Zero,
    /// `(q - z)·s`; each is a code of as many bits as the weights', less `middle` as these, those of a column one after
    /// the other.
    ZeroCodes,
    /// `(q - z)·s`; the same for all, and not stored among the offsets.
    Stated(i32),
}

/// The levels of bitsandbytes' 4-bit types, by code, in units of the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// Quantiles of the normal distribution.
    Nf4,
    /// A float of three bits and a sign.
    Fp4,
}

impl Levels {
    /// By code, as bitsandbytes' tables have them (`get_4bit_type`; for NF4, QLoRA, arXiv 2305.14314, appendix E).
    pub fn table(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// From the lowest to the highest.
    pub fn sorted(self) -> &'static [f32] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4_SORTED,
        }
    }
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const FP4_STEPS: [f32; 8] = [0.0, 0.005_208_333_5, 0.666_666_7, 1.0, 0.333_333_34, 0.5, 0.166_666_67, 0.25];

const FP4: [f32; 16] = {
    let mut table = [0.0; 16];
    let mut at = 1;
    while at < 8 {
        (table[at], table[at + 8]) = (FP4_STEPS[at], -FP4_STEPS[at]);
        at += 1;
    }
    table
};

const FP4_SORTED: [f32; 15] = {
    let order = [3, 2, 5, 4, 7, 6, 1, 0];
    let mut table = [0.0; 15];
    let mut at = 0;
    while at < 8 {
        (table[at], table[14 - at]) = (-FP4_STEPS[order[at]], FP4_STEPS[order[at]]);
        at += 1;
    }
    table
};

/// Scales that are codes: `book[code]·second + offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nested {
    /// Scales that share a second scale.
    pub block: u64,
    /// The bits of the `f32` that is added.
    pub offset: u32,
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

impl Stored {
    /// The same bytes as a matrix of single bytes; `None` where the type has no size.
    pub fn bytes(mut self) -> Option<Self> {
        self.cols = self.cols.checked_mul(self.dtype.bytes()?)?;
        self.dtype = DType::U8;
        Some(self)
    }

    /// Its rows from `first` on.
    fn narrowed(&self, first: u64, rows: u64) -> Option<Self> {
        let line = self.cols.checked_mul(self.dtype.bytes()?)?;
        let inside = first.checked_add(rows)? <= self.rows;
        let extent = Extent { offset: self.extent.offset + first * line, len: rows * line, ..self.extent };
        inside.then(|| Self { rows, extent, ..self.clone() })
    }
}

/// A packed tensor's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// How they become values.
    pub packing: Packing,
    /// The codes.
    pub codes: Stored,
    /// The scales.
    pub scales: Stored,
    /// Zero points, or what is added.
    pub offsets: Option<Stored>,
    /// The group of each in.
    pub order: Option<Stored>,
    /// Scales of the scales.
    pub second: Option<Stored>,
    /// What the codes of scales stand for.
    pub book: Option<Stored>,
    /// The rows that are the tensor's, in its order; all where nothing is said.
    pub rows: Option<Vec<Run>>,
}

impl Packed {
    /// Codes and scales, and nothing else.
    pub fn new(packing: Packing, codes: Stored, scales: Stored) -> Self {
        Self { packing, codes, scales, offsets: None, order: None, second: None, book: None, rows: None }
    }

    /// The parts in the order in which the stored digest takes their bytes.
    pub fn stored(&self) -> impl Iterator<Item = &Stored> {
        let others = [&self.offsets, &self.order, &self.second, &self.book];
        [&self.codes, &self.scales].into_iter().chain(others.into_iter().flatten())
    }

    /// The same in shards with numbers larger by `by`.
    #[must_use]
    pub(crate) fn shifted(mut self, by: usize) -> Self {
        let others = [&mut self.offsets, &mut self.order, &mut self.second, &mut self.book];
        let all = [&mut self.codes, &mut self.scales].into_iter().chain(others.into_iter().flatten());
        all.for_each(|stored| stored.extent.shard += by);
        self
    }

    /// Bytes of all parts; saturates.
    pub fn len(&self) -> u64 {
        self.stored().fold(0, |sum, stored| sum.saturating_add(stored.extent.len))
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same with these of its rows only. Where rows lie one after the other, so do the bytes of the part.
    /// `None` where it is a part already or the rows are not its own.
    pub fn part(&self, runs: &[Run], rows: u64) -> Option<Self> {
        if self.rows.is_some() {
            return None;
        }
        let (mut first, mut end) = (u64::MAX, 0);
        for run in runs {
            (first, end) = (first.min(run.first), end.max(run.end()?));
        }
        let mut part = Self { rows: Some(runs.to_vec()), ..self.clone() };
        if first >= end || end > rows {
            return None;
        }
        if let Packing::ByRow(form) = self.packing
            && form.offset != Offset::ZeroCodes
            && self.codes.rows == rows
        {
            // Blocks of rows stay whole, but one that is shared by all.
            let (tall, shared) = (form.block.0.max(1), self.scales.rows == 1);
            let start = if shared { first } else { first / tall * tall };
            let scales = |stored: &Stored| match shared {
                true => Some(stored.clone()),
                false => stored.narrowed(start / tall, end.div_ceil(tall) - start / tall),
            };
            part.codes = self.codes.narrowed(start, end - start)?;
            part.scales = scales(&self.scales)?;
            part.offsets = match &self.offsets {
                Some(offsets) => Some(scales(offsets)?),
                None => None,
            };
            let block = (if shared { end - start } else { tall }, form.block.1);
            part.packing = Packing::ByRow(ByRow { block, ..form });
            part.rows = Some(runs.iter().map(|run| Run { first: run.first - start, ..*run }).collect());
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_levels_are_those_of_the_table() {
        for levels in [Levels::Nf4, Levels::Fp4] {
            let mut own = levels.table().to_vec();
            own.sort_unstable_by(f32::total_cmp);
            own.dedup_by(|a, b| *a == *b);
            assert_eq!(own, levels.sorted(), "{levels:?}");
        }
    }

    #[test]
    fn a_part_takes_the_bytes_of_its_rows_only() {
        let stored = |dtype: DType, rows, cols, offset| {
            let len = rows * cols * dtype.bytes().unwrap();
            Stored { dtype, rows, cols, extent: Extent { shard: 3, offset, len } }
        };
        let by_row = |block| {
            let form = ByRow { code: Code::E2m1, block, scale: Scale::Exponent, offset: Offset::None };
            Packed::new(Packing::ByRow(form), stored(DType::U8, 8, 16, 100), stored(DType::U8, 8, 1, 1000))
        };
        let odd = [Run { first: 5, count: 2, step: 2 }];
        let part = by_row((1, 32)).part(&odd, 8).unwrap();
        assert_eq!((part.codes.extent.offset, part.codes.extent.len, part.codes.rows), (180, 48, 3));
        assert_eq!((part.scales.extent.offset, part.scales.extent.len), (1005, 3));
        assert_eq!(part.rows, Some(vec![Run { first: 0, count: 2, step: 2 }]));
        assert_eq!(part.part(&odd, 8), None, "a part of a part");
        // One scale for all, and one for each pair of rows.
        let scaled = |tall, count| {
            let form = ByRow { code: Code::Number, block: (tall, 16), scale: Scale::Plain, offset: Offset::None };
            Packed::new(Packing::ByRow(form), stored(DType::I8, 8, 16, 100), stored(DType::F32, count, 1, 1000))
        };
        let whole = scaled(8, 1).part(&odd, 8).unwrap();
        assert_eq!((whole.codes.extent.offset, whole.codes.rows, whole.scales.extent.len), (180, 3, 4));
        let pairs = scaled(2, 4).part(&odd, 8).unwrap();
        assert_eq!((pairs.codes.extent.offset, pairs.codes.rows), (164, 4));
        assert_eq!((pairs.scales.extent.offset, pairs.scales.rows), (1008, 2));
        assert_eq!(pairs.rows, Some(vec![Run { first: 1, count: 2, step: 2 }]));
        for wrong in [Run { first: 7, count: 2, step: 1 }, Run { first: 0, count: 3, step: u64::MAX }] {
            assert_eq!(by_row((1, 32)).part(&[wrong], 8), None);
        }
    }
}
