//! Ceilings that keep a hostile file from costing more than an honest one.
//!
//! Every count or length that a file states is held against one of these before anything is allocated for it.

/// Largest safetensors header in bytes; the reference implementation has the same ceiling.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Most tensors in one checkpoint. DeepSeek-V3 has 91,991 in 163 shards.
pub const MAX_TENSORS: usize = 1_000_000;

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// Longest tensor name in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// Most shards of one checkpoint.
pub const MAX_SHARDS: usize = 10_000;

/// Largest `config.json`, or model card, that is parsed.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Largest `*.index.json`, or `tokenizer.json`, that is read.
pub const MAX_SIDECAR_BYTES: u64 = 200 << 20;

/// Largest YAML front matter of a model card that is parsed.
pub const MAX_FRONT_MATTER_BYTES: usize = 64 << 10;

/// Largest fingerprint file.
pub const MAX_FINGERPRINT_BYTES: u64 = 1 << 30;

/// Largest share of NaN and infinite values with which a tensor still takes part in tests.
pub const MAX_NONFINITE_SHARE: f64 = 0.01;

/// Largest pickle of a PyTorch checkpoint that is read; its tensors' bytes are not part of it.
pub const MAX_PICKLE_BYTES: u64 = 100_000_000;

/// Most values that a pickle may build, entries of its containers counted too. A state dict takes about 26 for a
/// tensor.
pub const MAX_PICKLE_VALUES: u64 = 4_000_000;

/// Most values on the stack of a pickle at once.
pub const MAX_PICKLE_STACK: usize = 1_000_000;

/// Most marks on the stack of a pickle at once; each is a container that was begun inside another.
pub const MAX_PICKLE_MARKS: usize = 1_000;

/// Deepest nesting of dictionaries in which tensors are looked for.
pub const MAX_STATE_DEPTH: usize = 8;

/// Deepest nesting of modules in modules, and of what may hold tensors.
pub const MAX_MODULE_DEPTH: usize = 48;

/// How often the bytes of a file may be part of a tensor, on average. Tensors may share bytes; a file in which they
/// share many times would cost more to read than its size says.
pub const MAX_SHARING: u64 = 4;

/// Most fields of an ONNX file that are looked at. The export of a large model has about a million.
pub const MAX_ONNX_FIELDS: u64 = 10_000_000;

/// Most nodes of the graphs of an ONNX file.
pub const MAX_ONNX_NODES: usize = 1_000_000;

/// Deepest nesting of graphs in the nodes of graphs.
pub const MAX_ONNX_DEPTH: usize = 16;

/// Longest text in which bitsandbytes states the shape and the blocks of a quantised matrix; honest ones have about 150
/// bytes.
pub const MAX_QUANT_STATE_BYTES: u64 = 4096;

/// Deepest folder below a model's own in which files are looked for.
pub const MAX_FOLDER_DEPTH: usize = 32;

/// Most files and folders below a model's own that are looked at.
pub const MAX_LISTED_FILES: usize = 100_000;

/// Most bytes of texts beside a model in which data are looked for, all texts together; of what is left, samples are.
pub const MAX_TEXT_BYTES: u64 = 1 << 30;
