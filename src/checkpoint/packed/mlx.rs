//! MLX: words of codes along the in features, with scales and biases, or with the scales of microscaled floats.

use serde_json::Value;

use super::{Beside, Found, exponents, floats, is_matrix, stored, with_in_features};
use crate::tensor::packed::{ByRow, Code, Offset, Packed, Packing, Scale, Stored};
use crate::tensor::{DType, TensorMeta};

impl Beside<'_> {
    pub(super) fn mlx(&self, stem: &str, codes: &TensorMeta) -> Option<Found> {
        let scales = self.part(stem, ".scales").filter(|_| is_matrix(codes))?;
        match self.part(stem, ".biases") {
            Some(biases) => {
                let group = self.mlx_group(stem)?;
                let (words, scale, bias) = (stored(codes)?, floats(scales.1)?, floats(biases.1)?);
                let in_features = scale.cols.checked_mul(group)?;
                let all = words.cols.checked_mul(32)?;
                let bits = all.checked_div(in_features).filter(|bits| in_features.checked_mul(*bits) == Some(all))?;
                let same = scale.rows == words.rows && (bias.rows, bias.cols) == (scale.rows, scale.cols);
                if !matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) || !same {
                    return None;
                }
                let code = Code::Bits { bits: bits as u32, middle: 0 };
                let form = ByRow { code, block: (1, group), scale: Scale::Plain, offset: Offset::Added };
                let packed = Packed { offsets: Some(bias), ..Packed::new(Packing::ByRow(form), words.bytes()?, scale) };
                let (shape, parts) = (with_in_features(&codes.shape, in_features), vec![scales.0, biases.0]);
                Some(Found { name: codes.name.clone(), kind: format!("MLX-{bits}"), shape, packed, parts })
            }
            None => mlx_floats(codes, scales),
        }
    }

    /// In features that share a scale, for this tensor or for all.
    fn mlx_group(&self, stem: &str) -> Option<u64> {
        let config = self.config?;
        let stated = config.get("quantization").or_else(|| config.get("quantization_config"))?;
        let size = |stated: &Value| stated.get("group_size")?.as_u64();
        stated.get(stem).and_then(size).or_else(|| size(stated)).filter(|group| *group > 0)
    }
}

/// The modes `mxfp4`, `nvfp4` and `mxfp8`, which the widths of codes and scales tell apart.
fn mlx_floats(codes: &TensorMeta, scales: (usize, &TensorMeta)) -> Option<Found> {
    let (words, scale) = (stored(codes)?.bytes()?, exponents(scales.1)?);
    if scale.rows != words.rows || scale.cols == 0 {
        return None;
    }
    let by_row = |code, wide, scale| ByRow { code, block: (1, wide), scale, offset: Offset::None };
    let (kind, form, codes_as, scales_as) = match words.cols.checked_div(scale.cols)? {
        16 => ("MXFP4-SCALED", by_row(Code::E2m1, 32, Scale::Exponent), DType::U8, DType::U8),
        8 => ("NVFP4-SCALED", by_row(Code::E2m1, 16, Scale::Plain), DType::U8, DType::F8E4M3),
        32 => ("MXFP8-SCALED", by_row(Code::Number, 32, Scale::Exponent), DType::F8E4M3, DType::U8),
        _ => return None,
    };
    let in_features = scale.cols.checked_mul(form.block.1)?;
    let per_byte = if form.code == Code::Number { 1 } else { 2 };
    if words.cols.checked_mul(per_byte) != Some(in_features) {
        return None;
    }
    let (words, scale) = (Stored { dtype: codes_as, ..words }, Stored { dtype: scales_as, ..scale });
    let packed = Packed::new(Packing::ByRow(form), words, scale);
    let shape = with_in_features(&codes.shape, in_features);
    Some(Found { name: codes.name.clone(), kind: kind.to_owned(), shape, packed, parts: vec![scales.0] })
}
