//! ONNX files that lie: an error in milliseconds that says what is wrong, never a panic, never much memory, and nothing
//! outside the folder is read.

#![cfg(unix)]

use std::fs;

use crate::support::onnx::{self, Form, bytes, entry, head, model, node, number};
use crate::support::{ErrorClass, error_class};
use crate::support::{Raw, load, open_in_time as open};
use proptest::prelude::*;
use safetensors::tensor::Dtype;
use weightprint::Error;
use weightprint::internals::checkpoint::Checkpoint;

fn open_bytes(content: &[u8]) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, content).unwrap();
    fs::write(folder.path().join("d"), [1; 48]).unwrap();
    open(&path)
}

/// The message of the refusal, which is about the file's content.
fn refused(content: &[u8]) -> String {
    let error = open_bytes(content).map(|_| ()).expect_err("refused");
    assert_eq!(error_class(&error), ErrorClass::Malformed, "{error}");
    assert!(error.to_string().len() < 2000);
    error.to_string()
}

fn refuse(content: &[u8], part: &str) {
    let message = refused(content);
    assert!(message.contains(part) && message.contains("model.onnx"), "`{part}` is not in: {message}");
}

fn small() -> Raw {
    Raw::from_f32("a.weight", &[3, 4], &[1.0; 12])
}

fn with(tensor: Vec<u8>) -> Vec<u8> {
    model(&[], &[tensor])
}

#[test]
fn lengths_that_wrap_or_reach_beyond_are_refused() {
    assert_eq!(open_bytes(&with(onnx::raw(&small()))).unwrap().tensors.len(), 1);
    for len in [u64::MAX, u64::MAX - 5, 1 << 63, 1 << 40, 10_000] {
        // Of the graph, of a tensor, of its values.
        let mut graph = number(1, 8);
        graph.push(7 << 3 | 2);
        onnx::varint(&mut graph, len);
        graph.extend([0; 100]);
        refuse(&graph, "reaches beyond its message");
        let mut tensor = vec![5 << 3 | 2];
        onnx::varint(&mut tensor, len);
        refuse(&[number(1, 8), bytes(7, tensor)].concat(), "reaches beyond its message");
        let mut values = head("a", &[3], 1);
        values.push(9 << 3 | 2);
        onnx::varint(&mut values, len);
        refuse(&with([values, vec![0; 12]].concat()), "reaches beyond its message");
    }
    refuse(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], "longer than 64 bits");
    refuse(&[number(1, 8), vec![0xff; 20]].concat(), "longer than 64 bits");
    refuse(&[number(1, 8), vec![7 << 3 | 3]].concat(), "wire type 3");
    refuse(&[number(1, 8), vec![0x00, 0x01]].concat(), "field 0");
    refuse(&number(1, 8), "no graph");
    refuse(&[], "no graph");
    let two = [with(onnx::raw(&small())), bytes(7, b"")].concat();
    refuse(&two, "two graphs");
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    let nodes = [node("MatMul", "/a/MatMul", &["x", "a.weight"], "y")];
    let whole = model(&nodes, &[onnx::raw(&small())]);
    assert!(open_bytes(&whole).is_ok());
    // Behind the graph there is nothing that is missed.
    let end = whole.len() - bytes(8, number(2, 17)).len();
    (0..end).for_each(|len| assert!(open_bytes(&whole[..len]).is_err(), "{len} of {} bytes", whole.len()));
}

#[test]
fn sizes_that_lie_are_refused() {
    let sized = |sizes: &[u64]| {
        let mut tensor: Vec<u8> = sizes.iter().flat_map(|size| number(1, *size)).collect();
        tensor.extend([number(2, 1), bytes(8, "a"), bytes(9, [0; 48])].concat());
        with(tensor)
    };
    assert!(open_bytes(&sized(&[3, 4])).is_ok());
    refuse(&sized(&[u64::MAX]), "a size of -1");
    refuse(&sized(&[1 << 63, 2]), "a size of -9223372036854775808");
    refuse(&sized(&[1 << 62, 1 << 62]), "overflows");
    refuse(&sized(&[(1 << 63) - 1]), "overflows");
    refuse(&sized(&[1 << 40]), "takes 4398046511104 bytes, not 48");
    refuse(&sized(&[11]), "takes 44 bytes, not 48");
    refuse(&sized(&[1; 9]), "more than 8 dimensions");
    refuse(&with([head("a", &[3], 1), bytes(9, [0; 12]), bytes(9, [0; 12])].concat()), "stated twice");
    refuse(&with([head("a", &[3], 1), bytes(9, [0; 12]), bytes(4, [0; 12])].concat()), "stated twice");
    refuse(&with(head("a", &[3], 1)), "has no values");
    refuse(&model(&[], &[onnx::raw(&small()), onnx::raw(&small())]), "the tensor is stated twice");
    refuse(&with(head(&"n".repeat(2000), &[3], 1)), "length of a tensor's name");
    // Types that are unknown are read by nobody, and say so.
    let unknown = open_bytes(&with([head("a", &[3], 99), bytes(9, [0; 12])].concat())).unwrap();
    assert!(!unknown.tensors[0].dtype.is_decoded() && !unknown.findings.is_empty());
}

#[test]
fn messages_inside_messages_end_at_a_limit() {
    let mut graph = Vec::new();
    for _ in 0..100 {
        let attribute = [bytes(1, "body"), bytes(6, &graph)].concat();
        graph = bytes(1, [bytes(4, "Loop"), bytes(5, attribute)].concat());
    }
    assert!(refused(&[number(1, 8), bytes(7, graph)].concat()).contains("depth of graphs in graphs"));
    // A million lengths, each inside the one before: they are one message's bytes until something looks inside.
    let mut deep = vec![0u8; 0];
    for _ in 0..1_000_000u32 {
        deep.extend([0x32, 0x7f]);
    }
    let _ = open_bytes(&[number(1, 8), bytes(7, bytes(1, bytes(5, &deep)))].concat());
    let _ = open_bytes(&[number(1, 8), deep].concat());
}

#[test]
fn many_fields_cost_what_their_bytes_cost() {
    // Empty nodes, inputs without end, sizes without end, nodes that name a long tensor again and again.
    let graph = |content: Vec<u8>| [number(1, 8), bytes(7, content)].concat();
    refuse(&graph([0x0a, 0x00].repeat(2_000_000)), "number of nodes");
    let inputs = [0x0a, 0x00].repeat(3_000_000);
    assert!(open_bytes(&graph(bytes(1, inputs))).is_ok());
    refuse(&graph(bytes(5, [0x08, 0x01].repeat(1_000_000))), "dimensions");
    refuse(&graph([0x2a, 0x00].repeat(1_000_000)), "stated twice");
    let long = "n".repeat(1000);
    let tensor = Raw { name: long.clone(), ..small() };
    let again = bytes(1, node("Identity", "", &[&long], &long)).repeat(20_000);
    assert!(open_bytes(&graph([again, bytes(5, onnx::raw(&tensor))].concat())).is_ok());
}

#[test]
fn values_outside_the_folder_are_not_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(folder.path().join("secret"), [0; 48]).unwrap();
    fs::write(inside.join("here"), [0; 48]).unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
    std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
    std::os::unix::fs::symlink("nowhere", inside.join("dangling")).unwrap();
    let path = inside.join("model.onnx");
    let absolute = folder.path().join("secret");
    let refused = |location: &str, part: &str| {
        fs::write(&path, with(onnx::external(&small(), location, 0))).unwrap();
        let error = open(&path).map(|_| ()).expect_err("refused");
        assert_eq!(error_class(&error), ErrorClass::Malformed, "{error}");
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    };
    for location in ["../secret", "", "x/../../secret", "..", "/", "\\secret", "c:secret", absolute.to_str().unwrap()] {
        refused(location, "no path inside the folder");
    }
    for location in ["link", "up/secret"] {
        refused(location, "outside");
    }
    refused("missing", "which is not there");
    refused("dangling", "does not exist");
    refused("up", "");
    refused("model.onnx", "in the file itself");
    fs::write(&path, with(onnx::external(&small(), "./here", 0))).unwrap();
    assert_eq!(open(&path).unwrap().tensors.len(), 1);
}

#[test]
fn ranges_of_other_files_are_held_against_them_and_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(folder.path().join("d"), [0; 100]).unwrap();
    let keys = |keys: &[(&str, &str)]| {
        let mut tensor = head("a.weight", &[3, 4], 1);
        tensor.extend(entry(13, "location", "d"));
        keys.iter().for_each(|(key, value)| tensor.extend(entry(13, key, value)));
        [tensor, number(14, 1)].concat()
    };
    let refused = |tensors: &[Vec<u8>], part: &str| {
        fs::write(&path, model(&[], tensors)).unwrap();
        let error = open(&path).map(|_| ()).expect_err("refused");
        assert_eq!(error_class(&error), ErrorClass::Malformed, "{error}");
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    };
    for (given, part) in [
        (&[("offset", "53")][..], "reach beyond `d`"),
        (&[("offset", "18446744073709551615")], "reach beyond `d`"),
        (&[("offset", "-1")], "the offset of its values is `-1`"),
        (&[("offset", "1e3")], "the offset of its values is"),
        (&[("length", "47")], "it takes 48 bytes and states 47"),
        (&[("length", "99999999999999999999")], "the length of its values is"),
    ] {
        refused(&[keys(given)], part);
    }
    let both = [keys(&[]), bytes(9, [0; 48])].concat();
    refused(&[both], "in the file and in another one");
    let other = Raw { name: "b.weight".into(), ..small() };
    refused(&[onnx::external(&small(), "d", 0), onnx::external(&other, "d", 40)], "overlap");
    // Four bytes as twenty thousand tensors that each reach over a gigabyte of holes.
    fs::File::options().write(true).open(folder.path().join("d")).unwrap().set_len(1 << 40).unwrap();
    let huge = |at: u64| {
        let mut tensor = [number(1, 1 << 28), number(2, 1), bytes(8, format!("t{at}"))].concat();
        tensor.extend(entry(13, "location", "d"));
        tensor.extend(entry(13, "offset", &(4 * at).to_string()));
        [tensor, number(14, 1)].concat()
    };
    let tensors: Vec<Vec<u8>> = (0..20_000).map(huge).collect();
    refused(&tensors, "overlap");
}

#[test]
fn pointers_in_place_of_values_are_told() {
    let folder = tempfile::tempdir().unwrap();
    onnx::write_external(folder.path(), &load("base-a"), Form::Scoped, &["model.onnx_data"]);
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n", "0".repeat(64));
    fs::write(folder.path().join("model.onnx_data"), pointer).unwrap();
    let error = open(folder.path()).map(|_| ()).expect_err("refused");
    assert!(error_class(&error) == ErrorClass::Nothing && error.to_string().contains("git lfs pull"), "{error}");
}

fn honest() -> Vec<u8> {
    let second = Raw { name: "onnx::MatMul_7".into(), ..small() };
    let third = Raw { name: "c.weight".into(), ..small() };
    let named = |name: &str, dtype, bytes: &[u8], shape: &[usize]| Raw {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        bytes: bytes.to_vec(),
    };
    let codes = named("codes", Dtype::U8, &[0x5a; 64], &[4, 2, 8]);
    let scales = named("scales", Dtype::F32, &[0; 32], &[8]);
    let zeros = named("zeros", Dtype::U8, &[0x11; 4], &[4]);
    let bytes_of = |name: &str, value: u64| bytes(5, [bytes(1, name), number(3, value)].concat());
    let mut product = node("MatMulNBits", "/q/MatMul", &["x", "codes", "scales", "zeros"], "v");
    for (name, value) in [("K", 32), ("N", 4), ("bits", 4), ("block_size", 16)] {
        product.extend(bytes_of(name, value));
    }
    let nodes = [
        node("MatMul", "/b/MatMul", &["x", "onnx::MatMul_7"], "y"),
        node("Constant", "c", &[], "z"),
        node("Gemm", "/c/Gemm", &["y", "a.weight"], "w"),
        node("DequantizeLinear", "/d/DequantizeLinear", &["eights", "scales"], "u"),
        node("MatMul", "/d/MatMul", &["x", "u"], "t"),
        product,
    ];
    let eights = named("eights", Dtype::I8, &[7; 64], &[8, 8]);
    let inside = [&small(), &second, &codes, &scales, &zeros, &eights].map(onnx::raw);
    model(&nodes, &[&inside[..], &[onnx::external(&third, "d", 0)]].concat())
}

#[test]
fn the_file_that_is_damaged_is_an_honest_one() {
    let checkpoint = open_bytes(&honest()).unwrap();
    let mut names: Vec<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a.weight", "b.weight", "c.weight", "d.weight", "q.weight"]);
    assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
    let packed = checkpoint.tensors.iter().filter(|tensor| !tensor.storage.is_plain() && tensor.dtype.is_decoded());
    assert_eq!(packed.count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = honest();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        let _ = open_bytes(&bytes);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = open_bytes(&bytes);
    }
}
