//! Where the bytes of a tensor lie, and how they become its values in order.
//!
//! A storage says where values are, never what they mean; reading it is the checkpoint's work
//! ([`Checkpoint::values`](crate::checkpoint::Checkpoint::values)).

use std::sync::Arc;

use super::TensorMeta;
use super::extent::Extent;
use super::low_rank::LowRank;
use super::packed::Packed;
use super::view::View;

/// How the stored bytes of a tensor become its values in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// One range of bytes holds the values, row after row.
    Plain(Extent),
    /// The values are put together from pieces.
    View(Arc<View>),
    /// The values are put together from codes and scales.
    Packed(Arc<Packed>),
    /// The values are those of another tensor with a low-rank change added.
    LowRank(Arc<LowRank>),
    /// Each value is one more than that of another tensor: the gain of a norm that is stored less one.
    PlusOne(Arc<TensorMeta>),
    /// Each value is the sum of those of two tensors of the same shape.
    Sum(Arc<[TensorMeta; 2]>),
}

impl Storage {
    /// The bytes, where they are the values in order.
    pub fn plain(&self) -> Option<Extent> {
        match self {
            Self::Plain(extent) => Some(*extent),
            _ => None,
        }
    }

    /// Whether the stored bytes are the values in order.
    pub fn is_plain(&self) -> bool {
        self.plain().is_some()
    }

    /// The stored bytes, in the order in which the stored digest takes them.
    pub fn extents(&self) -> Vec<Extent> {
        match self {
            Self::Plain(extent) => vec![*extent],
            Self::View(view) => view.extents().to_vec(),
            Self::Packed(packed) => packed.stored().map(|stored| stored.extent).collect(),
            Self::LowRank(change) => change.extents(),
            Self::PlusOne(gain) => gain.extents(),
            Self::Sum(parts) => parts.iter().flat_map(TensorMeta::extents).collect(),
        }
    }

    /// The first of the stored bytes, by which tensors are ordered.
    pub fn first_extent(&self) -> Extent {
        match self {
            Self::Plain(extent) => *extent,
            Self::View(view) => view.extents().first().copied().unwrap_or_default(),
            Self::Packed(packed) => packed.codes.extent,
            Self::LowRank(change) => change.base.first_extent(),
            Self::PlusOne(gain) => gain.first_extent(),
            Self::Sum(parts) => parts[0].first_extent(),
        }
    }

    /// Number of stored bytes, those of a change itself left out; saturates.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Self::Plain(extent) => extent.len,
            Self::View(view) => view.extents().iter().fold(0, |sum, extent| sum.saturating_add(extent.len)),
            Self::Packed(packed) => packed.len(),
            Self::LowRank(change) => change.base.stored_bytes(),
            Self::PlusOne(gain) => gain.stored_bytes(),
            Self::Sum(parts) => parts.iter().fold(0, |sum, part| sum.saturating_add(part.stored_bytes())),
        }
    }

    /// The same with its bytes `by` shards further on.
    pub(crate) fn shifted(&self, by: usize) -> Self {
        match self {
            Self::Plain(extent) => Self::Plain(Extent { shard: extent.shard + by, ..*extent }),
            Self::View(view) => Self::View(Arc::new(view.shifted(by))),
            Self::Packed(packed) => Self::Packed(Arc::new(Packed::clone(packed).shifted(by))),
            // An adapter is merged once all shards are known.
            Self::LowRank(change) => Self::LowRank(Arc::clone(change)),
            Self::PlusOne(gain) => Self::PlusOne(Arc::new(TensorMeta::clone(gain).shifted(by))),
            Self::Sum(parts) => Self::Sum(Arc::new(parts.each_ref().map(|part| part.clone().shifted(by)))),
        }
    }
}
