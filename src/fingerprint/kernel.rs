//! The loops over values, compiled for the vector instructions that the processor has.
//!
//! Each loop is written in lanes of a fixed number and uses additions and multiplications one by one, which round alike
//! in every instruction set: what a processor has changes the time, never a bit of the result.

use pulp::{Arch, Simd, WithSimd};

/// Independent sums. Eight `f64` are two registers of 256 bits, enough for an addition to start in every cycle.
pub(super) const LANES: usize = 8;

/// Sums over a run of finite values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sums {
    /// Σx, Σx², Σx³, Σx⁴.
    pub(super) powers: [f64; 4],
    pub(super) zeros: u64,
    pub(super) min: f32,
    pub(super) max: f32,
}

/// Largest magnitude among the bit patterns of the values: at least that of infinity where one is not finite.
pub(super) fn largest_bits(values: &[f32]) -> u32 {
    Arch::new().dispatch(LargestBits(values))
}

struct LargestBits<'a>(&'a [f32]);

impl WithSimd for LargestBits<'_> {
    type Output = u32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u32 {
        let mut largest = [0; 4 * LANES];
        let (blocks, rest) = self.0.as_chunks::<{ 4 * LANES }>();
        for block in blocks {
            for lane in 0..4 * LANES {
                let bits = block[lane].to_bits() & 0x7fff_ffff;
                largest[lane] = if bits > largest[lane] { bits } else { largest[lane] };
            }
        }
        let mut all = 0;
        for bits in largest {
            all = if bits > all { bits } else { all };
        }
        for value in rest {
            let bits = value.to_bits() & 0x7fff_ffff;
            all = if bits > all { bits } else { all };
        }
        all
    }
}

/// Sums over rows of `width` values, adding squares to `cols` (one for each value of a row) and to `rows` (one for each
/// row). Without columns there are no rows either.
pub(super) fn sums(values: &[f32], width: usize, rows: &mut [f64], cols: &mut [f64]) -> Sums {
    Arch::new().dispatch(AllSums { values, width, rows, cols })
}

struct AllSums<'a> {
    values: &'a [f32],
    width: usize,
    rows: &'a mut [f64],
    cols: &'a mut [f64],
}

impl WithSimd for AllSums<'_> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Sums {
        let Self { values, width, rows, cols } = self;
        if cols.is_empty() { sums_of(values) } else { sums_along(values, width, rows, cols) }
    }
}

/// Lanes of one run.
struct Lanes {
    powers: [[f64; LANES]; 3],
    zeros: [u32; LANES],
    min: [f32; LANES],
    max: [f32; LANES],
}

impl Lanes {
    #[inline(always)]
    fn new() -> Self {
        let (min, max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        Self { powers: [[0.0; LANES]; 3], zeros: [0; LANES], min, max }
    }

    /// Takes a value and returns its square.
    #[inline(always)]
    fn add(&mut self, lane: usize, value: f32) -> f64 {
        let x = f64::from(value);
        let square = x * x;
        self.powers[0][lane] += x;
        self.powers[1][lane] += square * x;
        self.powers[2][lane] += square * square;
        self.zeros[lane] += u32::from(value == 0.0);
        self.min[lane] = if value < self.min[lane] { value } else { self.min[lane] };
        self.max[lane] = if value > self.max[lane] { value } else { self.max[lane] };
        square
    }

    #[inline(always)]
    fn finish(&self, squares: f64) -> Sums {
        let powers = [sum(&self.powers[0]), squares, sum(&self.powers[1]), sum(&self.powers[2])];
        let (mut zeros, mut min, mut max) = (0, f32::INFINITY, f32::NEG_INFINITY);
        for lane in 0..LANES {
            zeros += u64::from(self.zeros[lane]);
            min = if self.min[lane] < min { self.min[lane] } else { min };
            max = if self.max[lane] > max { self.max[lane] } else { max };
        }
        Sums { powers, zeros, min, max }
    }
}

#[inline(always)]
fn sum(lanes: &[f64; LANES]) -> f64 {
    let mut sum = 0.0;
    for lane in lanes {
        sum += lane;
    }
    sum
}

#[inline(always)]
fn sums_of(values: &[f32]) -> Sums {
    let (mut lanes, mut squares) = (Lanes::new(), [0.0; LANES]);
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            squares[lane] += lanes.add(lane, block[lane]);
        }
    }
    for &value in rest {
        squares[0] += lanes.add(0, value);
    }
    lanes.finish(sum(&squares))
}

#[inline(always)]
fn sums_along(values: &[f32], width: usize, rows: &mut [f64], cols: &mut [f64]) -> Sums {
    let (mut lanes, mut squares) = (Lanes::new(), 0.0);
    for (row, energy) in values.chunks_exact(width.max(1)).zip(rows) {
        let mut along = [0.0; LANES];
        let (blocks, rest) = row.as_chunks::<LANES>();
        let (col_blocks, col_rest) = cols.as_chunks_mut::<LANES>();
        for (block, cols) in blocks.iter().zip(col_blocks) {
            for lane in 0..LANES {
                let square = lanes.add(lane, block[lane]);
                along[lane] += square;
                cols[lane] += square;
            }
        }
        for (&value, col) in rest.iter().zip(col_rest) {
            let square = lanes.add(0, value);
            along[0] += square;
            *col += square;
        }
        let along = sum(&along);
        *energy += along;
        squares += along;
    }
    lanes.finish(squares)
}

/// Σ x²·w over a row.
pub(super) fn weighted_square(values: &[f32], weights: &[f64]) -> f64 {
    Arch::new().dispatch(WeightedSquare(values, weights))
}

struct WeightedSquare<'a>(&'a [f32], &'a [f64]);

impl WithSimd for WeightedSquare<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0; LANES];
        let (blocks, rest) = self.0.as_chunks::<LANES>();
        let (weight_blocks, weight_rest) = self.1.as_chunks::<LANES>();
        for (block, weights) in blocks.iter().zip(weight_blocks) {
            for lane in 0..LANES {
                let x = f64::from(block[lane]);
                sums[lane] += x * x * weights[lane];
            }
        }
        for (&value, weight) in rest.iter().zip(weight_rest) {
            let x = f64::from(value);
            sums[0] += x * x * weight;
        }
        sum(&sums)
    }
}

/// Adds x²·w to the sum of each place.
pub(super) fn add_weighted_squares(sums: &mut [f64], values: &[f32], weight: f64) {
    Arch::new().dispatch(AddWeightedSquares(sums, values, weight));
}

struct AddWeightedSquares<'a>(&'a mut [f64], &'a [f32], f64);

impl WithSimd for AddWeightedSquares<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (sum, &value) in self.0.iter_mut().zip(self.1) {
            let x = f64::from(value);
            *sum += x * x * self.2;
        }
    }
}

/// The values rounded to `bf16`, ties to even; a NaN stays one.
pub(super) fn to_bf16(values: &[f32], out: &mut [u16]) {
    Arch::new().dispatch(ToBf16(values, out));
}

struct ToBf16<'a>(&'a [f32], &'a mut [u16]);

impl WithSimd for ToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, value) in self.1.iter_mut().zip(self.0) {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            let nan = bits >> 16 | 0x40;
            *out = if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16;
        }
    }
}

/// The upper and lower halves of the values' bits. Returns every bit that was set in some lower half.
pub(super) fn halves(values: &[f32], upper: &mut [u16], lower: &mut [u16]) -> u16 {
    Arch::new().dispatch(Halves(values, upper, lower))
}

struct Halves<'a>(&'a [f32], &'a mut [u16], &'a mut [u16]);

impl WithSimd for Halves<'_> {
    type Output = u16;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u16 {
        let mut seen = 0;
        for ((upper, lower), value) in self.1.iter_mut().zip(self.2).zip(self.0) {
            let bits = value.to_bits();
            (*upper, *lower) = ((bits >> 16) as u16, bits as u16);
            seen |= *lower;
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.37).sin() * 3.0 - 0.5).collect()
    }

    #[test]
    fn sums_are_those_of_a_plain_loop_in_any_shape() {
        for (rows, width) in [(1, 1), (3, 7), (5, 8), (4, 29), (70, 1)] {
            let values = values(rows * width);
            let (mut by_row, mut by_col) = (vec![0.0; rows], vec![1.0; width]);
            let with = sums(&values, width, &mut by_row, &mut by_col);
            let without = sums(&values, width, &mut [], &mut []);
            for power in 0..4 {
                let plain: f64 = values.iter().map(|&v| f64::from(v).powi(power as i32 + 1)).sum();
                assert!((with.powers[power] - plain).abs() < 1e-12 * plain.abs().max(1.0));
                assert!((without.powers[power] - plain).abs() < 1e-12 * plain.abs().max(1.0));
            }
            for col in 0..width {
                let plain: f64 = (0..rows).map(|row| f64::from(values[row * width + col]).powi(2)).sum();
                assert!((by_col[col] - 1.0 - plain).abs() < 1e-12 * plain.max(1.0));
            }
            let smallest = values.iter().copied().fold(f32::INFINITY, f32::min);
            assert_eq!((with.min, without.min), (smallest, smallest));
        }
    }

    #[test]
    fn results_do_not_depend_on_the_instructions() {
        let values = values(1003);
        let (mut rows, mut cols) = (vec![0.0; 17], vec![0.0; 59]);
        let vector = sums(&values, 59, &mut rows, &mut cols);
        let (mut plain_rows, mut plain_cols) = (vec![0.0; 17], vec![0.0; 59]);
        assert_eq!(vector, sums_along(&values, 59, &mut plain_rows, &mut plain_cols));
        assert_eq!((rows, cols), (plain_rows, plain_cols));
        assert_eq!(sums(&values, 0, &mut [], &mut []), sums_of(&values));
    }

    #[test]
    fn rounding_to_bf16_is_that_of_half() {
        let mut state = 1u32;
        let mut patterns: Vec<u32> =
            vec![0, 0x8000_0000, 0x7f80_0000, 0x7f80_0001, 0xffff_ffff, 0x7f7f_ffff, 0x3f80_8000];
        patterns.extend((0..100_000).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        }));
        let values: Vec<f32> = patterns.into_iter().map(f32::from_bits).collect();
        let mut out = vec![0; values.len()];
        to_bf16(&values, &mut out);
        for (value, out) in values.iter().zip(out) {
            assert_eq!(out, bf16::from_f32(*value).to_bits(), "{:x}", value.to_bits());
        }
    }
}
