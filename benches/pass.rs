//! How long it takes to open a checkpoint, to tell its architecture, and to read it, beside `sha256sum` on the same file;
//! and what the loops that every byte goes through take by themselves.
//!
//! `cargo bench` prints times and throughputs. The checkpoints are made once under the target folder: one of 0.6 GB in
//! bf16, and a sparse one with the headers of Llama-3.1-405B in 191 shards.

#[path = "support/model.rs"]
mod model;

use std::path::Path;
use std::process::Command;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use model::Shape;
use sha2::{Digest, Sha256};
use weightprint::internals::anatomy::{self, Hints};
use weightprint::internals::assemble::Subject;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::fingerprint::{Fingerprint, Settings};
use weightprint::internals::math::linalg::Device;
use weightprint::internals::model::known;
use weightprint::internals::tensor::decode::decode;
use weightprint::internals::tensor::{Block, DType};
use xxhash_rust::xxh3::xxh3_128;

const SMALL: Shape = Shape { hidden: 2048, kv: 256, neurons: 5632, vocabulary: 32_000, layers: 4, shards: 1 };
const LLAMA_405B: Shape =
    Shape { hidden: 16_384, kv: 1024, neurons: 53_248, vocabulary: 128_256, layers: 126, shards: 191 };

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, OpenOptions::default()).unwrap()
}

fn headers(c: &mut Criterion) {
    let path = model::checkpoint("bench-405b", &LLAMA_405B, true);
    let mut group = c.benchmark_group("llama-3.1-405b, 191 shards");
    group.bench_function("open", |b| b.iter(|| open(&path)));
    group.bench_function("open and tell the architecture", |b| {
        b.iter(|| {
            let checkpoint = open(&path);
            let anatomy = anatomy::dissect(&checkpoint.tensors, Hints::default());
            let nearest = known::nearest(&anatomy.architecture, 1);
            assert_eq!(nearest[0].id, "meta-llama/Llama-3.1-405B");
        });
    });
    group.finish();
}

fn pass(c: &mut Criterion) {
    let path = model::checkpoint("bench-small", &SMALL, false);
    let bytes = open(&path).total_bytes();
    let mut group = c.benchmark_group("0.6 GB of bf16, page cache warm");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        group.bench_function(format!("fingerprint, {threads} threads"), |b| {
            b.iter(|| {
                let checkpoint = open(&path);
                let subject = Subject::of(&checkpoint);
                pool.install(|| Fingerprint::take(&subject, &Settings::default(), &|_| ()).unwrap())
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
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    for (device, library) in [(Device::cpu(), "faer"), (Device::candle_cpu(), "candle")] {
        group.bench_function(format!("product of 512 x 4096 and 4096 x 256, {library}"), |b| {
            let mut product = Vec::new();
            pool.install(|| {
                b.iter(|| {
                    product.clear();
                    device.append(&left, inner, &right, &mut product);
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, headers, kernels, pass);
criterion_main!(benches);
