//! Mutual nearest neighbours in a table of similarities. The loops are compiled for the vector instructions that the
//! processor has, which change the time and never the result.

use pulp::{Arch, Simd, WithSimd};

/// A row, a column, and the number where they meet.
pub type Pair = (usize, usize, f32);

const LANES: usize = 16;

/// Rows and columns of a row-major table that are each other's nearest by a positive number; the first of equals.
pub fn mutual(table: &[f32], rows: usize, cols: usize) -> Vec<Pair> {
    let (nearest_row, nearest_col) = nearest(table, rows, cols);
    let pairs = nearest_col.into_iter().enumerate();
    let pairs = pairs.filter(|&(row, (col, value))| value > 0.0 && nearest_row[col] as usize == row);
    pairs.map(|(row, (col, value))| (row, col, value)).collect()
}

/// Those of [`mutual`] whose number is larger than zero and every other of its row and of its column by more than
/// `margin`: no ties.
pub fn mutual_by(table: &[f32], rows: usize, cols: usize, margin: f32) -> Vec<Pair> {
    let is_clear = |&(row, col, value): &Pair| {
        let in_row = table[row * cols..][..cols].iter().enumerate().filter(|&(at, _)| at != col);
        let in_col = table.iter().skip(col).step_by(cols).enumerate().filter(|&(at, _)| at != row);
        let next = in_row.chain(in_col).fold(0.0, |next: f32, (_, &other)| next.max(other));
        value > next + margin
    };
    mutual(table, rows, cols).into_iter().filter(is_clear).collect()
}

/// The largest of numbers, of none minus infinity.
pub fn largest(values: &[f32]) -> f32 {
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
fn nearest(table: &[f32], rows: usize, cols: usize) -> (Vec<u32>, Vec<(usize, f32)>) {
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
    fn neighbours_must_be_mutual_and_positive() {
        let table = [
            0.9, 0.1, 0.2, //
            0.8, 0.3, 0.1, //
            -0.2, -0.4, -0.1,
        ];
        assert_eq!(mutual(&table, 3, 3), [(0, 0, 0.9)]);
        assert_eq!(mutual(&[0.5, 0.5, 0.5, 0.5], 2, 2), [(0, 0, 0.5)], "of equals the first");
        assert_eq!(mutual(&[], 0, 0), []);
    }

    #[test]
    fn neighbours_by_a_margin_are_nearer_than_all_others_of_their_row_and_column() {
        assert_eq!(mutual_by(&[0.9, 0.9, 0.1, 0.2], 2, 2, 1e-6), [], "a tie in the row");
        assert_eq!(mutual_by(&[0.9, 0.1, 0.9, 0.2], 2, 2, 1e-6), [], "a tie in the column");
        assert_eq!(mutual_by(&[0.9, 0.1, 0.1, 0.2], 2, 2, 1e-6), [(0, 0, 0.9), (1, 1, 0.2)]);
        assert_eq!(mutual_by(&[0.9, 0.1, 0.1, 0.2], 2, 2, 0.15), [(0, 0, 0.9)]);
        assert_eq!(mutual_by(&[-0.9, -0.1], 1, 2, 1e-6), []);
        assert_eq!(mutual_by(&[1e-7], 1, 1, 1e-6), [], "nearer than nothing by the margin too");
        assert_eq!(mutual_by(&[0.5, 0.2, 0.1], 1, 3, 1e-6), [(0, 0, 0.5)]);
        assert_eq!(mutual_by(&[], 0, 0, 1e-6), []);
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
