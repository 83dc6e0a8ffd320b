//! PyTorch's own quantised tensors: 8-bit codes whose scales and zero points stand in the pickle, or in tensors beside.

use std::sync::Arc;

use super::tensors::Placed;
use super::{Named, Ranges};
use crate::Result;
use crate::format::pickle::{Pickle, Quantiser, Tensor};
use crate::tensor::packed::{ByRow, Code, Kind, Offset, Packed, Packing, Scale, Stored};
use crate::tensor::{DType, Extent, Storage, TensorMeta};

/// The tensor that the codes at a place stand for. `None` where they are not whole numbers of one byte or four in order,
/// or the scales do not fit them.
pub(crate) fn packed(
    file: Named<'_>,
    pickle: &Pickle<'_>,
    name: &str,
    tensor: &Tensor,
    placed: &Placed,
    ranges: &Ranges,
) -> Result<Option<TensorMeta>> {
    let Some(quantiser) = tensor.quantiser.filter(|_| placed.in_order && placed.len > 0) else { return Ok(None) };
    let (dtype, kind) = match tensor.element.name {
        "QINT8" => (DType::I8, "I8-SCALED"),
        "QUINT8" => (DType::U8, "U8-SCALED"),
        "QINT32" => (DType::I32, "I32-SCALED"),
        _ => return Ok(None),
    };
    let shape = tensor.size.clone();
    let (rows, cols) = crate::tensor::matrix(&shape);
    let extent = Extent { shard: 0, offset: placed.start, len: placed.len };
    let codes = Stored { dtype, rows, cols, extent };
    let found = match quantiser {
        Quantiser::Whole { scale, zero } => whole(codes, f64::from_bits(scale), zero),
        Quantiser::Along { scales, zeros, axis } => {
            let vector = |id| -> Result<Option<Stored>> {
                let Some(tensor) = pickle.tensor(id).filter(|tensor| tensor.quantiser.is_none()) else {
                    return Ok(None);
                };
                let placed = Placed::new(file, pickle, name, tensor, ranges)?;
                let dtype = DType::from(tensor.element.name.to_owned());
                let is_read = placed.in_order && dtype.is_decoded() && tensor.size.len() == 1;
                let extent = Extent { shard: 0, offset: placed.start, len: placed.len };
                Ok(is_read.then(|| Stored { dtype, rows: 1, cols: tensor.size[0], extent }))
            };
            match (vector(scales)?, vector(zeros)?) {
                (Some(scales), Some(zeros)) => along(codes, &shape, axis, scales, zeros),
                _ => None,
            }
        }
    };
    let meta = |(packed, kind)| {
        let storage = Storage::Packed(Arc::new(packed));
        TensorMeta { name: name.to_owned(), dtype: DType::Packed(kind), shape, storage }
    };
    Ok(found.zip(Kind::named(kind)).map(meta))
}

/// One scale and zero point, which have no place among the storages.
fn whole(codes: Stored, scale: f64, zero: i64) -> Option<Packed> {
    let (scale, zero) = (scale as f32, i32::try_from(zero).ok()?);
    let block = (codes.rows, codes.cols);
    let (scale, offset) = (Scale::Stated(scale.to_bits()), Offset::Stated(zero));
    let none = Stored { dtype: DType::F32, rows: 1, cols: 1, extent: Extent { len: 0, ..codes.extent } };
    let form = ByRow { code: Code::Number, block, scale, offset };
    Some(Packed::new(Packing::ByRow(form), codes, none))
}

/// A scale for each index of the first axis, or of the last.
fn along(codes: Stored, shape: &[u64], axis: u64, mut scales: Stored, mut zeros: Stored) -> Option<Packed> {
    let count = scales.cols;
    let by_row = axis == 0;
    let wanted = *shape.get(usize::try_from(axis).ok()?)?;
    if count != wanted || zeros.cols != count || count == 0 || !by_row && axis + 1 != shape.len() as u64 {
        return None;
    }
    let block = if by_row { (codes.rows / count, codes.cols) } else { (codes.rows, 1) };
    if by_row {
        for vector in [&mut scales, &mut zeros] {
            (vector.rows, vector.cols) = (count, 1);
        }
    }
    let form = ByRow { code: Code::Number, block, scale: Scale::Plain, offset: Offset::Zero };
    Some(Packed { offsets: Some(zeros), ..Packed::new(Packing::ByRow(form), codes, scales) })
}
