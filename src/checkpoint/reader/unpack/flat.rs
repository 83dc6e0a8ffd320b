//! bitsandbytes' 4-bit types, whose codes and scales follow the values in reading order.

use super::Parts;
use crate::Result;
use crate::checkpoint::reader::Window;
use crate::tensor::decode::gap;
use crate::tensor::packed::{Levels, Nested};

/// How codes and scales lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) levels: Levels,
    /// Columns of the matrix.
    pub(super) cols: u64,
    /// Values that share a scale.
    pub(super) block: u64,
    pub(super) nested: Option<Nested>,
}

/// Part of a stored vector.
fn part(first: u64, end: u64) -> Window {
    Window { row: 0, rows: 1, col: first, cols: end - first }
}

impl Parts<'_> {
    pub(super) fn flat(&self, form: Form, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let book = match (&form.nested, &self.packed.book) {
            (Some(_), Some(book)) => self.floats(book, part(0, book.cols))?,
            (Some(_), None) => return Ok(None),
            (None, _) => None,
        };
        let (lines, line) =
            if window.cols == form.cols { (1, window.rows * window.cols) } else { (window.rows, window.cols) };
        for (at, out) in (0..lines).zip(out.chunks_exact_mut((line as usize).max(1))) {
            let first = (window.row + at) * form.cols + window.col;
            let Some(()) = self.stretch(form, book.as_deref(), first, out)? else { return Ok(None) };
        }
        Ok(Some(()))
    }

    /// Values from the one at `first` on.
    fn stretch(&self, form: Form, book: Option<&[f32]>, first: u64, out: &mut [f32]) -> Result<Option<()>> {
        let end = first + out.len() as u64;
        let (half, from) = (first / 2, first / form.block);
        let Some(codes) = self.bytes(&self.packed.codes, part(half, end.div_ceil(2)))? else { return Ok(None) };
        let Some(scales) = self.flat_scales(form, book, from, end.div_ceil(form.block))? else { return Ok(None) };
        let (table, sorted) = (form.levels.table(), form.levels.sorted());
        let mut at = first;
        for (scale, block) in scales.into_iter().zip(from..) {
            let stop = end.min((block + 1).saturating_mul(form.block));
            for index in at..stop {
                let byte = codes[(index / 2 - half) as usize];
                let code = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
                let value = table[usize::from(code)] * scale;
                out[(index - first) as usize] = if self.steps { gap(sorted, scale, value) } else { value };
            }
            at = stop;
        }
        Ok(Some(()))
    }

    fn flat_scales(&self, form: Form, book: Option<&[f32]>, from: u64, to: u64) -> Result<Option<Vec<f32>>> {
        let packed = self.packed;
        let (Some(Nested { block, offset }), Some(book)) = (form.nested, book) else {
            return self.floats(&packed.scales, part(from, to));
        };
        let Some(second) = &packed.second else { return Ok(None) };
        let top = from / block;
        let (Some(codes), Some(second)) =
            (self.bytes(&packed.scales, part(from, to))?, self.floats(second, part(top, to.div_ceil(block)))?)
        else {
            return Ok(None);
        };
        let scale = |(at, &code): (u64, &u8)| {
            let level = book.get(usize::from(code))?;
            Some(level * second[(at / block - top) as usize] + f32::from_bits(offset))
        };
        Ok((from..to).zip(&codes).map(scale).collect())
    }
}
