//! GPTQ and AWQ: matrices of (in, out) in words.

use super::{Beside, Found, floats, order, words};
use crate::tensor::TensorMeta;
use crate::tensor::packed::{Packed, Packing};

impl Beside<'_> {
    /// GPTQ, or AWQ: which one, the sizes tell.
    pub(super) fn by_column(&self, stem: &str, codes: &TensorMeta) -> Option<Found> {
        let (scales, zeros) = (self.part(stem, ".scales")?, self.part(stem, ".qzeros")?);
        let groups = self.part(stem, ".g_idx");
        let (codes, scale, zero) = (words(codes)?, floats(scales.1)?, words(zeros.1)?);
        let (out, count) = (scale.cols, scale.rows);
        if count == 0 || out == 0 || zero.rows != count {
            return None;
        }
        let name = format!("{stem}.weight");
        let parts = vec![scales.0, zeros.0];
        if codes.cols.checked_mul(8) == Some(out) && zero.cols == codes.cols {
            let in_features = codes.rows;
            let group = (in_features % count == 0).then_some(in_features / count).filter(|group| *group > 0)?;
            let packed = Packed { offsets: Some(zero), ..Packed::new(Packing::Awq { group }, codes, scale) };
            // A group of each in is sometimes there besides, and says what the position says.
            let parts = parts.into_iter().chain(groups.map(|found| found.0)).collect();
            return Some(Found { name, kind: "AWQ-4".to_owned(), shape: vec![out, in_features], packed, parts });
        }
        let bits = zero.cols.checked_mul(32)?.checked_div(out)?;
        if !matches!(bits, 2 | 3 | 4 | 8) || zero.cols.checked_mul(32) != out.checked_mul(bits) || codes.cols != out {
            return None;
        }
        let in_features = codes.rows.checked_mul(32).filter(|all| all.is_multiple_of(bits))? / bits;
        if count > in_features {
            return None;
        }
        let order = match groups {
            None => None,
            Some((_, groups)) => Some(order(groups, in_features)?),
        };
        let format = self.stated().and_then(|stated| stated.get("checkpoint_format")?.as_str());
        let plus = u32::from(format != Some("gptq_v2"));
        let packing = Packing::Gptq { bits: bits as u32, group: in_features.div_ceil(count), plus };
        let packed = Packed { offsets: Some(zero), order, ..Packed::new(packing, codes, scale) };
        let parts = parts.into_iter().chain(groups.map(|found| found.0)).collect();
        Some(Found { name, kind: format!("GPTQ-{bits}"), shape: vec![out, in_features], packed, parts })
    }
}
