//! Values of tensors with a low-rank change: the base's rows are read, and the product of the factors is added to them
//! in the same window.
//!
//! The arithmetic is that of PEFT's `merge_and_unload` on a processor: the product in `f32`, one term of the rank after
//! the other, times the scale; rounded to the type of the factors where that is narrower; added, and the sum rounded to
//! the type of the base. So a value does not depend on the window in which it is read. PEFT's own sums may be in another
//! order, which moves the last bit of the product.

use std::sync::Arc;

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

use super::{Reader, Window};
use crate::Result;
use crate::tensor::low_rank::{LowRank, Magnitude};
use crate::tensor::{DType, TensorMeta};

/// Most values of a factor that are held at a time.
const MOST_OF_FACTOR: u64 = 1 << 18;

/// Values of a row that are read at a time to find how long it is; whole blocks of every type.
const STRETCH: u64 = 1 << 16;

/// A changed tensor that is read.
pub(super) struct Change<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) change: &'a LowRank,
}

impl Change<'_> {
    /// Fills `out` with the values in the window. `None` where a part cannot be read; otherwise whether every stored
    /// value was taken exactly.
    pub(super) fn fill(&self, window: Window, out: &mut [f32], buf: &mut Vec<u8>) -> Result<Option<bool>> {
        let Some(exact) = self.sum(window, out, buf)? else { return Ok(None) };
        if let Some(magnitude) = &self.change.magnitude {
            let Some(factors) = self.factors(magnitude, window, out, buf)? else { return Ok(None) };
            let cols = window.cols as usize;
            for (at, value) in out.iter_mut().enumerate() {
                *value *= factors[if self.change.transposed { at % cols } else { at / cols }];
            }
        }
        round_to(&self.change.dtype(), out);
        Ok(Some(exact))
    }

    /// How long each out feature is.
    pub(super) fn lengths(&self) -> Result<Option<Arc<[f32]>>> {
        let (rows, cols) = self.change.base.matrix();
        let width = cols.clamp(1, STRETCH);
        let height = (STRETCH / width).max(1);
        let mut squares = vec![0.0f64; cols as usize];
        let (mut values, mut buf) = (Vec::new(), Vec::new());
        for row in (0..rows).step_by(height as usize) {
            let tall = height.min(rows - row);
            for col in (0..cols).step_by(width as usize) {
                let wide = width.min(cols - col);
                values.resize((tall * wide) as usize, 0.0);
                let window = Window { row, col, rows: tall, cols: wide };
                if self.sum(window, &mut values, &mut buf)?.is_none() {
                    return Ok(None);
                }
                for line in values.chunks(wide as usize) {
                    let sums = &mut squares[col as usize..];
                    line.iter().zip(sums).for_each(|(value, sum)| *sum += f64::from(*value).powi(2));
                }
            }
        }
        Ok(Some(squares.into_iter().map(|square| square.sqrt() as f32).collect()))
    }

    /// `W + s·B·A` in the window.
    fn sum(&self, window: Window, out: &mut [f32], buf: &mut Vec<u8>) -> Result<Option<bool>> {
        let first = window.row * self.change.base.matrix().1 + window.col;
        let Some(exact) = self.reader.values(&self.change.base, first, out, buf)?.map(|read| read.exact) else {
            return Ok(None);
        };
        let tile = (MOST_OF_FACTOR / self.change.rank().max(1)).max(1);
        let (mut delta, mut known) = (Vec::new(), true);
        for row in (0..window.rows).step_by(tile as usize) {
            let rows = tile.min(window.rows - row);
            for col in (0..window.cols).step_by(tile as usize) {
                let cols = tile.min(window.cols - col);
                let part = Window { row: window.row + row, col: window.col + col, rows, cols };
                delta.clear();
                delta.resize((rows * cols) as usize, 0.0);
                known &= self.product(part, &mut delta, buf)?;
                delta.iter_mut().for_each(|value| *value *= self.change.scale);
                round_to(&self.change.b.dtype, &mut delta);
                for (line, at) in delta.chunks(cols as usize).zip(row..) {
                    let own = &mut out[(at * window.cols + col) as usize..][..cols as usize];
                    own.iter_mut().zip(line).for_each(|(value, delta)| *value += delta);
                }
            }
        }
        Ok(known.then_some(exact))
    }

    /// Adds `B·A` in a part that both factors have in memory. `false` where their type is not decoded.
    fn product(&self, part: Window, delta: &mut [f32], buf: &mut Vec<u8>) -> Result<bool> {
        let rank = self.change.rank() as usize;
        let Window { row, col, rows, cols } = part;
        let (out_features, in_features) =
            if self.change.transposed { ((col, cols), (row, rows)) } else { ((row, rows), (col, cols)) };
        let (mut from_b, mut from_a) = (Vec::new(), Vec::new());
        for (first, count) in self.change.own_out_features(out_features.0, out_features.1) {
            if !self.append(&self.change.b, first * rank as u64, count * rank as u64, &mut from_b, buf)? {
                return Ok(false);
            }
        }
        match &self.change.a {
            None => from_a.resize(in_features.1 as usize, 1.0),
            Some(tensor) => {
                let all = tensor.matrix().1;
                let lines = if in_features.1 == all {
                    vec![(0, rank as u64 * all)]
                } else {
                    (0..rank as u64).map(|line| (line * all + in_features.0, in_features.1)).collect()
                };
                for (first, count) in lines {
                    if !self.append(tensor, first, count, &mut from_a, buf)? {
                        return Ok(false);
                    }
                }
            }
        }
        let (down, across) = if self.change.transposed {
            (transposed(&from_a, in_features.1 as usize), transposed(&from_b, rank))
        } else {
            (from_b, from_a)
        };
        Arch::new().dispatch(Product { down: &down, across: &across, rank, cols: cols as usize, out: delta });
        Ok(true)
    }

    fn append(
        &self,
        tensor: &TensorMeta,
        first: u64,
        count: u64,
        all: &mut Vec<f32>,
        buf: &mut Vec<u8>,
    ) -> Result<bool> {
        let start = all.len();
        all.resize(start + count as usize, 0.0);
        Ok(self.reader.values(tensor, first, &mut all[start..], buf)?.is_some())
    }

    /// What the out features in the window are multiplied with to have their stated lengths. `sums` are the window's
    /// values.
    fn factors(
        &self,
        magnitude: &Magnitude,
        window: Window,
        sums: &[f32],
        buf: &mut Vec<u8>,
    ) -> Result<Option<Vec<f32>>> {
        let (first, count) = if self.change.transposed { (window.col, window.cols) } else { (window.row, window.rows) };
        let runs = self.change.own_out_features(first, count);
        let mut stated = Vec::with_capacity(count as usize);
        for &(first, count) in &runs {
            if !self.append(magnitude.stated(), first, count, &mut stated, buf)? {
                return Ok(None);
            }
        }
        let lengths: Vec<f32> = match magnitude {
            Magnitude::Known(_, known) => {
                let places = runs.iter().flat_map(|&(first, count)| first..first + count);
                places.map(|place| known.get(place as usize).copied().unwrap_or(f32::NAN)).collect()
            }
            Magnitude::Lengths(_) if self.change.transposed => return Ok(None),
            Magnitude::Lengths(_) => {
                let all = self.change.base.matrix().1;
                if window.cols == all {
                    sums.chunks(all.max(1) as usize).map(|row| squares(row).sqrt() as f32).collect()
                } else {
                    match self.length_of_row(window.row, all, buf)? {
                        Some(length) => vec![length],
                        None => return Ok(None),
                    }
                }
            }
        };
        Ok(Some(stated.iter().zip(&lengths).map(|(stated, length)| stated / length).collect()))
    }

    fn length_of_row(&self, row: u64, all: u64, buf: &mut Vec<u8>) -> Result<Option<f32>> {
        let (mut values, mut sum) = (Vec::new(), 0.0);
        for col in (0..all).step_by(STRETCH as usize) {
            let cols = STRETCH.min(all - col);
            values.resize(cols as usize, 0.0);
            if self.sum(Window { row, col, rows: 1, cols }, &mut values, buf)?.is_none() {
                return Ok(None);
            }
            sum += squares(&values);
        }
        Ok(Some(sum.sqrt() as f32))
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |sum, value| sum + f64::from(*value).powi(2))
}

/// A matrix of `cols` columns the other way round.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols.max(1);
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

/// Rounds to a type of 16 bits; values of other types stay.
fn round_to(dtype: &DType, values: &mut [f32]) {
    match dtype {
        DType::BF16 => values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
        DType::F16 => values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
        _ => {}
    }
}

/// Adds a product to `out`, row by row of `cols` values. Every value takes its terms in the order of the rank, so
/// instruction sets differ in time alone.
struct Product<'a> {
    down: &'a [f32],
    across: &'a [f32],
    rank: usize,
    cols: usize,
    out: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { down, across, rank, cols, out } = self;
        for (row, factors) in out.chunks_exact_mut(cols.max(1)).zip(down.chunks_exact(rank.max(1))) {
            for (factor, line) in factors.iter().zip(across.chunks_exact(cols.max(1))) {
                for (value, term) in row.iter_mut().zip(line) {
                    *value += factor * term;
                }
            }
        }
    }
}
