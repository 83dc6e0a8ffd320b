//! What a checkpoint says of a tensor before any of its bytes are read, and how the bytes become numbers.
//!
//! Nothing here knows what a tensor is for; that is the anatomy's work.

pub mod block;
pub mod decode;
pub(crate) mod digest;
pub mod extent;
pub mod low_rank;
pub mod packed;
pub mod storage;
pub mod view;

use std::fmt;

use self::block::Grid;
pub use block::Block;
pub use extent::Extent;
use serde::{Deserialize, Serialize};
pub use storage::Storage;

/// An element type as a checkpoint states it. A type that this version cannot decode is kept by name, so that the
/// report can list it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum DType {
    /// One byte, zero or one.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// 8-bit float, 5 exponent and 2 mantissa bits, with infinities.
    F8E5M2,
    /// 8-bit float, 4 exponent and 3 mantissa bits, without infinities.
    F8E4M3,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 16-bit integer.
    U16,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `f32`.
    BF16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// Values in blocks that share scales.
    Block(Block),
    /// Codes whose scales lie in other tensors.
    Packed(packed::Kind),
    /// A known type whose values lie in an order that is not followed: its name, and that it has strides. Only a header
    /// that was read makes one: under this name read back it is some other type.
    Strided(String),
    /// Anything else, as the file spells it.
    Other(String),
}

impl DType {
    /// The type of values of the type `name` that lie in an order that is not followed.
    pub(crate) fn strided(name: &str) -> Self {
        Self::Strided(format!("{name} with strides"))
    }

    /// Bytes of one element; `None` for types in blocks, and where this version does not know the type.
    pub fn bytes(&self) -> Option<u64> {
        Some(match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::Block(_) | Self::Packed(_) | Self::Strided(_) | Self::Other(_) => return None,
        })
    }

    /// Bytes of that many elements; `None` where this version does not know the type, the number overflows, or it is
    /// not one of whole blocks.
    pub fn size_of(&self, elements: u64) -> Option<u64> {
        match self {
            Self::Block(block) if !elements.is_multiple_of(block.values()) => None,
            Self::Block(block) => (elements / block.values()).checked_mul(block.bytes()),
            _ => self.bytes()?.checked_mul(elements),
        }
    }

    /// Whether the values can be read: [`decode`](decode::decode) knows the type, or the checkpoint puts codes and scales
    /// together.
    pub fn is_decoded(&self) -> bool {
        match self {
            Self::Block(block) => block.grid() != Grid::Unread,
            Self::Packed(_) => true,
            _ => self.bytes().is_some(),
        }
    }

    /// Whether the values are weights (floating point, or blocks that stand for it) rather than indices, masks or
    /// packed codes.
    pub fn is_float(&self) -> bool {
        matches!(
            self,
            Self::F8E5M2
                | Self::F8E4M3
                | Self::F16
                | Self::BF16
                | Self::F32
                | Self::F64
                | Self::Block(_)
                | Self::Packed(_)
        )
    }

    /// The name that safetensors headers use; of a type in blocks, ggml's.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3 => "F8_E4M3",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::Block(block) => block.as_str(),
            Self::Packed(kind) => kind.as_str(),
            Self::Strided(name) | Self::Other(name) => name,
        }
    }
}

impl From<String> for DType {
    fn from(name: String) -> Self {
        const KNOWN: [DType; 15] = [
            DType::Bool,
            DType::U8,
            DType::I8,
            DType::F8E5M2,
            DType::F8E4M3,
            DType::I16,
            DType::U16,
            DType::F16,
            DType::BF16,
            DType::I32,
            DType::U32,
            DType::F32,
            DType::F64,
            DType::I64,
            DType::U64,
        ];
        let plain = KNOWN.into_iter().find(|dtype| dtype.as_str() == name);
        let block = || Block::named(&name).map(Self::Block);
        let packed = || packed::Kind::named(&name).map(Self::Packed);
        plain.or_else(block).or_else(packed).unwrap_or(Self::Other(name))
    }
}

impl From<DType> for String {
    fn from(dtype: DType) -> Self {
        dtype.as_str().to_owned()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A tensor as a header states it: name, type, shape and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMeta {
    /// The name in the file.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The size of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where its bytes lie (shards are those of [`Checkpoint::shards`](crate::checkpoint::Checkpoint::shards)), and how
    /// they become the values in order.
    pub storage: Storage,
}

impl TensorMeta {
    /// Number of elements. Headers whose product overflows are refused when they are read, so this cannot.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The same tensor with its bytes `by` shards further on.
    #[must_use]
    pub(crate) fn shifted(self, by: usize) -> Self {
        Self { storage: self.storage.shifted(by), ..self }
    }

    /// The same tensor read in another way.
    #[must_use]
    pub(crate) fn with(self, storage: Storage) -> Self {
        Self { storage, ..self }
    }

    /// The stored bytes that belong to it, in the order in which its stored digest takes them.
    pub fn extents(&self) -> Vec<Extent> {
        self.storage.extents()
    }

    /// The first of its stored bytes.
    pub fn first_extent(&self) -> Extent {
        self.storage.first_extent()
    }

    /// Number of stored bytes; of a tensor with a low-rank change, those of the tensor that is changed.
    pub fn stored_bytes(&self) -> u64 {
        self.storage.stored_bytes()
    }

    /// What tensors are ordered by: file, first byte, name.
    pub(crate) fn place(&self) -> (usize, u64, &str) {
        let Extent { shard, offset, .. } = self.first_extent();
        (shard, offset, &self.name)
    }

    /// The tensor as a matrix (see [`matrix`]).
    pub fn matrix(&self) -> (u64, u64) {
        matrix(&self.shape)
    }
}

/// Rows and columns of a shape seen as a matrix: leading dimensions folded into rows, the last one kept. Scalars and
/// vectors are one row.
pub fn matrix(shape: &[u64]) -> (u64, u64) {
    match shape {
        [] => (1, 1),
        [n] => (1, *n),
        [rows @ .., cols] => (rows.iter().product(), *cols),
    }
}
