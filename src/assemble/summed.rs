//! Matrices that are stored as two that add up to them: a part that means nothing, and what makes it right again.
//!
//! Beside a part that is larger than the matrix itself, the other one is mostly its negative, so that the two vary against
//! each other value by value. Matrices that were trained do not: their values vary together, if at all, by what their
//! rows and columns have in common. Both the signs and the values of a few hundred places are looked at, in several rows;
//! what one strong column does to a correlation it does not do to signs. Pairs are read as their sum where there are
//! several, as a way of storing is a matter of a whole model.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::finding::{Code, Finding, Level};
use crate::math::lanes::standardise;
use crate::math::linalg;
use crate::tensor::{DType, Storage, TensorMeta};

/// Places of a matrix that are looked at, and values at each.
const PLACES: u64 = 16;
const AT_EACH: u64 = 32;
const SAMPLED: usize = (PLACES * AT_EACH) as usize;

/// Share of places with opposite signs, and correlation, of parts that cancel. With a part as large as the matrix itself
/// three quarters of the signs are opposite and the correlation is -0.7; by chance, of 512 values, half of the signs with a
/// standard error of 2 %, so that the best of a million pairs stays below 62 %.
const LEAST_OPPOSITE: f64 = 0.7;
const MOST_CORRELATED: f32 = -0.6;

/// Fewest pairs that count.
const LEAST_PAIRS: usize = 3;

/// Most matrices of one shape that are held against one another.
const MOST_ALIKE: usize = 2048;

/// The tensors with each pair that cancels as its sum, and what was found; `None` where there are no such pairs.
pub(super) fn summed(checkpoint: &Checkpoint, tensors: &[TensorMeta]) -> Option<(Vec<TensorMeta>, Finding)> {
    let mut alike: BTreeMap<&[u64], Vec<usize>> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let is_read = tensor.storage.is_plain() && tensor.dtype.bytes().is_some() && tensor.dtype.is_float();
        if is_read && tensor.shape.len() >= 2 && tensor.elements() >= 4 * SAMPLED as u64 {
            alike.entry(&tensor.shape).or_default().push(index);
        }
    }
    alike.retain(|_, members| (2..=MOST_ALIKE).contains(&members.len()));
    let pairs: Vec<(usize, usize)> = alike.values().flat_map(|members| pairs(checkpoint, tensors, members)).collect();
    let &(first, _) = pairs.first().filter(|_| pairs.len() >= LEAST_PAIRS)?;
    let message = format!(
        "{} pairs of matrices of one shape cancel each other: what is left is their sum, and was read as such",
        pairs.len()
    );
    let finding = Finding::new(Code::SummedTensors, Level::Warning, message, tensors[first].name.clone());
    let mut sums: Vec<Option<TensorMeta>> = tensors.iter().cloned().map(Some).collect();
    for (a, b) in pairs {
        sums[a] = Some(sum(&tensors[a], &tensors[b]));
        sums[b] = None;
    }
    Some((sums.into_iter().flatten().collect(), finding))
}

/// Two tensors of one shape as their sum, under what their names have in common.
fn sum(a: &TensorMeta, b: &TensorMeta) -> TensorMeta {
    let common = a.name.bytes().zip(b.name.bytes()).take_while(|(a, b)| a == b).count();
    let cut = a.name.get(..common).and_then(|name| name.rfind('.')).unwrap_or(0);
    let name = if cut > 0 { format!("{}.weight", &a.name[..cut]) } else { a.name.clone() };
    let storage = Storage::Sum(Arc::new([a.clone(), b.clone()]));
    TensorMeta { name, dtype: DType::F32, shape: a.shape.clone(), storage }
}

/// Matrices of one shape that cancel each other, each in one pair at most.
fn pairs(checkpoint: &Checkpoint, tensors: &[TensorMeta], members: &[usize]) -> Vec<(usize, usize)> {
    let samples: Vec<Option<Vec<f32>>> = members.par_iter().map(|&at| sample(checkpoint, &tensors[at])).collect();
    // What cannot be read is told by the pass, which reads it again.
    let (members, samples): (Vec<usize>, Vec<Vec<f32>>) =
        members.iter().zip(samples).filter_map(|(&at, sample)| Some((at, sample?))).unzip();
    let mut rows = samples.concat();
    standardise(&mut rows, SAMPLED);
    let mut table = Vec::new();
    linalg::by_rows(&rows, &rows, SAMPLED, &mut table);
    let lowest = |at: usize| {
        let row = table[at * members.len()..][..members.len()].iter().enumerate();
        row.min_by(|a, b| a.1.total_cmp(b.1)).map(|(other, &correlation)| (other, correlation))
    };
    let nearest: Vec<Option<(usize, f32)>> = (0..members.len()).map(lowest).collect();
    let mut found = Vec::new();
    for (at, lowest) in nearest.iter().enumerate() {
        let Some((other, correlation)) = *lowest else { continue };
        let mutual = at < other && nearest[other].is_some_and(|(back, _)| back == at);
        if mutual && correlation <= MOST_CORRELATED && cancel(&samples[at], &samples[other]) {
            found.push((members[at], members[other]));
        }
    }
    found
}

/// Whether two samples have opposite signs in most places and leave something when they are added.
fn cancel(a: &[f32], b: &[f32]) -> bool {
    let opposite = a.iter().zip(b).filter(|(a, b)| *a * *b < 0.0).count();
    let left = a.iter().zip(b).any(|(a, b)| a + b != 0.0);
    left && opposite as f64 >= LEAST_OPPOSITE * a.len() as f64
}

/// Values at places spread over a tensor, the same in all of one shape.
fn sample(checkpoint: &Checkpoint, tensor: &TensorMeta) -> Option<Vec<f32>> {
    let (step, mut all, mut buf) = (tensor.elements() / PLACES, vec![0.0; SAMPLED], Vec::new());
    for (place, values) in (0..).zip(all.chunks_mut(AT_EACH as usize)) {
        // A little further in each, so that not all of them are the same columns.
        let first = place * step + place * (step - AT_EACH) / PLACES;
        checkpoint.values(tensor, first, values, &mut buf).ok()??;
    }
    all.iter().all(|value| value.is_finite()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_and_what_it_takes_to_cancel_most_of_it_are_a_pair_and_its_negative_is_not() {
        let value =
            |i: u64, seed| xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed) as f32 / u64::MAX as f32;
        let random = |seed| (0..512).map(|i| value(i, seed) - 0.5).collect::<Vec<f32>>();
        let (a, w) = (random(1), random(2));
        let b: Vec<f32> = a.iter().zip(&w).map(|(a, w)| w - a).collect();
        assert!(cancel(&a, &b));
        assert!(!cancel(&a, &w));
        assert!(!cancel(&a, &a.iter().map(|a| -a).collect::<Vec<_>>()), "nothing is left");
    }
}
