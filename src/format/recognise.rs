//! What a weight file is by its first bytes: safetensors, GGUF, ONNX, a PyTorch checkpoint, a Git-LFS pointer, or a format
//! that is not read here.

use std::path::Path;

use super::{gguf, onnx, safetensors, torch};
use crate::Result;
use crate::bytes::local::Source;

/// Longest Git-LFS pointer in bytes; the specification demands less than 1,024.
const MAX_POINTER_BYTES: u64 = 1024;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
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
pub(crate) struct Pointer {
    /// The digest as written, `sha256:` and 64 digits.
    pub(crate) oid: String,
    /// Length in bytes.
    pub(crate) size: String,
}

impl Pointer {
    /// That `what` is a pointer, and what to do about it.
    pub(crate) fn advice(&self, what: &str) -> String {
        let Self { oid, size } = self;
        format!(
            "{what} is a Git-LFS pointer to {oid} of {size} bytes; the content was not downloaded: run `git lfs pull`"
        )
    }
}

/// Looks at the first bytes of the file at `path`, and where they tell nothing at its name.
pub(crate) fn sniff(path: &Path, source: &Source) -> Result<Content> {
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
    // Their content is that of something else, and not a whole of it.
    if let Some(what) = foreign_name(path, &["distcp"]) {
        return Ok(Content::Foreign(what));
    }
    if torch::is_archive(head) || torch::is_pickle(head) {
        return Ok(Content::Torch);
    }
    if let Some(what) = foreign(head, path).or_else(|| foreign_name(path, &[])) {
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
pub(crate) fn pointer(head: &[u8], len: u64) -> Option<Pointer> {
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

/// What a file is by its first bytes, of formats that are not read.
fn foreign(head: &[u8], path: &Path) -> Option<&'static str> {
    /// Offset, bytes there, and what they tell.
    const MAGIC: [(usize, &[u8], &str); 13] = [
        (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, which is not read"),
        (0, b"\x93NUMPY", "a NumPy array, which is not read"),
        (4, b"TFL3", "a TensorFlow Lite model, which is not read"),
        (0, b"ftrt", "a TensorRT engine, which is not read"),
        (0, b"ptrt", "a TensorRT engine, which is not read"),
        // Numbers of four bytes, which are little-endian: the letters are the other way round.
        (0, b"lmgg", "a ggml file older than GGUF, which is not read: convert it with llama.cpp"),
        (0, b"fmgg", "a ggml file older than GGUF, which is not read: convert it with llama.cpp"),
        (0, b"tjgg", "a ggml file older than GGUF, which is not read: convert it with llama.cpp"),
        (0, b"algg", "a ggml adapter older than GGUF, which is not read: convert it with llama.cpp"),
        (0, b"\x1f\x8b", "compressed with gzip: unpack it first"),
        (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
        (0, b"\xfd7zXZ\x00", "compressed with xz: unpack it first"),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    ];
    let is = |(at, magic, _): &&(usize, &[u8], &str)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    MAGIC.iter().find(is).map(|(_, _, what)| *what).or_else(|| tar(head, path))
}

/// What a tar archive is by the name of its first member and its own.
fn tar(head: &[u8], path: &Path) -> Option<&'static str> {
    if !head.get(257..)?.starts_with(b"ustar") {
        return None;
    }
    let first = head.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_nemo = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("nemo"));
    Some(match first {
        b"sys_info" | b"pickle" | b"storages" | b"tensors" => {
            "a checkpoint as PyTorch wrote them before 0.1.10 (a tar archive), which is not read: load it and save it again"
        }
        _ if is_nemo => "a NeMo archive: unpack it first, and name the weights inside",
        _ => "a tar archive: unpack it first",
    })
}

/// Endings of the names of files in formats that are not read and have no mark of their own, and what they are.
const FOREIGN_NAMES: [(&str, &str); 14] = [
    ("distcp", "a part of a distributed checkpoint, which is not read: convert it with `torch.distributed.checkpoint`"),
    ("msgpack", "a Flax checkpoint, which is not read"),
    ("mlmodel", "a Core ML model, which is not read"),
    ("pb", "a TensorFlow graph, which is not read"),
    ("h5", "an HDF5 file, which is not read"),
    ("keras", "a Keras model, which is not read"),
    ("npz", "an archive of NumPy arrays, which is not read"),
    ("npy", "a NumPy array, which is not read"),
    ("tflite", "a TensorFlow Lite model, which is not read"),
    ("engine", "a TensorRT engine, which is not read"),
    ("plan", "a TensorRT engine, which is not read"),
    ("trt", "a TensorRT engine, which is not read"),
    ("nemo", "a NeMo archive: unpack it first, and name the weights inside"),
    ("ggml", "a ggml file older than GGUF, which is not read: convert it with llama.cpp"),
];

/// What a file is by its name, of the given endings or of any.
pub(crate) fn foreign_name(path: &Path, endings: &[&str]) -> Option<&'static str> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    // TensorFlow numbers the parts of its checkpoints so: `model.ckpt.data-00000-of-00001`, and `model.ckpt.index`.
    if endings.is_empty() && (name.contains(".data-0") || name.ends_with(".ckpt.index") || name.ends_with(".ckpt.meta"))
    {
        return Some("a part of a TensorFlow checkpoint, which is not read");
    }
    let ending = name.rsplit_once('.')?.1;
    let found = FOREIGN_NAMES.iter().find(|(known, _)| *known == ending)?;
    (endings.is_empty() || endings.contains(&ending)).then_some(found.1)
}

/// Protobuf has no mark of its own, so the name may have to do.
fn is_onnx_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}
