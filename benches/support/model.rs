//! Checkpoints of real shapes with made-up values, written once under the target folder.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The shape of a LLaMA model, and the files that it lies in.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) hidden: u64,
    pub(crate) kv: u64,
    pub(crate) neurons: u64,
    pub(crate) vocabulary: u64,
    pub(crate) layers: u64,
    pub(crate) shards: usize,
}

/// Bytes at the start of each tensor of a sparse checkpoint that are no hole, so that no tensor is constant.
const FILLED: u64 = 4096;

type Named = (String, Vec<u64>);

impl Shape {
    /// Layer after layer, then the rest, as the first conversion of LLaMA-7B had it.
    fn tensors(&self) -> Vec<Named> {
        let &Self { hidden, kv, neurons, vocabulary, layers, .. } = self;
        let layer = |index: u64| {
            let shapes = [
                ("input_layernorm", vec![hidden]),
                ("mlp.down_proj", vec![hidden, neurons]),
                ("mlp.gate_proj", vec![neurons, hidden]),
                ("mlp.up_proj", vec![neurons, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
            ];
            shapes.map(|(name, shape)| (format!("model.layers.{index}.{name}.weight"), shape))
        };
        let table = |name: &str| (name.to_owned(), vec![vocabulary, hidden]);
        let rest = [
            table("lm_head.weight"),
            table("model.embed_tokens.weight"),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        (0..layers).flat_map(layer).chain(rest).collect()
    }

    fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.hidden,
            "intermediate_size": self.neurons, "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden / 128, "num_key_value_heads": self.kv / 128,
            "vocab_size": self.vocabulary, "torch_dtype": "bfloat16",
        })
    }
}

/// The folder of the checkpoint called `name`, which is written unless it is there: with random values, or with holes.
/// Every shard has about as many tensors.
pub(crate) fn checkpoint(name: &str, shape: &Shape, sparse: bool) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.join("done").exists() {
        return folder;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let (all, shards) = (shape.tensors(), shape.shards);
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let tensors = &all[shard * all.len() / shards..(shard + 1) * all.len() / shards];
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
        };
        weight_map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), file.clone().into())));
        write_shard(&folder.join(&file), tensors, sparse, shard as u64);
    }
    if shards > 1 {
        let index = serde_json::json!({ "weight_map": weight_map });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    std::fs::write(folder.join("config.json"), shape.config().to_string()).unwrap();
    std::fs::write(folder.join("done"), "").unwrap();
    folder
}

fn write_shard(path: &Path, tensors: &[Named], sparse: bool, seed: u64) {
    let (mut header, mut at) = (serde_json::Map::new(), 0u64);
    for (name, shape) in tensors {
        let len = 2 * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len]});
        header.insert(name.clone(), entry);
        at += len;
    }
    let json = serde_json::to_vec(&header).unwrap();
    let start = 8 + json.len() as u64;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    let mut values = Values::new(seed);
    for (_, shape) in tensors {
        let len = 2 * shape.iter().product::<u64>();
        let begin = file.stream_position().unwrap();
        let filled = if sparse { FILLED.min(len) } else { len };
        for _ in 0..filled / 8 {
            file.write_all(&values.four()).unwrap();
        }
        file.seek(SeekFrom::Start(begin + len)).unwrap();
    }
    file.flush().unwrap();
    file.get_ref().set_len(start + at).unwrap();
}

/// Values of about normal distribution and a standard deviation of 0.02, the same for the same seed.
struct Values {
    state: u64,
    /// The value of each sum of four bytes.
    of_sum: Vec<[u8; 2]>,
}

impl Values {
    fn new(seed: u64) -> Self {
        // The sum of four uniform bytes has mean 510 and standard deviation 147.8.
        let value = |sum: u16| half::bf16::from_f32((f32::from(sum) - 510.0) / 147.8 * 0.02).to_le_bytes();
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, of_sum: (0..=1020).map(value).collect() }
    }

    /// Four values. The state is a xorshift generator's (Marsaglia, *Xorshift RNGs*, 2003).
    fn four(&mut self) -> [u8; 8] {
        let mut out = [0; 8];
        for pair in out.as_chunks_mut::<4>().0 {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let bytes = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            let sum = |bytes: &[u8]| bytes.iter().map(|&b| u16::from(b)).sum::<u16>();
            pair[..2].copy_from_slice(&self.of_sum[usize::from(sum(&bytes[..4]))]);
            pair[2..].copy_from_slice(&self.of_sum[usize::from(sum(&bytes[4..]))]);
        }
        out
    }
}
