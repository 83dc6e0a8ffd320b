//! Loops of the comparison, compiled for the vector instructions that the processor has. Sums are taken in a fixed number
//! of lanes, so what a processor has changes the time and never a bit of the result.

use pulp::{Arch, Simd, WithSimd};

const LANES: usize = 16;

/// Centres rows of `width` values and scales them to length one; constant rows become zeros.
pub(crate) fn standardise(values: &mut [f32], width: usize) {
    Arch::new().dispatch(Standardise { values, width });
}

struct Standardise<'a> {
    values: &'a mut [f32],
    width: usize,
}

impl WithSimd for Standardise<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.values.chunks_exact_mut(self.width.max(1)) {
            let mean = sum(row, |value| value) / row.len() as f32;
            let length = sum(row, |value| (value - mean) * (value - mean)).sqrt();
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            row.iter_mut().for_each(|value| *value = (*value - mean) * scale);
        }
    }
}

#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += term(value);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&value| term(value)).sum::<f32>()
}

/// The largest of numbers, of none minus infinity.
pub(crate) fn largest(values: &[f32]) -> f32 {
    Arch::new().dispatch(Largest(values))
}

struct Largest<'a>(&'a [f32]);

impl WithSimd for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        largest_of(self.0)
    }
}

#[inline(always)]
fn largest_of(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// For each column of a table the row with its largest number, and for each row the column with that number; the first
/// of equals.
pub(crate) fn nearest(table: &[f32], rows: usize, cols: usize) -> (Vec<u32>, Vec<(usize, f32)>) {
    Arch::new().dispatch(Nearest { table, rows, cols })
}

struct Nearest<'a> {
    table: &'a [f32],
    rows: usize,
    cols: usize,
}

impl WithSimd for Nearest<'_> {
    type Output = (Vec<u32>, Vec<(usize, f32)>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let Self { table, rows, cols } = self;
        let (mut row_of, mut highest) = (vec![0u32; cols], vec![f32::NEG_INFINITY; cols]);
        let mut col_of = Vec::with_capacity(rows);
        for (row, line) in table.chunks_exact(cols.max(1)).take(rows).enumerate() {
            for ((&value, nearest), highest) in line.iter().zip(&mut row_of).zip(&mut highest) {
                let is_higher = value > *highest;
                *highest = if is_higher { value } else { *highest };
                *nearest = if is_higher { row as u32 } else { *nearest };
            }
            let best = largest_of(line);
            col_of.push((place_of(line, best), best));
        }
        (row_of, col_of)
    }
}

/// Where `wanted` comes first; 0 if it does not.
#[inline(always)]
fn place_of(values: &[f32], wanted: f32) -> usize {
    let (chunks, _) = values.as_chunks::<LANES>();
    let holds = |chunk: &[f32; LANES]| chunk.iter().fold(false, |found, &value| found | (value == wanted));
    let start = LANES * chunks.iter().position(holds).unwrap_or(chunks.len());
    values[start..].iter().position(|&value| value == wanted).map_or(0, |place| start + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_centred_and_of_length_one_whatever_their_width() {
        for width in [1, 7, 16, 40] {
            let mut values: Vec<f32> = (0..3 * width).map(|i| ((i * 7919) % 101) as f32).collect();
            values[..width].fill(5.0);
            standardise(&mut values, width);
            assert!(values[..width].iter().all(|&value| value == 0.0), "a constant row");
            for row in values.chunks(width).skip(usize::from(width > 1)).take(if width > 1 { 2 } else { 0 }) {
                let (sum, square): (f32, f32) = (row.iter().sum(), row.iter().map(|v| v * v).sum());
                assert!(sum.abs() < 1e-5 && (square - 1.0).abs() < 1e-5, "{width}: {sum} {square}");
            }
        }
    }

    #[test]
    fn the_nearest_of_rows_and_columns_are_those_of_a_plain_search() {
        let (rows, cols) = (9, 37);
        let table: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 23) as f32 - 11.0).collect();
        let (row_of, col_of) = nearest(&table, rows, cols);
        for col in 0..cols {
            let best =
                (0..rows).max_by(|&a, &b| table[a * cols + col].total_cmp(&table[b * cols + col]).then(b.cmp(&a)));
            assert_eq!(row_of[col] as usize, best.unwrap());
        }
        for row in 0..rows {
            let line = &table[row * cols..][..cols];
            let best = (0..cols).max_by(|&a, &b| line[a].total_cmp(&line[b]).then(b.cmp(&a))).unwrap();
            assert_eq!(col_of[row], (best, line[best]));
            assert_eq!(largest(line), line[best]);
        }
        assert_eq!(largest(&[]), f32::NEG_INFINITY);
    }
}
