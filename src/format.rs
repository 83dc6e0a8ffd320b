//! Formats of weight files: bytes in, a header out.
//!
//! A format states which tensors a file has and where their bytes lie; which files make one model is not known here.

pub(crate) mod gguf;
pub(crate) mod onnx;
pub(crate) mod pickle;
pub(crate) mod recognise;
pub(crate) mod safetensors;
pub(crate) mod torch;
