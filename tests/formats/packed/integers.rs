//! Quantisers with evenly spaced levels: GPTQ, AWQ, MLX, compressed-tensors, LLM.int8.

use half::f16;
use safetensors::tensor::Dtype;

use super::{GROUP, stem};
use crate::support::{Random, Raw};

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

/// Codes one after the other in words, the lowest bits first.
fn stream(codes: impl Iterator<Item = u32>, bits: u32) -> Vec<u32> {
    let (mut words, mut kept, mut count) = (Vec::new(), 0u64, 0);
    for code in codes {
        kept |= u64::from(code) << count;
        count += bits;
        if count >= 32 {
            words.push(kept as u32);
            (kept, count) = (kept >> 32, count - 32);
        }
    }
    if count > 0 {
        words.push(kept as u32);
    }
    words
}

fn words(name: &str, rows: usize, cols: usize, words: &[u32]) -> Raw {
    assert_eq!(rows * cols, words.len());
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Raw { name: name.into(), dtype: Dtype::I32, shape: vec![rows, cols], bytes }
}

/// Lines of `from` columns as lines of the columns.
fn turned<T: Copy>(lines: &[T], from: usize) -> Vec<T> {
    (0..from).flat_map(|col| lines.iter().skip(col).step_by(from).copied()).collect()
}

fn halves(name: String, rows: usize, cols: usize, values: &[f16]) -> Raw {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Raw { name, dtype: Dtype::F16, shape: vec![rows, cols], bytes }
}

pub(crate) fn gptq(raw: &Raw, bits: u32, plus: u32, shuffled: bool) -> Vec<Raw> {
    let c = quantise(raw, bits, shuffled);
    let (stem, groups) = (stem(raw), c.ins / GROUP);
    let lines: Vec<u32> =
        (0..c.outs).flat_map(|o| stream(c.codes[o * c.ins..][..c.ins].iter().copied(), bits)).collect();
    let down = lines.len() / c.outs;
    let zeros: Vec<u32> = (0..groups)
        .flat_map(|g| stream(c.zeros[g * c.outs..][..c.outs].iter().map(|zero| zero - plus), bits))
        .collect();
    let order = c.groups.iter().flat_map(|&group| (group as i32).to_le_bytes()).collect();
    vec![
        words(&format!("{stem}.qweight"), down, c.outs, &turned(&lines, down)),
        words(&format!("{stem}.qzeros"), groups, zeros.len() / groups, &zeros),
        halves(format!("{stem}.scales"), groups, c.outs, &c.scales),
        Raw { name: format!("{stem}.g_idx"), dtype: Dtype::I32, shape: vec![c.ins], bytes: order },
    ]
}

pub(crate) fn awq(raw: &Raw) -> Vec<Raw> {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let c = quantise(raw, 4, false);
    let (stem, groups) = (stem(raw), c.ins / GROUP);
    let join = |code: &dyn Fn(usize) -> u32| (0..8).fold(0, |word, k| word | code(ORDER[k]) << (4 * k));
    let all = |rows: usize, code: &dyn Fn(usize, usize) -> u32| -> Vec<u32> {
        (0..rows)
            .flat_map(|row| (0..c.outs / 8).map(move |col| (row, col)))
            .map(|(row, col)| join(&|k| code(row, col * 8 + k)))
            .collect()
    };
    vec![
        words(&format!("{stem}.qweight"), c.ins, c.outs / 8, &all(c.ins, &|i, out| c.codes[out * c.ins + i])),
        words(&format!("{stem}.qzeros"), groups, c.outs / 8, &all(groups, &|group, out| c.zeros[group * c.outs + out])),
        halves(format!("{stem}.scales"), groups, c.outs, &c.scales),
    ]
}

pub(crate) fn mlx(raw: &Raw, bits: u32) -> Vec<Raw> {
    let c = quantise(raw, bits, false);
    let (stem, groups) = (stem(raw), c.ins / GROUP);
    let bias = |at: usize| f16::from_f32(-(c.zeros[at] as f32) * c.scales[at].to_f32());
    let biases: Vec<f16> = (0..c.scales.len()).map(bias).collect();
    let codes = stream(c.codes.iter().copied(), bits);
    let codes = words(&raw.name, c.outs, codes.len() / c.outs, &codes);
    vec![
        Raw { dtype: Dtype::U32, ..codes },
        halves(format!("{stem}.scales"), c.outs, groups, &turned(&c.scales, c.outs)),
        halves(format!("{stem}.biases"), c.outs, groups, &turned(&biases, c.outs)),
    ]
}

/// compressed-tensors' `pack-quantized` with zero points.
pub(crate) fn compressed(raw: &Raw, bits: u32, shuffled: bool) -> Vec<Raw> {
    let c = quantise(raw, bits, shuffled);
    let (stem, groups) = (stem(raw), c.ins / GROUP);
    let codes: Vec<u32> =
        (0..c.outs).flat_map(|o| stream(c.codes[o * c.ins..][..c.ins].iter().copied(), bits)).collect();
    let zeros: Vec<u32> =
        (0..groups).flat_map(|g| stream(c.zeros[g * c.outs..][..c.outs].iter().copied(), bits)).collect();
    let down = zeros.len() / groups;
    let shape = [c.outs, c.ins].iter().flat_map(|&size| (size as i64).to_le_bytes()).collect();
    let order = c.groups.iter().flat_map(|&group| (group as i32).to_le_bytes()).collect();
    let mut parts = vec![
        words(&format!("{stem}.weight_packed"), c.outs, codes.len() / c.outs, &codes),
        words(&format!("{stem}.weight_zero_point"), down, groups, &turned(&zeros, down)),
        halves(format!("{stem}.weight_scale"), c.outs, groups, &turned(&c.scales, c.outs)),
        Raw { name: format!("{stem}.weight_shape"), dtype: Dtype::I64, shape: vec![2], bytes: shape },
    ];
    if shuffled {
        parts.push(Raw { name: format!("{stem}.weight_g_idx"), dtype: Dtype::I32, shape: vec![c.ins], bytes: order });
    }
    parts
}

/// One scale for each row: the largest magnitude, or what one step is.
fn rows(raw: &Raw, scale_name: &str, of_127: bool) -> Vec<Raw> {
    let (outs, ins, values) = (raw.shape[0], raw.shape[1], raw.values());
    let largest: Vec<f32> = values.chunks(ins).map(|row| row.iter().fold(1e-9, |most, v| v.abs().max(most))).collect();
    let code = |(at, value): (usize, &f32)| (value / largest[at / ins] * 127.0).round() as i8 as u8;
    let scales: Vec<f32> = largest.iter().map(|most| if of_127 { *most } else { most / 127.0 }).collect();
    vec![
        Raw { bytes: values.iter().enumerate().map(code).collect(), dtype: Dtype::I8, ..raw.clone() },
        Raw::from_f32(
            &format!("{}.{scale_name}", stem(raw)),
            &if of_127 { vec![outs] } else { vec![outs, 1] },
            &scales,
        ),
    ]
}

pub(crate) fn llm_int8(raw: &Raw) -> Vec<Raw> {
    let format = Raw { name: format!("{}.weight_format", stem(raw)), dtype: Dtype::U8, shape: vec![], bytes: vec![0] };
    rows(raw, "SCB", true).into_iter().chain([format]).collect()
}

pub(crate) fn int_rows(raw: &Raw) -> Vec<Raw> {
    rows(raw, "weight_scale", false)
}
