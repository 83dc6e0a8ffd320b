//! Codes packed across the rows of a matrix: HQQ and BitNet.

use super::{Beside, Found, PackedPart, floats, stored};
use crate::Result;
use crate::tensor::packed::{Packed, Packing, Scale, Shared, Slabs, Stored};
use crate::tensor::{DType, TensorMeta};

impl Beside<'_> {
    /// HQQ: groups of values as the rows, or as the columns, of a matrix of codes, with a scale and a zero point each; the
    /// shape of the weights lies beside them.
    pub(super) fn hqq(&self, stem: &str, codes: &TensorMeta) -> Result<Option<Found>> {
        let parts = [".shape", ".scale", ".zero"].map(|ending| self.part(stem, ending));
        let [Some(shape), Some(scales), Some(zeros)] = parts else { return Ok(None) };
        let Some([out_features, in_features]) = self.stated_shape(shape.1)? else { return Ok(None) };
        let found = grouped(codes, [out_features, in_features], scales, zeros);
        let settings = ["nbits", "group_size", "axis", "channel_wise", "packing", "unpack_view_dtype", "view_as_float"];
        let settings = settings.iter().filter_map(|name| self.part(stem, &format!(".{name}")));
        let parts: Vec<usize> = [shape, scales, zeros].into_iter().chain(settings).map(|part| part.0).collect();
        let name = format!("{stem}.weight");
        let named = |(kind, packed)| Found { name, kind, shape: vec![out_features, in_features], packed, parts };
        Ok(found.map(named))
    }
}

/// Codes of which each stored row, or each column, is a group.
fn grouped(
    codes: &TensorMeta,
    [out_features, in_features]: [u64; 2],
    scales: PackedPart<'_>,
    zeros: PackedPart<'_>,
) -> Option<(String, Packed)> {
    let (matrix, mut scale, mut zero) = (stored(codes)?, floats(scales.1)?, floats(zeros.1)?);
    let values = out_features.checked_mul(in_features).filter(|values| *values > 0)?;
    let bits = bits(&matrix, values)?;
    let lines = values.checked_div(matrix.cols).filter(|_| values.is_multiple_of(matrix.cols))?;
    let shared = match (scale.rows, scale.cols) {
        (rows, 1) if rows == lines => Shared::Runs(matrix.cols),
        (1, cols) if cols == matrix.cols => Shared::Every(matrix.cols),
        _ => return None,
    };
    let count = scale.rows.checked_mul(scale.cols)?;
    if zero.rows.checked_mul(zero.cols) != Some(count) {
        return None;
    }
    for vector in [&mut scale, &mut zero] {
        (vector.rows, vector.cols) = (1, count);
    }
    let form = Slabs { bits, high_first: true, middle: 0, cols: in_features, shared, scale: Scale::Plain };
    let packed = Packed { offsets: Some(zero), ..Packed::new(Packing::Slabs(form), matrix, scale) };
    Some((format!("INT{bits}-PACKED"), packed))
}

/// Bits of a code: bytes hold eight, four, two or one, and words of 32 bits hold ten of three, the last row padded.
fn bits(matrix: &Stored, values: u64) -> Option<u32> {
    let of = |slabs: u64| matrix.rows.checked_mul(slabs)?.checked_mul(matrix.cols);
    match matrix.dtype {
        DType::U8 => [8u32, 4, 2, 1].into_iter().find(|bits| of(8 / u64::from(*bits)) == Some(values)),
        DType::I32 => {
            let (all, padding) = (of(10)?, matrix.cols.checked_mul(10)?);
            (all >= values && all - values < padding).then_some(3)
        }
        _ => None,
    }
}

/// BitNet's codes 0, 1 and 2 for −1, 0 and 1; a matrix is as high as its codes have places.
pub(super) fn ternary(
    codes: &TensorMeta,
    scales: usize,
    matrix: Stored,
    scale: Stored,
    is_multiplied: bool,
) -> Option<Found> {
    let (rows, cols) = (matrix.rows.checked_mul(4)?, matrix.cols);
    let values = rows.checked_mul(cols).filter(|values| *values > 0)?;
    let how = if is_multiplied { Scale::Plain } else { Scale::Inverse };
    let shared = Shared::Runs(values);
    let form = Slabs { bits: 2, high_first: false, middle: 1, cols, shared, scale: how };
    let packed = Packed::new(Packing::Slabs(form), matrix, Stored { rows: 1, cols: 1, ..scale });
    let (name, kind) = (codes.name.clone(), "INT2-PACKED".to_owned());
    Some(Found { name, kind, shape: vec![rows, cols], packed, parts: vec![scales] })
}
