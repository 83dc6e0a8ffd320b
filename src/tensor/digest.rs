//! A digest of how tensors will be read: name, type, shape, and every number of their storage.
//!
//! Two tensors with one digest, in files of one content, have the same values. Every struct is taken apart without `..`
//! and every enum matched without `_`, so that a new field or variant does not compile until it is in the digest.

use sha2::{Digest, Sha256};

use super::extent::{Extent, Run};
use super::low_rank::{LowRank, Magnitude};
use super::packed::{ByRow, Code, Levels, Linear, Nested, Offset, Packed, Packing, Scale, Shared, Slabs, Stored};
use super::storage::Storage;
use super::view::Piece;
use super::{DType, TensorMeta};

/// A digest under way. What goes in has a fixed length or says its length first, so that no two sequences of values give
/// the same bytes.
#[derive(Default)]
pub(crate) struct Canonical(Sha256);

impl Canonical {
    pub(crate) fn number(&mut self, number: impl Into<u64>) {
        self.0.update(number.into().to_le_bytes());
    }

    /// As many numbers as the place has, always.
    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.number(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    pub(crate) fn list<T>(&mut self, values: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.number(values.len() as u64);
        values.iter().for_each(|value| put(self, value));
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// Everything that says how a tensor is read.
    pub(crate) fn tensor(&mut self, tensor: &TensorMeta) {
        let TensorMeta { name, dtype, shape, storage } = tensor;
        self.bytes(name.as_bytes());
        self.dtype(dtype);
        self.list(shape, |out, &size| out.number(size));
        match storage {
            Storage::Plain(extent) => {
                self.number(0u8);
                self.extent(extent);
            }
            Storage::View(view) => {
                self.number(1u8);
                self.list(view.pieces(), Self::piece);
                self.list(view.extents(), Self::extent);
            }
            Storage::Packed(packed) => {
                self.number(2u8);
                self.packed(packed);
            }
            Storage::LowRank(change) => {
                self.number(3u8);
                self.low_rank(change);
            }
            Storage::PlusOne(gain) => {
                self.number(4u8);
                self.tensor(gain);
            }
            Storage::Sum(parts) => {
                self.number(5u8);
                self.list(parts.as_slice(), Self::tensor);
            }
        }
    }

    fn dtype(&mut self, dtype: &DType) {
        // An unknown type may be called like a known one.
        self.number(matches!(dtype, DType::Other(_)));
        self.bytes(dtype.as_str().as_bytes());
    }

    fn extent(&mut self, extent: &Extent) {
        let &Extent { shard, offset, len } = extent;
        self.numbers([shard as u64, offset, len]);
    }

    fn piece(&mut self, piece: &Piece) {
        let &Piece { row, col, rows, cols, shard, offset, row_step, col_step } = piece;
        self.numbers([row, col, rows, cols, shard as u64, offset, row_step, col_step]);
    }

    fn run(&mut self, run: &Run) {
        let &Run { first, count, step } = run;
        self.numbers([first, count, step]);
    }

    fn packed(&mut self, packed: &Packed) {
        let Packed { packing, codes, scales, offsets, order, second, book, rows } = packed;
        self.packing(packing);
        self.stored(codes);
        self.stored(scales);
        for part in [offsets, order, second, book] {
            self.option(part.as_ref(), Self::stored);
        }
        self.option(rows.as_ref(), |out, rows| out.list(rows, Self::run));
    }

    fn stored(&mut self, stored: &Stored) {
        let Stored { dtype, rows, cols, extent } = stored;
        self.dtype(dtype);
        self.number(*rows);
        self.number(*cols);
        self.extent(extent);
    }

    fn packing(&mut self, packing: &Packing) {
        match *packing {
            Packing::Gptq { bits, group, plus } => {
                self.numbers([0, u64::from(bits), group, u64::from(plus)]);
            }
            Packing::Awq { group } => {
                self.numbers([1, group]);
            }
            Packing::ByRow(ByRow { code, block: (tall, wide), scale, offset }) => {
                let (scale, offset) = (number_of_scale(scale), number_of_offset(offset));
                let (code, bits, middle) = match code {
                    Code::Number => (0, 0, 0),
                    Code::Bits { bits, middle } => (1, u64::from(bits), u64::from(middle)),
                    Code::E2m1 => (2, 0, 0),
                };
                self.numbers([2, code, bits, middle, tall, wide, scale, offset]);
            }
            Packing::Linear(Linear { bits, middle, transposed, group }) => {
                let middle = u64::from(middle.cast_unsigned());
                self.numbers([3, u64::from(bits), middle, u64::from(transposed), group]);
            }
            Packing::Slabs(Slabs { bits, high_first, middle, cols, shared, scale }) => {
                let (runs, count) = match shared {
                    Shared::Runs(count) => (0, count),
                    Shared::Every(count) => (1, count),
                };
                let (bits, middle, scale) = (u64::from(bits), u64::from(middle), number_of_scale(scale));
                self.numbers([5, bits, u64::from(high_first), middle, cols, runs, count, scale]);
            }
            Packing::Flat { levels, cols, block, nested } => {
                let levels = match levels {
                    Levels::Nf4 => 0,
                    Levels::Fp4 => 1,
                };
                self.numbers([4, levels, cols, block]);
                self.option(nested, |out, Nested { block, offset }| {
                    out.number(block);
                    out.number(offset);
                });
            }
        }
    }

    fn low_rank(&mut self, change: &LowRank) {
        let LowRank { base, b, a, runs, transposed, scale, magnitude } = change;
        self.tensor(base);
        self.tensor(b);
        self.option(a.as_ref(), Self::tensor);
        self.option(runs.as_ref(), |out, runs| {
            out.list(runs, |out, &(first, count)| {
                out.number(first);
                out.number(count);
            });
        });
        self.number(*transposed);
        self.number(scale.to_bits());
        self.option(magnitude.as_ref(), |out, magnitude| match magnitude {
            Magnitude::Lengths(stated) => {
                out.number(0u8);
                out.tensor(stated);
            }
            Magnitude::Known(stated, lengths) => {
                out.number(1u8);
                out.tensor(stated);
                out.list(lengths, |out, length| out.number(length.to_bits()));
            }
        });
    }
}

/// A number for each way to store a scale; those of a stated one begin above all others.
fn number_of_scale(scale: Scale) -> u64 {
    match scale {
        Scale::Plain => 0,
        Scale::Of127 => 1,
        Scale::Exponent => 2,
        Scale::Times => 3,
        Scale::Over => 4,
        Scale::Inverse => 5,
        Scale::Stated(bits) => 1 << 32 | u64::from(bits),
    }
}

/// A number for each kind of offset; those of a stated one begin above all others.
fn number_of_offset(offset: Offset) -> u64 {
    match offset {
        Offset::None => 0,
        Offset::Added => 1,
        Offset::Zero => 2,
        Offset::ZeroCodes => 3,
        Offset::Stated(zero) => 1 << 32 | u64::from(zero.cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::view::View;
    use super::*;

    fn digest(tensor: &TensorMeta) -> [u8; 32] {
        let mut digest = Canonical::default();
        digest.tensor(tensor);
        digest.finish()
    }

    fn plain(name: &str, offset: u64) -> TensorMeta {
        let (name, dtype, shape) = (name.to_owned(), DType::F32, vec![4, 6]);
        TensorMeta { name, dtype, shape, storage: extent(0, offset) }
    }

    fn extent(shard: usize, offset: u64) -> Storage {
        Storage::Plain(Extent { shard, offset, len: 96 })
    }

    fn view(first: [u64; 2], row_step: u64) -> Storage {
        let piece = |row: u64, offset| Piece { row, col: 0, rows: 2, cols: 6, shard: 0, offset, row_step, col_step: 4 };
        let pieces = vec![piece(0, first[0]), piece(2, first[1])];
        let extents = vec![Extent { shard: 0, offset: 0, len: 96 }];
        Storage::View(Arc::new(View::new(&DType::F32, &[4, 6], pieces, extents).unwrap()))
    }

    fn packed(packing: Packing, rows: Option<Vec<Run>>) -> Storage {
        let stored =
            |dtype: DType, len| Stored { dtype, rows: 4, cols: 6, extent: Extent { shard: 0, offset: 0, len } };
        let parts = Packed::new(packing, stored(DType::U8, 24), stored(DType::F32, 96));
        Storage::Packed(Arc::new(Packed { rows, ..parts }))
    }

    fn low_rank(scale: f32, runs: Option<Vec<(u64, u64)>>, magnitude: Option<Magnitude>) -> Storage {
        let (base, b, a) = (plain("w", 0), plain("b", 96), Some(plain("a", 192)));
        let runs = runs.map(Arc::from);
        Storage::LowRank(Arc::new(LowRank { base, b, a, runs, transposed: false, scale, magnitude }))
    }

    #[test]
    fn whatever_moves_a_value_moves_the_digest() {
        let by_row = |block, scale| ByRow { code: Code::E2m1, block, scale, offset: Offset::None };
        let flat = |nested| Packing::Flat { levels: Levels::Nf4, cols: 6, block: 2, nested };
        let slabs = |shared| Slabs { bits: 2, high_first: true, middle: 1, cols: 6, shared, scale: Scale::Plain };
        let run = |step| Some(vec![Run { first: 0, count: 2, step }]);
        let lengths = |numbers: [f32; 2]| Some(Magnitude::Known(plain("m", 300), numbers.into()));
        let storages = [
            extent(0, 0),
            view([0, 48], 24),
            view([48, 0], 24),
            view([0, 24], 48),
            packed(Packing::Awq { group: 2 }, None),
            packed(Packing::Awq { group: 3 }, None),
            packed(Packing::Gptq { bits: 4, group: 2, plus: 0 }, None),
            packed(Packing::Gptq { bits: 4, group: 2, plus: 1 }, None),
            packed(Packing::ByRow(by_row((1, 2), Scale::Plain)), None),
            packed(Packing::ByRow(by_row((2, 1), Scale::Plain)), None),
            packed(Packing::ByRow(by_row((1, 2), Scale::Of127)), None),
            packed(Packing::Linear(Linear { bits: 8, middle: 0, transposed: false, group: 6 }), None),
            packed(Packing::Linear(Linear { bits: 8, middle: -1, transposed: false, group: 6 }), None),
            packed(Packing::ByRow(by_row((1, 2), Scale::Stated(0))), None),
            packed(Packing::ByRow(by_row((1, 2), Scale::Stated(1))), None),
            packed(Packing::Slabs(slabs(Shared::Runs(2))), None),
            packed(Packing::Slabs(slabs(Shared::Every(2))), None),
            packed(flat(None), None),
            packed(flat(Some(Nested { block: 2, offset: 1 })), None),
            packed(flat(Some(Nested { block: 2, offset: 2 })), None),
            packed(flat(None), run(1)),
            packed(flat(None), run(2)),
            low_rank(1.0, None, None),
            low_rank(2.0, None, None),
            low_rank(1.0, Some(vec![(0, 4)]), None),
            low_rank(1.0, Some(vec![(0, 2), (2, 2)]), None),
            low_rank(1.0, None, Some(Magnitude::Lengths(plain("m", 300)))),
            low_rank(1.0, None, lengths([1.0, 2.0])),
            low_rank(1.0, None, lengths([1.0, 3.0])),
        ];
        let mut tensors: Vec<TensorMeta> = storages.into_iter().map(|storage| plain("w", 0).with(storage)).collect();
        tensors.extend([plain("v", 0), plain("w", 4)]);
        tensors.push(TensorMeta { shape: vec![6, 4], ..plain("w", 0) });
        tensors.push(TensorMeta { storage: extent(1, 0), ..plain("w", 0) });
        tensors.push(plain("w", 0).with(Storage::PlusOne(Arc::new(plain("w", 0)))));
        tensors.push(TensorMeta { dtype: DType::I32, ..plain("w", 0) });
        tensors.push(TensorMeta { dtype: DType::Other("F32".to_owned()), ..plain("w", 0) });
        for (at, tensor) in tensors.iter().enumerate() {
            assert_eq!(digest(tensor), digest(&tensor.clone()));
            for other in &tensors[..at] {
                assert_ne!(digest(tensor), digest(other), "{tensor:?} and {other:?}");
            }
        }
    }

    #[test]
    fn lists_do_not_run_into_each_other() {
        let digest = |lists: &[&[u8]]| {
            let mut digest = Canonical::default();
            lists.iter().for_each(|list| digest.bytes(list));
            digest.finish()
        };
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"ab"]), digest(&[b"ab", b""]));
    }
}
