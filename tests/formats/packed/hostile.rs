//! Parts that contradict each other: they stay apart, the coverage is lower for it, and nothing is allocated by what a
//! text states.

use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::tensor::DType;

use super::{Pack, floats, integers, packed};
use crate::support::reports::{class, report};
use crate::support::{Random, Raw, load, write_file, zoo};

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
    let cases: [(&str, Pack, Spoil); 39] = [
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
            ending(parts, ".quant_map").for_each(|map| map.bytes.fill(0xff));
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
        ("LLM.int8: in tiles", integers::llm_int8, |parts| {
            ending(parts, ".weight_format").for_each(|format| format.bytes[0] = 2);
        }),
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
        let joined = |meta: &&weightprint::internals::tensor::TensorMeta| matches!(meta.dtype, DType::Packed(_));
        // A shape that one matrix has may be stated of all.
        let most = if what.contains("one row less") { 0 } else { 4 };
        assert!(checkpoint.tensors.iter().filter(joined).count() <= most, "{what}");
        if what.contains("no codes") {
            // What there is was looked at.
            continue;
        }
        let found = report(folder.path(), &zoo("base-b"));
        assert_eq!(class(&found), "inconclusive", "{what}: {}", found["verdict"]["summary"]);
        assert!(found["subject"]["coverage"].as_f64().unwrap() < 0.5, "{what}: {}", found["subject"]["coverage"]);
    }
}

/// Two sets of codes for one matrix: one becomes it, the other stays, so that no name occurs twice.
#[test]
fn no_name_comes_out_twice() {
    let base = load("base-a");
    let raw = base.iter().find(|raw| raw.name.contains("q_proj")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let both = [gptq(raw), compressed(raw)].concat();
    write_file(&folder.path().join("model.safetensors"), &both);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    let matrices = checkpoint.tensors.iter().filter(|meta| meta.name == raw.name).count();
    assert_eq!(matrices, 1);
    // The other's parts are all there.
    assert!(matches!(checkpoint.tensors.len(), 5 | 6), "{:?}", checkpoint.tensors);
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

/// Bytes, shapes and types changed at random: an error or values, never a panic, and no memory but for what is asked.
#[test]
fn random_damage_is_survived() {
    let source = load("base-a");
    let raw = source.iter().find(|raw| raw.name.contains("layers.0.self_attn.k_proj")).unwrap();
    let stack = Raw { name: "w".into(), shape: vec![2, raw.shape[0] / 2, raw.shape[1]], ..raw.clone() };
    let packs: [Pack; 10] = [
        gptq,
        gptq3,
        compressed,
        integers::awq,
        integers::llm_int8,
        integers::int_rows,
        floats::bnb_nested,
        floats::compressed_nvfp4,
        floats::fp8,
        |raw| integers::mlx(raw, 6),
    ];
    let mut random = Random(11);
    let (mut read, mut refused, mut apart) = (0, 0, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let config = json!({"quantization": {"group_size": 32, "bits": 6}});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for pack in packs.into_iter().map(|pack| pack(raw)).chain([floats::gpt_oss(&stack)]) {
        for _ in 0..150 {
            let mut parts = pack.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(parts.len());
                damage(&mut parts[at], &mut random);
            }
            write_file(&path, &parts);
            let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
            let Some(tensor) = checkpoint.tensors.iter().find(|meta| matches!(meta.dtype, DType::Packed(_))) else {
                apart += 1;
                continue;
            };
            // No packing here has less than a bit for a value.
            assert!(tensor.elements() <= 8 * std::fs::metadata(&path).unwrap().len(), "{tensor:?}");
            let mut out = vec![0.0; tensor.elements() as usize];
            match checkpoint.values(tensor, 0, &mut out, &mut Vec::new()) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 100 && refused > 10 && apart > 100, "{read} {refused} {apart}");
}

/// One change that leaves the file a valid one.
fn damage(part: &mut Raw, random: &mut Random) {
    match random.below(5) {
        0 if !part.bytes.is_empty() => {
            let at = random.below(part.bytes.len());
            part.bytes[at] = random.next() as u8;
        }
        1 if part.shape.len() > 1 => part.shape.reverse(),
        2 => {
            let all = part.shape.iter().product();
            part.shape = if random.below(2) == 0 { vec![all] } else { vec![1, all] };
        }
        3 if part.shape.first().is_some_and(|&size| size > 0) => {
            let keep = random.below(part.shape[0]);
            part.bytes.truncate(part.bytes.len() / part.shape[0] * keep);
            part.shape[0] = keep;
        }
        _ => {
            part.dtype = match part.dtype {
                Dtype::I32 => Dtype::U32,
                Dtype::U8 => Dtype::I8,
                Dtype::F16 => Dtype::BF16,
                Dtype::F32 => Dtype::I32,
                Dtype::F8_E4M3 => Dtype::U8,
                Dtype::I8 => Dtype::F8_E5M2,
                other => other,
            }
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
