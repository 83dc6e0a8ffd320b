//! Formats of weight files: bytes in, a header out.
//!
//! A format states which tensors a file has, where their bytes lie, and what else the file says; which files make one
//! model is not known here.

mod claims;
mod embedded;
mod gaps;
mod gguf;
mod onnx;
mod pickle;
pub(crate) mod recognise;
mod safetensors;
mod torch;

use std::collections::BTreeMap;

pub use self::claims::{Card, Claims};
pub(crate) use self::gguf::{RowOrder, Split};
use self::recognise::Kind;
use crate::Result;
use crate::bytes::Object;
use crate::finding::Finding;
use crate::tensor::TensorMeta;
use crate::unread::Unread;

/// What a weight file states, checked against its length.
#[derive(Debug, Default)]
pub(crate) struct Header {
    /// The tensors by place, then name. Their offsets count from the start of the file; 0 is the file itself, the numbers
    /// after it are those of `beside`.
    pub(crate) tensors: Vec<TensorMeta>,
    /// The free-form strings that it keeps.
    pub(crate) metadata: BTreeMap<String, String>,
    /// What it says of the model.
    pub(crate) claims: Claims,
    /// Names that stand for tensors which were read under another name.
    pub(crate) aliases: Vec<String>,
    /// Files beside this one that hold values of its tensors, by name.
    pub(crate) beside: Vec<(String, Box<dyn Object>)>,
    /// Which part of a split model it says it is.
    pub(crate) split: Split,
    /// How rows of its tensors stand, where its writer moves them.
    pub(crate) row_order: Option<RowOrder>,
    /// What was odd, refused or left out.
    pub(crate) findings: Vec<Finding>,
    /// Bytes of the file that are neither tensors nor anything else that the format knows.
    pub(crate) unread: Vec<Unread>,
}

/// Opens the object of a name relative to the folder of the model; `None` where there is none.
pub(crate) type Opener<'a> = &'a dyn Fn(&str) -> Result<Option<Box<dyn Object>>>;

/// Reads what a file of this kind, called `name` in the folder of its model, states. `beside` opens others that hold values
/// of its tensors. Of the tensors' bytes none are read.
///
/// # Errors
/// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) with tensor and byte offset wherever the file breaks its
/// format; [`ErrorKind::Limit`](crate::ErrorKind::Limit) for a ceiling of [`limits`](crate::limits);
/// [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) where it holds no model, or values that were not downloaded;
/// [`ErrorKind::Changed`](crate::ErrorKind::Changed) if it shrank meanwhile.
pub(crate) fn read(kind: Kind, object: &dyn Object, name: &str, beside: Opener<'_>) -> Result<Header> {
    match kind {
        Kind::Safetensors => safetensors::read(object, name),
        Kind::Torch => torch::read(object, name),
        Kind::Gguf => gguf::read(object, name),
        Kind::Onnx => onnx::read(object, name, beside),
    }
}
