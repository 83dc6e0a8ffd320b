//! Stored bytes to `f32` values, block by block, in the caller's buffer.
//!
//! Every type that fits is widened exactly; `f64` and wide integers are rounded to nearest and say whether any value
//! changed, because a digest over values only means something when nothing was lost.

mod blocks;
mod steps;

use std::sync::LazyLock;

use half::slice::HalfFloatSliceExt;

use super::DType;
pub(crate) use steps::{E2M1, gap, steps};

/// Decodes `bytes` into `out`, one value for each element. Returns whether every value is exact.
///
/// A value of a block type is what its codes and scales come to in `f32` by the reference decoder, and counts as exact.
/// NaN payloads are kept for `f32` and `bf16`; elsewhere a NaN becomes some NaN. Returns `None`, and leaves `out`
/// in an unknown state, where the type is unknown or the lengths do not fit.
pub fn decode(dtype: &DType, bytes: &[u8], out: &mut [f32]) -> Option<bool> {
    if dtype.size_of(out.len() as u64)? != bytes.len() as u64 {
        return None;
    }
    match dtype {
        DType::F32 => widen(bytes, out, f32::from_le_bytes),
        DType::BF16 => widen(bytes, out, |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        DType::F16 => decode_f16(bytes, out),
        DType::F8E4M3 => widen(bytes, out, |[b]: [u8; 1]| F8_E4M3[usize::from(b)]),
        DType::F8E5M2 => widen(bytes, out, |[b]: [u8; 1]| F8_E5M2[usize::from(b)]),
        DType::Bool => widen(bytes, out, |[b]: [u8; 1]| f32::from(b != 0)),
        DType::U8 => widen(bytes, out, |[b]: [u8; 1]| f32::from(b)),
        DType::I8 => widen(bytes, out, |b: [u8; 1]| f32::from(i8::from_le_bytes(b))),
        DType::U16 => widen(bytes, out, |b: [u8; 2]| f32::from(u16::from_le_bytes(b))),
        DType::I16 => widen(bytes, out, |b: [u8; 2]| f32::from(i16::from_le_bytes(b))),
        DType::U32 => return Some(narrow(bytes, out, |b| f64::from(u32::from_le_bytes(b)))),
        DType::I32 => return Some(narrow(bytes, out, |b| f64::from(i32::from_le_bytes(b)))),
        DType::F64 => return Some(narrow(bytes, out, f64::from_le_bytes)),
        DType::I64 => return Some(narrow_integer(bytes, out, |b| i128::from(i64::from_le_bytes(b)))),
        DType::U64 => return Some(narrow_integer(bytes, out, |b| i128::from(u64::from_le_bytes(b)))),
        DType::Block(block) => return blocks::decode(*block, bytes, out),
        DType::Packed(_) | DType::Strided(_) | DType::Other(_) => return None,
    }
    Some(true)
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (slot, element) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *slot = value(*element);
    }
}

fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    const BLOCK: usize = 1024;
    let mut block = [half::f16::ZERO; BLOCK];
    for (values, raw) in out.chunks_mut(BLOCK).zip(bytes.chunks(2 * BLOCK)) {
        let halves = &mut block[..values.len()];
        for (half, element) in halves.iter_mut().zip(raw.as_chunks::<2>().0) {
            *half = half::f16::from_le_bytes(*element);
        }
        halves.convert_to_f32_slice(values);
    }
}

fn narrow<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f64) -> bool {
    let mut exact = true;
    for (slot, element) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        let wide = value(*element);
        *slot = wide as f32;
        exact &= f64::from(*slot) == wide || wide.is_nan();
    }
    exact
}

fn narrow_integer(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; 8]) -> i128) -> bool {
    let mut exact = true;
    for (slot, element) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        let wide = value(*element);
        *slot = wide as f32;
        exact &= *slot as i128 == wide;
    }
    exact
}

/// OCP 8-bit floating point E4M3: bias 7, no infinities, `S.1111.111` is NaN, largest finite value 448.
static F8_E4M3: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| if code & 0x7f == 0x7f { f32::NAN } else { small_float(code, 3, 7) }));

/// OCP 8-bit floating point E5M2: bias 15, IEEE infinities and NaN, largest finite value 57,344.
static F8_E5M2: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| match code & 0x7f {
        0x7c => f32::INFINITY.copysign(if code & 0x80 == 0 { 1.0 } else { -1.0 }),
        0x7d.. => f32::NAN,
        _ => small_float(code, 2, 15),
    })
});

/// The value of an 8-bit code with a sign bit, `7 - mantissa` exponent bits and `mantissa` mantissa bits.
fn small_float(code: usize, mantissa: u32, bias: i32) -> f32 {
    let fraction = (code & ((1 << mantissa) - 1)) as f32 / (1 << mantissa) as f32;
    let exponent = ((code & 0x7f) >> mantissa) as i32;
    let magnitude =
        if exponent == 0 { fraction * 2f32.powi(1 - bias) } else { (1.0 + fraction) * 2f32.powi(exponent - bias) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The gap between `value` and its neighbour in a floating-point type: how far rounding to that type can move it is
/// half of this. `None` for types that are not floating point.
pub fn grid_step(dtype: &DType, value: f32) -> Option<f32> {
    let (mantissa, lowest_exponent) = match dtype {
        DType::F64 => (52, -1022),
        DType::F32 => (23, -126),
        DType::BF16 => (7, -126),
        DType::F16 => (10, -14),
        DType::F8E4M3 => (3, -6),
        DType::F8E5M2 => (2, -14),
        _ => return None,
    };
    let exponent = if value == 0.0 { lowest_exponent } else { libm::ilogbf(value).max(lowest_exponent) };
    Some(libm::ldexp(1.0, exponent - mantissa) as f32)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tensor::Block;

    /// One block of random bytes.
    pub(in crate::tensor) fn random_bytes(block: Block, seed: u64) -> Vec<u8> {
        let word = |index: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&index.to_le_bytes(), seed);
        (0..block.bytes().div_ceil(8))
            .flat_map(|index| word(index).to_le_bytes())
            .take(block.bytes() as usize)
            .collect()
    }

    fn one(dtype: DType, bytes: &[u8]) -> (f32, bool) {
        let mut out = [0.0];
        let exact = decode(&dtype, bytes, &mut out).expect("known type");
        (out[0], exact)
    }

    #[test]
    fn eight_bit_floats_match_the_tables_of_the_ocp_specification() {
        // OCP 8-bit Floating Point Specification (OFP8) 1.0, table 2: exact values of the named codes.
        for (code, value) in
            [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x07, 0.875 * 2f32.powi(-6)), (0x08, 2f32.powi(-6)), (0x7e, 448.0)]
        {
            assert_eq!(one(DType::F8E4M3, &[code]).0, value);
            assert_eq!(one(DType::F8E4M3, &[code | 0x80]).0, -value);
        }
        assert!(one(DType::F8E4M3, &[0x7f]).0.is_nan() && one(DType::F8E4M3, &[0xff]).0.is_nan());
        for (code, value) in [
            (0x01, 2f32.powi(-16)),
            (0x03, 0.75 * 2f32.powi(-14)),
            (0x04, 2f32.powi(-14)),
            (0x7b, 57_344.0),
            (0x7c, f32::INFINITY),
        ] {
            assert_eq!(one(DType::F8E5M2, &[code]).0, value);
        }
        assert!(one(DType::F8E5M2, &[0x7d]).0.is_nan());
    }

    #[test]
    fn wide_types_say_when_a_value_was_rounded() {
        assert_eq!(one(DType::F64, &1.5f64.to_le_bytes()), (1.5, true));
        assert_eq!(one(DType::F64, &0.1f64.to_le_bytes()), (0.1, false));
        assert_eq!(one(DType::I64, &(1i64 << 24).to_le_bytes()), (16_777_216.0, true));
        assert_eq!(one(DType::I64, &((1i64 << 24) + 1).to_le_bytes()), (16_777_216.0, false));
        assert_eq!(one(DType::U64, &u64::MAX.to_le_bytes()), (18_446_744_073_709_551_616.0, false));
        assert_eq!(one(DType::I32, &(-7i32).to_le_bytes()), (-7.0, true));
        assert_eq!(one(DType::I8, &[0xff]), (-1.0, true));
        assert_eq!(one(DType::Bool, &[2]), (1.0, true));
    }

    #[test]
    fn lengths_that_do_not_fit_and_unknown_types_are_refused() {
        assert_eq!(decode(&DType::F32, &[0; 7], &mut [0.0; 2]), None);
        assert_eq!(decode(&DType::Other("F4".into()), &[0; 8], &mut [0.0; 2]), None);
    }

    #[test]
    fn grid_steps_are_the_distance_to_the_next_representable_value() {
        assert_eq!(grid_step(&DType::BF16, 1.0), Some(2f32.powi(-7)));
        assert_eq!(grid_step(&DType::F16, 1.5), Some(2f32.powi(-10)));
        assert_eq!(grid_step(&DType::F16, 0.0), Some(2f32.powi(-24)));
        assert_eq!(grid_step(&DType::F8E4M3, 448.0), Some(32.0));
        assert_eq!(grid_step(&DType::U8, 1.0), None);
    }
}
