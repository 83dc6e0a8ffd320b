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
}
