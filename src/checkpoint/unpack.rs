//! Values of packed tensors: codes, scales and zero points of the rows asked for, read and put together.

use super::Checkpoint;
use super::values::Window;
use crate::Result;
use crate::tensor::TensorMeta;
use crate::tensor::decode::{decode, grid_step};
use crate::tensor::layout::Extent;
use crate::tensor::packed::{Packed, Packing, Stored};

/// Where in a word of eight codes AWQ puts the columns.
const AWQ_PLACES: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Checkpoint {
    /// Fills `out`, row by row, with the values in the window, or with the distances of the levels around them. `None`
    /// where the parts contradict each other.
    pub(super) fn unpack(
        &self,
        tensor: &TensorMeta,
        packed: &Packed,
        window: Window,
        steps: bool,
        out: &mut [f32],
    ) -> Result<Option<()>> {
        let parts = Parts { checkpoint: self, tensor };
        match packed.packing {
            Packing::Scaled { block } => parts.scaled(packed, block, window, steps, out),
            Packing::Mlx => parts.mlx(packed, window, steps, out),
            Packing::Gptq { .. } | Packing::Awq => parts.zeroed(packed, window, steps, out),
        }
    }
}

struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    tensor: &'a TensorMeta,
}

impl Parts<'_> {
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
            all.extend_from_slice(self.checkpoint.range(self.tensor, extent, &mut buf)?);
        }
        Ok(Some(all))
    }

    fn words(&self, stored: &Stored, part: Window) -> Result<Option<Vec<u32>>> {
        let bytes = self.bytes(stored, part)?;
        Ok(bytes.map(|bytes| bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()))
    }

    fn floats(&self, stored: &Stored, part: Window) -> Result<Option<Vec<f32>>> {
        let Some(bytes) = self.bytes(stored, part)? else { return Ok(None) };
        let mut values = vec![0.0; (part.rows * part.cols) as usize];
        Ok(decode(&stored.dtype, &bytes, &mut values).map(|_| values))
    }

    fn scaled(
        &self,
        packed: &Packed,
        (tall, wide): (u64, u64),
        window: Window,
        steps: bool,
        out: &mut [f32],
    ) -> Result<Option<()>> {
        let (top, left) = (window.row / tall, window.col / wide);
        let rows = (window.row + window.rows).div_ceil(tall) - top;
        let cols = (window.col + window.cols).div_ceil(wide) - left;
        let Some(scales) = self.floats(&packed.scales, Window { row: top, col: left, rows, cols })? else {
            return Ok(None);
        };
        let Some(codes) = self.floats(&packed.codes, window)? else { return Ok(None) };
        for (at, (slot, code)) in out.iter_mut().zip(codes).enumerate() {
            let (row, col) = (window.row + at as u64 / window.cols, window.col + at as u64 % window.cols);
            let scale = scales[((row / tall - top) * cols + col / wide - left) as usize];
            *slot = match steps {
                true => grid_step(&packed.codes.dtype, code).unwrap_or(0.0) * scale.abs(),
                false => code * scale,
            };
        }
        Ok(Some(()))
    }

    fn mlx(&self, packed: &Packed, window: Window, steps: bool, out: &mut [f32]) -> Result<Option<()>> {
        let Some(biases) = &packed.offsets else { return Ok(None) };
        let per_word = u64::from(32 / packed.bits);
        let span = |size: u64| {
            let first = window.col / size;
            Window { col: first, cols: (window.col + window.cols).div_ceil(size) - first, ..window }
        };
        let (groups, words) = (span(packed.group), span(per_word));
        let (Some(scales), Some(biases), Some(codes)) =
            (self.floats(&packed.scales, groups)?, self.floats(biases, groups)?, self.words(&packed.codes, words)?)
        else {
            return Ok(None);
        };
        for (at, slot) in out.iter_mut().enumerate() {
            let (row, col) = (at as u64 / window.cols, window.col + at as u64 % window.cols);
            let group = (row * groups.cols + col / packed.group - groups.col) as usize;
            let word = codes[(row * words.cols + col / per_word - words.col) as usize];
            let code = field(word, col % per_word, packed.bits);
            *slot = if steps { scales[group].abs() } else { code as f32 * scales[group] + biases[group] };
        }
        Ok(Some(()))
    }

    /// GPTQ and AWQ, whose matrices are stored by (in, out).
    fn zeroed(&self, packed: &Packed, window: Window, steps: bool, out: &mut [f32]) -> Result<Option<()>> {
        let Some(zeros) = &packed.offsets else { return Ok(None) };
        let (bits, per_word) = (packed.bits, u64::from(32 / packed.bits));
        let all_groups = packed.scales.rows;
        // Outs of a stored row that the window takes, single and in words.
        let outs = Window { row: 0, rows: all_groups, col: window.row, cols: window.rows };
        let first = window.row / per_word;
        let words = Window { col: first, cols: (window.row + window.rows).div_ceil(per_word) - first, ..outs };
        let (Some(scales), Some(zeros)) = (self.floats(&packed.scales, outs)?, self.words(zeros, words)?) else {
            return Ok(None);
        };
        let order = match &packed.order {
            Some(order) => self.words(order, Window { row: 0, rows: 1, col: window.col, cols: window.cols })?,
            None => None,
        };
        let (plus, awq) = match packed.packing {
            Packing::Gptq { plus } => (plus, false),
            _ => (0, true),
        };
        let top = if awq { window.col } else { window.col / per_word };
        let lines = if awq { window.cols } else { (window.col + window.cols).div_ceil(per_word) - top };
        let across = if awq { words } else { outs };
        let Some(codes) = self.words(&packed.codes, Window { row: top, rows: lines, ..across })? else {
            return Ok(None);
        };
        let place = |out: u64| if awq { AWQ_PLACES[(out % 8) as usize] } else { out % per_word };
        for at in 0..window.cols {
            let column = window.col + at;
            let group = match &order {
                Some(order) => u64::from(order[at as usize]),
                None => column / packed.group,
            };
            if group >= all_groups {
                return Ok(None);
            }
            for row in 0..window.rows {
                let out_label = window.row + row;
                let word = out_label / per_word - first;
                let code = if awq {
                    field(codes[(at * words.cols + word) as usize], place(out_label), bits)
                } else {
                    let line = column / per_word - top;
                    field(codes[(line * window.rows + row) as usize], column % per_word, bits)
                };
                let zero = field(zeros[(group * words.cols + word) as usize], place(out_label), bits) + plus;
                let scale = scales[(group * window.rows + row) as usize];
                out[(row * window.cols + at) as usize] =
                    if steps { scale.abs() } else { (code as f32 - zero as f32) * scale };
            }
        }
        Ok(Some(()))
    }
}

/// The code at a place of a word, the lowest bits first.
fn field(word: u32, place: u64, bits: u32) -> u32 {
    word >> (place as u32 * bits) & ((1 << bits) - 1)
}
