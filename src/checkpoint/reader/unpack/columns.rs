//! GPTQ and AWQ, whose matrices are stored by (in, out).

use super::{Parts, field, span};
use crate::Result;
use crate::checkpoint::reader::Window;

/// Where in a word of eight codes AWQ puts the columns.
pub(super) const AWQ_PLACES: [u64; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// How codes and zero points lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) bits: u32,
    /// In features that share a scale.
    pub(super) group: u64,
    /// What is added to a stored zero point.
    pub(super) plus: u32,
    /// The order of eight out features in a word, if the words run along the out features; along the in features otherwise.
    pub(super) places: Option<[u64; 8]>,
}

impl Parts<'_> {
    pub(super) fn by_column(&self, form: Form, window: Window, out: &mut [f32]) -> Result<Option<()>> {
        let packed = self.packed;
        let Some(zeros) = &packed.offsets else { return Ok(None) };
        let bits = form.bits;
        let all_groups = packed.scales.rows;
        // Out features of a stored row that the window takes, single and in words.
        let out_features = Window { row: 0, rows: all_groups, col: window.row, cols: window.rows };
        let (first, count) = match form.places {
            Some(_) => (window.row / 8, (window.row + window.rows).div_ceil(8) - window.row / 8),
            None => span(window.row, window.rows, bits, 32),
        };
        let words = Window { col: first, cols: count, ..out_features };
        let (Some(scales), Some(zeros)) = (self.floats(&packed.scales, out_features)?, self.words(zeros, words)?)
        else {
            return Ok(None);
        };
        let order = match &packed.order {
            Some(order) => self.words(order, Window { row: 0, rows: 1, col: window.col, cols: window.cols })?,
            None => None,
        };
        let ((top, lines), across) = match form.places {
            Some(_) => ((window.col, window.cols), words),
            None => (span(window.col, window.cols, bits, 32), out_features),
        };
        let Some(codes) = self.words(&packed.codes, Window { row: top, rows: lines, ..across })? else {
            return Ok(None);
        };
        // Of the eight out features of a word, the place of this one.
        let placed = |out: u64| form.places.map_or(out, |places| out / 8 * 8 + places[(out % 8) as usize]);
        let zero = |group: u64, row: u64| {
            let word = |word: u64| zeros[(group * words.cols + word - first) as usize];
            (field(word, placed(window.row + row), bits) + form.plus) as f32
        };
        let zeros: Vec<f32> =
            (0..all_groups * window.rows).map(|at| zero(at / window.rows, at % window.rows)).collect();
        for at in 0..window.cols {
            let column = window.col + at;
            let group = match &order {
                Some(order) => u64::from(order[at as usize]),
                None => column / form.group,
            };
            if group >= all_groups {
                return Ok(None);
            }
            let own = (group * window.rows) as usize..;
            let (scales, zeros) = (&scales[own.clone()], &zeros[own]);
            for row in 0..window.rows {
                let code = match form.places {
                    Some(_) => {
                        field(|word| codes[(at * words.cols + word - first) as usize], placed(window.row + row), bits)
                    }
                    None => field(|word| codes[((word - top) * window.rows + row) as usize], column, bits),
                };
                let (scale, zero) = (scales[row as usize], zeros[row as usize]);
                out[(row * window.cols + at) as usize] =
                    if self.steps { scale.abs() } else { (code as f32 - zero) * scale };
            }
        }
        Ok(Some(()))
    }
}
