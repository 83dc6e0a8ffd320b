//! 8-bit numbers with scales, compressed-tensors, and microscaled floats: matrices of (out, in), row by row.

use super::{Beside, Found, PackedPart, exponents, floats, is_matrix, order, stored, with_in_features};
use crate::Result;
use crate::tensor::packed::{ByRow, Code, Offset, Packed, Packing, Scale, Stored};
use crate::tensor::{DType, TensorMeta};

/// Side of the square blocks that DeepSeek's 8-bit floats share a scale in.
const SQUARE: u64 = 128;

/// In features that share a scale in MXFP4 and MXFP8 (OCP microscaling specification 1.0), and in NVFP4.
const MICRO: u64 = 32;
const NV: u64 = 16;

impl Beside<'_> {
    /// 8-bit numbers, one to a code: one scale for the tensor, for each row, or for each block.
    pub(super) fn scaled(&self, stem: &str, codes: &TensorMeta) -> Option<Found> {
        let scales = self.part(stem, ".weight_scale_inv").or_else(|| self.part(stem, ".weight_scale"))?;
        let zeros = self.part(stem, ".weight_zero_point").filter(|_| codes.dtype == DType::I8);
        if zeros.is_some_and(|(_, zeros)| zeros.dtype != DType::I8) {
            return None;
        }
        by_scale(codes.name.clone(), codes, scales, zeros)
    }

    /// compressed-tensors: integers of a few bits, or 4-bit floats.
    pub(super) fn compressed(&self, stem: &str, codes: &TensorMeta) -> Result<Option<Found>> {
        let Some(scales) = self.part(stem, ".weight_scale").filter(|_| is_matrix(codes)) else { return Ok(None) };
        let name = format!("{stem}.weight");
        if codes.dtype == DType::U8 {
            let second = self.part(stem, ".weight_global_scale").map(|second| (second, Scale::Over));
            return Ok(four_bit_floats(name, codes, scales, second));
        }
        let Some((at, shape)) = self.part(stem, ".weight_shape") else { return Ok(None) };
        let Some([out_features, in_features]) = self.stated_shape(shape)? else { return Ok(None) };
        let found = self.integers(stem, codes, scales, [out_features, in_features]);
        Ok(found.map(|found| Found { parts: found.parts.into_iter().chain([at]).collect(), ..found }))
    }

    /// Integers of (out, in) in words.
    fn integers(
        &self,
        stem: &str,
        codes: &TensorMeta,
        scales: (usize, &TensorMeta),
        [out_features, in_features]: [u64; 2],
    ) -> Option<Found> {
        let (words, mut scale) = (super::words(codes)?, floats(scales.1)?);
        let in_words = |count: u64, bits: u32| count.checked_mul(bits.into()).map(|all| all.div_ceil(32));
        let mut fitting = (1..=8).filter(|&bits| in_words(in_features, bits) == Some(words.cols));
        let (bits, None) = (fitting.next()?, fitting.next()) else { return None };
        if words.rows != out_features || out_features == 0 || in_features == 0 {
            return None;
        }
        let matrix = Stored { rows: out_features, cols: in_features, ..words.clone() };
        let block = block(&matrix, &mut scale)?;
        let code = Code::Bits { bits, middle: 1 << (bits - 1) };
        let mut parts = vec![scales.0];
        let mut offset = Offset::None;
        let mut offsets = None;
        if let Some((at, zeros)) = self.part(stem, ".weight_zero_point") {
            let zero = super::words(zeros)?;
            if (Some(zero.rows), zero.cols) != (in_words(out_features, bits), scale.cols) || block.0 != 1 {
                return None;
            }
            (offset, offsets) = (Offset::ZeroCodes, Some(zero));
            parts.push(at);
        }
        let mut groups = None;
        if let Some((at, meta)) = self.part(stem, ".weight_g_idx") {
            groups = Some(order(meta, in_features).filter(|_| scale.cols <= in_features)?);
            parts.push(at);
        }
        let form = ByRow { code, block, scale: Scale::Plain, offset };
        let packed = Packed { offsets, order: groups, ..Packed::new(Packing::ByRow(form), words.bytes()?, scale) };
        let name = format!("{stem}.weight");
        Some(Found { name, kind: format!("INT{bits}-PACKED"), shape: vec![out_features, in_features], packed, parts })
    }

    /// NVFP4 as ModelOpt writes it.
    pub(super) fn nvfp4(&self, stem: &str, codes: &TensorMeta) -> Option<Found> {
        let (scales, second) = (self.part(stem, ".weight_scale")?, self.part(stem, ".weight_scale_2")?);
        if !is_matrix(codes) {
            return None;
        }
        four_bit_floats(codes.name.clone(), codes, scales, Some((second, Scale::Times)))
    }

    /// MXFP4 as gpt-oss has it: (…, out features, groups, 16) with (…, out features, groups).
    pub(super) fn blocks(&self, stem: &str, codes: &TensorMeta) -> Option<Found> {
        let scales = self.part(stem, "_scales")?;
        let [lead @ .., groups, width] = codes.shape.as_slice() else { return None };
        let fits = *width == MICRO / 2 && matches!(lead.len(), 1 | 2) && codes.dtype == DType::U8;
        if !fits || scales.1.shape != [lead, &[*groups]].concat() || codes.shape.contains(&0) {
            return None;
        }
        let rows = lead.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
        let (codes, scale) = (stored(codes)?, exponents(scales.1)?);
        let codes = Stored { rows, cols: groups.checked_mul(*width)?, ..codes };
        let form = ByRow { code: Code::E2m1, block: (1, MICRO), scale: Scale::Exponent, offset: Offset::None };
        let packed = Packed::new(Packing::ByRow(form), codes, Stored { rows, cols: *groups, ..scale });
        let shape = [lead, &[groups.checked_mul(MICRO)?]].concat();
        let (name, kind) = (stem.to_owned(), "MXFP4-SCALED".to_owned());
        Some(Found { name, kind, shape, packed, parts: vec![scales.0] })
    }
}

/// Numbers of a stored type with scales, and zero points that lie like these.
pub(super) fn by_scale(
    name: String,
    codes: &TensorMeta,
    scales: PackedPart<'_>,
    zeros: Option<PackedPart<'_>>,
) -> Option<Found> {
    let (mut kind, integers) = match codes.dtype {
        DType::F8E4M3 => ("F8_E4M3-SCALED", false),
        DType::F8E5M2 => ("F8_E5M2-SCALED", false),
        DType::U8 => ("U8-SCALED", true),
        _ => ("I8-SCALED", true),
    };
    if !is_matrix(codes) {
        return None;
    }
    let matrix = stored(codes)?;
    let mut scale = floats(scales.1).or_else(|| exponents(scales.1).filter(|_| !integers))?;
    let mut form = ByRow { code: Code::Number, block: (1, 1), scale: Scale::Plain, offset: Offset::None };
    if scale.dtype == DType::U8 {
        (form.scale, kind) = (Scale::Exponent, "MXFP8-SCALED");
    }
    form.block = block(&matrix, &mut scale)?;
    let mut parts = vec![scales.0];
    let mut packed = Packed::new(Packing::ByRow(form), matrix, scale);
    if let Some((at, zeros)) = zeros {
        let mut zero = stored(zeros).filter(|zero| zero.dtype.is_decoded())?;
        (zero.rows, zero.cols) = same_places(&zero, &packed.scales)?;
        packed.packing = Packing::ByRow(ByRow { offset: Offset::Zero, ..form });
        packed.offsets = Some(zero);
        parts.push(at);
    }
    let shape = codes.shape.clone();
    Some(Found { name, kind: kind.to_owned(), shape, packed, parts })
}

/// Two 4-bit floats to a byte, with 8-bit floats for scales and one scale for these, or with exponents of two.
fn four_bit_floats(
    name: String,
    codes: &TensorMeta,
    scales: (usize, &TensorMeta),
    second: Option<((usize, &TensorMeta), Scale)>,
) -> Option<Found> {
    let matrix = stored(codes)?;
    let in_features = matrix.cols.checked_mul(2)?;
    let is_nv = scales.1.dtype == DType::F8E4M3;
    let (kind, wide, scale) =
        if is_nv { ("NVFP4-SCALED", NV, floats(scales.1)?) } else { ("MXFP4-SCALED", MICRO, exponents(scales.1)?) };
    let groups = scale.cols.checked_mul(wide)?;
    if scale.rows != matrix.rows || groups != in_features || is_nv != second.is_some() {
        return None;
    }
    let how = second.map_or(Scale::Exponent, |second| second.1);
    let form = ByRow { code: Code::E2m1, block: (1, wide), scale: how, offset: Offset::None };
    let mut packed = Packed::new(Packing::ByRow(form), matrix, scale);
    let mut parts = vec![scales.0];
    if let Some(((at, meta), _)) = second {
        packed.second = Some(floats(meta).filter(|second| (second.rows, second.cols) == (1, 1))?);
        parts.push(at);
    }
    Some(Found { name, kind: kind.to_owned(), shape: with_in_features(&codes.shape, in_features), packed, parts })
}

/// Rows and columns that share a scale, and the scales as a matrix of such blocks.
fn block(codes: &Stored, scale: &mut Stored) -> Option<(u64, u64)> {
    let (rows, cols) = (codes.rows, codes.cols);
    let (tall, wide) = (scale.rows, scale.cols);
    let count = tall.checked_mul(wide)?;
    if rows == 0 || cols == 0 || count == 0 {
        return None;
    }
    if count == 1 {
        (scale.rows, scale.cols) = (1, 1);
        return Some((rows, cols));
    }
    if count == rows && (tall == 1 || wide == 1) {
        (scale.rows, scale.cols) = (rows, 1);
        return Some((1, cols));
    }
    if (tall, wide) == (rows.div_ceil(SQUARE), cols.div_ceil(SQUARE)) {
        return Some((SQUARE, SQUARE));
    }
    if count == cols && (tall == 1 || wide == 1) {
        (scale.rows, scale.cols) = (1, cols);
        return Some((rows, 1));
    }
    if count > rows && (tall == 1 || wide == 1) && count.is_multiple_of(rows) && cols.is_multiple_of(count / rows) {
        // Groups of every row one after the other.
        (scale.rows, scale.cols) = (rows, count / rows);
        return Some((1, cols / scale.cols));
    }
    // Otherwise blocks of one size fill the matrix: groups of a row, the matrices of a stack or of a fused one.
    if tall == 1 && wide > 1 && rows.is_multiple_of(wide) {
        (scale.rows, scale.cols) = (wide, 1);
        return Some((rows / wide, cols));
    }
    (rows.is_multiple_of(tall) && cols.is_multiple_of(wide)).then(|| (rows / tall, cols / wide))
}

/// Rows and columns of the scales, where there are as many zero points.
fn same_places(zero: &Stored, scale: &Stored) -> Option<(u64, u64)> {
    let same = zero.rows.checked_mul(zero.cols) == scale.rows.checked_mul(scale.cols);
    same.then_some((scale.rows, scale.cols))
}
