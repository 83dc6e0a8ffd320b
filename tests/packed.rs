//! Packed codes with scales in other tensors: the zoo in GPTQ, AWQ, MLX and scaled 8-bit floats keeps its kinship.

mod support;

use std::path::Path;

use anamnesis::{Dtype as TheirDtype, F32Out};
use half::f16;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use support::reports::{class, report, say, test};
use support::{Random, Raw, load, write_file, zoo};
use weightprint::checkpoint::{Checkpoint, OpenOptions};
use weightprint::tensor::DType;

/// Ins that share a scale.
const GROUP: usize = 32;

/// A quantised matrix of (out, in): codes, and for each group of ins and each out a scale and a zero point.
struct Codes {
    outs: usize,
    ins: usize,
    codes: Vec<u32>,
    scales: Vec<f16>,
    zeros: Vec<u32>,
    /// The group of each in.
    groups: Vec<usize>,
}

/// Rounds to `bits`, evenly from the smallest to the largest value of each group. With `shuffled`, groups are not runs.
fn quantise(raw: &Raw, bits: u32, shuffled: bool) -> Codes {
    let (outs, ins, values) = (raw.shape[0], raw.shape[1], raw.values());
    let mut groups: Vec<usize> = (0..ins).map(|i| i / GROUP).collect();
    if shuffled {
        Random(ins as u64).shuffle(&mut groups);
    }
    let count = ins / GROUP;
    let top = (1u32 << bits) - 1;
    let (mut scales, mut zeros) = (vec![f16::ZERO; count * outs], vec![0; count * outs]);
    let mut codes = vec![0; outs * ins];
    for out in 0..outs {
        let row = &values[out * ins..][..ins];
        for group in 0..count {
            let own = || (0..ins).filter(|&i| groups[i] == group).map(|i| row[i]);
            let (low, high) = (own().fold(-1e-6, f32::min), own().fold(1e-6, f32::max));
            let scale = f16::from_f32((high - low) / top as f32);
            let zero = (-low / scale.to_f32()).round().clamp(1.0, top as f32) as u32;
            scales[group * outs + out] = scale;
            zeros[group * outs + out] = zero;
        }
        for i in 0..ins {
            let at = groups[i] * outs + out;
            let code = (row[i] / scales[at].to_f32()).round() + zeros[at] as f32;
            codes[out * ins + i] = code.clamp(0.0, top as f32) as u32;
        }
    }
    Codes { outs, ins, codes, scales, zeros, groups }
}

fn words(name: &str, rows: usize, cols: usize, word: impl Fn(usize, usize) -> u32) -> Raw {
    let bytes = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
    let bytes = bytes.flat_map(|(row, col)| word(row, col).to_le_bytes()).collect();
    Raw { name: name.into(), dtype: Dtype::I32, shape: vec![rows, cols], bytes }
}

fn halves(name: String, rows: usize, cols: usize, values: &[f16]) -> Raw {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Raw { name, dtype: Dtype::F16, shape: vec![rows, cols], bytes }
}

fn gptq(raw: &Raw, bits: u32, plus: u32, shuffled: bool) -> Vec<Raw> {
    let c = quantise(raw, bits, shuffled);
    let stem = raw.name.strip_suffix(".weight").unwrap();
    let per = 32 / bits as usize;
    let join =
        |parts: &mut dyn Iterator<Item = u32>| parts.enumerate().fold(0, |w, (k, code)| w | code << (k as u32 * bits));
    let groups = c.ins / GROUP;
    let order = c.groups.iter().flat_map(|&group| (group as i32).to_le_bytes()).collect();
    vec![
        words(&format!("{stem}.qweight"), c.ins / per, c.outs, |row, out| {
            join(&mut (0..per).map(|k| c.codes[out * c.ins + row * per + k]))
        }),
        words(&format!("{stem}.qzeros"), groups, c.outs / per, |group, col| {
            join(&mut (0..per).map(|k| c.zeros[group * c.outs + col * per + k] - plus))
        }),
        halves(format!("{stem}.scales"), groups, c.outs, &c.scales),
        Raw { name: format!("{stem}.g_idx"), dtype: Dtype::I32, shape: vec![c.ins], bytes: order },
    ]
}

fn awq(raw: &Raw) -> Vec<Raw> {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let c = quantise(raw, 4, false);
    let stem = raw.name.strip_suffix(".weight").unwrap();
    let groups = c.ins / GROUP;
    let join = |code: &dyn Fn(usize) -> u32| (0..8).fold(0, |word, k| word | code(ORDER[k]) << (4 * k));
    vec![
        words(&format!("{stem}.qweight"), c.ins, c.outs / 8, |i, col| join(&|k| c.codes[(col * 8 + k) * c.ins + i])),
        words(&format!("{stem}.qzeros"), groups, c.outs / 8, |group, col| {
            join(&|k| c.zeros[group * c.outs + col * 8 + k])
        }),
        halves(format!("{stem}.scales"), groups, c.outs, &c.scales),
    ]
}

fn mlx(raw: &Raw) -> Vec<Raw> {
    let c = quantise(raw, 4, false);
    let stem = raw.name.strip_suffix(".weight").unwrap();
    let groups = c.ins / GROUP;
    let turned = |value: &dyn Fn(usize) -> f16| -> Vec<f16> {
        (0..c.outs).flat_map(|out| (0..groups).map(move |group| group * c.outs + out)).map(value).collect()
    };
    let biases = turned(&|at| f16::from_f32(-(c.zeros[at] as f32) * c.scales[at].to_f32()));
    let codes = words(&raw.name, c.outs, c.ins / 8, |out, col| {
        (0..8).fold(0, |word, k| word | c.codes[out * c.ins + col * 8 + k] << (4 * k))
    });
    vec![
        Raw { dtype: Dtype::U32, ..codes },
        halves(format!("{stem}.scales"), c.outs, groups, &turned(&|at| c.scales[at])),
        halves(format!("{stem}.biases"), c.outs, groups, &biases),
    ]
}

/// The nearest E4M3 code: by trying all of them.
fn e4m3(value: f32) -> u8 {
    let decode = |code: u8| {
        let (exponent, fraction) = (i32::from(code >> 3), f32::from(code & 7) / 8.0);
        if exponent == 0 { fraction * 2f32.powi(-6) } else { (1.0 + fraction) * 2f32.powi(exponent - 7) }
    };
    let nearest =
        (0..0x7f).min_by(|&a, &b| (decode(a) - value.abs()).abs().total_cmp(&(decode(b) - value.abs()).abs()));
    nearest.unwrap() | if value < 0.0 { 0x80 } else { 0 }
}

fn fp8(raw: &Raw) -> Vec<Raw> {
    const BLOCK: usize = 128;
    let (outs, ins, values) = (raw.shape[0], raw.shape[1], raw.values());
    let (tall, wide) = (outs.div_ceil(BLOCK), ins.div_ceil(BLOCK));
    let mut largest = vec![1e-12f32; tall * wide];
    let block = |at: usize| at / ins / BLOCK * wide + at % ins / BLOCK;
    values.iter().enumerate().for_each(|(at, value)| largest[block(at)] = largest[block(at)].max(value.abs()));
    let scales: Vec<f32> = largest.iter().map(|largest| largest / 448.0).collect();
    let bytes = values.iter().enumerate().map(|(at, value)| e4m3(value / scales[block(at)])).collect();
    let stem = raw.name.strip_suffix(".weight").unwrap();
    let scale_bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    vec![
        Raw { name: raw.name.clone(), dtype: Dtype::F8_E4M3, shape: raw.shape.clone(), bytes },
        Raw {
            name: format!("{stem}.weight_scale_inv"),
            dtype: Dtype::F32,
            shape: vec![tall, wide],
            bytes: scale_bytes,
        },
    ]
}

type Pack = fn(&Raw) -> Vec<Raw>;

/// Each with what `config.json` says of it.
fn kinds() -> Vec<(&'static str, &'static str, Pack, Value)> {
    let format = |name: &str| json!({"quantization_config": {"quant_method": "gptq", "checkpoint_format": name}});
    vec![
        ("GPTQ, 4 bits, act-order", "GPTQ-4", |raw| gptq(raw, 4, 1, true), format("gptq")),
        ("GPTQ, 8 bits", "GPTQ-8", |raw| gptq(raw, 8, 1, false), json!({})),
        ("GPTQ, second version", "GPTQ-4", |raw| gptq(raw, 4, 0, false), format("gptq_v2")),
        ("AWQ", "AWQ-4", awq, json!({})),
        ("MLX", "MLX-4", mlx, json!({"quantization": {"group_size": GROUP, "bits": 4}})),
        ("FP8 in blocks", "F8_E4M3-SCALED", fp8, json!({})),
    ]
}

/// The projections of the layers packed, the rest as it is.
fn write(folder: &Path, tensors: &[Raw], pack: Pack, config: &Value) {
    let packed: Vec<Raw> =
        tensors.iter().flat_map(|raw| if raw.name.contains("_proj") { pack(raw) } else { vec![raw.clone()] }).collect();
    write_file(&folder.join("model.safetensors"), &packed);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn the_zoo_packed_keeps_its_kinship_and_labels() {
    let (base, tuned) = (load("base-a"), load("a-sft"));
    for (what, dtype, pack, config) in kinds() {
        let folder = tempfile::tempdir().unwrap();
        let compare = |tensors: &[Raw], reference: &str| {
            write(folder.path(), tensors, pack, &config);
            report(folder.path(), &zoo(reference))
        };
        let (copy, derived, other) = (compare(&base, "base-a"), compare(&tuned, "base-a"), compare(&base, "base-b"));
        say(&format!(
            "{what}: {} ({}), {}, {}",
            class(&copy),
            test(&copy, "bits")["says"],
            class(&derived),
            class(&other)
        ));
        assert_eq!(class(&copy), "re-encoded", "{what}: {}", copy["verdict"]["summary"]);
        assert_eq!(class(&derived), "derived", "{what}: {}", derived["verdict"]["summary"]);
        assert_eq!(class(&other), "same-architecture", "{what}: {}", other["verdict"]["summary"]);
        assert_eq!(copy["subject"]["coverage"], 1.0, "{what}");
        for code in ["neuron-labels", "head-labels"] {
            assert!(test(&copy, code)["effect"].as_f64().unwrap() > 0.9, "{what}: {}", test(&copy, code));
        }
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert_eq!(checkpoint.tensors.len(), base.len(), "{what}");
        let named = |meta: &&weightprint::tensor::TensorMeta| meta.dtype == DType::from(dtype.to_owned());
        assert_eq!(checkpoint.tensors.iter().filter(named).count(), 28, "{what}");
    }
}

/// Every matrix of a layer, decoded by another implementation from the same bytes.
#[test]
fn packed_values_are_those_of_a_second_decoder() {
    let base = load("base-a");
    for (what, _, pack, config) in kinds() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &base, pack, &config);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        for raw in base.iter().filter(|raw| raw.name.contains("layers.0.") && raw.name.contains("_proj")) {
            let (outs, ins) = (raw.shape[0], raw.shape[1]);
            let parts = pack(raw);
            let (bits, f16) = (if what.contains('8') { 8 } else { 4 }, TheirDtype::F16);
            let theirs = match what {
                "AWQ" => {
                    let [codes, zeros, scales] = [0, 1, 2].map(|part| &parts[part].bytes);
                    anamnesis::dequantize_awq::<F32Out>(codes, scales, zeros, ins, outs, GROUP, 4, f16).unwrap()
                }
                "FP8 in blocks" => {
                    let f32 = TheirDtype::F32;
                    anamnesis::dequantize_fp8::<F32Out>(&parts[0].bytes, &parts[1].bytes, outs, ins, f32).unwrap()
                }
                // It reads the first version only, and none of MLX.
                "GPTQ, second version" | "MLX" => continue,
                _ => {
                    let [codes, zeros, scales, order] = [0, 1, 2, 3].map(|part| &parts[part].bytes);
                    let order = Some(order.as_slice());
                    anamnesis::dequantize_gptq::<F32Out>(codes, scales, zeros, order, ins, outs, GROUP, bits, f16)
                        .unwrap()
                }
            };
            let theirs: Vec<f32> = theirs.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let tensor = checkpoint.tensors.iter().find(|meta| meta.name == raw.name).unwrap();
            assert_eq!(tensor.shape, [outs as u64, ins as u64]);
            let mut ours = vec![0.0; outs * ins];
            checkpoint.values(tensor, 0, &mut ours, &mut Vec::new()).unwrap().unwrap();
            for (at, value) in ours.iter().enumerate() {
                // GPTQ and AWQ come out by (in, out).
                let place = if what == "FP8 in blocks" { at } else { at % ins * outs + at / ins };
                assert_eq!(value.to_bits(), theirs[place].to_bits(), "{what}, {} at {at}", raw.name);
            }
            // Any window of rows, or of one row, holds the same.
            for (first, count) in [(ins, 3 * ins), (5 * ins + 9, 17), (outs * ins - ins, ins)] {
                let mut part = vec![0.0; count];
                checkpoint.values(tensor, first as u64, &mut part, &mut Vec::new()).unwrap().unwrap();
                assert_eq!(part, ours[first..][..count], "{what}");
            }
        }
    }
}

#[test]
fn parts_that_do_not_fit_together_stay_apart_and_lower_the_coverage() {
    let base = load("base-a");
    type Spoil = fn(&mut Vec<Raw>);
    let broken: [(&str, Spoil); 4] = [
        ("no scales", |parts| parts.retain(|part| !part.name.ends_with(".scales"))),
        ("zero points too few", |parts| {
            for part in parts.iter_mut().filter(|part| part.name.ends_with(".qzeros")) {
                part.shape[0] -= 1;
                part.bytes.truncate(part.shape.iter().product::<usize>() * 4);
            }
        }),
        ("order too short", |parts| {
            for part in parts.iter_mut().filter(|part| part.name.ends_with(".g_idx")) {
                part.shape[0] -= 1;
                part.bytes.truncate(part.shape[0] * 4);
            }
        }),
        ("no codes", |parts| {
            for part in parts.iter_mut().filter(|part| part.name.ends_with(".qweight")) {
                part.shape[0] = 0;
                part.bytes.clear();
            }
        }),
    ];
    for (what, spoil) in broken {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors: Vec<Raw> = base
            .iter()
            .flat_map(|raw| if raw.name.contains("_proj") { gptq(raw, 4, 1, false) } else { vec![raw.clone()] })
            .collect();
        spoil(&mut tensors);
        write_file(&folder.path().join("model.safetensors"), &tensors);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert!(
            checkpoint.tensors.iter().all(|meta| !matches!(meta.dtype, DType::Packed(_)) || meta.elements() == 0),
            "{what}"
        );
    }
    // A group beyond the last is an error that names the tensor, not a value.
    let folder = tempfile::tempdir().unwrap();
    let mut parts = gptq(base.iter().find(|raw| raw.name.contains("q_proj")).unwrap(), 4, 1, false);
    parts[3].bytes[..4].copy_from_slice(&(-1i32).to_le_bytes());
    write_file(&folder.path().join("model.safetensors"), &parts);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    let tensor = &checkpoint.tensors[0];
    let mut out = vec![0.0; tensor.elements() as usize];
    let error = checkpoint.values(tensor, 0, &mut out, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("q_proj.weight"), "{error}");
}
