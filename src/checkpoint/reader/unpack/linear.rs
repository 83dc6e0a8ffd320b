//! Whole numbers with scales and zero points as ONNX has them: a matrix either way round, its zero points packed like its
//! codes.

use super::Parts;
use crate::Result;
use crate::checkpoint::reader::Window;
use crate::tensor::packed::{Linear, Stored};

impl Parts<'_> {
    pub(super) fn linear(&self, form: Linear, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let scales = &self.packed.scales;
        // One row of scales serves all rows of the matrix.
        let shared = scales.rows == 1;
        let (row, rows) = if shared { (0, 1) } else { (window.row, window.rows) };
        let cover = Window { row, rows, col: 0, cols: scales.cols };
        let Some(factors) = self.floats(scales, cover)? else { return Ok(None) };
        let zeros = match &self.packed.offsets {
            Some(stored) => self.numbers(stored, form.bits, cover)?,
            None => Some(vec![form.middle as f32; factors.len()]),
        };
        let Some(zeros) = zeros.filter(|zeros| zeros.len() == factors.len()) else { return Ok(None) };
        let lying = match form.transposed {
            true => Window { row: window.col, rows: window.cols, col: window.row, cols: window.rows },
            false => window,
        };
        let Some(codes) = self.numbers(&self.packed.codes, form.bits, lying)? else { return Ok(None) };
        for (at, slot) in out.iter_mut().enumerate() {
            let (row, col) = (at as u64 / window.cols, at as u64 % window.cols);
            let code = codes[if form.transposed { (col * window.rows + row) as usize } else { at }];
            let group = (window.col + col) / form.group;
            if group >= scales.cols {
                return Ok(None);
            }
            let place = (if shared { 0 } else { row } * scales.cols + group) as usize;
            *slot = if self.steps { factors[place].abs() } else { (code - zeros[place]) * factors[place] };
        }
        Ok(Some(()))
    }

    /// The whole numbers of a window of a matrix whose rows are made of bytes, the lowest bits first.
    fn numbers(&self, stored: &Stored, bits: u32, window: Window) -> Result<Option<Vec<f32>>> {
        if bits == 8 {
            return self.floats(stored, window);
        }
        let mut numbers = Vec::with_capacity((window.rows * window.cols) as usize);
        let read = self.codes(stored, bits, window, |code| numbers.push(code as f32))?;
        Ok(read.map(|()| numbers))
    }
}
