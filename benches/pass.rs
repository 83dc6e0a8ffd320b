//! How long it takes to open a checkpoint, to tell its architecture, and to read it, beside `sha256sum` on the same file;
//! and what the loops that every byte goes through take by themselves.
//!
//! `cargo bench` prints times and throughputs. The checkpoints are made once under the target folder: one of 0.6 GB in
//! bf16, and a sparse one with the headers of Llama-3.1-405B in 191 shards.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use sha2::{Digest, Sha256};
use weightprint::anatomy;
use weightprint::checkpoint::{Checkpoint, OpenOptions};
use weightprint::fingerprint::Fingerprint;
use weightprint::model::known;
use weightprint::tensor::decode::decode;
use weightprint::tensor::{Block, DType};
use xxhash_rust::xxh3::xxh3_128;

struct Sizes {
    hidden: u64,
    kv: u64,
    neurons: u64,
    vocabulary: u64,
    layers: u64,
    shards: usize,
}

const SMALL: Sizes = Sizes { hidden: 2048, kv: 256, neurons: 5632, vocabulary: 32_000, layers: 4, shards: 1 };
const LLAMA_405B: Sizes =
    Sizes { hidden: 16_384, kv: 1024, neurons: 53_248, vocabulary: 128_256, layers: 126, shards: 191 };

fn tensors(sizes: &Sizes) -> Vec<(String, Vec<u64>)> {
    let &Sizes { hidden, kv, neurons, vocabulary, .. } = sizes;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
    for layer in 0..sizes.layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![neurons, hidden]),
            ("mlp.up_proj", vec![neurons, hidden]),
            ("mlp.down_proj", vec![hidden, neurons]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    tensors
}

/// Writes the checkpoint unless it is there: random values around zero, or holes.
fn checkpoint(name: &str, sizes: &Sizes, sparse: bool) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.join("done").exists() {
        return folder;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let all = tensors(sizes);
    let per_shard = all.len().div_ceil(sizes.shards);
    let mut weight_map = serde_json::Map::new();
    for shard in 0..sizes.shards {
        let file = match sizes.shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
        };
        // The last shards may be empty: give them a tensor of one value, as no real index names an empty file.
        let spare = vec![(format!("spare.{shard}"), vec![1])];
        let part = all.chunks(per_shard).nth(shard).unwrap_or(&spare);
        for (tensor, _) in part {
            weight_map.insert(tensor.clone(), file.clone().into());
        }
        write_shard(&folder.join(&file), part, sparse);
    }
    if sizes.shards > 1 {
        let index = serde_json::json!({ "weight_map": weight_map });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    std::fs::write(folder.join("done"), "").unwrap();
    folder
}

fn write_shard(path: &Path, tensors: &[(String, Vec<u64>)], sparse: bool) {
    let (mut header, mut at) = (serde_json::Map::new(), 0u64);
    for (name, shape) in tensors {
        let len = 2 * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len]});
        header.insert(name.clone(), entry);
        at += len;
    }
    let json = serde_json::to_vec(&header).unwrap();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    let mut state = at;
    for _ in 0..if sparse { 0 } else { at / 2 } {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.07;
        file.write_all(&half::bf16::from_f32(value).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
    file.get_ref().set_len(8 + json.len() as u64 + at).unwrap();
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, OpenOptions::default()).unwrap()
}

fn headers(c: &mut Criterion) {
    let path = checkpoint("bench-405b", &LLAMA_405B, true);
    let mut group = c.benchmark_group("llama-3.1-405b, 191 shards");
    group.bench_function("open", |b| b.iter(|| open(&path)));
    group.bench_function("open and tell the architecture", |b| {
        b.iter(|| {
            let checkpoint = open(&path);
            let anatomy = anatomy::dissect(&checkpoint.tensors, None);
            let nearest = known::nearest(&anatomy.architecture, 1);
            assert_eq!(nearest[0].id, "meta-llama/Llama-3.1-405B");
        });
    });
    group.finish();
}

fn pass(c: &mut Criterion) {
    let path = checkpoint("bench-small", &SMALL, false);
    let bytes = open(&path).total_bytes();
    let mut group = c.benchmark_group("0.6 GB of bf16, page cache warm");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        group.bench_function(format!("fingerprint, {threads} threads"), |b| {
            b.iter(|| {
                let checkpoint = open(&path);
                let anatomy = anatomy::dissect(&checkpoint.tensors, None);
                pool.install(|| Fingerprint::take(&checkpoint, &anatomy, &[], &|_| ()).unwrap())
            });
        });
    }
    group.bench_function("sha256sum, 1 process", |b| {
        b.iter(|| {
            let output = Command::new("sha256sum").arg(path.join("model.safetensors")).output().unwrap();
            assert!(output.status.success());
        });
    });
    group.finish();
}

/// What each byte goes through, one thread: values from bytes, digests, and the matrix product beside candle's.
fn kernels(c: &mut Criterion) {
    const VALUES: usize = 1 << 20;
    let bytes: Vec<u8> = (0..4 * VALUES).map(|i| (i * 31 % 251) as u8).collect();
    let mut out = vec![0.0f32; VALUES];
    let mut group = c.benchmark_group("kernels, 1 thread");
    let block = |name: &str| DType::Block(Block::named(name).unwrap());
    let types = [DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::I8];
    for dtype in types.into_iter().chain(["Q8_0", "Q4_0", "Q4_K", "IQ3_S"].map(block)) {
        let len = dtype.size_of(VALUES as u64).unwrap();
        group.throughput(Throughput::Bytes(len));
        group
            .bench_function(format!("{dtype} to f32"), |b| b.iter(|| decode(&dtype, &bytes[..len as usize], &mut out)));
    }
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("SHA-256", |b| b.iter(|| Sha256::digest(&bytes)));
    group.bench_function("XXH3, 128 bits", |b| b.iter(|| xxh3_128(&bytes)));
    let (rows, inner, width) = (512, 4096, 256);
    let left: Vec<f32> = (0..rows * inner).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    let right: Vec<f32> = (0..inner * width).map(|i| (i % 241) as f32 / 241.0 - 0.5).collect();
    group.throughput(Throughput::Elements((2 * rows * inner * width) as u64));
    group.bench_function("product of 512 x 4096 and 4096 x 256, faer", |b| {
        let mut product = vec![0.0f32; rows * width];
        b.iter(|| {
            let into = MatMut::from_row_major_slice_mut(&mut product, rows, width);
            let left = MatRef::from_row_major_slice(&left, rows, inner);
            matmul(into, Accum::Replace, left, MatRef::from_row_major_slice(&right, inner, width), 1.0, Par::Seq);
        });
    });
    group.bench_function("product of 512 x 4096 and 4096 x 256, candle", |b| {
        let left = Tensor::from_slice(&left, (rows, inner), &Device::Cpu).unwrap();
        let right = Tensor::from_slice(&right, (inner, width), &Device::Cpu).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| b.iter(|| left.matmul(&right).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, headers, kernels, pass);
criterion_main!(benches);
