//! Numbers beside a scale under names that no list has, codes packed across rows, and codes that nothing can read.

use safetensors::tensor::Dtype;
use serde_json::json;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};

use super::kinship::check;
use super::{packed, stem};
use crate::support::reports::{class, report};
use crate::support::{Raw, load, write_file, zoo};

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(1e-12, |most, value| value.abs().max(most))
}

fn raw(name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Raw {
    Raw { name, dtype, shape: shape.to_vec(), bytes }
}

/// Signed bytes with a scale for each row, under two names behind the module's.
fn rows(tensor: &Raw, codes: &str, scale: &str) -> Vec<Raw> {
    let (outs, ins, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
    let scales: Vec<f32> = values.chunks(ins).map(|row| largest(row) / 127.0).collect();
    let bytes = values.iter().enumerate().map(|(at, v)| (v / scales[at / ins]).round() as i8 as u8).collect();
    let of = stem(tensor);
    vec![
        raw(format!("{of}.{codes}"), Dtype::I8, &[outs, ins], bytes),
        Raw::from_f32(&format!("{of}.{scale}"), &[outs, 1], &scales),
    ]
}

/// Unsigned bytes with a scale and a zero point for each row.
fn unsigned(tensor: &Raw) -> Vec<Raw> {
    let (outs, ins, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
    let edge = |row: &[f32]| row.iter().fold((0f32, 0f32), |(low, high), &v| (low.min(v), high.max(v)));
    let edges: Vec<(f32, f32)> = values.chunks(ins).map(edge).collect();
    let scales: Vec<f32> = edges.iter().map(|(low, high)| (high - low).max(1e-12) / 255.0).collect();
    let zeros: Vec<f32> = edges.iter().zip(&scales).map(|((low, _), scale)| (-low / scale).round()).collect();
    let code = |(at, v): (usize, &f32)| (v / scales[at / ins] + zeros[at / ins]).round().clamp(0.0, 255.0) as u8;
    let of = stem(tensor);
    vec![
        raw(format!("{of}.weight_q"), Dtype::U8, &[outs, ins], values.iter().enumerate().map(code).collect()),
        Raw::from_f32(&format!("{of}.weight_scale"), &[outs], &scales),
        raw(format!("{of}.weight_zero"), Dtype::U8, &[outs], zeros.iter().map(|zero| *zero as u8).collect()),
    ]
}

/// HQQ's groups of 64 along the rows of its matrix, or along the columns, in so many bits.
fn hqq(tensor: &Raw, bits: u32, by_column: bool) -> Vec<Raw> {
    const GROUP: usize = 64;
    let values = tensor.values();
    let lines = values.len() / GROUP;
    // Of value `at`: its group.
    let group = |at: usize| if by_column { at % lines } else { at / GROUP };
    let mut edges = vec![(f32::MAX, f32::MIN); lines];
    for (at, &v) in values.iter().enumerate() {
        let edge = &mut edges[group(at)];
        *edge = (edge.0.min(v), edge.1.max(v));
    }
    let top = ((1u32 << bits) - 1) as f32;
    let scales: Vec<f32> = edges.iter().map(|(low, high)| (high - low).max(1e-12) / top).collect();
    let zeros: Vec<f32> = edges.iter().zip(&scales).map(|((low, _), scale)| -low / scale).collect();
    let code = |(at, v): (usize, &f32)| (v / scales[group(at)] + zeros[group(at)]).round().clamp(0.0, top) as u32;
    let codes: Vec<u32> = values.iter().enumerate().map(code).collect();
    let (height, width) = if by_column { (GROUP, lines) } else { (lines, GROUP) };
    let (slabs, word) = if bits == 3 { (10, 4) } else { (8 / bits as usize, 1) };
    let stored = height.div_ceil(slabs);
    let mut bytes = Vec::new();
    for at in 0..stored * width {
        let each = (0..slabs).map(|slab| codes.get(slab * stored * width + at).copied().unwrap_or(0));
        let all = each.fold(0u32, |all, code| all << bits | code);
        bytes.extend(&all.to_le_bytes()[..word]);
    }
    let (of, along) = (stem(tensor), if by_column { [1, lines] } else { [lines, 1] });
    let shape = tensor.shape.iter().flat_map(|&size| (size as i64).to_le_bytes()).collect();
    vec![
        raw(format!("{of}.W_q"), if word == 4 { Dtype::I32 } else { Dtype::U8 }, &[stored, width], bytes),
        Raw::from_f32(&format!("{of}.scale"), &along, &scales),
        Raw::from_f32(&format!("{of}.zero"), &along, &zeros),
        raw(format!("{of}.shape"), Dtype::I64, &[2], shape),
        raw(format!("{of}.nbits"), Dtype::I32, &[1], bits.to_le_bytes().to_vec()),
    ]
}

#[test]
fn eight_bits_beside_a_scale() {
    check(vec![
        ("quanto", "I8-SCALED", |raw| rows(raw, "weight._data", "weight._scale"), json!({})),
        ("torchao", "I8-SCALED", |raw| rows(raw, "_weight_qdata", "_weight_scale"), json!({})),
        ("SmoothQuant", "I8-SCALED", |raw| rows(raw, "weight", "dequant_scale"), json!({})),
        ("a tool unknown", "I8-SCALED", |raw| rows(raw, "int8_values", "per_row_scales"), json!({})),
        ("zero points", "U8-SCALED", unsigned, json!({})),
    ]);
}

#[test]
fn groups_packed_across_rows() {
    check(vec![
        ("HQQ, 8 bits", "INT8-PACKED", |raw| hqq(raw, 8, false), json!({})),
        ("HQQ, 4 bits", "INT4-PACKED", |raw| hqq(raw, 4, false), json!({})),
        ("HQQ, 4 bits, columns", "INT4-PACKED", |raw| hqq(raw, 4, true), json!({})),
        ("HQQ, 3 bits", "INT3-PACKED", |raw| hqq(raw, 3, false), json!({})),
    ]);
}

/// BitNet as transformers packs it: ternary, the first quarter of the rows in the lowest bits, the mean magnitude's
/// inverse beside.
fn bitnet(tensor: &Raw) -> Vec<Raw> {
    let (outs, ins, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
    let scale = values.len() as f32 / values.iter().map(|v| v.abs()).sum::<f32>();
    let code = |at: usize| ((values[at] * scale).round().clamp(-1.0, 1.0) + 1.0) as u8;
    let quarter = outs / 4 * ins;
    let byte = |at: usize| (0..4).fold(0, |all, slab| all | code(slab * quarter + at) << (2 * slab));
    vec![
        raw(tensor.name.clone(), Dtype::U8, &[outs / 4, ins], (0..quarter).map(byte).collect()),
        Raw::from_f32(&format!("{}.weight_scale", stem(tensor)), &[1], &[scale]),
    ]
}

#[test]
fn ternary_codes_are_read_as_transformers_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (zoo_name, wanted) in [("base-a", "derived"), ("base-b", "same-architecture")] {
        write_file(&path, &packed(&load(zoo_name), bitnet));
        let report = report(folder.path(), &zoo("base-a"));
        assert_eq!(class(&report), wanted, "{}", report["verdict"]["summary"]);
    }
    let own = Raw::from_f32(
        "m.weight",
        &[8, 2],
        &[0.5, -0.1, 3.0, -2.0, 0.0, 1.0, -1.0, 0.2, 0.5, -0.1, 3.0, -2.0, 0.0, 1.0, -1.0, 0.2],
    );
    let parts = bitnet(&own);
    write_file(&path, &parts);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    let [tensor] = &checkpoint.tensors[..] else { panic!("{:?}", checkpoint.tensors) };
    let mut values = vec![f32::NAN; 16];
    checkpoint.values(tensor, 0, &mut values, &mut Vec::new()).unwrap().unwrap();
    let scale = parts[1].values()[0];
    let expected: Vec<f32> =
        own.values().iter().map(|v| (v * scale).round().clamp(-1.0, 1.0) * scale.recip()).collect();
    assert_eq!(values, expected);
}

/// Two codes to a byte, which lie in an order that nothing states.
fn nibbles(tensor: &Raw) -> Vec<Raw> {
    let mut parts = rows(tensor, "weight_q", "weight_scale");
    let pairs = parts[0].bytes.chunks(2).map(|pair| pair[0] >> 4 | pair[1] & 0xf0).collect();
    parts[0] = raw(parts[0].name.clone(), Dtype::U8, &[tensor.shape[0], tensor.shape[1] / 2], pairs);
    parts
}

/// AQLM: indices into code books.
fn indices(tensor: &Raw) -> Vec<Raw> {
    let (outs, ins, of) = (tensor.shape[0], tensor.shape[1], stem(tensor));
    let codes = tensor.bytes[..outs * ins / 4].to_vec();
    let book: Vec<f32> = (0..2 * 256 * 8).map(|at| (at as f32).sin()).collect();
    vec![
        raw(format!("{of}.codes"), Dtype::I8, &[outs, ins / 8, 2], codes),
        Raw::from_f32(&format!("{of}.codebooks"), &[2, 256, 1, 8], &book),
        Raw::from_f32(&format!("{of}.scales"), &[outs, 1, 1, 1], &vec![1.0; outs]),
    ]
}

#[test]
fn codes_that_nothing_reads_are_never_a_clean_bill() {
    for pack in [nibbles, indices] {
        let folder = tempfile::tempdir().unwrap();
        write_file(&folder.path().join("model.safetensors"), &packed(&load("base-b"), pack));
        let report = report(folder.path(), &zoo("base-a"));
        assert_eq!(class(&report), "inconclusive", "{}", report["verdict"]["summary"]);
    }
}
