//! Packed codes joined with their scales into one tensor, by the endings that quantisation tools give their names.
//!
//! What does not fit together (a missing part, sizes that contradict each other) stays as it is stored, and is reported
//! by type and coverage as before. Of the tensors' bytes only those few are read in which a tool states a shape or a
//! table; what they state is held against the sizes in the header before it is believed.

mod bitsandbytes;
mod columns;
mod mlx;
mod rows;
mod siblings;
mod slabs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::shard::Shard;
use crate::Result;
use crate::tensor::packed::{Kind, Packed, Stored};
use crate::tensor::{DType, Extent, Storage, TensorMeta};

/// Joins what fits together. The order of the tensors is that of their codes.
///
/// # Errors
/// As [`Shard::read`].
pub(super) fn join(
    tensors: Vec<TensorMeta>,
    config: Option<&Map<String, Value>>,
    shards: &[Shard],
) -> Result<Vec<TensorMeta>> {
    let by_name = tensors.iter().enumerate().map(|(at, meta)| (meta.name.as_str(), at)).collect();
    let mut by_module: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, meta) in tensors.iter().enumerate() {
        let module = meta.name.rsplit_once('.').map_or("", |(module, _)| module);
        by_module.entry(module).or_default().push(at);
    }
    let beside = Beside { tensors: &tensors, by_name, by_module, config, shards };
    let mut joined: BTreeMap<usize, TensorMeta> = BTreeMap::new();
    let (mut used, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (at, codes) in tensors.iter().enumerate() {
        let Some(Found { name, kind, shape, packed, parts }) = beside.recognise(codes)? else { continue };
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        // A tensor of that name may be there besides, or have come out of other codes.
        let free = (name == codes.name || !beside.by_name.contains_key(name.as_str())) && names.insert(name.clone());
        let (Some(kind), Some(_), true) = (Kind::named(&kind), elements, free) else { continue };
        let (storage, dtype) = (Storage::Packed(Arc::new(packed)), DType::Packed(kind));
        joined.insert(at, TensorMeta { name, dtype, shape, storage });
        used.extend(parts);
    }
    drop(beside);
    if joined.is_empty() {
        return Ok(tensors);
    }
    let kept = |(at, meta)| joined.remove(&at).or_else(|| (!used.contains(&at)).then_some(meta));
    Ok(tensors.into_iter().enumerate().filter_map(kept).collect())
}

/// A tensor put together, and which others went into it.
struct Found {
    name: String,
    kind: String,
    shape: Vec<u64>,
    packed: Packed,
    parts: Vec<usize>,
}

/// A tensor and its place among all.
type PackedPart<'a> = (usize, &'a TensorMeta);

/// The tensors beside each other, and what is known of all.
struct Beside<'a> {
    tensors: &'a [TensorMeta],
    by_name: BTreeMap<&'a str, usize>,
    /// The tensors whose names have no further part.
    by_module: HashMap<&'a str, Vec<usize>>,
    config: Option<&'a Map<String, Value>>,
    shards: &'a [Shard],
}

impl<'a> Beside<'a> {
    /// What this tensor is the codes of.
    fn recognise(&self, codes: &TensorMeta) -> Result<Option<Found>> {
        if let Some(stem) = codes.name.strip_suffix(".qweight") {
            return Ok(self.by_column(stem, codes));
        }
        if let Some(stem) = codes.name.strip_suffix(".weight_packed") {
            return self.compressed(stem, codes);
        }
        if let Some(stem) = codes.name.strip_suffix("_blocks") {
            return Ok(self.blocks(stem, codes));
        }
        if let Some(stem) = codes.name.strip_suffix(".W_q") {
            return self.hqq(stem, codes);
        }
        let Some(stem) = codes.name.strip_suffix(".weight") else { return self.numbers(codes) };
        if self.part(&codes.name, ".absmax").is_some() {
            return self.four_bits(stem, codes);
        }
        let found = match codes.dtype {
            DType::U8 => match self.nvfp4(stem, codes) {
                Some(found) => Some(found),
                None => self.ternary(stem, codes)?,
            },
            DType::U32 | DType::I32 => self.mlx(stem, codes),
            DType::I8 => self.int8(stem, codes)?.or_else(|| self.scaled(stem, codes)),
            DType::F8E4M3 | DType::F8E5M2 => self.scaled(stem, codes),
            _ => None,
        };
        match found {
            Some(found) => Ok(Some(found)),
            None => self.numbers(codes),
        }
    }

    fn part(&self, stem: &str, ending: &str) -> Option<PackedPart<'a>> {
        self.by_name.get(format!("{stem}{ending}").as_str()).map(|&at| (at, &self.tensors[at]))
    }

    /// The bytes of a plain tensor of at most `most` of them; `None` for another one.
    fn small(&self, meta: &TensorMeta, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(Extent { shard, offset, len }) = meta.storage.plain().filter(|extent| extent.len <= most) else {
            return Ok(None);
        };
        let within = |shard: &&Shard| offset.checked_add(len).is_some_and(|end| end <= shard.bytes);
        let Some(shard) = self.shards.get(shard).filter(within) else { return Ok(None) };
        let mut buf = Vec::new();
        Ok(Some(shard.read(offset, len as usize, &mut buf)?.to_vec()))
    }

    /// The first bytes of a plain tensor, `most` of them or all.
    fn head(&self, meta: &TensorMeta, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(extent) = meta.storage.plain() else { return Ok(None) };
        let first = Storage::Plain(Extent { len: extent.len.min(most), ..extent });
        self.small(&TensorMeta { storage: first, ..meta.clone() }, most)
    }

    /// Two sizes that a tool stores beside codes.
    fn stated_shape(&self, meta: &TensorMeta) -> Result<Option<[u64; 2]>> {
        let Some(bytes) = self.small(meta, 16)? else { return Ok(None) };
        let sizes: Vec<i64> = match meta.dtype {
            DType::I64 => bytes.as_chunks::<8>().0.iter().map(|size| i64::from_le_bytes(*size)).collect(),
            DType::I32 => bytes.as_chunks::<4>().0.iter().map(|size| i32::from_le_bytes(*size).into()).collect(),
            _ => return Ok(None),
        };
        let sizes: Option<Vec<u64>> = sizes.into_iter().map(|size| u64::try_from(size).ok()).collect();
        Ok(sizes.and_then(|sizes| sizes.try_into().ok()))
    }

    /// What `config.json` says of the quantisation.
    fn stated(&self) -> Option<&'a Map<String, Value>> {
        let config = self.config?;
        config.get("quantization_config").or_else(|| config.get("quantization"))?.as_object()
    }
}

/// A tensor as a stored matrix, leading dimensions folded into rows; `None` where its bytes are not one number after
/// the other.
fn stored(meta: &TensorMeta) -> Option<Stored> {
    let (rows, cols) = meta.matrix();
    let extent = meta.storage.plain()?;
    let whole = meta.dtype.size_of(rows.checked_mul(cols)?) == Some(extent.len);
    whole.then(|| Stored { dtype: meta.dtype.clone(), rows, cols, extent })
}

/// A tensor of floats, as a matrix.
fn floats(meta: &TensorMeta) -> Option<Stored> {
    stored(meta).filter(|stored| stored.dtype.is_float())
}

/// A tensor of exponents of two, as a matrix of bytes. Newer files give them a type of their own.
fn exponents(meta: &TensorMeta) -> Option<Stored> {
    match &meta.dtype {
        DType::U8 => stored(meta),
        DType::Other(name) if name == "F8_E8M0" => stored(&TensorMeta { dtype: DType::U8, ..meta.clone() }),
        _ => None,
    }
}

/// A matrix of 32-bit words.
fn words(meta: &TensorMeta) -> Option<Stored> {
    let is = matches!(meta.dtype, DType::I32 | DType::U32) && meta.shape.len() == 2;
    stored(meta).filter(|_| is)
}

/// The group of each of `in features` columns.
fn order(meta: &TensorMeta, in_features: u64) -> Option<Stored> {
    stored(meta).filter(|order| matches!(order.dtype, DType::I32) && (order.rows, order.cols) == (1, in_features))
}

/// A shape with another last dimension.
fn with_in_features(shape: &[u64], in_features: u64) -> Vec<u64> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = in_features;
    }
    shape
}

/// Whether it is a matrix, or a stack of matrices, with something in it.
fn is_matrix(meta: &TensorMeta) -> bool {
    matches!(meta.shape.len(), 2 | 3) && !meta.shape.contains(&0)
}
