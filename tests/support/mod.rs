//! What the tests have in common: the zoo, checkpoints rewritten from it, and the program run on them.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test crate uses a part of it")]

pub mod disguise;
pub mod gguf;
pub mod model;
pub mod onnx;
pub mod pairs;
pub mod quantise;
pub mod reports;
pub mod torch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::fingerprint::{Anchor, Settings};
use weightprint::internals::scanner::Prepared;
use weightprint::{Error, ErrorKind};

/// What the program makes of an error: its exit codes 2, 3 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    Usage,
    Malformed,
    Nothing,
}

pub fn error_class(error: &Error) -> ErrorClass {
    match error.kind() {
        ErrorKind::Usage | ErrorKind::Exists => ErrorClass::Usage,
        ErrorKind::Nothing => ErrorClass::Nothing,
        _ => ErrorClass::Malformed,
    }
}

/// Opens a file that may lie, in less than a second and a half, and reads what it holds.
pub fn open_in_time(path: &Path) -> Result<Checkpoint, Error> {
    let begin = Instant::now();
    let opened = Checkpoint::open(path, OpenOptions::default());
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    if let Ok(checkpoint) = &opened {
        for tensor in &checkpoint.tensors {
            if tensor.dtype.is_decoded() && tensor.elements() <= 1 << 20 {
                let mut out = vec![0.0; tensor.elements() as usize];
                checkpoint.values(tensor, 0, &mut out, &mut Vec::new()).unwrap().unwrap();
            }
        }
    }
    opened
}

pub fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo").join(name)
}

/// A checkpoint made ready for comparison with the references of which `lists` are the anchors.
pub fn prepare(path: &Path, lists: &[Vec<Anchor>]) -> weightprint::Result<Prepared> {
    let checkpoint = Checkpoint::open(path, OpenOptions::default())?;
    let settings = Settings { lists, ..Settings::default() };
    let (prepared, _) = Prepared::take(&checkpoint, path.display().to_string(), &settings, None, &|_| ())?;
    Ok(prepared)
}

/// A tensor that can be changed and written again.
#[derive(Clone)]
pub struct Raw {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Raw {
    pub fn from_f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::BF16 => self.bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::F16 => self.bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::F32 => self.bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            other => panic!("{other:?} in a fixture"),
        }
    }

    pub fn cast(&self, dtype: Dtype) -> Self {
        let values = self.values();
        let bytes = match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            other => panic!("{other:?} in a fixture"),
        };
        Self { dtype, bytes, ..self.clone() }
    }
}

pub fn load_file(path: &Path) -> Vec<Raw> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut raws: Vec<Raw> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| Raw {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        })
        .collect();
    raws.sort_by(|a, b| a.name.cmp(&b.name));
    raws
}

pub fn load(zoo_name: &str) -> Vec<Raw> {
    load_file(&zoo(zoo_name).join("model.safetensors"))
}

/// Writes a safetensors file with the tensors in exactly this order, which the reference writer would sort.
pub fn write_file(path: &Path, tensors: &[Raw]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let begin = data.len();
        data.extend_from_slice(&tensor.bytes);
        let dtype = serde_json::to_value(tensor.dtype).unwrap();
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut json = serde_json::to_vec(&header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
    // The file is a valid one by the reference implementation's reading.
    SafeTensors::deserialize(&std::fs::read(path).unwrap()).unwrap();
}

/// Writes a folder of `shards` files with an index.
pub fn write_sharded(folder: &Path, tensors: &[Raw], shards: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let part: Vec<Raw> = tensors.iter().skip(shard).step_by(shards).cloned().collect();
        for tensor in &part {
            weight_map.insert(tensor.name.clone(), Value::String(name.clone()));
        }
        write_file(&folder.join(name), &part);
    }
    let total: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// SplitMix64, so that fixtures are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box–Muller.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// All names replaced by `t0001`… and the order shuffled. Returns the original name of each new one.
pub fn obfuscate(tensors: &mut [Raw], seed: u64) -> HashMap<String, String> {
    Random(seed).shuffle(tensors);
    let rename = |(index, tensor): (usize, &mut Raw)| {
        let new = format!("t{:04}", index + 1);
        (new.clone(), std::mem::replace(&mut tensor.name, new))
    };
    tensors.iter_mut().enumerate().map(rename).collect()
}

/// What a run of the program printed and how it ended.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

/// Runs the program with no catalog but those that are named.
pub fn weightprint<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    weightprint_in(Path::new("."), args)
}

/// The same from within a folder, so that paths can be given, and come back, without what lies above it.
pub fn weightprint_in<S: AsRef<std::ffi::OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Run {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_weightprint"))
        .args(args)
        .current_dir(folder)
        .env("COLUMNS", "80")
        .env("XDG_DATA_HOME", "/nonexistent")
        .env("WEIGHTPRINT_NO_CACHE", "1")
        .env_remove("WEIGHTPRINT_CACHE")
        .env_remove("WEIGHTPRINT_CATALOG")
        .output()
        .unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A view, for writing with the reference implementation.
pub fn view(raw: &Raw) -> TensorView<'_> {
    TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap()
}
