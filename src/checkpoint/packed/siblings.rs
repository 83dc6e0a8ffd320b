//! Numbers of 8 bits beside their scale, whatever the tool calls them: quanto, torchao, SmoothQuant, and tools that nobody
//! has named yet.
//!
//! Names of tools are endless, but what they store is one form: a matrix of numbers, and in the same module a scale whose
//! size divides it. It is taken only where every tensor of the module is accounted for. A code book beside the numbers, a
//! sign, an order of the columns say that they are indices or stand in other places, and then they stay codes that nobody
//! read, as do bytes that may hold several codes each: what is read wrongly would pass for weights that match nothing.

use super::rows::by_scale;
use super::{Beside, Found, PackedPart, floats, stored};
use crate::Result;
use crate::tensor::decode::decode;
use crate::tensor::{DType, TensorMeta};

/// A module with more tensors of its own than this holds no codes: it is the root of some other scheme of names.
pub(super) const MOST_SIBLINGS: usize = 64;

/// Bytes of codes, and of zero points, that are looked at to tell how wide they are.
const SAMPLED: u64 = 4096;

/// Largest code of four bits.
const NIBBLE: f32 = 15.0;

/// Words at the end of a name that say that it holds codes, and not of what.
const CODES: [&str; 11] =
    ["data", "qdata", "q", "quant", "quantized", "quantised", "int", "int8", "uint8", "codes", "values"];

/// Words that say that a scale is one of what the module is given or gives.
const ACTIVATIONS: [&str; 6] = ["input", "output", "act", "activation", "activations", "smooth"];

/// What a tensor is to the codes beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sibling {
    Scale,
    Zero,
    /// A matrix of codes of its own.
    Codes,
    /// Nothing that changes what the codes stand for.
    Beside,
    /// Something that may.
    Unknown,
}

/// The lower-case words of the last part of a name.
fn words(last: &str) -> Vec<String> {
    let parts = last.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    parts.map(str::to_ascii_lowercase).collect()
}

/// Module and last part of a name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

fn sibling(meta: &TensorMeta) -> Sibling {
    let words = words(split(&meta.name).1);
    let has = |part: &str| words.iter().any(|word| word.contains(part));
    if words.iter().any(|word| ACTIVATIONS.contains(&word.as_str()) || word == "bias") {
        Sibling::Beside
    } else if has("scale") {
        Sibling::Scale
    } else if has("zero") {
        Sibling::Zero
    } else if meta.elements() <= 1 {
        // A setting, such as the width of the codes.
        Sibling::Beside
    } else if !meta.dtype.is_float() && meta.shape.len() >= 2 {
        Sibling::Codes
    } else {
        Sibling::Unknown
    }
}

/// The words of which the codes are, without those that say that they are codes.
fn subject(last: &str) -> Vec<String> {
    let mut words = words(last);
    while words.last().is_some_and(|word| CODES.contains(&word.as_str())) {
        words.pop();
    }
    words
}

/// What the numbers are called once they are put together.
fn name_of(codes: &str) -> String {
    let (module, last) = split(codes);
    let within = |part: &str| if module.is_empty() { part.to_owned() } else { format!("{module}.{part}") };
    let of = subject(last);
    match of.as_slice() {
        [] if split(module).1 == "weight" => module.to_owned(),
        [] => within("weight"),
        [word] if word == "w" || word == "weight" => within("weight"),
        _ if of.len() == words(last).len() => codes.to_owned(),
        _ => within(&of.join("_")),
    }
}

impl<'a> Beside<'a> {
    /// 8-bit numbers with the one scale that their module has for them.
    pub(super) fn numbers(&self, codes: &TensorMeta) -> Result<Option<Found>> {
        if !matches!(codes.dtype, DType::I8 | DType::U8 | DType::F8E4M3 | DType::F8E5M2) {
            return Ok(None);
        }
        // Scales may be numbers of 8 bits themselves, with a scale of their own.
        if matches!(sibling(codes), Sibling::Scale | Sibling::Zero | Sibling::Beside) {
            return Ok(None);
        }
        let Some((scales, zeros)) = self.scale_and_zero(codes) else { return Ok(None) };
        if !self.is_one_to_a_byte(codes, zeros)? {
            return Ok(None);
        }
        Ok(by_scale(name_of(&codes.name), codes, scales, zeros))
    }

    /// Scale and zero points of codes, where nothing else beside them says how they are to be read.
    fn scale_and_zero(&self, codes: &TensorMeta) -> Option<(PackedPart<'a>, Option<PackedPart<'a>>)> {
        let (module, last) = split(&codes.name);
        let all = self.by_module.get(module).filter(|all| all.len() <= MOST_SIBLINGS)?;
        let others = all.iter().map(|&at| (at, &self.tensors[at])).filter(|(_, meta)| meta.name != codes.name);
        let mut others: Vec<(Sibling, PackedPart<'a>)> = others.map(|part| (sibling(part.1), part)).collect();
        let of = subject(last);
        let shared = |meta: &TensorMeta| {
            let own = words(split(&meta.name).1);
            own.iter().zip(&of).take_while(|(one, other)| one == other).count()
        };
        if others.iter().any(|(kind, _)| *kind == Sibling::Codes) {
            // Several matrices: those that are called like this one are its own.
            others.retain(|(_, part)| !of.is_empty() && shared(part.1) == of.len());
        }
        if others.iter().any(|(kind, _)| matches!(kind, Sibling::Codes | Sibling::Unknown)) {
            return None;
        }
        let best = |wanted: Sibling| {
            let rank = |meta: &TensorMeta| {
                let takes_back = split(&meta.name).1.to_ascii_lowercase().contains("dequant");
                (shared(meta), takes_back, meta.elements())
            };
            let mut found: Vec<PackedPart<'a>> =
                others.iter().filter(|(kind, _)| *kind == wanted).map(|(_, part)| *part).collect();
            found.sort_by_key(|part| std::cmp::Reverse(rank(part.1)));
            let is_one = found.len() < 2 || rank(found[0].1) != rank(found[1].1);
            is_one.then_some(found.first().copied())
        };
        let scale = best(Sibling::Scale)??;
        Some((scale, best(Sibling::Zero)?))
    }

    /// Whether each byte holds one code. Bytes with two four-bit codes have any value, while their zero points are at most
    /// 15; where codes have few bits and lie one to a byte, the codes themselves are small.
    fn is_one_to_a_byte(&self, codes: &TensorMeta, zeros: Option<PackedPart<'_>>) -> Result<bool> {
        if codes.dtype.is_float() {
            return Ok(true);
        }
        let stated = self.stated_bits().filter(|bits| *bits < 8);
        if codes.dtype == DType::I8 && stated.is_none() {
            return Ok(true);
        }
        let Some(sample) = self.sample(codes)? else { return Ok(false) };
        let most = |values: &[f32]| values.iter().fold(f32::NEG_INFINITY, |most, value| most.max(value.abs()));
        if codes.dtype == DType::I8 {
            let half = stated.map_or(128.0, |bits| f32::from(1u8 << (bits.max(1) - 1)));
            return Ok(sample.iter().all(|code| (-half..half).contains(code)));
        }
        let Some((_, zeros)) = zeros else { return Ok(false) };
        let Some(zeros) = self.sample(zeros)? else { return Ok(false) };
        Ok(stated.is_none() && most(&zeros) > NIBBLE || most(&sample) <= NIBBLE)
    }

    /// How many bits the configuration gives to a code.
    fn stated_bits(&self) -> Option<u64> {
        const KEYS: [&str; 6] = ["bits", "nbits", "num_bits", "weight_bits", "w_bit", "wbits"];
        let stated = self.stated()?;
        KEYS.iter().find_map(|key| stated.get(*key)?.as_u64())
    }

    /// The first values of a plain tensor.
    fn sample(&self, meta: &TensorMeta) -> Result<Option<Vec<f32>>> {
        let (Some(width), true) = (meta.dtype.bytes(), meta.storage.is_plain()) else { return Ok(None) };
        let count = meta.elements().min(SAMPLED / width);
        let Some(bytes) = self.head(meta, count * width)? else { return Ok(None) };
        let mut values = vec![0.0; count as usize];
        Ok(decode(&meta.dtype, &bytes, &mut values).map(|_| values))
    }

    /// BitNet: ternary codes, four rows to a byte, and one scale. A field of two bits that is full is no such code.
    pub(super) fn ternary(&self, stem: &str, codes: &TensorMeta) -> Result<Option<Found>> {
        let Some(scales) = self.part(stem, ".weight_scale").filter(|scales| scales.1.elements() == 1) else {
            return Ok(None);
        };
        let Some(head) = self.head(codes, SAMPLED)? else { return Ok(None) };
        if codes.shape.len() != 2 || head.iter().any(|byte| byte & byte >> 1 & 0b0101_0101 != 0) {
            return Ok(None);
        }
        let is_multiplied =
            self.stated().and_then(|stated| stated.get("linear_class")?.as_str()) == Some("autobitlinear");
        let (Some(matrix), Some(scale)) = (stored(codes), floats(scales.1)) else { return Ok(None) };
        Ok(super::slabs::ternary(codes, scales.0, matrix, scale, is_multiplied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_called_like_what_they_are_codes_of() {
        for (codes, name) in [
            ("q_proj.weight._data", "q_proj.weight"),
            ("q_proj._weight_qdata", "q_proj.weight"),
            ("q_proj.weight", "q_proj.weight"),
            ("q_proj.W_q", "q_proj.weight"),
            ("q_proj.qdata", "q_proj.weight"),
            ("experts.gate_up_proj", "experts.gate_up_proj"),
            ("mlp.w1_q", "mlp.w1"),
            ("codes", "weight"),
        ] {
            assert_eq!(name_of(codes), name, "{codes}");
        }
    }
}
