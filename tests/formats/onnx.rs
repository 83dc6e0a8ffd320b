//! ONNX as exporters write it: the zoo's models in it keep their kinship and their labels. The files under
//! `fixtures/onnx` were made by the `onnx` package and PyTorch's own exporter (`fixtures/onnx/make.py`), with their
//! values beside them as safetensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::onnx::{self, Form};
use crate::support::reports::{class, report, say, test};
use crate::support::{Raw, load, weightprint, zoo};
use safetensors::tensor::Dtype;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::{Code, Level};
use weightprint::internals::tensor::TensorMeta;

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, OpenOptions::default()).unwrap()
}

fn cast(name: &str, dtype: Dtype) -> Vec<Raw> {
    load(name).iter().map(|tensor| tensor.cast(dtype)).collect()
}

fn codes(checkpoint: &Checkpoint) -> Vec<(Code, Level)> {
    checkpoint.findings.iter().map(|finding| (finding.code, finding.level)).collect()
}

#[test]
fn the_zoo_in_every_form_keeps_its_kinship_and_labels() {
    for (form, dtype, expected) in [
        (Form::Plain, Dtype::F32, "identical"),
        (Form::Scoped, Dtype::F32, "identical"),
        (Form::Scoped, Dtype::F16, "re-encoded"),
        (Form::Properties, Dtype::BF16, "identical"),
        (Form::Built, Dtype::F16, "re-encoded"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        onnx::write(&path, &cast("base-a", dtype), form);
        let copy = report(folder.path(), &zoo("base-a"));
        let other = report(&path, &zoo("base-b"));
        onnx::write(&path, &cast("a-sft", dtype), form);
        let derived = report(&path, &zoo("base-a"));
        let names = [class(&copy), class(&other), class(&derived)];
        say(&format!("{form:?} {dtype:?}: {names:?} ({})", test(&copy, "bits")["says"]));
        assert_eq!(names, [expected, "same-architecture", "derived"], "{form:?} {dtype:?}");
        for found in [&copy, &derived] {
            assert_eq!(found["subject"]["format"], "onnx");
            assert_eq!(found["subject"]["coverage"], 1.0, "{form:?}");
            for code in ["neuron-labels", "head-labels", "channel-labels"] {
                let test = test(found, code);
                assert!(test["effect"].as_f64().unwrap() > 0.9, "{form:?}: {test}");
            }
        }
        let pairs = copy["candidates"][0]["counterparts"].as_array().cloned().unwrap_or_default();
        for pair in &pairs {
            assert_eq!(pair["found"], pair["reference"], "{form:?}");
        }
    }
}

#[test]
fn matrices_without_names_keep_their_kinship() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for (name, expected) in [("base-a", "identical"), ("a-sft", "derived"), ("base-b", "same-architecture")] {
        onnx::write(&path, &load(name), Form::Anonymous);
        let found = report(&path, &zoo("base-a"));
        assert_eq!(class(&found), expected, "{name}: {}", found["verdict"]["summary"]);
        assert_eq!(found["subject"]["coverage"], 1.0, "{name}");
    }
}

#[test]
fn values_beside_the_file_are_read_from_one_file_and_from_several() {
    for files in [&["model.onnx_data"][..], &["model.onnx.data", "more/values.bin", "weights.bin"]] {
        let folder = tempfile::tempdir().unwrap();
        onnx::write_external(folder.path(), &load("a-sft"), Form::Scoped, files);
        for path in [folder.path(), &folder.path().join("model.onnx")] {
            let checkpoint = open(path);
            assert_eq!((checkpoint.format.as_str(), checkpoint.shards.len()), ("onnx", 1 + files.len()));
            let names: Vec<&str> = checkpoint.shards.iter().skip(1).map(|shard| shard.name.as_str()).collect();
            let (mut names, mut files) = (names, files.to_vec());
            names.sort_unstable();
            files.sort_unstable();
            assert_eq!(names, files);
            let found = report(path, &zoo("base-a"));
            assert_eq!((class(&found), &found["subject"]["coverage"]), ("derived", &1.0.into()));
            assert!(test(&found, "neuron-labels")["effect"].as_f64().unwrap() > 0.9);
        }
    }
}

#[test]
fn values_beside_the_file_may_be_shared_and_the_gaps_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |name: &str, rows: usize| {
        let values: Vec<f32> = (0..rows * 8).map(|i| i as f32).collect();
        Raw::from_f32(name, &[rows, 8], &values)
    };
    let stored = [
        onnx::external(&tensor("a.weight", 4), "d", 0),
        onnx::external(&tensor("b.weight", 4), "d", 0),
        onnx::external(&tensor("c.weight", 6), "d", 300_000),
    ];
    fs::write(folder.path().join("model.onnx"), onnx::model(&[], &stored)).unwrap();
    fs::write(folder.path().join("d"), vec![1; 500_000]).unwrap();
    let checkpoint = open(folder.path());
    let names: Vec<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a.weight", "c.weight"]);
    let gap = (Code::HeaderGap, Level::Warning);
    assert_eq!(codes(&checkpoint), [(Code::SharedStorage, Level::Note), gap, gap]);
    let bytes: u64 = checkpoint.unread.iter().map(|unread| unread.bytes).sum();
    assert_eq!(bytes, 500_000 - 4 * 32 - 6 * 32);
}

#[test]
fn typed_values_are_read_in_place_and_others_lower_the_coverage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let base = load("base-a");
    let typed = |tensor: &Raw| {
        let (field, tensor) = if tensor.shape.len() == 1 {
            let wide: Vec<u8> = tensor.values().iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
            (10, Raw { dtype: Dtype::F64, bytes: wide, ..tensor.clone() })
        } else {
            (4, tensor.cast(Dtype::F32))
        };
        let head = onnx::head(&tensor.name, &tensor.shape, onnx::kind(tensor.dtype));
        [head, onnx::bytes(field, &tensor.bytes)].concat()
    };
    let mut stored: Vec<Vec<u8>> = base.iter().map(typed).collect();
    fs::write(&path, onnx::model(&[], &stored)).unwrap();
    let found = report(&path, &zoo("base-a"));
    assert_eq!((class(&found), &found["subject"]["coverage"]), ("identical", &1.0.into()));
    // Halves of floats in numbers of variable length.
    let at = base.iter().position(|tensor| tensor.name == "lm_head.weight").unwrap();
    let mut numbers = Vec::new();
    base[at].bytes.chunks(2).for_each(|b| onnx::varint(&mut numbers, u64::from(u16::from_le_bytes([b[0], b[1]]))));
    stored[at] = [onnx::head(&base[at].name, &base[at].shape, 16), onnx::bytes(5, &numbers)].concat();
    fs::write(&path, onnx::model(&[], &stored)).unwrap();
    let found = report(&path, &zoo("base-a"));
    assert!(found["subject"]["coverage"].as_f64().unwrap() < 0.9, "{}", found["subject"]);
    assert!(codes(&open(&path)).contains(&(Code::ValuesNotRead, Level::Warning)));
}

#[test]
fn tensors_of_constants_subgraphs_and_functions_are_taken() {
    let tensor = |name: &str| {
        let values: Vec<f32> = (0..32).map(|i| i as f32).collect();
        Raw::from_f32(name, &[4, 8], &values)
    };
    let attribute =
        |field: u64, value: &[u8]| onnx::bytes(5, [onnx::bytes(1, "value"), onnx::bytes(field, value)].concat());
    let constant = |output: &str| {
        let mut node = onnx::node("Constant", "c", &[], output);
        node.extend(attribute(5, &onnx::raw(&tensor("inner name"))));
        node
    };
    let inner =
        [onnx::bytes(1, constant("/then/constant")), onnx::bytes(5, onnx::raw(&tensor("then.weight")))].concat();
    let mut branch = onnx::node("If", "/if", &["condition"], "y");
    branch.extend(attribute(6, &inner));
    branch.extend(attribute(6, &onnx::bytes(5, onnx::raw(&tensor("then.weight")))));
    let mut list = onnx::node("Constant", "floats", &[], "listed");
    list.extend(attribute(7, &[0x40; 4 * 100]));
    let one = Raw::from_f32("eps", &[], &[1e-5]);
    let axes = Raw { name: "axes".into(), dtype: Dtype::I64, shape: vec![2], bytes: vec![0; 16] };
    let nodes = [constant("/constant"), branch, list];
    let mut file = onnx::model(&nodes, &[onnx::raw(&one), onnx::raw(&axes), onnx::raw(&tensor("a.weight"))]);
    file.extend(onnx::bytes(25, onnx::bytes(7, constant("/function/constant"))));
    file.extend(onnx::bytes(20, b""));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, file).unwrap();
    let checkpoint = open(&path);
    let mut names: Vec<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    let again = names.iter().find(|name| name.starts_with("then.weight#")).copied().unwrap();
    let expected = ["/constant", "/function/constant", "/then/constant", "a.weight", "listed", "then.weight", again];
    assert_eq!(names, expected);
    assert_eq!(codes(&checkpoint), [(Code::FileLeftOut, Level::Note)]);
}

#[test]
fn fused_matrices_of_the_model_builder_are_taken_apart() {
    let base = load("base-a");
    let find = |name: String| base.iter().find(|tensor| tensor.name == name).unwrap();
    let mut fused: Vec<Raw> = base
        .iter()
        .filter(|tensor| !tensor.name.contains("self_attn.") || tensor.name.contains("o_proj"))
        .cloned()
        .collect();
    for layer in 0..4 {
        let part = |name: &str| find(format!("model.layers.{layer}.self_attn.{name}_proj.weight"));
        let parts = [part("q"), part("k"), part("v")];
        let rows = parts.iter().map(|part| part.shape[0]).sum();
        let bytes = parts.iter().flat_map(|part| part.bytes.clone()).collect();
        let name = format!("model.layers.{layer}.self_attn.qkv_proj.weight");
        fused.push(Raw { name, shape: vec![rows, 128], bytes, ..parts[0].clone() });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&path, &fused, Form::Built);
    let found = report(&path, &zoo("base-a"));
    assert_eq!(class(&found), "identical", "{}", found["verdict"]["summary"]);
    assert!(test(&found, "head-labels")["effect"].as_f64().unwrap() > 0.9);
}

#[test]
fn a_file_is_known_by_its_content_and_several_are_chosen_between_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.dat");
    onnx::write(&path, &load("base-a"), Form::Plain);
    assert_eq!(open(&path).format.as_str(), "onnx");
    assert_eq!(open(&path).shards[0].metadata["producer_name"], "pytorch");
    for name in ["model.onnx", "model_fp16.onnx"] {
        fs::copy(&path, folder.path().join(name)).unwrap();
    }
    assert_eq!(open(folder.path()).shards[0].name, "model.onnx");
    fs::rename(folder.path().join("model.onnx"), folder.path().join("other.onnx")).unwrap();
    let run = weightprint(["inspect".as_ref(), folder.path().as_os_str()]);
    assert!(run.code == 2 && run.stderr.contains("more than one model"), "{}", run.stderr);
    crate::support::write_file(&folder.path().join("model.safetensors"), &load("a-sft"));
    let checkpoint = open(folder.path());
    assert_eq!(checkpoint.format.as_str(), "safetensors");
    assert!(checkpoint.findings[0].message.contains("`model_fp16.onnx`"), "{:?}", checkpoint.findings);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/onnx").join(name)
}

/// Name to shape and values.
type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

fn read(path: &Path, mmap: bool) -> Tensors {
    let checkpoint = Checkpoint::open(path, OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
    let tensor = |tensor: &TensorMeta| {
        let (mut out, mut buf) = (vec![f32::NAN; tensor.elements() as usize], Vec::new());
        checkpoint.values(tensor, 0, &mut out, &mut buf).unwrap().expect("a type that is decoded");
        (tensor.name.clone(), (tensor.shape.clone(), out))
    };
    checkpoint.tensors.iter().map(tensor).collect()
}

#[test]
fn every_type_reads_as_the_onnx_package_reads_it() {
    let expected = read(&fixture("types.safetensors"), true);
    assert_eq!(expected.len(), 16);
    for mmap in [true, false] {
        assert_eq!(read(&fixture("types.onnx"), mmap), expected);
    }
    let checkpoint = open(&fixture("types.onnx"));
    let metadata = &checkpoint.shards[0].metadata;
    assert_eq!((metadata["producer_name"].as_str(), metadata["base_model"].as_str()), ("make.py", "org/name"));
    assert_eq!(checkpoint.shards[1].name, "types.data");
}

#[test]
fn quantised_files_read_as_onnx_runtime_computes_with_them() {
    for name in ["int8", "uint8", "nbits", "nbits.zeros"] {
        let expected = read(&fixture(&format!("{name}.safetensors")), true);
        let path = fixture(&format!("{name}.onnx"));
        for mmap in [true, false] {
            let found = read(&path, mmap);
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
            for (tensor, (shape, values)) in &expected {
                let (own_shape, own) = &found[tensor];
                assert_eq!(own_shape, shape, "{name}: {tensor}");
                // Its products of four bits are computed with one rounding less.
                let slack = if name.starts_with("nbits") { 1e-6 } else { 0.0 };
                let close = own.iter().zip(values).all(|(a, b)| (a - b).abs() <= slack * b.abs());
                assert!(close, "{name}: {tensor}: {:?} and {:?}", &own[..8], &values[..8]);
            }
        }
        assert_eq!(codes(&open(&path)), [], "{name}");
    }
}

/// A quantised product with a matrix: its nodes and tensors.
fn quantised(tensor: &Raw, blocks: bool) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let module = tensor.name.strip_suffix(".weight").unwrap();
    let path = module.replace('.', "/").replace("layers/", "layers.");
    let [rows, cols] = tensor.shape[..] else { panic!() };
    let values = tensor.values();
    let largest = |values: &[f32]| values.iter().fold(0f32, |most, value| most.max(value.abs()));
    let codes_name = format!("onnx::MatMul_{}", module.len() * 7919 + values.len());
    let (codes_name, scales_name) = (format!("{codes_name}{module}_quantized"), format!("{codes_name}{module}_scale"));
    if blocks {
        let scales: Vec<f32> = values.chunks(32).map(|block| largest(block) / 7.0).collect();
        let code = |(at, value): (usize, &f32)| (value / scales[at / 32]).round() as i32 + 8;
        let codes: Vec<i32> = values.iter().enumerate().map(code).collect();
        let bytes = codes.chunks(2).map(|pair| (pair[0] | pair[1] << 4) as u8).collect();
        let (dtype, shape) = (Dtype::U8, vec![rows, cols / 32, 16]);
        let codes = Raw { name: codes_name, dtype, shape, bytes };
        let scales = Raw::from_f32(&scales_name, &[rows * cols / 32], &scales);
        let inputs = ["x", &codes.name, &scales.name];
        let mut node = onnx::node("MatMulNBits", &format!("/{path}/MatMul_Q4"), &inputs, &format!("{path}/y"));
        for (name, value) in [("K", cols), ("N", rows), ("bits", 4), ("block_size", 32)] {
            let attribute = [onnx::bytes(1, name), onnx::number(3, value as u64), onnx::number(20, 2)].concat();
            node.extend(onnx::bytes(5, attribute));
        }
        return (vec![node], vec![onnx::raw(&codes), onnx::raw(&scales)]);
    }
    // One scale for each out, codes by (in, out).
    let scales: Vec<f32> = values.chunks(cols).map(|row| largest(row) / 127.0).collect();
    let code = |(at, value): (usize, &f32)| (value / scales[at / cols]).round() as i8 as u8;
    let bytes = values.iter().enumerate().map(code).collect();
    let codes = onnx::transposed(&Raw { name: codes_name, dtype: Dtype::I8, bytes, ..tensor.clone() });
    let scales = Raw::from_f32(&scales_name, &[rows], &scales);
    let dequantised = format!("{path}/weight");
    let nodes = vec![
        onnx::node(
            "DequantizeLinear",
            &format!("/{path}/DequantizeLinear"),
            &[&codes.name, &scales.name],
            &dequantised,
        ),
        onnx::node("MatMul", &format!("/{path}/MatMul"), &["x", &dequantised], &format!("{path}/y")),
    ];
    (nodes, vec![onnx::raw(&codes), onnx::raw(&scales)])
}

#[test]
fn quantised_models_keep_their_kinship() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    for blocks in [false, true] {
        for (name, expected) in [("base-a", "re-encoded"), ("a-sft", "derived"), ("base-b", "same-architecture")] {
            let (mut nodes, mut stored) = (Vec::new(), Vec::new());
            for tensor in &load(name) {
                if onnx::is_linear(tensor) {
                    let parts = quantised(tensor, blocks);
                    nodes.extend(parts.0);
                    stored.extend(parts.1);
                } else {
                    stored.push(onnx::raw(tensor));
                }
            }
            fs::write(&path, onnx::model(&nodes, &stored)).unwrap();
            let found = report(&path, &zoo("base-a"));
            assert_eq!(class(&found), expected, "{name} {blocks}: {}", found["verdict"]["summary"]);
            assert_eq!(found["subject"]["coverage"], 1.0, "{name} {blocks}");
        }
    }
}

#[test]
fn codes_without_their_scales_lower_the_coverage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let (mut nodes, mut stored) = (Vec::new(), Vec::new());
    for tensor in load("base-a").iter().filter(|tensor| onnx::is_linear(tensor)) {
        let parts = quantised(tensor, true);
        nodes.extend(parts.0);
        stored.push(parts.1[0].clone());
    }
    stored.push(onnx::raw(&load("base-a")[1]));
    fs::write(&path, onnx::model(&nodes, &stored)).unwrap();
    assert!(codes(&open(&path)).contains(&(Code::ValuesNotRead, Level::Warning)));
    let found = report(&path, &zoo("base-a"));
    assert!(found["subject"]["coverage"].as_f64().unwrap() < 0.5, "{}", found["subject"]);
}

#[test]
fn exports_of_pytorch_read_as_the_state_of_the_module() {
    let expected = read(&fixture("exported.safetensors"), true);
    for name in ["scripted.onnx", "exported.onnx"] {
        for mmap in [true, false] {
            assert_eq!(read(&fixture(name), mmap), expected, "{name}");
        }
        assert_eq!(codes(&open(&fixture(name))), [], "{name}");
    }
}
