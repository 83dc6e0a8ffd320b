//! Writes GGUF files as llama.cpp would: its names, its order of rows, its fallbacks for rows that are no whole blocks.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test crate uses a part of it")]

use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;

use super::Raw;

/// A metadata value.
#[derive(Clone, Debug)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    /// Type and bytes as they are.
    Raw(u32, Vec<u8>),
}

/// A tensor: sizes outermost first, ggml's number of its type.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub shape: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

/// A file in the making.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub version: u32,
    pub alignment: u64,
    pub meta: Vec<(String, Meta)>,
    pub tensors: Vec<Stored>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Gguf {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            text(&mut out, key);
            match value {
                Meta::U32(number) => {
                    out.extend(4u32.to_le_bytes());
                    out.extend(number.to_le_bytes());
                }
                Meta::F32(number) => {
                    out.extend(6u32.to_le_bytes());
                    out.extend(number.to_le_bytes());
                }
                Meta::Text(value) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, value);
                }
                Meta::Texts(values) => {
                    out.extend(9u32.to_le_bytes());
                    out.extend(8u32.to_le_bytes());
                    out.extend((values.len() as u64).to_le_bytes());
                    values.iter().for_each(|value| text(&mut out, value));
                }
                Meta::Raw(kind, bytes) => {
                    out.extend(kind.to_le_bytes());
                    out.extend(bytes);
                }
            }
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes.len() as u64).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.to_bytes()).unwrap();
    }
}

/// What weights are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F16,
    Bf16,
    Iq4Nl,
    Quantised(GgmlDType),
}

impl Kind {
    /// What llama.cpp takes where rows are no whole blocks of 256.
    fn fallback(self, cols: usize) -> Self {
        if cols.is_multiple_of(256) {
            return self;
        }
        match self {
            Self::Quantised(GgmlDType::Q2K | GgmlDType::Q3K) => Self::Iq4Nl,
            Self::Quantised(GgmlDType::Q4K) => Self::Quantised(GgmlDType::Q5_0),
            Self::Quantised(GgmlDType::Q5K) => Self::Quantised(GgmlDType::Q5_1),
            Self::Quantised(GgmlDType::Q6K) => Self::Quantised(GgmlDType::Q8_0),
            kind => kind,
        }
    }

    fn encode(self, values: &[f32], cols: usize) -> (u32, Vec<u8>) {
        match self.fallback(cols) {
            Self::F32 => (0, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Self::F16 => (1, values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
            Self::Bf16 => (30, values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()),
            Self::Iq4Nl => (20, iq4_nl(values)),
            Self::Quantised(kind) => {
                let tensor = Tensor::from_slice(values, (values.len() / cols, cols), &Device::Cpu).unwrap();
                let number = match kind {
                    GgmlDType::Q4_0 => 2,
                    GgmlDType::Q4_1 => 3,
                    GgmlDType::Q5_0 => 6,
                    GgmlDType::Q5_1 => 7,
                    GgmlDType::Q8_0 => 8,
                    GgmlDType::Q2K => 10,
                    GgmlDType::Q3K => 11,
                    GgmlDType::Q4K => 12,
                    GgmlDType::Q5K => 13,
                    GgmlDType::Q6K => 14,
                    other => panic!("{other:?}"),
                };
                (number, QTensor::quantize(&tensor, kind).unwrap().data().unwrap().into_owned())
            }
        }
    }
}

/// Nearest levels, with the scale that brings the largest value to the last level, as ggml's without its search.
fn iq4_nl(values: &[f32]) -> Vec<u8> {
    const LEVELS: [f32; 16] =
        [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];
    let mut out = Vec::new();
    for block in values.chunks(32) {
        let largest = block.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        let scale = f16::from_f32(largest / LEVELS[0]);
        out.extend(scale.to_le_bytes());
        let code = |value: f32| -> u8 {
            let ratio = if scale.to_f32() == 0.0 { 0.0 } else { value / scale.to_f32() };
            let nearest = |a: &usize, b: &usize| (LEVELS[*a] - ratio).abs().total_cmp(&(LEVELS[*b] - ratio).abs());
            (0..16).min_by(nearest).unwrap() as u8
        };
        out.extend((0..16).map(|i| code(block[i]) | code(block[i + 16]) << 4));
    }
    out
}

/// The name that llama.cpp gives a tensor of a Hugging Face LLaMA or Mixtral.
pub fn name(theirs: &str) -> String {
    let outer = [("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output.")];
    if let Some((from, to)) = outer.iter().find(|(from, _)| theirs.starts_with(from)) {
        return theirs.replacen(from, to, 1);
    }
    let (layer, rest) = theirs.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
    let inner = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let (from, to) = inner.iter().find(|(from, _)| rest.starts_with(from)).unwrap_or_else(|| panic!("{theirs}"));
    format!("blk.{layer}.{}", rest.replacen(from, to, 1))
}

/// Rows as llama.cpp's export has them: in each head, the halves of every rotary pair side by side.
pub fn paired(values: &[f32], cols: usize, heads: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..heads {
        for i in 0..half {
            for second in 0..2 {
                out.extend_from_slice(&values[(head * 2 * half + second * half + i) * cols..][..cols]);
            }
        }
    }
    out
}

/// A LLaMA of Hugging Face's layout as llama.cpp would write it, `heads` of queries and of keys.
pub fn from_llama(tensors: &[Raw], heads: (usize, usize), kind: Kind) -> Gguf {
    let number = |name: &str, axis: usize| {
        tensors.iter().find(|tensor| tensor.name.ends_with(name)).map_or(0, |tensor| tensor.shape[axis] as u32)
    };
    let layers = tensors.iter().filter(|tensor| tensor.name.ends_with("input_layernorm.weight")).count();
    let meta = [
        ("general.architecture", Meta::Text("llama".into())),
        ("llama.block_count", Meta::U32(layers as u32)),
        ("llama.embedding_length", Meta::U32(number("embed_tokens.weight", 1))),
        ("llama.feed_forward_length", Meta::U32(number("layers.0.mlp.gate_proj.weight", 0))),
        ("llama.attention.head_count", Meta::U32(heads.0 as u32)),
        ("llama.attention.head_count_kv", Meta::U32(heads.1 as u32)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.freq_base", Meta::F32(10_000.0)),
        ("llama.vocab_size", Meta::U32(number("embed_tokens.weight", 0))),
    ];
    let stored = |tensor: &Raw| {
        let (mut values, cols) = (tensor.values(), *tensor.shape.last().unwrap());
        if tensor.name.contains("q_proj.weight") {
            values = paired(&values, cols, heads.0);
        } else if tensor.name.contains("k_proj.weight") {
            values = paired(&values, cols, heads.1);
        }
        // Vectors are never quantised.
        let kind = if tensor.shape.len() == 1 { Kind::F32 } else { kind };
        let (number, bytes) = kind.encode(&values, cols);
        let shape = tensor.shape.iter().map(|&size| size as u64).collect();
        Stored { name: name(&tensor.name), shape, kind: number, bytes }
    };
    Gguf {
        version: 3,
        alignment: 32,
        meta: meta.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        tensors: tensors.iter().map(stored).collect(),
    }
}
