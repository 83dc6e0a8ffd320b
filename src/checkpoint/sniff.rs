//! What a weight file is by its first bytes: safetensors, GGUF, ONNX, a PyTorch checkpoint, a Git-LFS pointer, or a format
//! that is not read here.

use std::path::Path;

use super::gguf;
use super::onnx;
use super::safetensors;
use super::source::Source;
use super::torch;
use crate::Result;

/// Longest Git-LFS pointer in bytes; the specification demands less than 1,024.
const MAX_POINTER_BYTES: u64 = 1024;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// To be read as safetensors, and refused there if it is none.
    Weights,
    /// To be read as what `torch.save` writes.
    Torch,
    /// To be read as GGUF.
    Gguf,
    /// To be read as ONNX.
    Onnx,
    /// Stands for a file that was not downloaded.
    Pointer(Pointer),
    /// A weight format of another kind, in words.
    Foreign(&'static str),
}

/// What a Git-LFS pointer says of the file it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer {
    /// The digest as written, `sha256:` and 64 digits.
    pub(super) oid: String,
    /// Length in bytes.
    pub(super) size: String,
}

impl Pointer {
    /// That `what` is a pointer, and what to do about it.
    pub(super) fn advice(&self, what: &str) -> String {
        let Self { oid, size } = self;
        format!(
            "{what} is a Git-LFS pointer to {oid} of {size} bytes; the content was not downloaded: run `git lfs pull`"
        )
    }
}

/// Looks at the first bytes of the file at `path`, and where they tell nothing at its name.
pub(super) fn sniff(path: &Path, source: &Source) -> Result<Content> {
    let mut buf = Vec::new();
    let len = source.len();
    let head = source.read(path, 0, len.min(MAX_POINTER_BYTES) as usize, &mut buf)?;
    if let Some(pointer) = pointer(head, len) {
        return Ok(Content::Pointer(pointer));
    }
    if head.starts_with(gguf::MAGIC) {
        return Ok(Content::Gguf);
    }
    // A header of 128, 640, 896, 1152 or 1408 bytes has a length that looks like the start of a pickle.
    if safetensors::looks_like(head, len) {
        return Ok(Content::Weights);
    }
    if torch::is_archive(head) || torch::is_pickle(head) {
        return Ok(Content::Torch);
    }
    if let Some(what) = foreign(head) {
        return Ok(Content::Foreign(what));
    }
    if onnx::looks_like(head, len) || is_onnx_name(path) {
        return Ok(Content::Onnx);
    }
    // Pickles of protocols 0 and 1 begin with any opcode.
    let is_pickle = path.file_name().is_some_and(|name| torch::is_pickle_name(&name.to_string_lossy()));
    Ok(if is_pickle { Content::Torch } else { Content::Weights })
}

/// The pointer that a file of `len` bytes is, if it is one.
pub(super) fn pointer(head: &[u8], len: u64) -> Option<Pointer> {
    if len >= MAX_POINTER_BYTES || !head.starts_with(b"version https://git-lfs.github.com/spec/") {
        return None;
    }
    let text = String::from_utf8_lossy(head);
    let field = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown").trim();
        value.escape_debug().to_string()
    };
    Some(Pointer { oid: field("oid "), size: field("size ") })
}

fn foreign(head: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 2] =
        [(b"\x89HDF\r\n\x1a\n", "an HDF5 file, which is not read"), (b"\x93NUMPY", "a NumPy array, which is not read")];
    MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, what)| *what)
}

/// Protobuf has no mark of its own, so the name may have to do.
fn is_onnx_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}
