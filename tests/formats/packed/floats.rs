//! Quantisers with uneven levels: 8-bit and 4-bit floats, NF4. Each takes the nearest level by trying all of them.

use safetensors::tensor::Dtype;
use serde_json::json;

use super::stem;
use crate::support::Raw;

/// Levels of NF4 (QLoRA, appendix E).
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928,
    -0.52507305,
    -0.3949175,
    -0.28444138,
    -0.18477343,
    -0.091050036,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.33791524,
    0.44070983,
    0.562617,
    0.72295684,
    1.0,
];

/// Levels of bitsandbytes' FP4, in twelfths but for the smallest.
fn fp4() -> [f32; 16] {
    let half = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0].map(|twelfths: f32| twelfths / 12.0);
    std::array::from_fn(|code| if code < 8 { half[code] } else { 0.0 - half[code - 8] })
}

/// E2M1 by code.
fn e2m1() -> [f32; 16] {
    let half = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    std::array::from_fn(|code| if code < 8 { half[code] } else { -half[code - 8] })
}

fn nearest(levels: &[f32], value: f32) -> u8 {
    let far = |code: &usize| (levels[*code] - value).abs();
    (0..levels.len()).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap() as u8
}

/// The nearest E4M3 code.
fn e4m3(value: f32) -> u8 {
    nearest(&(0..0x7f).map(e4m3_value).collect::<Vec<_>>(), value.abs()) | if value < 0.0 { 0x80 } else { 0 }
}

fn e4m3_value(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3), f32::from(code & 7) / 8.0);
    if exponent == 0 { fraction * 2f32.powi(-6) } else { (1.0 + fraction) * 2f32.powi(exponent - 7) }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(1e-12, |most, value| value.abs().max(most))
}

fn bytes(name: String, shape: Vec<usize>, bytes: Vec<u8>) -> Raw {
    Raw { name, dtype: Dtype::U8, shape, bytes }
}

/// Blocks of 128 by 128 with a scale each.
pub(crate) fn fp8(raw: &Raw) -> Vec<Raw> {
    const BLOCK: usize = 128;
    let (outs, ins, values) = (raw.shape[0], raw.shape[1], raw.values());
    let (tall, wide) = (outs.div_ceil(BLOCK), ins.div_ceil(BLOCK));
    let mut most = vec![1e-12f32; tall * wide];
    let block = |at: usize| at / ins / BLOCK * wide + at % ins / BLOCK;
    values.iter().enumerate().for_each(|(at, value)| most[block(at)] = most[block(at)].max(value.abs()));
    let scales: Vec<f32> = most.iter().map(|most| most / 448.0).collect();
    let codes = values.iter().enumerate().map(|(at, value)| e4m3(value / scales[block(at)])).collect();
    vec![
        Raw { dtype: Dtype::F8_E4M3, bytes: codes, ..raw.clone() },
        Raw::from_f32(&format!("{}.weight_scale_inv", stem(raw)), &[tall, wide], &scales),
    ]
}

/// One scale for the tensor.
pub(crate) fn fp8_tensor(raw: &Raw) -> Vec<Raw> {
    let values = raw.values();
    let scale = largest(&values) / 448.0;
    vec![
        Raw { dtype: Dtype::F8_E4M3, bytes: values.iter().map(|value| e4m3(value / scale)).collect(), ..raw.clone() },
        Raw::from_f32(&format!("{}.weight_scale", stem(raw)), &[], &[scale]),
    ]
}

/// bitsandbytes: blocks of 64 in reading order, the high half of a byte first.
fn bitsandbytes(raw: &Raw, kind: &str, levels: &[f32; 16], nested: bool) -> Vec<Raw> {
    let values = raw.values();
    let mut most: Vec<f32> = values.chunks(64).map(largest).collect();
    let offset = most.iter().sum::<f32>() / most.len() as f32;
    let (name, mut said) = (&raw.name, json!({"quant_type": kind, "blocksize": 64, "dtype": "bfloat16"}));
    said["shape"] = json!(raw.shape);
    let mut parts = Vec::new();
    if nested {
        let book: Vec<f32> = (0..256).map(|code| (code as f32 - 127.0) / 128.0).collect();
        let second: Vec<f32> =
            most.chunks(256).map(|part| part.iter().fold(1e-9, |top, m| (m - offset).abs().max(top))).collect();
        let codes: Vec<u8> =
            most.iter().enumerate().map(|(at, m)| nearest(&book, (m - offset) / second[at / 256])).collect();
        said["nested_blocksize"] = json!(256);
        said["nested_offset"] = json!(offset);
        said["nested_dtype"] = json!("float32");
        // As the tool does, values are rounded by the scales as they were before.
        parts.push(bytes(format!("{name}.absmax"), vec![codes.len()], codes));
        parts.push(Raw::from_f32(&format!("{name}.nested_absmax"), &[second.len()], &second));
        parts.push(Raw::from_f32(&format!("{name}.nested_quant_map"), &[256], &book));
    } else {
        parts.push(Raw::from_f32(&format!("{name}.absmax"), &[most.len()], &most));
    }
    most.iter_mut().for_each(|most| *most = most.max(1e-12));
    let codes: Vec<u8> = values.iter().enumerate().map(|(at, value)| nearest(levels, value / most[at / 64])).collect();
    let pairs: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    let said = said.to_string().into_bytes();
    parts.push(Raw::from_f32(&format!("{name}.quant_map"), &[16], levels));
    parts.push(bytes(format!("{name}.quant_state.bitsandbytes__{kind}"), vec![said.len()], said));
    parts.push(bytes(name.clone(), vec![pairs.len(), 1], pairs));
    parts
}

pub(crate) fn bnb_nf4(raw: &Raw) -> Vec<Raw> {
    bitsandbytes(raw, "nf4", &NF4, false)
}

pub(crate) fn bnb_nested(raw: &Raw) -> Vec<Raw> {
    bitsandbytes(raw, "nf4", &NF4, true)
}

/// The same bytes said to be 16-bit floats, as for training in shards.
pub(crate) fn bnb_wide(raw: &Raw) -> Vec<Raw> {
    let mut parts = bitsandbytes(raw, "nf4", &NF4, false);
    for codes in parts.iter_mut().filter(|part| part.name == raw.name) {
        (codes.dtype, codes.shape[0]) = (Dtype::BF16, codes.shape[0] / 2);
    }
    parts
}

pub(crate) fn bnb_fp4(raw: &Raw) -> Vec<Raw> {
    bitsandbytes(raw, "fp4", &fp4(), false)
}

/// Two codes to a byte, the low half first, and the scale of each run of `group`.
fn halves(values: &[f32], group: usize, scale: impl Fn(f32) -> (u8, f32)) -> (Vec<u8>, Vec<u8>) {
    let levels = e2m1();
    let scales: Vec<(u8, f32)> = values.chunks(group).map(|part| scale(largest(part))).collect();
    let codes: Vec<u8> =
        values.iter().enumerate().map(|(at, value)| nearest(&levels, value / scales[at / group].1)).collect();
    (codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect(), scales.into_iter().map(|scale| scale.0).collect())
}

/// The power of two with which the largest value has the exponent of the largest level (OCP microscaling 1.0, 6.3).
fn exponent(most: f32) -> (u8, f32) {
    let power = most.log2().floor() as i32 - 2;
    ((power + 127) as u8, 2f32.powi(power))
}

/// The second scale and what takes a largest value to a first one.
fn nv(values: &[f32]) -> (f32, impl Fn(f32) -> (u8, f32)) {
    let second = largest(values) / (448.0 * 6.0);
    (second, move |most: f32| {
        let code = e4m3(most / 6.0 / second).max(1);
        (code, e4m3_value(code) * second)
    })
}

fn nvfp4(raw: &Raw, names: [&str; 3], over: bool) -> Vec<Raw> {
    let (outs, ins, values) = (raw.shape[0], raw.shape[1], raw.values());
    let (second, scale) = nv(&values);
    let (codes, scales) = halves(&values, 16, scale);
    let [codes_name, scales_name, second_name] = names.map(|name| format!("{}.{name}", stem(raw)));
    vec![
        bytes(codes_name, vec![outs, ins / 2], codes),
        Raw { dtype: Dtype::F8_E4M3, ..bytes(scales_name, vec![outs, ins / 16], scales) },
        Raw::from_f32(&second_name, &[1], &[if over { 1.0 / second } else { second }]),
    ]
}

/// NVFP4 as compressed-tensors writes it.
pub(crate) fn compressed_nvfp4(raw: &Raw) -> Vec<Raw> {
    nvfp4(raw, ["weight_packed", "weight_scale", "weight_global_scale"], true)
}

/// NVFP4 as ModelOpt writes it.
pub(crate) fn modelopt_nvfp4(raw: &Raw) -> Vec<Raw> {
    nvfp4(raw, ["weight", "weight_scale", "weight_scale_2"], false)
}

/// MXFP4 as compressed-tensors writes it.
pub(crate) fn compressed_mxfp4(raw: &Raw) -> Vec<Raw> {
    let (outs, ins) = (raw.shape[0], raw.shape[1]);
    let (codes, scales) = halves(&raw.values(), 32, exponent);
    vec![
        bytes(format!("{}.weight_packed", stem(raw)), vec![outs, ins / 2], codes),
        bytes(format!("{}.weight_scale", stem(raw)), vec![outs, ins / 32], scales),
    ]
}

/// The same, its scales of the type that newer files have for them.
pub(crate) fn typed_mxfp4(raw: &Raw) -> Vec<Raw> {
    let mut parts = compressed_mxfp4(raw);
    parts[1].dtype = Dtype::F8_E8M0;
    parts
}

/// MXFP8: 8-bit floats with an exponent of two for each 32.
pub(crate) fn mxfp8(raw: &Raw) -> Vec<Raw> {
    let (outs, ins, values) = (raw.shape[0], raw.shape[1], raw.values());
    let powers: Vec<i32> = values.chunks(32).map(|part| largest(part).log2().floor() as i32 - 8).collect();
    let codes = values.iter().enumerate().map(|(at, value)| e4m3(value / 2f32.powi(powers[at / 32]))).collect();
    let scales = powers.iter().map(|power| (power + 127) as u8).collect();
    vec![
        Raw { dtype: Dtype::F8_E4M3, bytes: codes, ..raw.clone() },
        bytes(format!("{}.weight_scale", stem(raw)), vec![outs, ins / 32], scales),
    ]
}

/// MXFP4 as gpt-oss has it: of a stack (experts, outs, ins), `X_blocks` and `X_scales`.
pub(crate) fn gpt_oss(raw: &Raw) -> Vec<Raw> {
    let [experts, outs, ins] = raw.shape[..] else { panic!("a stack") };
    let (codes, scales) = halves(&raw.values(), 32, exponent);
    vec![
        bytes(format!("{}_blocks", raw.name), vec![experts, outs, ins / 32, 16], codes),
        bytes(format!("{}_scales", raw.name), vec![experts, outs, ins / 32], scales),
    ]
}
