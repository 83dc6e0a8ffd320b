//! A quantiser for any of ggml's block types that needs to know nothing of a type but where its scale lies: it tries
//! every value of every byte and keeps what decodes nearest. Valid and poor: no better scales are searched, no
//! importance is weighed. The decoder that it asks is held to others elsewhere, so a wrong one would be noticed there.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test crate uses a part of it")]

use half::f16;
use rayon::prelude::*;
use weightprint::internals::tensor::decode::decode;
use weightprint::internals::tensor::{Block, DType};

use super::Random;

/// Bytes that can be tried at the same time, each with the values that it has a part in.
type Layer = Vec<(usize, Vec<usize>)>;

pub struct Quantiser {
    block: Block,
    layers: Vec<Layer>,
}

/// Where the `f16` that scales the whole block lies; `None` where there is none in one piece.
fn scale_at(name: &str) -> Option<usize> {
    match name {
        "TQ1_0" => Some(52),
        "TQ2_0" => Some(64),
        "MXFP4" | "IQ1_M" => None,
        _ => Some(0),
    }
}

impl Quantiser {
    pub fn new(name: &str) -> Self {
        let block = Block::named(name).unwrap();
        let mut random = Random(u64::from(block.number()));
        let mut affected = vec![vec![false; block.values() as usize]; block.bytes() as usize];
        for _ in 0..12 {
            let mut bytes: Vec<u8> = (0..block.bytes()).map(|_| random.next() as u8).collect();
            set_scale(block, &mut bytes, 1.0);
            let before = decoded(block, &bytes);
            for (at, affected) in affected.iter_mut().enumerate().filter(|(at, _)| own_bits(block, *at) != 0) {
                let kept = bytes[at];
                bytes[at] ^= random.next() as u8 & own_bits(block, at);
                for (index, (a, b)) in before.iter().zip(decoded(block, &bytes)).enumerate() {
                    affected[index] |= *a != b;
                }
                bytes[at] = kept;
            }
        }
        let mut layers: Vec<(Layer, Vec<bool>)> = Vec::new();
        for (at, affected) in affected.into_iter().enumerate().filter(|(at, _)| own_bits(block, *at) != 0) {
            let values: Vec<usize> = (0..affected.len()).filter(|&index| affected[index]).collect();
            let free = |(_, taken): &(Layer, Vec<bool>)| values.iter().all(|&value| !taken[value]);
            let place = layers.iter().position(free).unwrap_or_else(|| {
                layers.push((Vec::new(), vec![false; block.values() as usize]));
                layers.len() - 1
            });
            values.iter().for_each(|&value| layers[place].1[value] = true);
            layers[place].0.push((at, values));
        }
        Self { block, layers: layers.into_iter().map(|(layer, _)| layer).collect() }
    }

    pub fn number(&self) -> u32 {
        self.block.number()
    }

    pub fn values(&self) -> usize {
        self.block.values() as usize
    }

    pub fn quantise(&self, values: &[f32]) -> Vec<u8> {
        values.par_chunks(self.values()).flat_map_iter(|block| self.one(block)).collect()
    }

    fn one(&self, wanted: &[f32]) -> Vec<u8> {
        let block = self.block;
        let mut random = Random(7);
        let mut bytes: Vec<u8> = (0..block.bytes()).map(|_| random.next() as u8).collect();
        set_scale(block, &mut bytes, 1.0);
        let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        let scale = rms(wanted) / rms(&decoded(block, &bytes));
        set_scale(block, &mut bytes, scale);
        for layer in &self.layers {
            let mut best: Vec<(f32, u8)> = vec![(f32::INFINITY, 0); layer.len()];
            for code in 0..=255u8 {
                for (at, _) in layer {
                    bytes[*at] = bytes[*at] & !own_bits(block, *at) | code & own_bits(block, *at);
                }
                let found = decoded(block, &bytes);
                for ((_, affected), best) in layer.iter().zip(&mut best) {
                    let error: f32 = affected.iter().map(|&index| (found[index] - wanted[index]).powi(2)).sum();
                    if error < best.0 {
                        *best = (error, code);
                    }
                }
            }
            for ((at, _), (_, code)) in layer.iter().zip(best) {
                bytes[*at] = bytes[*at] & !own_bits(block, *at) | code & own_bits(block, *at);
            }
        }
        bytes
    }
}

/// Bits of a byte that are not the block's scale.
fn own_bits(block: Block, at: usize) -> u8 {
    match scale_at(block.as_str()) {
        Some(scale) if at == scale || at == scale + 1 => 0,
        // Four bits of the scale at the top of each of its four words.
        None if block.as_str() == "IQ1_M" && at >= 48 && at % 2 == 1 => 0x0f,
        _ => 0xff,
    }
}

fn set_scale(block: Block, bytes: &mut [u8], scale: f32) {
    let bits = f16::from_f32(scale).to_bits();
    match scale_at(block.as_str()) {
        Some(at) => bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes()),
        None if block.as_str() == "IQ1_M" => {
            for word in 0..4 {
                let nibble = (bits >> (4 * word) & 0xf) as u8;
                let byte = &mut bytes[48 + 2 * word + 1];
                *byte = *byte & 0x0f | nibble << 4;
            }
        }
        None => {}
    }
}

fn decoded(block: Block, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; block.values() as usize];
    assert_eq!(decode(&DType::Block(block), bytes, &mut out), Some(true));
    // Of random bytes a scale may be no number.
    out.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = f32::MAX.sqrt());
    out
}

/// Values of one block to its bytes.
pub type Encoder = fn(&[f32]) -> Vec<u8>;

/// Types whose levels are easily counted: each value to the nearest level, with a scale at which none is out of reach.
pub fn levels(name: &str) -> Option<Encoder> {
    match name {
        "TQ1_0" => Some(tq1_0),
        "TQ2_0" => Some(tq2_0),
        "MXFP4" => Some(mxfp4),
        "IQ4_XS" => Some(iq4_xs),
        _ => None,
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The scale, and a third of -1, 0 or 1, as 0, 1 or 2, for each value.
fn thirds(values: &[f32]) -> (f16, Vec<u8>) {
    let scale = f16::from_f32(largest(values));
    (scale, values.iter().map(|value| ((value / scale.to_f32()).round() + 1.0) as u8).collect())
}

/// Two bits each, four values 32 apart to a byte, in halves of 128.
fn tq2_0(values: &[f32]) -> Vec<u8> {
    let (scale, codes) = thirds(values);
    let byte = |half: &[u8], at: usize| (0..4).fold(0, |byte, part| byte | half[at + 32 * part] << (2 * part));
    let mut out: Vec<u8> = codes.chunks(128).flat_map(|half| (0..32).map(move |at| byte(half, at))).collect();
    out.extend(scale.to_le_bytes());
    out
}

/// Five thirds to a byte as a fraction of 243 in 256ths: 160 values 32 apart, 80 values 16 apart, 16 values by fours.
fn tq1_0(values: &[f32]) -> Vec<u8> {
    let (scale, codes) = thirds(values);
    let byte = |places: &mut dyn Iterator<Item = usize>| {
        let digits: Vec<u16> = places.map(|place| u16::from(codes[place])).chain([0; 5]).take(5).collect();
        let number = digits.iter().fold(0, |number, digit| 3 * number + digit);
        ((number * 256).div_ceil(243)) as u8
    };
    let mut out: Vec<u8> = (0..32).map(|at| byte(&mut (0..5).map(|part| at + 32 * part))).collect();
    out.extend((0..16).map(|at| byte(&mut (0..5).map(|part| 160 + at + 16 * part))));
    out.extend((0..4).map(|at| byte(&mut (0..4).map(|part| 240 + at + 4 * part))));
    out.extend(scale.to_le_bytes());
    out
}

fn nearest(levels: &[f32], value: f32) -> u8 {
    let apart = |at: &usize| (levels[*at] - value).abs();
    (0..levels.len()).min_by(|a, b| apart(a).total_cmp(&apart(b))).unwrap() as u8
}

/// A power of two, and levels up to 6.
fn mxfp4(values: &[f32]) -> Vec<u8> {
    const LEVELS: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
    let exponent = (largest(values) / 6.0).log2().ceil();
    let code = |at: usize| nearest(&LEVELS, values[at] / exponent.exp2());
    let mut out = vec![(exponent as i32 + 127) as u8];
    out.extend((0..16).map(|at| code(at) | code(at + 16) << 4));
    out
}

/// A scale of the block, six bits of it for each 32 values, and sixteen uneven levels.
fn iq4_xs(values: &[f32]) -> Vec<u8> {
    const LEVELS: [f32; 16] =
        [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];
    let scale = f16::from_f32(largest(values) / 113.0 / 31.0 * 1.001);
    let (mut high, mut low, mut codes) = (0u16, [0u8; 4], Vec::new());
    for (group, part) in values.chunks(32).enumerate() {
        let own = (largest(part) / 113.0 / scale.to_f32()).ceil().clamp(1.0, 31.0) as u16;
        let stored = own + 32;
        high |= (stored >> 4) << (2 * group);
        low[group / 2] |= ((stored & 0xf) as u8) << (4 * (group % 2));
        let step = scale.to_f32() * f32::from(own);
        let code = |at: usize| nearest(&LEVELS, part[at] / step);
        codes.extend((0..16).map(|at| code(at) | code(at + 16) << 4));
    }
    [&scale.to_le_bytes()[..], &high.to_le_bytes(), &low, &codes].concat()
}
