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
        let mut largest = 0;
        for value in self.0 {
            largest = largest.max(value.to_bits() & 0x7fff_ffff);
        }
        largest
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

/// The wide form of a block. Loops of this size are unrolled into one or two vector instructions each.
#[inline(always)]
fn widened(block: &[f32; LANES]) -> [f64; LANES] {
    let mut wide = [0.0; LANES];
    for lane in 0..LANES {
        wide[lane] = f64::from(block[lane]);
    }
    wide
}

#[inline(always)]
fn product(a: &[f64; LANES], b: &[f64; LANES]) -> [f64; LANES] {
    let mut product = [0.0; LANES];
    for lane in 0..LANES {
        product[lane] = a[lane] * b[lane];
    }
    product
}

#[inline(always)]
fn add(sums: &mut [f64; LANES], terms: &[f64; LANES]) {
    for lane in 0..LANES {
        sums[lane] += terms[lane];
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

/// A sum over the values, lane by lane, of what `term` makes of them.
#[inline(always)]
fn lanes(values: &[f32], term: impl Fn(&[f64; LANES]) -> [f64; LANES]) -> f64 {
    let mut sums = [0.0; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        add(&mut sums, &term(&widened(block)));
    }
    for (lane, &value) in rest.iter().enumerate() {
        let mut alone = [0.0; LANES];
        alone[0] = f64::from(value);
        sums[lane] += term(&alone)[0];
    }
    sum(&sums)
}

/// Everything but the squares. One statistic after the other: a single loop for all of them is not made into vector
/// instructions, and the values of a row stay in the first-level cache.
#[inline(always)]
fn others(values: &[f32], squares: f64) -> Sums {
    let first = lanes(values, |x| *x);
    let third = lanes(values, |x| product(&product(x, x), x));
    let fourth = lanes(values, |x| {
        let square = product(x, x);
        product(&square, &square)
    });
    let mut zeros = 0u32;
    for value in values {
        zeros += u32::from(*value == 0.0);
    }
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            min[lane] = if block[lane] < min[lane] { block[lane] } else { min[lane] };
        }
        for lane in 0..LANES {
            max[lane] = if block[lane] > max[lane] { block[lane] } else { max[lane] };
        }
    }
    let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
    for &value in min.iter().chain(rest) {
        least = if value < least { value } else { least };
    }
    for &value in max.iter().chain(rest) {
        most = if value > most { value } else { most };
    }
    Sums { powers: [first, squares, third, fourth], zeros: u64::from(zeros), min: least, max: most }
}

#[inline(always)]
fn sums_of(values: &[f32]) -> Sums {
    others(values, lanes(values, |x| product(x, x)))
}

#[inline(always)]
fn sums_along(values: &[f32], width: usize, rows: &mut [f64], cols: &mut [f64]) -> Sums {
    let mut squares = 0.0;
    for (row, energy) in values.chunks_exact(width.max(1)).zip(rows) {
        let along = lanes(row, |x| product(x, x));
        for (col, &value) in cols.iter_mut().zip(row) {
            let x = f64::from(value);
            *col += x * x;
        }
        *energy += along;
        squares += along;
    }
    others(values, squares)
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
            let wide = widened(block);
            add(&mut sums, &product(&product(&wide, &wide), weights));
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

/// Adds the places of the values at which a run begins: about one in 64, told by a product of the bits alone, whose upper
/// bits depend on all of a value's.
pub(super) fn marked(values: &[u16], places: &mut Vec<u32>) {
    Arch::new().dispatch(Marked(values, places));
}

/// An odd number: the golden ratio in 16 bits.
const MARK_FACTOR: u16 = 0x9e37;

/// Products below it mark a place.
const MARK_BELOW: u16 = (1u32 << 16 >> 6) as u16;

struct Marked<'a>(&'a [u16], &'a mut Vec<u32>);

impl WithSimd for Marked<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (blocks, rest) = self.0.as_chunks::<32>();
        for (index, block) in blocks.iter().enumerate() {
            let mut least = u16::MAX;
            for value in block {
                least = least.min(value.wrapping_mul(MARK_FACTOR));
            }
            // Most blocks end here, and the others are looked through without a branch for each value.
            if least >= MARK_BELOW {
                continue;
            }
            let mut marked = 0u32;
            for (at, value) in block.iter().enumerate() {
                marked |= u32::from(value.wrapping_mul(MARK_FACTOR) < MARK_BELOW) << at;
            }
            while marked != 0 {
                self.1.push(index as u32 * 32 + marked.trailing_zeros());
                marked &= marked - 1;
            }
        }
        let is_marked = |(_, value): &(usize, &u16)| value.wrapping_mul(MARK_FACTOR) < MARK_BELOW;
        let first = self.0.len() - rest.len();
        self.1.extend(rest.iter().enumerate().filter(is_marked).map(|(at, _)| (first + at) as u32));
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
