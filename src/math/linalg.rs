//! Matrix products of row-major `f32`, one thread each: callers run many of them side by side.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Inner products of each row of `left` with each row of `right`, rows of `width` values; `out` becomes as large as the
/// table and holds nothing else.
pub fn by_rows(left: &[f32], right: &[f32], width: usize, out: &mut Vec<f32>) {
    let (rows, cols) = (left.len() / width, right.len() / width);
    out.resize(rows * cols, 0.0);
    let left = MatRef::from_row_major_slice(left, rows, width);
    let right = MatRef::from_row_major_slice(right, cols, width);
    let into = MatMut::from_row_major_slice_mut(out, rows, cols);
    matmul(into, Accum::Replace, left, right.transpose(), 1.0, Par::Seq);
}

/// Appends `block` (rows × inner) times `weights` (inner × width) to `out`.
pub fn append(block: &[f32], inner: usize, weights: &[f32], out: &mut Vec<f32>) {
    let (rows, width) = (block.len() / inner, weights.len() / inner);
    let start = out.len();
    out.resize(start + rows * width, 0.0);
    let product = MatMut::from_row_major_slice_mut(&mut out[start..], rows, width);
    let block = MatRef::from_row_major_slice(block, rows, inner);
    matmul(product, Accum::Replace, block, MatRef::from_row_major_slice(weights, inner, width), 1.0, Par::Seq);
}

/// Adds the transpose of `block` (rows × cols) times as many rows of weights to `out` (cols × width).
pub fn add_transposed(block: &[f32], cols: usize, weights: &[f32], out: &mut [f32]) {
    let (rows, width) = (block.len() / cols, out.len() / cols);
    let block = MatRef::from_row_major_slice(block, rows, cols);
    let weights = MatRef::from_row_major_slice(weights, rows, width);
    let sum = MatMut::from_row_major_slice_mut(out, cols, width);
    matmul(sum, Accum::Add, block.transpose(), weights, 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_by_hand() {
        // [1 2; 3 4] and [5 6; 7 8], whose sums are exact.
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let mut out = vec![9.0; 7];
        by_rows(&a, &b, 2, &mut out);
        assert_eq!(out, [17.0, 23.0, 39.0, 53.0]);
        let mut out = vec![1.0];
        append(&a, 2, &b, &mut out);
        assert_eq!(out, [1.0, 19.0, 22.0, 43.0, 50.0]);
        let mut out = vec![100.0; 4];
        add_transposed(&a, 2, &b, &mut out);
        assert_eq!(out, [126.0, 130.0, 138.0, 144.0]);
    }
}
