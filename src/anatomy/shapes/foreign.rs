//! Another tower beside the model, told by shape and order: a run of matrices that have no place in the block, with the
//! vectors among them.
//!
//! A vector's length alone does not say whose it is: a vision tower's hidden units may be as many as the language model
//! has channels. Files are written module by module, so that matrices of two towers seldom take turns. Where they do,
//! order says nothing, and every vector is taken for the model's.

use std::collections::HashSet;

use super::Architecture;
use super::census::weights;
use crate::model::blueprint::blueprint;
use crate::tensor::TensorMeta;

/// How many matrices without a place a run has at least, on average, for order to mean anything: two layers' of a tower.
/// What the model's own layers have beside a usual block, as a layer of another kind among them has, is fewer.
const SHORTEST_RUN: usize = 12;

/// For each tensor, whether it lies in a run of matrices without a place in `a`.
pub(super) fn tensors(tensors: &[&TensorMeta], a: &Architecture) -> Vec<bool> {
    let mut foreign = vec![false; tensors.len()];
    if a.layers == 0 {
        return foreign;
    }
    let places: HashSet<Vec<u64>> = blueprint(a).into_iter().map(|slot| slot.shape).collect();
    let is_matrix = |tensor: &&TensorMeta| weights(tensor) && tensor.shape.len() >= 2;
    let is_placed = |tensor: &TensorMeta| places.contains(&tensor.shape);
    let matrices: Vec<usize> = (0..tensors.len()).filter(|&i| is_matrix(&tensors[i])).collect();
    let runs: Vec<&[usize]> = matrices
        .chunk_by(|&i, &j| is_placed(tensors[i]) == is_placed(tensors[j]))
        .filter(|run| run.first().is_some_and(|&i| !is_placed(tensors[i])))
        .collect();
    let without_place: usize = runs.iter().map(|run| run.len()).sum();
    if without_place < SHORTEST_RUN * runs.len() {
        return foreign;
    }
    for run in runs.into_iter().filter(|run| run.len() >= SHORTEST_RUN) {
        if let [first, .., last] = *run {
            let (first, last) = with_vectors(tensors, first, last, a.hidden_size);
            foreign[first..=last].fill(true);
        }
    }
    foreign
}

/// A run with the vectors before and behind it that are as long as some within it, and not as long as the model's stream
/// is wide.
fn with_vectors(tensors: &[&TensorMeta], first: usize, last: usize, width: u64) -> (usize, usize) {
    let within: HashSet<u64> = tensors[first..=last].iter().flat_map(|tensor| tensor.shape.last().copied()).collect();
    let belongs = |tensor: &&&TensorMeta| matches!(tensor.shape[..], [n] if n != width && within.contains(&n));
    let before = tensors[..first].iter().rev().take_while(belongs).count();
    let behind = tensors[last + 1..].iter().take_while(belongs).count();
    (first - before, last + behind)
}
