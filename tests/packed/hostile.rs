//! Parts that contradict each other: they stay apart, the coverage is lower for it, and nothing is allocated by what a
//! text states.

use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use weightprint::checkpoint::{Checkpoint, OpenOptions};
use weightprint::tensor::DType;

use super::support::reports::{class, report};
use super::support::{Raw, load, write_file, zoo};
use super::{Pack, floats, integers, packed};

type Spoil = fn(&mut Vec<Raw>);

fn ending<'a>(parts: &'a mut [Raw], end: &str) -> impl Iterator<Item = &'a mut Raw> {
    parts.iter_mut().filter(move |part| part.name.ends_with(end) && part.name.contains("_proj"))
}

fn without(parts: &mut Vec<Raw>, end: &str) {
    parts.retain(|part| !part.name.ends_with(end));
}

/// The first dimension one shorter.
fn shorten(parts: &mut [Raw], end: &str) {
    for part in ending(parts, end) {
        part.bytes.truncate(part.bytes.len() / part.shape[0] * (part.shape[0] - 1));
        part.shape[0] -= 1;
    }
}

/// Nothing in it.
fn empty(parts: &mut [Raw], end: &str) {
    for part in ending(parts, end) {
        part.shape[0] = 0;
        part.bytes.clear();
    }
}

/// Another number in the text of every quantised matrix.
fn say(parts: &mut [Raw], key: &str, value: &Value) {
    for part in ending(parts, ".quant_state.bitsandbytes__nf4") {
        let mut said: Value = serde_json::from_slice(&part.bytes).unwrap();
        said[key] = value.clone();
        text(part, said.to_string());
    }
}

fn text(part: &mut Raw, text: String) {
    part.shape = vec![text.len()];
    part.bytes = text.into_bytes();
}

fn stated_shape(parts: &mut [Raw], shape: [i64; 2]) {
    for part in ending(parts, ".weight_shape") {
        part.bytes = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
    }
}

fn gptq(raw: &Raw) -> Vec<Raw> {
    integers::gptq(raw, 4, 1, false)
}

fn gptq3(raw: &Raw) -> Vec<Raw> {
    integers::gptq(raw, 3, 1, false)
}

fn compressed(raw: &Raw) -> Vec<Raw> {
    integers::compressed(raw, 4, true)
}

#[test]
fn parts_that_do_not_fit_together_stay_apart_and_lower_the_coverage() {
    let nf4 = floats::bnb_nested as Pack;
    let cases: [(&str, Pack, Spoil); 38] = [
        ("GPTQ: no scales", gptq, |parts| without(parts, ".scales")),
        ("GPTQ: zero points too few", gptq, |parts| shorten(parts, ".qzeros")),
        ("GPTQ: order too short", gptq, |parts| shorten(parts, ".g_idx")),
        ("GPTQ: no codes", gptq, |parts| empty(parts, ".qweight")),
        ("GPTQ: no groups", gptq, |parts| {
            empty(parts, ".qzeros");
            empty(parts, ".scales");
        }),
        ("GPTQ-3: a word too few", gptq3, |parts| shorten(parts, ".qweight")),
        ("AWQ: groups that do not divide", integers::awq, |parts| {
            shorten(parts, ".qzeros");
            shorten(parts, ".scales");
        }),
        ("NF4: no text", nf4, |parts| without(parts, ".quant_state.bitsandbytes__nf4")),
        ("NF4: no levels", nf4, |parts| without(parts, ".quant_map")),
        ("NF4: other levels", nf4, |parts| ending(parts, ".quant_map").for_each(|map| map.bytes[3] ^= 0x80)),
        ("NF4: levels that are no numbers", nf4, |parts| {
            ending(parts, ".quant_map").for_each(|map| map.bytes.fill(0xff))
        }),
        ("NF4: a text of FP4", nf4, |parts| say(parts, "quant_type", &json!("fp4"))),
        ("NF4: huge shape", nf4, |parts| say(parts, "shape", &json!([u64::MAX, 2]))),
        ("NF4: shape that wraps", nf4, |parts| say(parts, "shape", &json!([1u64 << 63, 2, 64]))),
        ("NF4: negative shape", nf4, |parts| say(parts, "shape", &json!([-128, -128]))),
        ("NF4: empty shape", nf4, |parts| say(parts, "shape", &json!([]))),
        ("NF4: shape of one row less", nf4, |parts| say(parts, "shape", &json!([63, 128]))),
        ("NF4: no values", nf4, |parts| say(parts, "shape", &json!([0, 128]))),
        ("NF4: blocks of nothing", nf4, |parts| say(parts, "blocksize", &json!(0))),
        ("NF4: huge blocks", nf4, |parts| say(parts, "blocksize", &json!(u64::MAX))),
        ("NF4: nested blocks of nothing", nf4, |parts| say(parts, "nested_blocksize", &json!(0))),
        ("NF4: no nested blocks", nf4, |parts| say(parts, "nested_blocksize", &json!(null))),
        ("NF4: offset beyond all numbers", nf4, |parts| say(parts, "nested_offset", &json!(1e300))),
        ("NF4: nested text", nf4, |parts| {
            ending(parts, ".quant_state.bitsandbytes__nf4").for_each(|part| text(part, "[".repeat(4000)));
        }),
        ("NF4: long text", nf4, |parts| {
            ending(parts, ".quant_state.bitsandbytes__nf4").for_each(|part| {
                let long = String::from_utf8(part.bytes.clone()).unwrap() + &" ".repeat(5000);
                text(part, long);
            });
        }),
        ("NF4: second scales too few", nf4, |parts| empty(parts, ".nested_absmax")),
        ("NF4: half a book", nf4, |parts| shorten(parts, ".nested_quant_map")),
        ("NF4: scales too few", nf4, |parts| shorten(parts, ".absmax")),
        ("LLM.int8: scales too few", integers::llm_int8, |parts| shorten(parts, ".SCB")),
        ("compressed: no shape", compressed, |parts| without(parts, ".weight_shape")),
        ("compressed: huge shape", compressed, |parts| stated_shape(parts, [i64::MAX, i64::MAX])),
        ("compressed: negative shape", compressed, |parts| stated_shape(parts, [-1, -1])),
        ("compressed: no columns", compressed, |parts| stated_shape(parts, [64, 0])),
        ("compressed: zero points too few", compressed, |parts| shorten(parts, ".weight_zero_point")),
        ("compressed: order too short", compressed, |parts| shorten(parts, ".weight_g_idx")),
        ("NVFP4: no second scale", floats::compressed_nvfp4, |parts| without(parts, ".weight_global_scale")),
        ("NVFP4: scales too few", floats::modelopt_nvfp4, |parts| shorten(parts, ".weight_scale")),
        ("MXFP4: scales too few", floats::compressed_mxfp4, |parts| shorten(parts, ".weight_scale")),
    ];
    let base = load("base-a");
    for (what, pack, spoil) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = packed(&base, pack);
        spoil(&mut tensors);
        write_file(&folder.path().join("model.safetensors"), &tensors);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        let joined = |meta: &&weightprint::tensor::TensorMeta| matches!(meta.dtype, DType::Packed(_));
        // A shape that one matrix has may be stated of all.
        let most = if what.contains("one row less") { 0 } else { 4 };
        assert!(checkpoint.tensors.iter().filter(joined).count() <= most, "{what}");
        let found = report(folder.path(), &zoo("base-b"));
        assert_eq!(class(&found), "inconclusive", "{what}: {}", found["verdict"]["summary"]);
        assert!(found["subject"]["coverage"].as_f64().unwrap() < 0.5, "{what}: {}", found["subject"]["coverage"]);
    }
}

/// A group beyond the last is an error that names the tensor, not a value.
#[test]
fn a_group_beyond_the_last_is_an_error() {
    let base = load("base-a");
    let raw = base.iter().find(|raw| raw.name.contains("q_proj")).unwrap();
    for pack in [gptq, compressed] {
        for group in [-1i32, i32::MAX, i32::MIN, 4] {
            let folder = tempfile::tempdir().unwrap();
            let mut parts = pack(raw);
            ending(&mut parts, "g_idx").for_each(|part| part.bytes[..4].copy_from_slice(&group.to_le_bytes()));
            write_file(&folder.path().join("model.safetensors"), &parts);
            let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
            let [tensor] = &checkpoint.tensors[..] else { panic!("{:?}", checkpoint.tensors) };
            let mut out = vec![0.0; tensor.elements() as usize];
            let error = checkpoint.values(tensor, 0, &mut out, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("q_proj.weight"), "{error}");
        }
    }
}

/// Sizes of stacks that contradict each other.
#[test]
fn stacks_whose_scales_do_not_fit_stay_apart() {
    let bytes = |name: &str, shape: &[usize]| Raw {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: shape.to_vec(),
        bytes: vec![0; shape.iter().product()],
    };
    for (codes, scales) in [
        (&[2, 8, 2, 16][..], &[2, 8, 1][..]),
        (&[2, 8, 2, 16], &[2, 16]),
        (&[2, 8, 2, 15], &[2, 8, 2]),
        (&[2, 8, 0, 16], &[2, 8, 0]),
        (&[16], &[0]),
        (&[2, 16], &[2]),
        (&[2, 2, 2, 2, 16], &[2, 2, 2, 2]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_file(&folder.path().join("model.safetensors"), &[bytes("w_blocks", codes), bytes("w_scales", scales)]);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert_eq!(checkpoint.tensors.len(), 2, "{codes:?} {scales:?}");
    }
}
