//! Values of packed tensors: codes, scales and zero points of the rows asked for, read and put together.

mod columns;
mod flat;
mod linear;
mod rows;
mod slabs;

use super::{Reader, Window};
use crate::Result;
use crate::tensor::decode::decode;
use crate::tensor::packed::{Packed, Packing, Stored};
use crate::tensor::{Extent, TensorMeta};

/// A packed tensor that is read, for its values or for the distances of the levels around them.
pub(super) struct Parts<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) tensor: &'a TensorMeta,
    pub(super) packed: &'a Packed,
    pub(super) steps: bool,
}

impl Parts<'_> {
    /// Fills `out`, row by row, with what is in the window. `None` where the parts contradict each other.
    pub(super) fn fill(&self, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let Some(runs) = &self.packed.rows else { return self.read(window, out) };
        // First row of the run in the tensor.
        let mut at = 0;
        for run in runs {
            let (from, to) = (window.row.max(at), (window.row + window.rows).min(at + run.count));
            let together = if run.step == 1 { to.saturating_sub(from) } else { 1 };
            let mut row = from;
            while row < to {
                let place = ((row - window.row) * window.cols) as usize;
                let part = Window { row: run.first + (row - at) * run.step, rows: together, ..window };
                let Some(()) = self.read(part, &mut out[place..][..(together * window.cols) as usize])? else {
                    return Ok(None);
                };
                row += together;
            }
            at += run.count;
        }
        Ok((window.row + window.rows <= at).then_some(()))
    }

    /// The values of a window of the rows as they are stored.
    fn read(&self, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        match self.packed.packing {
            Packing::ByRow(form) => self.by_row(form, window, out),
            Packing::Linear(form) => self.linear(form, window, out),
            Packing::Slabs(form) => self.slabs(form, window, out),
            Packing::Gptq { bits, group, plus } => {
                self.by_column(columns::Form { bits, group, plus, places: None }, window, out)
            }
            Packing::Awq { group } => {
                let form = columns::Form { bits: 4, group, plus: 0, places: Some(columns::AWQ_PLACES) };
                self.by_column(form, window, out)
            }
            Packing::Flat { levels, cols, block, nested } => {
                self.flat(flat::Form { levels, cols, block, nested }, window, out)
            }
        }
    }

    /// Bytes of a part of a stored matrix; `None` where it is not within the matrix.
    fn bytes(&self, stored: &Stored, part: Window) -> Result<Option<Vec<u8>>> {
        let Window { row, col, rows, cols } = part;
        let Some(width) = stored.dtype.bytes().filter(|_| row + rows <= stored.rows && col + cols <= stored.cols)
        else {
            return Ok(None);
        };
        let (mut all, mut buf) = (Vec::with_capacity((rows * cols * width) as usize), Vec::new());
        let whole = cols == stored.cols;
        let (lines, line) = if whole { (1, rows * cols * width) } else { (rows, cols * width) };
        for at in 0..lines {
            let offset = stored.extent.offset + ((row + at) * stored.cols + col) * width;
            let extent = Extent { offset, len: line, ..stored.extent };
            all.extend_from_slice(self.reader.range(self.tensor, extent, &mut buf)?);
        }
        Ok(Some(all))
    }

    fn words(&self, stored: &Stored, part: Window) -> Result<Option<Vec<u32>>> {
        let bytes = self.bytes(stored, part)?;
        Ok(bytes.map(|bytes| bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()))
    }

    /// Hands the codes of a window to `take`, row by row. The rows are streams of codes of up to 8 bits in bytes, the
    /// lowest bits first.
    fn codes(&self, stored: &Stored, bits: u32, window: Window, mut take: impl FnMut(u32)) -> Result<Option<()>> {
        let (first, count) = span(window.col, window.cols, bits, 8);
        let Some(bytes) = self.bytes(stored, Window { col: first, cols: count, ..window })? else { return Ok(None) };
        for line in bytes.chunks_exact(count.max(1) as usize) {
            for index in window.col..window.col + window.cols {
                let bit = index * u64::from(bits);
                let (at, shift) = ((bit / 8 - first) as usize, (bit % 8) as u32);
                let mut code = u32::from(line[at]) >> shift;
                if shift + bits > 8 {
                    code |= u32::from(line[at + 1]) << (8 - shift);
                }
                take(code & ((1 << bits) - 1));
            }
        }
        Ok(Some(()))
    }

    fn floats(&self, stored: &Stored, part: Window) -> Result<Option<Vec<f32>>> {
        let Some(bytes) = self.bytes(stored, part)? else { return Ok(None) };
        let mut values = vec![0.0; (part.rows * part.cols) as usize];
        Ok(decode(&stored.dtype, &bytes, &mut values).map(|_| values))
    }
}

/// The words (first, count) that hold these codes of a stream of codes, lowest bits first.
fn span(first: u64, count: u64, bits: u32, word: u64) -> (u64, u64) {
    let bits = u64::from(bits);
    let from = first * bits / word;
    (from, ((first + count) * bits).div_ceil(word) - from)
}

/// A code of such a stream, of which `word` gives the words.
fn field(word: impl Fn(u64) -> u32, index: u64, bits: u32) -> u32 {
    let bit = index * u64::from(bits);
    let (at, shift) = (bit / 32, (bit % 32) as u32);
    let low = word(at) >> shift;
    let all = if shift + bits > 32 { low | word(at + 1) << (32 - shift) } else { low };
    all & (u32::MAX >> (32 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cross_the_ends_of_words() {
        // Thirty-two codes of three bits, 0, 1, … 7, 0, …, as one number of 96 bits.
        let all = (0..32u128).fold(0, |all, at| all | (at % 8) << (3 * at));
        let words = [all as u32, (all >> 32) as u32, (all >> 64) as u32];
        for at in 0..32 {
            assert_eq!(u64::from(field(|word| words[word as usize], at, 3)), at % 8);
        }
        assert_eq!(field(|_| u32::MAX, 0, 32), u32::MAX);
        assert_eq!((span(0, 32, 3, 32), span(10, 1, 3, 32), span(11, 1, 3, 32)), ((0, 3), (0, 2), (1, 1)));
    }
}
