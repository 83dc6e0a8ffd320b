//! The one place where a tensor's bytes become its values in order, however it is stored.

mod low_rank;
mod unpack;

use std::path::Path;
use std::sync::Arc;

use self::low_rank::Change;
use self::unpack::Parts;
use super::FORMAT;
use super::shard::Shard;
use crate::tensor::block::Grid;
use crate::tensor::decode::{decode, grid_step, steps};
use crate::tensor::low_rank::LowRank;
use crate::tensor::view::{Piece, View};
use crate::tensor::{DType, Extent, Storage, TensorMeta};
use crate::{Error, Result};

/// Longest run of bytes that is read at a time for a digest.
const RUN: u64 = 1 << 18;

/// Longest stretch that is read to gather values out of it; beyond, they are read one by one.
const STRETCH: u64 = 1 << 20;

/// Turns bytes into one number for each value.
type Decoder = fn(&DType, &[u8], &mut [f32]) -> Option<bool>;

/// What is known of values that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Values<'a> {
    /// Whether every value is exactly what is stored, or only the nearest `f32`.
    pub exact: bool,
    /// The stored bytes that the values were decoded from, where these lie in the values' order.
    pub stored: Option<&'a [u8]>,
}

/// Reads tensors out of the files of one checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    root: &'a Path,
    shards: &'a [Shard],
}

impl<'a> Reader<'a> {
    /// For the files of the checkpoint that messages call `root`.
    pub(super) fn new(root: &'a Path, shards: &'a [Shard]) -> Self {
        Self { root, shards }
    }

    /// Bytes `[start, start + len)` of a plain tensor ([`Checkpoint::bytes`](super::Checkpoint::bytes)).
    pub(super) fn bytes<'b>(self, tensor: &TensorMeta, start: u64, len: usize, buf: &'b mut Vec<u8>) -> Result<&'b [u8]>
    where
        'a: 'b,
    {
        let extent = tensor.first_extent();
        let end = start.checked_add(len as u64).filter(|end| tensor.storage.is_plain() && *end <= extent.len);
        match end.and_then(|_| extent.offset.checked_add(start)) {
            Some(offset) => self.range(tensor, Extent { offset, len: len as u64, ..extent }, buf),
            None => {
                let what = format!("bytes [{start}, {start} + {len}) are not within its {} bytes", extent.len);
                Err(self.refuse(tensor, what))
            }
        }
    }

    /// Values of a tensor ([`Checkpoint::values`](super::Checkpoint::values)).
    pub(super) fn values<'b>(
        self,
        tensor: &TensorMeta,
        first: u64,
        out: &mut [f32],
        buf: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>>
    where
        'a: 'b,
    {
        self.read_with(false, tensor, first, out, buf)
    }

    /// Distances of levels ([`Checkpoint::steps`](super::Checkpoint::steps)).
    pub(super) fn steps(self, tensor: &TensorMeta, first: u64, out: &mut [f32], buf: &mut Vec<u8>) -> Result<bool> {
        if let Storage::PlusOne(gain) = &tensor.storage {
            return self.gain_steps(gain, first, out, buf);
        }
        let known = match &tensor.dtype {
            DType::Block(block) => matches!(block.grid(), Grid::Even | Grid::Levels),
            dtype => matches!(dtype, DType::Packed(_)),
        };
        Ok(known && self.read_with(true, tensor, first, out, buf)?.is_some())
    }

    /// Stored bytes of a tensor ([`Checkpoint::stored`](super::Checkpoint::stored)).
    pub(super) fn stored(self, tensor: &TensorMeta, buf: &mut Vec<u8>, mut take: impl FnMut(&[u8])) -> Result<()> {
        for extent in tensor.extents() {
            let mut at = 0;
            while at < extent.len {
                let len = RUN.min(extent.len - at);
                take(self.range(tensor, Extent { offset: extent.offset + at, len, ..extent }, buf)?);
                at += len;
            }
        }
        Ok(())
    }

    /// How long each out feature of a change is, in the order of `B`: a pass over a tensor whose out features are columns.
    pub(super) fn lengths(self, change: &LowRank) -> Result<Option<Arc<[f32]>>> {
        Change { reader: self, change }.lengths()
    }

    fn refuse(self, tensor: &TensorMeta, what: String) -> Error {
        let Extent { shard, offset, .. } = tensor.first_extent();
        let path = self.shards.get(shard).map_or(self.root, Shard::path);
        Error::malformed(path, FORMAT, what).in_tensor(&tensor.name).at(offset)
    }

    fn gain_steps(self, gain: &TensorMeta, first: u64, out: &mut [f32], buf: &mut Vec<u8>) -> Result<bool> {
        if matches!(gain.dtype, DType::Block(_) | DType::Packed(_)) {
            return self.steps(gain, first, out, buf);
        }
        if self.values(gain, first, out, buf)?.is_none() {
            return Ok(false);
        }
        let mut known = true;
        for value in out {
            // llama.cpp's exporter adds the one in the type of the file where that is `f16`, in `f32` elsewhere.
            let added_in_f16 = gain.dtype == DType::F16 && (*value + 1.0).abs() > value.abs();
            let step = grid_step(&gain.dtype, if added_in_f16 { *value + 1.0 } else { *value });
            known &= step.is_some();
            *value = step.unwrap_or_default();
        }
        Ok(known)
    }

    fn read_with<'b>(
        self,
        wants_steps: bool,
        tensor: &TensorMeta,
        first: u64,
        out: &mut [f32],
        buf: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>>
    where
        'a: 'b,
    {
        if !tensor.dtype.is_decoded() {
            return Ok(None);
        }
        let count = out.len() as u64;
        let refuse =
            || self.refuse(tensor, format!("elements [{first}, {first} + {count}) are not rows or blocks of its own"));
        if first.checked_add(count).is_none_or(|end| end > tensor.elements()) {
            return Err(refuse());
        }
        if let Storage::PlusOne(gain) = &tensor.storage {
            let read = self.read_with(wants_steps, gain, first, out, buf)?.map(|read| read.exact);
            // In `f32`, as the models that store gains like this add it, and llama.cpp's exporter.
            out.iter_mut().for_each(|value| *value += 1.0);
            return Ok(read.map(|exact| Values { exact, stored: None }));
        }
        if let Storage::Sum(parts) = &tensor.storage {
            // Levels of two types do not add up to levels.
            return if wants_steps { Ok(None) } else { self.sum(parts, first, out, buf) };
        }
        let decode: Decoder = if wants_steps { steps } else { decode };
        if tensor.storage.is_plain() {
            let start = tensor.dtype.size_of(first).ok_or_else(refuse)?;
            let len = tensor.dtype.size_of(count).ok_or_else(refuse)?;
            let bytes = self.bytes(tensor, start, len as usize, buf)?;
            return Ok(decode(&tensor.dtype, bytes, out).map(|exact| Values { exact, stored: Some(bytes) }));
        }
        let cols = tensor.matrix().1.max(1);
        let (row, col) = (first / cols, first % cols);
        let (rows, width) = if count <= cols - col { (1, count) } else { (count / cols, cols) };
        if rows * width != count || col + width > cols {
            return Err(refuse());
        }
        let window = Window { row, col, rows, cols: width };
        let exact = match &tensor.storage {
            Storage::Plain(_) | Storage::PlusOne(_) | Storage::Sum(_) => return Ok(None),
            Storage::View(view) => self.view(decode, tensor, view, window, out, buf)?,
            Storage::Packed(packed) => {
                Parts { reader: self, tensor, packed, steps: wants_steps }.fill(window, out)?.map(|()| true)
            }
            Storage::LowRank(change) => Change { reader: self, change }.fill(window, out, buf)?,
        };
        Ok(Some(Values { exact: exact.ok_or_else(refuse)?, stored: None }))
    }

    /// Values of two tensors, added up in `f32`.
    fn sum<'b>(
        self,
        [one, other]: &[TensorMeta; 2],
        first: u64,
        out: &mut [f32],
        buf: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>>
    where
        'a: 'b,
    {
        let mut added = vec![0.0; out.len()];
        let read =
            [self.values(one, first, out, buf)?.is_some(), self.values(other, first, &mut added, buf)?.is_some()];
        out.iter_mut().zip(added).for_each(|(sum, value)| *sum += value);
        // A sum in `f32` is rounded as often as not.
        Ok(read.iter().all(|read| *read).then_some(Values { exact: false, stored: None }))
    }

    /// Fills a window out of the pieces of a view; `None` where one cuts a block.
    fn view(
        self,
        decode: Decoder,
        tensor: &TensorMeta,
        view: &View,
        window: Window,
        out: &mut [f32],
        buf: &mut Vec<u8>,
    ) -> Result<Option<bool>> {
        let mut exact = true;
        let begin = view.pieces().partition_point(|piece| piece.row + piece.rows <= window.row);
        for piece in view.pieces()[begin..].iter().take_while(|piece| piece.row < window.row + window.rows) {
            let Some(part) = window.of(piece) else { continue };
            let Some(same) = self.piece(decode, tensor, piece, part, &window, out, buf)? else { return Ok(None) };
            exact &= same;
        }
        Ok(Some(exact))
    }

    /// Fills the part of a window that a piece holds; `None` where the part cuts a block.
    #[allow(clippy::too_many_arguments, reason = "a reader, a source and a target, each in parts")]
    fn piece(
        self,
        decode: Decoder,
        tensor: &TensorMeta,
        piece: &Piece,
        part: Window,
        window: &Window,
        out: &mut [f32],
        buf: &mut Vec<u8>,
    ) -> Result<Option<bool>> {
        let dtype = &tensor.dtype;
        let (down, right) = (part.row - piece.row, part.col - piece.col);
        let start = piece.offset + down * piece.row_step;
        let place = |row: u64| ((part.row - window.row + row) * window.cols + part.col - window.col) as usize;
        let read = |offset: u64, len: u64, buf: &mut Vec<u8>, out: &mut [f32]| -> Result<Option<bool>> {
            Ok(decode(dtype, self.range(tensor, Extent { shard: piece.shard, offset, len }, buf)?, out))
        };
        // A column whose values lie side by side is read as one stretch, not value by value.
        let is_line = |width: u64| piece.cols == 1 && piece.rows > 1 && piece.row_step == width;
        let by_row = |width: u64| piece.col_step == width || piece.cols == 1;
        let together = dtype.bytes().is_none_or(|width| by_row(width) && !is_line(width));
        if together {
            let (Some(skip), Some(line)) = (dtype.size_of(right), dtype.size_of(part.cols)) else { return Ok(None) };
            if part.cols == window.cols && piece.row_step == line {
                let len = line * part.rows;
                return read(start + skip, len, buf, &mut out[place(0)..][..(part.rows * part.cols) as usize]);
            }
            let mut exact = true;
            for row in 0..part.rows {
                let line_out = &mut out[place(row)..][..part.cols as usize];
                let Some(same) = read(start + row * piece.row_step + skip, line, buf, line_out)? else {
                    return Ok(None);
                };
                exact &= same;
            }
            return Ok(Some(exact));
        }
        self.scattered(
            tensor,
            piece,
            Window { row: down, col: right, ..part },
            buf,
            |row, col| place(row) + col as usize,
            out,
        )
    }

    /// Values of a piece that do not lie side by side along its rows. `part` counts from the piece's own corner.
    fn scattered(
        self,
        tensor: &TensorMeta,
        piece: &Piece,
        part: Window,
        buf: &mut Vec<u8>,
        place: impl Fn(u64, u64) -> usize,
        out: &mut [f32],
    ) -> Result<Option<bool>> {
        let Some(width) = tensor.dtype.bytes() else { return Ok(None) };
        // The direction in which values lie closer together is read in stretches, the other one is stepped along.
        let by_cols = piece.row_step < piece.col_step;
        let (inner, inner_step, outer, outer_step) = if by_cols {
            (part.rows, piece.row_step, part.cols, piece.col_step)
        } else {
            (part.cols, piece.col_step, part.rows, piece.row_step)
        };
        let corner = piece.offset + part.row * piece.row_step + part.col * piece.col_step;
        let per_stretch = ((STRETCH - width) / inner_step.max(1) + 1).min(inner);
        let (mut gathered, mut values, mut exact) = (Vec::new(), Vec::new(), true);
        for line in 0..outer {
            for begin in (0..inner).step_by(per_stretch as usize) {
                let count = per_stretch.min(inner - begin);
                let offset = corner + line * outer_step + begin * inner_step;
                let len = (count - 1) * inner_step + width;
                let bytes = self.range(tensor, Extent { shard: piece.shard, offset, len }, buf)?;
                gathered.clear();
                for index in 0..count {
                    gathered.extend_from_slice(&bytes[(index * inner_step) as usize..][..width as usize]);
                }
                values.resize(count as usize, 0.0);
                let Some(same) = decode(&tensor.dtype, &gathered, &mut values) else { return Ok(None) };
                exact &= same;
                for (index, &value) in (begin..).zip(&values) {
                    let (row, col) = if by_cols { (index, line) } else { (line, index) };
                    out[place(row, col)] = value;
                }
            }
        }
        Ok(Some(exact))
    }

    /// Bytes of a file, which belong to a tensor.
    fn range<'b>(self, tensor: &TensorMeta, extent: Extent, buf: &'b mut Vec<u8>) -> Result<&'b [u8]>
    where
        'a: 'b,
    {
        let Some(shard) = self.shards.get(extent.shard) else {
            let what = format!("it lies in shard {} of {}", extent.shard, self.shards.len());
            return Err(Error::malformed(self.root, FORMAT, what).in_tensor(&tensor.name));
        };
        if extent.offset.checked_add(extent.len).is_none_or(|end| end > shard.bytes) {
            let what = format!("bytes [{0}, {0} + {1}) are not within the file", extent.offset, extent.len);
            return Err(Error::malformed(shard.path(), FORMAT, what).in_tensor(&tensor.name).at(extent.offset));
        }
        shard.read(extent.offset, extent.len as usize, buf)
    }
}

/// A rectangle of a matrix.
#[derive(Debug, Clone, Copy)]
struct Window {
    row: u64,
    col: u64,
    rows: u64,
    cols: u64,
}

impl Window {
    /// What of it a piece fills.
    fn of(&self, piece: &Piece) -> Option<Self> {
        let overlap = |a: (u64, u64), b: (u64, u64)| {
            let (from, to) = (a.0.max(b.0), (a.0 + a.1).min(b.0 + b.1));
            (from < to).then(|| (from, to - from))
        };
        let (row, rows) = overlap((self.row, self.rows), (piece.row, piece.rows))?;
        let (col, cols) = overlap((self.col, self.cols), (piece.col, piece.cols))?;
        Some(Self { row, col, rows, cols })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, OpenOptions};

    /// A file of `rows` x `cols` numbers 0, 1, …, and the checkpoint that it makes.
    fn numbers(count: u32, mmap: bool) -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{count}],"data_offsets":[0,{}]}}}}"#, 4 * count);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend((0..count).flat_map(|i| (i as f32).to_le_bytes()));
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let checkpoint = Checkpoint::open(&path, OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
        (folder, checkpoint)
    }

    /// The first tensor of the file seen through pieces, whose offsets count from its own first byte.
    fn seen(checkpoint: &Checkpoint, shape: &[u64], pieces: &[Piece]) -> TensorMeta {
        let stored = &checkpoint.tensors[0];
        let extent = stored.first_extent();
        let moved = pieces.iter().map(|piece| Piece { offset: piece.offset + extent.offset, ..*piece }).collect();
        let view = View::new(&DType::F32, shape, moved, vec![extent]).unwrap();
        TensorMeta { shape: shape.to_vec(), storage: Storage::View(Arc::new(view)), ..stored.clone() }
    }

    fn read(checkpoint: &Checkpoint, tensor: &TensorMeta, first: u64, count: usize) -> Result<Vec<f32>> {
        let (mut out, mut buf) = (vec![f32::NAN; count], Vec::new());
        assert!(checkpoint.values(tensor, first, &mut out, &mut buf)?.is_some_and(|values| values.exact));
        Ok(out)
    }

    const PIECE: Piece = Piece { row: 0, col: 0, rows: 0, cols: 0, shard: 0, offset: 0, row_step: 0, col_step: 4 };

    #[test]
    fn every_view_gives_the_same_values_in_any_window() {
        for mmap in [true, false] {
            let (_folder, checkpoint) = numbers(24, mmap);
            let plain = [Piece { rows: 4, cols: 6, row_step: 24, ..PIECE }];
            let transposed = [Piece { rows: 6, cols: 4, row_step: 4, col_step: 24, ..PIECE }];
            let every_other = [
                Piece { rows: 2, cols: 6, row_step: 48, ..PIECE },
                Piece { row: 2, rows: 2, cols: 6, offset: 24, row_step: 48, ..PIECE },
            ];
            let beside = [
                Piece { rows: 4, cols: 3, row_step: 12, ..PIECE },
                Piece { col: 3, rows: 4, cols: 3, offset: 48, row_step: 12, ..PIECE },
            ];
            let strided = [Piece { rows: 2, cols: 3, row_step: 48, col_step: 8, ..PIECE }];
            type Expected = fn(u64, u64) -> u64;
            let cases: [(&[u64], &[Piece], Expected); 5] = [
                (&[4, 6], &plain, |row, col| 6 * row + col),
                (&[6, 4], &transposed, |row, col| 6 * col + row),
                (&[4, 6], &every_other, |row, col| 6 * (row % 2 * 2 + row / 2) + col),
                (&[4, 6], &beside, |row, col| 12 * (col / 3) + 3 * row + col % 3),
                (&[2, 3], &strided, |row, col| 12 * row + 2 * col),
            ];
            for (shape, pieces, expected) in cases {
                let tensor = seen(&checkpoint, shape, pieces);
                let cols = shape[1];
                let whole: Vec<f32> = (0..tensor.elements()).map(|at| expected(at / cols, at % cols) as f32).collect();
                assert_eq!(read(&checkpoint, &tensor, 0, whole.len()).unwrap(), whole, "{pieces:?}");
                for row in 0..shape[0] {
                    let line = (row * cols) as usize;
                    let rest = whole.len() - line;
                    assert_eq!(read(&checkpoint, &tensor, line as u64, rest).unwrap(), whole[line..]);
                    assert_eq!(read(&checkpoint, &tensor, line as u64 + 1, 2).unwrap(), whole[line + 1..line + 3]);
                }
            }
        }
    }

    #[test]
    fn windows_that_are_neither_rows_nor_within_one_are_refused() {
        let (_folder, checkpoint) = numbers(24, true);
        let tensor = seen(&checkpoint, &[4, 6], &[Piece { rows: 4, cols: 6, row_step: 24, ..PIECE }]);
        for (first, count) in [(1, 6), (0, 9), (18, 12), (u64::MAX, 1)] {
            assert!(read(&checkpoint, &tensor, first, count).is_err(), "{first} {count}");
        }
        assert!(read(&checkpoint, &checkpoint.tensors[0], 20, 5).is_err());
    }

    #[test]
    fn stored_bytes_come_in_the_order_of_the_extents() {
        let (_folder, checkpoint) = numbers(24, true);
        let stored = &checkpoint.tensors[0];
        let start = stored.first_extent().offset;
        let halves = [(48, 48), (0, 48)].map(|(at, len)| Extent { shard: 0, offset: start + at, len });
        let piece = Piece { rows: 1, cols: 24, offset: start, row_step: 96, ..PIECE };
        let view = View::new(&DType::F32, &[24], vec![piece], halves.to_vec()).unwrap();
        let tensor = TensorMeta { storage: Storage::View(Arc::new(view)), ..stored.clone() };
        let mut all = Vec::new();
        checkpoint.stored(&tensor, &mut Vec::new(), |bytes| all.extend_from_slice(bytes)).unwrap();
        let expected: Vec<u8> = (12..24).chain(0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        assert_eq!(all, expected);
    }
}
