//! How far apart the levels are to which a block type rounds, value by value, read from the scales of each block.
//!
//! Rounding to the nearest level moves a value by half of this at most. Two things move it further: the scale itself is
//! rounded to `f16`, and a value outside the range of the levels is cut off at its end, which quantisers that minimise a
//! squared error allow for a few values. Code books, which round several values together, have no such distance.

use half::f16;

use super::decode;
use crate::tensor::DType;
use crate::tensor::block::{Block, Grid};

/// Levels of IQ4_NL and IQ4_XS in units of the scale (ggml's `kvalues_iq4nl`).
const NON_LINEAR: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// Levels of MXFP4 in units of the scale: E2M1 of the OCP microscaling specification 1.0, table 5.
pub(crate) const E2M1: [f32; 15] = [-6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Puts the distance between levels at each value of whole blocks into `out`; `None` where the type has none, or the
/// lengths do not fit.
pub(crate) fn steps(dtype: &DType, bytes: &[u8], out: &mut [f32]) -> Option<bool> {
    let DType::Block(block) = *dtype else { return None };
    let values = block.values() as usize;
    match block.grid() {
        Grid::CodeBook | Grid::Unread => return None,
        Grid::Even => {}
        // The level that a value has tells which neighbours it has.
        Grid::Levels => _ = decode(dtype, bytes, out)?,
    }
    if dtype.size_of(out.len() as u64)? != bytes.len() as u64 {
        return None;
    }
    for (bytes, out) in bytes.chunks_exact(block.bytes() as usize).zip(out.chunks_exact_mut(values)) {
        let scales = Scales::read(block, bytes)?;
        for (scale, out) in scales.each.iter().zip(out.chunks_exact_mut(values / scales.count)) {
            match scales.levels {
                None => out.fill(scale.abs()),
                Some(levels) => out.iter_mut().for_each(|value| *value = gap(levels, *scale, *value)),
            }
        }
    }
    Some(true)
}

/// The larger of the distances from the level nearest to `value / scale` to its neighbours, times the scale.
pub(crate) fn gap(levels: &[f32], scale: f32, value: f32) -> f32 {
    if scale == 0.0 || !scale.is_finite() {
        return 0.0;
    }
    let ratio = value / scale;
    let nearest = (0..levels.len())
        .min_by(|&a, &b| (levels[a] - ratio).abs().total_cmp(&(levels[b] - ratio).abs()))
        .unwrap_or_default();
    let left = nearest.checked_sub(1).map_or(0.0, |left| levels[nearest] - levels[left]);
    let right = levels.get(nearest + 1).map_or(0.0, |right| right - levels[nearest]);
    left.max(right) * scale.abs()
}

/// The scales of one block, each for an equal part of its values.
struct Scales {
    each: [f32; 16],
    count: usize,
    levels: Option<&'static [f32]>,
}

impl Scales {
    fn read(block: Block, bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(f16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).to_f32());
        let one = |scale: f32| Self { each: [scale; 16], count: 1, levels: None };
        let many = |count: usize, scale: &dyn Fn(usize) -> f32| Self {
            each: std::array::from_fn(|index| if index < count { scale(index) } else { 0.0 }),
            count,
            levels: None,
        };
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        Some(match block {
            Block::Q4_0 | Block::Q4_1 | Block::Q5_0 | Block::Q5_1 | Block::Q8_0 | Block::Q8_1 => one(half(0)?),
            Block::Q8_K => one(f32::from_le_bytes(*bytes.first_chunk()?)),
            Block::TQ1_0 => one(half(52)?),
            Block::TQ2_0 => one(half(64)?),
            Block::Q2_K => {
                let d = half(80)?;
                many(16, &|index| d * f32::from(byte(index) & 15))
            }
            Block::Q3_K => {
                let d = half(108)?;
                many(16, &|index| {
                    // Sixteen scales of six bits, less 32: low halves in 8 bytes, then high quarters in 4.
                    let low = byte(96 + index % 8) >> (4 * (index / 8)) & 15;
                    let high = byte(104 + index % 4) >> (2 * (index / 4)) & 3;
                    d * (f32::from(low | high << 4) - 32.0)
                })
            }
            Block::Q4_K | Block::Q5_K => {
                let d = half(0)?;
                many(8, &|index| {
                    // Eight scales of six bits: the first four whole, the others in halves and quarters.
                    let scale = match index {
                        0..4 => byte(4 + index) & 63,
                        _ => byte(8 + index) & 15 | byte(index) >> 6 << 4,
                    };
                    d * f32::from(scale)
                })
            }
            Block::Q6_K => {
                let d = half(208)?;
                many(16, &|index| d * f32::from(byte(192 + index) as i8))
            }
            Block::IQ4_NL => Self { levels: Some(&NON_LINEAR), ..one(half(0)?) },
            Block::IQ4_XS => {
                let (d, high) = (half(0)?, u16::from_le_bytes([byte(2), byte(3)]));
                let scales = many(8, &|index| {
                    let low = byte(4 + index / 2) >> (4 * (index % 2)) & 15;
                    let high = (high >> (2 * index)) as u8 & 3;
                    d * (f32::from(low | high << 4) - 32.0)
                });
                Self { levels: Some(&NON_LINEAR), ..scales }
            }
            Block::MXFP4 => {
                // E8M0: a power of two, bias 127.
                let scale = libm::ldexpf(1.0, i32::from(byte(0)) - 127);
                Self { levels: Some(&E2M1), ..one(scale) }
            }
            Block::IQ2_XXS
            | Block::IQ2_XS
            | Block::IQ3_XXS
            | Block::IQ1_S
            | Block::IQ3_S
            | Block::IQ2_S
            | Block::IQ1_M
            | Block::NVFP4
            | Block::Q1_0
            | Block::Q2_0 => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::decode::tests::random_bytes;

    /// Every difference of two values that share a scale is a whole number of steps, and some is the smallest there is.
    #[test]
    fn steps_divide_the_differences_of_decoded_values() {
        for block in Block::all().filter(|block| block.grid() == Grid::Even) {
            let dtype = DType::Block(block);
            let (count, mut checked) = (block.values() as usize, 0);
            for seed in 0..200 {
                let bytes = random_bytes(block, seed);
                let (mut values, mut found) = (vec![0.0; count], vec![0.0; count]);
                decode(&dtype, &bytes, &mut values).unwrap();
                steps(&dtype, &bytes, &mut found).unwrap();
                for pair in 0..count - 1 {
                    let (step, gap) = (found[pair], (values[pair] - values[pair + 1]).abs());
                    // Parts of 16 or more share a scale.
                    let usable = pair / 16 == (pair + 1) / 16 && (1e-30..1e30).contains(&step);
                    let exact = values[pair].abs() + gap <= 1e4 * step;
                    if !usable || !exact {
                        continue;
                    }
                    checked += 1;
                    let times = gap / step;
                    assert!((times - times.round()).abs() < 0.01, "{block} {seed} {pair}: {gap} / {step}");
                }
            }
            assert!(checked > 1000, "{block}: {checked}");
        }
    }

    #[test]
    fn uneven_levels_have_the_larger_gap_of_the_two_beside_them() {
        assert_eq!(gap(&NON_LINEAR, 0.5, 0.5), 6.0, "1 lies between -10 and 13");
        assert_eq!(gap(&NON_LINEAR, -0.5, -0.5), 6.0);
        assert_eq!(gap(&NON_LINEAR, 1.0, 113.0), 24.0);
        assert_eq!(gap(&E2M1, 2.0, 6.0), 2.0);
        assert_eq!(gap(&E2M1, 0.0, 6.0), 0.0);
        for name in ["IQ4_NL", "IQ4_XS", "MXFP4"] {
            let block = Block::named(name).unwrap();
            let (dtype, count) = (DType::Block(block), block.values() as usize);
            for seed in 0..50 {
                let bytes = random_bytes(block, seed);
                let (mut values, mut found) = (vec![0.0; count], vec![0.0; count]);
                decode(&dtype, &bytes, &mut values).unwrap();
                steps(&dtype, &bytes, &mut found).unwrap();
                // Sorted, neighbouring values of one scale that differ are not closer than the smallest gap there is.
                for part in 0..count / 32 {
                    let here = part * 32..part * 32 + 32;
                    let mut sorted = values[here.clone()].to_vec();
                    sorted.sort_unstable_by(f32::total_cmp);
                    let smallest = found[here].iter().copied().filter(|s| s.is_normal()).fold(f32::INFINITY, f32::min);
                    for pair in sorted.windows(2).filter(|pair| pair[0] < pair[1]) {
                        assert!(smallest.is_infinite() || pair[1] - pair[0] > 0.4 * smallest, "{name} {seed}");
                    }
                }
            }
        }
    }

    #[test]
    fn code_books_and_plain_types_have_no_steps() {
        for block in Block::all().filter(|block| matches!(block.grid(), Grid::CodeBook | Grid::Unread)) {
            let bytes = vec![0; block.bytes() as usize];
            assert_eq!(steps(&DType::Block(block), &bytes, &mut vec![0.0; block.values() as usize]), None, "{block}");
        }
        assert_eq!(steps(&DType::F32, &[0; 4], &mut [0.0]), None);
        let q8 = DType::Block(Block::named("Q8_0").unwrap());
        assert_eq!(steps(&q8, &[0; 33], &mut [0.0; 32]), None);
    }
}
