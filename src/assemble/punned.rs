//! Tensors whose stated type is not the type of their bytes: halves that are called words, floats that are called integers.
//!
//! Whoever loads such a file casts the bytes back before using them, and until then every number in it is nonsense. The
//! true type shows in the bits. In trained weights the exponent falls into a few octaves, with a tail towards zero that
//! halves from octave to octave, as every density does that is finite at zero; both signs are equally frequent; and the
//! leading bits of the mantissa are nearly uniform, as a density is flat within an octave. Read as another type, some of
//! the exponent lies in the mantissa or the other way round, or a part of the values are other values' lower halves, and
//! one of the three fails. Codes of quantised weights, indices, text and compressed data fail all of them.
//!
//! A few kilobytes of each tensor are looked at. Tensors that are too small to tell, or that are no matrices, follow the
//! others of their stated type.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, Format};
use crate::finding::{Code, Finding, Level};
use crate::tensor::{DType, TensorMeta};

/// Bytes that are looked at in each of two places of a tensor.
const SAMPLED: u64 = 4096;

/// Fewest bytes of a tensor that tell its type by themselves: some hundred values of the widest one.
const LEAST: u64 = 2048;

/// The tensors with their true types and shapes, and what was found; `None` where every type is as it is stated.
pub(super) fn unpunned(checkpoint: &Checkpoint) -> Option<(Vec<TensorMeta>, Vec<Finding>)> {
    if checkpoint.format == Format::LfsPointers {
        return None;
    }
    let tell = |tensor: &TensorMeta| told(tensor, &sample(checkpoint, tensor));
    let told: Vec<Option<Form>> = checkpoint.tensors.par_iter().map(tell).collect();
    if told.iter().all(Option::is_none) {
        return None;
    }
    let customs = customs(&checkpoint.tensors, &told);
    let mut tensors = checkpoint.tensors.clone();
    let mut found: BTreeMap<(DType, DType), (u64, String)> = BTreeMap::new();
    for (tensor, told) in tensors.iter_mut().zip(told) {
        let custom = || {
            let form = customs.get(&tensor.dtype).copied()?;
            follows(tensor, &sample(checkpoint, tensor), form).then_some(form)
        };
        let Some(form) = told.or_else(custom) else { continue };
        let Some(shape) = reshaped(tensor, form) else { continue };
        let entry = found.entry((tensor.dtype.clone(), form.dtype())).or_insert_with(|| (0, tensor.name.clone()));
        entry.0 += 1;
        (tensor.dtype, tensor.shape) = (form.dtype(), shape);
    }
    let finding = |((stated, held), (count, first)): ((DType, DType), (u64, String))| {
        let tensors = if count == 1 { "tensor is" } else { "tensors are" };
        let message = format!("{count} {tensors} stated to be {stated} and hold {held}: read as what they hold");
        Finding::new(Code::DtypePunned, Level::Warning, message, first)
    };
    (!found.is_empty()).then(|| (tensors, found.into_iter().map(finding).collect()))
}

/// What most tensors of a stated type that tell theirs really are.
fn customs(tensors: &[TensorMeta], told: &[Option<Form>]) -> BTreeMap<DType, Form> {
    let mut votes: BTreeMap<DType, BTreeMap<Option<Form>, u64>> = BTreeMap::new();
    for (tensor, told) in tensors.iter().zip(told) {
        if tensor.shape.len() > 1 && tensor.stored_bytes() >= LEAST {
            *votes.entry(tensor.dtype.clone()).or_default().entry(*told).or_default() += 1;
        }
    }
    let most = |votes: BTreeMap<Option<Form>, u64>| votes.into_iter().max_by_key(|(_, count)| *count)?.0;
    votes.into_iter().filter_map(|(stated, votes)| Some((stated, most(votes)?))).collect()
}

/// The first bytes and some from the middle, whose values begin at a whole number of words of eight bytes. What cannot be
/// read has no sample: the pass reads it again, and says so.
fn sample(checkpoint: &Checkpoint, tensor: &TensorMeta) -> Vec<u8> {
    let (len, mut all, mut buf) = (tensor.stored_bytes(), Vec::new(), Vec::new());
    if !tensor.storage.is_plain() || tensor.dtype.bytes().is_none() {
        return all;
    }
    let middle = (len / 2).next_multiple_of(8).max(SAMPLED);
    for start in [0, middle] {
        let count = len.saturating_sub(start).min(SAMPLED) / 8 * 8;
        if let Ok(bytes) = checkpoint.bytes(tensor, start, count as usize, &mut buf) {
            all.extend_from_slice(bytes);
        }
    }
    all
}

/// A type that weights are stored in, by its bits: sign, exponent, mantissa. The narrowest come first: values of a wider
/// type never pass for narrower ones, but pairs of narrower ones pass for a wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Bf16,
    F16,
    F32,
    F64,
}

impl Form {
    const ALL: [Self; 4] = [Self::Bf16, Self::F16, Self::F32, Self::F64];

    fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    fn of(dtype: &DType) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.dtype() == *dtype)
    }

    /// Bytes, and bits of the exponent.
    fn layout(self) -> (usize, u32) {
        match self {
            Self::Bf16 => (2, 8),
            Self::F16 => (2, 5),
            Self::F32 => (4, 8),
            Self::F64 => (8, 11),
        }
    }

    /// The values, sorted by what is looked at.
    fn bits(self, bytes: &[u8]) -> impl Iterator<Item = Bits> {
        let (width, exponent_bits) = self.layout();
        let mantissa_bits = 8 * width as u32 - 1 - exponent_bits;
        bytes.chunks_exact(width).map(move |bytes| {
            let word = bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            let magnitude = word & !(1 << (8 * width - 1));
            Bits {
                zero: magnitude == 0,
                negative: magnitude != word,
                exponent: (magnitude >> mantissa_bits) as usize,
                mantissa: [3, 6].map(|below| (magnitude >> (mantissa_bits - below)) as usize & 7),
            }
        })
    }

    /// The exponent of values from one to two.
    fn bias(self) -> usize {
        (1 << (self.layout().1 - 1)) - 1
    }

    /// Whether an exponent is one that weights have: normal numbers, neither near the smallest nor the largest.
    fn is_usual(self, exponent: usize) -> bool {
        let largest = 2 * self.bias();
        exponent >= 1.max(self.bias().saturating_sub(30)) && exponent <= largest.min(self.bias() + 10)
    }
}

/// A value as its bits have it.
struct Bits {
    zero: bool,
    negative: bool,
    exponent: usize,
    /// The first three bits of the mantissa, and the next three.
    mantissa: [usize; 2],
}

/// The type that the bytes of a tensor tell, where it is not the stated one.
fn told(tensor: &TensorMeta, sample: &[u8]) -> Option<Form> {
    if (sample.len() as u64) < LEAST || tensor.dtype == DType::Bool {
        return None;
    }
    let stated = Form::of(&tensor.dtype);
    let own = stated.is_some_and(|form| are_weights(form, sample));
    let wider = |form: Form| stated.is_some_and(|stated| form.layout().0 >= stated.layout().0);
    // Pairs of halves are fit to pass for words, but words are not for pairs of halves.
    let differs = |form: &Form| Some(*form) != stated && !(own && wider(*form));
    let found = Form::ALL.into_iter().filter(differs).find(|form| are_weights(*form, sample))?;
    // A matrix of any scale may be odd, or have columns of zeros. So a type that is no narrower is taken only where the
    // stated one puts values where no weights are, or crowds them into an octave or two.
    let odd = stated.is_none_or(|stated| found.layout().0 < stated.layout().0 || !is_plausible(stated, sample));
    odd.then_some(found)
}

/// Places of a value within eight bytes: there a wider type's values begin, so each of these has to look like the others.
const WORD: usize = 8;

/// Whether the bytes are weights in this form.
fn are_weights(form: Form, bytes: &[u8]) -> bool {
    let phases = WORD / form.layout().0;
    let (mut signs, mut mantissas, mut all) = (0usize, [[0usize; 8]; 2], 0usize);
    let mut octaves = vec![vec![0usize; 2 * form.bias() + 2]; phases];
    let mut values = vec![0usize; phases];
    for (at, bits) in form.bits(bytes).enumerate() {
        values[at % phases] += 1;
        if bits.zero {
            continue;
        }
        octaves[at % phases][bits.exponent] += 1;
        signs += usize::from(bits.negative);
        mantissas.iter_mut().zip(bits.mantissa).for_each(|(counts, bits)| counts[bits] += 1);
        all += 1;
    }
    let share = |count: usize| count as f64 / all.max(1) as f64;
    let balanced = (0.35..=0.65).contains(&share(signs));
    // Within an octave a density is nearly flat. The exponent's lower bits, which differ by factors of two, are not. Of
    // values that were widened, the later bits are zero.
    let flat = |counts: &[usize; 8]| counts.iter().all(|&count| (0.05..=0.22).contains(&share(count)));
    let [first, next] = mantissas;
    let even = flat(&first) && (flat(&next) || next[0] == all);
    balanced && even && octaves.iter().zip(values).all(|(octaves, values)| fall_off(form, octaves, values))
}

/// Octaves from the most frequent one beyond which hardly anything is. Below, a density that is finite at zero has left a
/// thirtieth of what it has; above, a normal one nothing, and one of rows of unequal norms little.
const REACH: usize = 4;

/// Whether exponents are distributed as those of weights.
fn fall_off(form: Form, octaves: &[usize], values: usize) -> bool {
    let nonzero: usize = octaves.iter().sum();
    let Some((mode, &most)) = octaves.iter().enumerate().max_by_key(|(_, count)| **count) else { return false };
    let share = |counts: &[usize]| counts.iter().sum::<usize>() as f64 / nonzero.max(1) as f64;
    let (below, above) = (&octaves[..mode.saturating_sub(REACH)], &octaves[(mode + REACH + 1).min(octaves.len())..]);
    // Pruned matrices have zeros; the lower halves of words that were widened are all zero.
    let there = 4 * nonzero >= values && nonzero > 0;
    there && form.is_usual(mode) && share(&[most]) <= 0.6 && share(below) <= 0.1 && share(above) <= 0.02
}

/// Whether values are where those of a matrix of weights are, whatever its distribution: in more octaves than two, and
/// nearly all of them within what is usual.
fn is_plausible(form: Form, bytes: &[u8]) -> bool {
    let mut octaves = vec![0usize; 2 * form.bias() + 2];
    form.bits(bytes).filter(|bits| !bits.zero).for_each(|bits| octaves[bits.exponent] += 1);
    let all: usize = octaves.iter().sum();
    let usual: usize = (0..octaves.len()).filter(|&exponent| form.is_usual(exponent)).map(|at| octaves[at]).sum();
    octaves.sort_unstable();
    let most: usize = octaves.iter().rev().take(2).sum();
    usual as f64 >= 0.9 * all as f64 && most as f64 <= 0.97 * all as f64
}

/// Whether a tensor that does not tell its type may follow the others: as they are, all values are what weights can be, and
/// as stated they are not.
fn follows(tensor: &TensorMeta, sample: &[u8], form: Form) -> bool {
    let phases = WORD / form.layout().0;
    let mut seen = vec![false; phases];
    let usual = form.bits(sample).enumerate().all(|(at, bits)| {
        seen[at % phases] |= !bits.zero;
        bits.zero || form.is_usual(bits.exponent)
    });
    let stated = Form::of(&tensor.dtype);
    let narrower = stated.is_none_or(|stated| stated.layout().0 > form.layout().0);
    let fits = narrower || !stated.is_some_and(|stated| are_weights(stated, sample));
    usual && fits && !sample.is_empty() && seen.into_iter().all(|seen| seen)
}

/// The shape in another type: the last dimension holds the same bytes.
fn reshaped(tensor: &TensorMeta, form: Form) -> Option<Vec<u64>> {
    let (own, width) = (tensor.dtype.bytes()?, form.layout().0 as u64);
    let mut shape = tensor.shape.clone();
    let last = shape.last_mut()?;
    let bytes = last.checked_mul(own)?;
    *last = bytes.is_multiple_of(width).then_some(bytes / width)?;
    Some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Extent, Storage};

    /// Normal values, as sums of uniform ones.
    fn normal(count: u64, scale: f32) -> Vec<f32> {
        let uniform = |i: u64| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) as f32 / u64::MAX as f32 - 0.5;
        (0..count).map(|i| (0..12).map(|part| uniform(12 * i + part)).sum::<f32>() * scale).collect()
    }

    fn bytes(values: &[f32], form: Form) -> Vec<u8> {
        let one = |&value: &f32| match form {
            Form::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
            Form::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            Form::F32 => value.to_le_bytes().to_vec(),
            Form::F64 => f64::from(value).to_le_bytes().to_vec(),
        };
        values.iter().flat_map(one).collect()
    }

    fn read_as(stated: DType, bytes: &[u8]) -> Option<Form> {
        let storage = Storage::Plain(Extent { shard: 0, offset: 0, len: bytes.len() as u64 });
        let shape = vec![1, bytes.len() as u64 / stated.bytes().unwrap()];
        told(&TensorMeta { name: "w".to_owned(), dtype: stated, shape, storage }, bytes)
    }

    const STATED: [DType; 11] = [
        DType::U8,
        DType::I8,
        DType::I16,
        DType::U16,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::U32,
        DType::F32,
        DType::I64,
        DType::F64,
    ];

    #[test]
    fn weights_are_told_under_any_type_but_their_own() {
        for scale in [0.002, 0.02, 0.7] {
            let values = normal(4096, scale);
            for form in [Form::Bf16, Form::F16, Form::F32] {
                let bytes = bytes(&values, form);
                for stated in STATED {
                    let expected = (stated != form.dtype()).then_some(form);
                    assert_eq!(read_as(stated.clone(), &bytes[..8192]), expected, "{form:?} as {stated}, {scale}");
                }
            }
        }
    }

    #[test]
    fn words_that_were_widened_are_words() {
        let values = normal(4096, 0.02);
        for narrow in [|v: f32| half::bf16::from_f32(v).to_f32(), |v: f32| half::f16::from_f32(v).to_f32()] {
            let wide: Vec<f32> = values.iter().map(|&value| narrow(value)).collect();
            assert_eq!(read_as(DType::F32, &bytes(&wide, Form::F32)), None);
            assert_eq!(read_as(DType::U8, &bytes(&wide, Form::F32)), Some(Form::F32));
            assert_eq!(read_as(DType::F64, &bytes(&wide, Form::F64)), None);
        }
    }

    #[test]
    fn what_is_no_float_is_left_alone() {
        let hash = |i: u64| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes());
        let random: Vec<u8> = (0..1024).flat_map(|i| hash(i).to_le_bytes()).collect();
        let normal = normal(16_384, 1.0);
        let levels = |scale: f32, low: f32, high: f32| {
            normal.iter().map(move |value| (value * scale).round().clamp(low, high) as i8 as u8).collect::<Vec<u8>>()
        };
        let nibbles = |offset: i8| {
            let codes = levels(2.0, -8.0, 7.0);
            codes
                .chunks(2)
                .map(|pair| (pair[0] as i8 + offset) as u8 & 15 | pair[1].wrapping_add(offset as u8) << 4)
                .collect::<Vec<u8>>()
        };
        let tokens: Vec<u8> = (0..2048u64).flat_map(|i| ((hash(i) % 128_000) as u32).to_le_bytes()).collect();
        let long: Vec<u8> = (0..1024u64).flat_map(|i| (hash(i) % 128_000).to_le_bytes()).collect();
        let short: Vec<u8> = (0..4096u64).flat_map(|i| ((hash(i) % 32_000) as u16).to_le_bytes()).collect();
        let text: Vec<u8> = (0..8192u64).map(|i| b' ' + (hash(i) % 90) as u8).collect();
        let unsigned: Vec<u8> = levels(30.0, -128.0, 127.0).iter().map(|code| code ^ 0x80).collect();
        let magnitudes: Vec<u8> =
            levels(6.0, -127.0, 127.0).iter().map(|&code| (code as i8).unsigned_abs() | code & 0x80).collect();
        let small_floats: Vec<u8> = normal.iter().map(|&v| (half::f16::from_f32(v).to_bits() >> 8) as u8).collect();
        for (what, bytes) in [
            ("random", random),
            ("int8", levels(30.0, -128.0, 127.0)),
            ("small int8", levels(3.0, -128.0, 127.0)),
            ("uint8 about 128", unsigned),
            ("sign and magnitude", magnitudes),
            ("int4", nibbles(0)),
            ("uint4 about 8", nibbles(8)),
            ("tokens", tokens),
            ("long tokens", long),
            ("short tokens", short),
            ("text", text),
            ("eight-bit floats", small_floats),
            ("zeros", vec![0; 8192]),
        ] {
            for stated in STATED {
                assert_eq!(read_as(stated.clone(), &bytes[..8192]), None, "{what} as {stated}");
            }
        }
    }
}
