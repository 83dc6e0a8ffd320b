//! What a file is by its first bytes or, where they tell nothing, by its name: the one table of magic numbers, contents and
//! endings. It knows no format beyond that, and calls none.

use std::path::Path;

use crate::Result;
use crate::bytes::Object;
use crate::limits::MAX_HEADER_BYTES;

/// Longest Git-LFS pointer in bytes; the specification demands less than 1,024.
pub(crate) const MAX_POINTER_BYTES: u64 = 1024;

/// Ending of the names of safetensors files.
pub(crate) const SAFETENSORS_SUFFIX: &str = ".safetensors";

/// Ending of the names of GGUF files.
pub(crate) const GGUF_SUFFIX: &str = ".gguf";

/// Ending of the names of ONNX files.
pub(crate) const ONNX_SUFFIX: &str = ".onnx";

/// Endings of the names of files that `torch.save` wrote.
pub(crate) const PICKLE_SUFFIXES: [&str; 5] = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $sharded:literal, $endings:expr;)*) => {
        /// A format of weight files that is read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that reports give one file in this format.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The name that reports give several files of one model.
            pub fn sharded(self) -> &'static str {
                match self { $(Self::$variant => $sharded,)* }
            }

            /// Endings of the names of such files, in lower case.
            fn endings(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &$endings,)* }
            }
        }
    };
}

kinds! {
    /// Safetensors; whatever is not recognised is read as this, and refused there if it is none.
    Safetensors = "safetensors", "sharded-safetensors", [SAFETENSORS_SUFFIX];
    /// What `torch.save` writes.
    Torch = "torch", "sharded-torch", PICKLE_SUFFIXES;
    /// llama.cpp's format.
    Gguf = "gguf", "sharded-gguf", [GGUF_SUFFIX];
    /// A graph with its weights, and the files that hold values for it.
    Onnx = "onnx", "onnx", [ONNX_SUFFIX];
}

impl Kind {
    /// The format that files of this name, in lower case, are in as a rule.
    pub(crate) fn of_name(lower: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.endings().iter().any(|ending| lower.ends_with(ending)))
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Weights in a format that is read.
    Weights(Kind),
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

/// Looks at the first bytes of the file called `name`, and where they tell nothing at that.
pub(crate) fn sniff(name: &str, object: &dyn Object) -> Result<Content> {
    let mut buf = Vec::new();
    let len = object.len();
    let head = object.read(0, len.min(MAX_POINTER_BYTES) as usize, &mut buf)?;
    if let Some(content) = by_content(name, head, len) {
        return Ok(content);
    }
    if let Some(what) = foreign_name(name, &[]) {
        return Ok(Content::Foreign(what));
    }
    let lower = name.to_ascii_lowercase();
    // Protobuf has no mark of its own, so the name may have to do.
    if lower.ends_with(ONNX_SUFFIX) {
        return Ok(Content::Weights(Kind::Onnx));
    }
    // Pickles of protocols 0 and 1 begin with any opcode.
    let is_pickle = PICKLE_SUFFIXES.iter().any(|suffix| lower.ends_with(suffix));
    Ok(Content::Weights(if is_pickle { Kind::Torch } else { Kind::Safetensors }))
}

/// What a file of `len` bytes that begins with `head` is by its content; `None` where that tells nothing.
pub(crate) fn by_content(name: &str, head: &[u8], len: u64) -> Option<Content> {
    if let Some(pointer) = pointer(head, len) {
        return Some(Content::Pointer(pointer));
    }
    if head.starts_with(b"GGUF") {
        return Some(Content::Weights(Kind::Gguf));
    }
    // A header of 128, 640, 896, 1152 or 1408 bytes has a length that looks like the start of a pickle, and one of 67 MB
    // that of an archive; loaders that see an archive look no further.
    if is_safetensors(head, len) && !is_archive(head) {
        return Some(Content::Weights(Kind::Safetensors));
    }
    // Their content is that of something else, and not a whole of it.
    if let Some(what) = foreign_name(name, &["distcp"]) {
        return Some(Content::Foreign(what));
    }
    if is_archive(head) || is_pickle(head) {
        return Some(Content::Weights(Kind::Torch));
    }
    if let Some(what) = foreign(head, name) {
        return Some(Content::Foreign(what));
    }
    is_onnx(head, len).then_some(Content::Weights(Kind::Onnx))
}

/// Whether a file of `len` bytes that begins with `head` can only be safetensors: the length of a header that the file
/// has, then an object.
fn is_safetensors(head: &[u8], len: u64) -> bool {
    match (head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)), head.get(8)) {
        (Some(header), Some(b'{')) => header <= MAX_HEADER_BYTES && header <= len.saturating_sub(8),
        _ => false,
    }
}

/// Whether a file that begins with `head` is a zip archive.
fn is_archive(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04")
}

/// Whether a file that begins with `head` is a pickle of protocol 2 or later; earlier ones have no mark.
fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

/// Whether a file of `len` bytes that begins with `head` can be an ONNX model: a version, then another field of a model
/// that ends within the file.
pub(crate) fn is_onnx(head: &[u8], len: u64) -> bool {
    /// Versions that there are, with room for those to come.
    const VERSIONS: std::ops::RangeInclusive<u8> = 1..=40;
    let [0x08, version, tag, rest @ ..] = head else { return false };
    // Fields with a length: the producer's name and version, the domain, documentation, the graph, operator sets,
    // properties.
    if !VERSIONS.contains(version) || !matches!(tag, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42 | 0x72) {
        return false;
    }
    let mut taken = 0;
    let mut stated = 0u64;
    for byte in rest.iter().take(9) {
        stated |= u64::from(byte & 0x7f) << (7 * taken);
        taken += 1;
        if byte & 0x80 == 0 {
            return stated.checked_add(3 + taken).is_some_and(|end| end <= len) && stated > 0;
        }
    }
    false
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
fn foreign(head: &[u8], name: &str) -> Option<&'static str> {
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
    MAGIC.iter().find(is).map(|(_, _, what)| *what).or_else(|| tar(head, name))
}

/// What a tar archive is by the name of its first member and its own.
fn tar(head: &[u8], name: &str) -> Option<&'static str> {
    if !head.get(257..)?.starts_with(b"ustar") {
        return None;
    }
    let first = head.split(|byte| *byte == 0).next().unwrap_or_default();
    let is_nemo = Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("nemo"));
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
pub(crate) fn foreign_name(name: &str, endings: &[&str]) -> Option<&'static str> {
    let name = Path::new(name).file_name()?.to_string_lossy().to_lowercase();
    // TensorFlow numbers the parts of its checkpoints so: `model.ckpt.data-00000-of-00001`, and `model.ckpt.index`.
    if endings.is_empty() && (name.contains(".data-0") || name.ends_with(".ckpt.index") || name.ends_with(".ckpt.meta"))
    {
        return Some("a part of a TensorFlow checkpoint, which is not read");
    }
    let ending = name.rsplit_once('.')?.1;
    let found = FOREIGN_NAMES.iter().find(|(known, _)| *known == ending)?;
    (endings.is_empty() || endings.contains(&ending)).then_some(found.1)
}
