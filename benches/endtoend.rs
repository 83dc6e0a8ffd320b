//! What a scan costs from end to end, beside what its user would run instead on the same files.
//!
//! `cargo bench --bench endtoend` makes the checkpoints once under the target folder (18 GB, and 138 GB of holes),
//! measures every stage in a process of its own with the page cache warm, and writes `docs/performance.md` between its
//! markers. `-- --sizes 1,4` takes only checkpoints of about so many GB and writes nothing; `-- --sparse` only the one
//! of holes. The NumPy row needs a Python with numpy, ml_dtypes and safetensors, named by `WEIGHTPRINT_BENCH_PYTHON`; the
//! table of pairs needs the program of `cisco-ai-provenance-kit`, named by `WEIGHTPRINT_BENCH_KIT`. `-- --pairs` takes
//! that table alone.
//! As a test it does nothing.
#![allow(clippy::disallowed_macros, reason = "a bench speaks to whoever runs it")]

#[path = "endtoend/document.rs"]
mod document;
#[path = "endtoend/measure.rs"]
mod measure;
#[path = "support/model.rs"]
mod model;
#[path = "endtoend/pairs.rs"]
mod pairs;

use std::path::{Path, PathBuf};

use measure::{Cost, Spent, Stage};
use model::Shape;

/// LLaMA-7B: 13.5 GB in bf16, a file for each layer and one for the rest.
const LLAMA_7B: Shape = Shape { hidden: 4096, kv: 4096, neurons: 11_008, vocabulary: 32_000, layers: 32, shards: 33 };

/// Llama-2-70B: 138 GB in bf16.
const LLAMA_70B: Shape = Shape { hidden: 8192, kv: 1024, neurons: 28_672, vocabulary: 32_000, layers: 80, shards: 81 };

/// Threads of every run, and processes of `sha256sum`.
const THREADS: usize = 2;

/// Sizes in GB by which checkpoints are asked for, and layers of LLaMA-7B that make them.
const SIZES: [(u64, u64); 3] = [(1, 1), (4, 9), (13, 32)];

/// All measurements on one checkpoint.
struct Row {
    bytes: u64,
    open: Cost,
    statistics: Cost,
    fingerprint: Cost,
    product: Cost,
    cat: Option<Spent>,
    sha256sum: Option<Spent>,
    numpy: Option<Spent>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let given = |flag: &str| args.iter().position(|arg| arg == flag);
    if let Some(at) = given("--stage") {
        return measure::child(&args[at + 1], Path::new(&args[at + 2]));
    }
    if given("--bench").is_none() || given("--test").is_some() {
        return;
    }
    if given("--pairs").is_some() {
        return println!("{}", document::pairs(&pairs::pairs()));
    }
    if given("--sparse").is_some() {
        return eprintln!("70B-shaped, sparse: {:?}", sparse());
    }
    let wanted = given("--sizes").map(|at| args[at + 1].split(',').map(|size| size.parse().unwrap()).collect());
    let all = wanted.is_none();
    let wanted: Vec<u64> = wanted.unwrap_or_else(|| SIZES.map(|(size, _)| size).to_vec());
    let rows: Vec<Row> =
        SIZES.iter().filter(|(size, _)| wanted.contains(size)).map(|&(size, n)| row(size, n)).collect();
    println!("{}", document::table(&rows));
    if all {
        document::write(&rows, sparse(), &pairs::pairs());
    }
}

/// The sparse checkpoint's bytes, and what its fingerprint costs.
fn sparse() -> (u64, Cost) {
    let path = model::checkpoint("endtoend-70b", &LLAMA_70B, true);
    (bytes(&path), Stage::Fingerprint.measure(&path))
}

fn row(size: u64, layers: u64) -> Row {
    let path = model::checkpoint(
        &format!("endtoend-{size}"),
        &Shape { layers, shards: layers as usize + 1, ..LLAMA_7B },
        false,
    );
    let shell = |script: &str| measure::shell(script, &path);
    // The first reading warms the page cache.
    shell(CAT);
    let cat = shell(CAT);
    let python = std::env::var("WEIGHTPRINT_BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/endtoend/straightforward.py");
    let row = Row {
        bytes: bytes(&path),
        cat,
        open: Stage::Open.measure(&path),
        statistics: Stage::Statistics.measure(&path),
        fingerprint: Stage::Fingerprint.measure(&path),
        product: Stage::Product.measure(&path),
        sha256sum: shell(&format!("ls \"$1\"/*.safetensors | xargs -P{THREADS} -n1 sha256sum")),
        numpy: shell(&format!("'{python}' '{}' \"$1\"", script.display())),
    };
    eprintln!("{size} GB: statistics {:.1} s, fingerprint {:.1} s", row.statistics.seconds, row.fingerprint.seconds);
    row
}

const CAT: &str = "cat \"$1\"/*.safetensors >/dev/null";

fn bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files.map(|file| file.metadata().unwrap().len()).sum()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
