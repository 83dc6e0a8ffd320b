//! How many tensors there are of each shape.

use std::collections::BTreeMap;

use crate::tensor::{DType, TensorMeta};

/// Widths that are tried. The stream's own is an axis of nearly all parameters; beside it stand the sizes of vocabulary,
/// MLP and experts, and the widths of other towers.
const MOST_WIDTHS: usize = 4;

/// Counts of shapes, by rank.
#[derive(Debug, Clone, Default)]
pub(in crate::anatomy) struct Census {
    pub(in crate::anatomy) matrices: BTreeMap<(u64, u64), usize>,
    pub(in crate::anatomy) vectors: BTreeMap<u64, usize>,
    pub(in crate::anatomy) stacks: BTreeMap<(u64, u64, u64), usize>,
}

impl Census {
    /// Counts the tensors that can hold weights: indices, masks, scalars and empty tensors are left out.
    pub(in crate::anatomy) fn take<'a>(tensors: impl Iterator<Item = &'a TensorMeta>) -> Self {
        let mut census = Self::default();
        for tensor in tensors {
            if !weights(tensor) {
                continue;
            }
            match tensor.shape[..] {
                [n] if n > 1 => *census.vectors.entry(n).or_default() += 1,
                [rows, columns] => *census.matrices.entry((rows, columns)).or_default() += 1,
                [depth, rows, columns] => *census.stacks.entry((depth, rows, columns)).or_default() += 1,
                _ => {}
            }
        }
        census
    }

    /// Sizes that the residual stream may have, those first that most parameters have as an axis; then those that most
    /// vectors have; then the smaller. A few small matrices of another size, however many, change nothing.
    pub(in crate::anatomy) fn widths(&self) -> Vec<(u64, u128)> {
        let mut parameters: BTreeMap<u64, u128> = BTreeMap::new();
        let flat = self.stacks.iter().map(|(&(depth, rows, columns), &n)| ((rows, columns), depth, n));
        for ((rows, columns), depth, n) in self.matrices.iter().map(|(&shape, &n)| (shape, 1, n)).chain(flat) {
            let all = elements(rows, columns).saturating_mul(u128::from(depth)).saturating_mul(n as u128);
            for size in [Some(rows), Some(columns).filter(|columns| *columns != rows)].into_iter().flatten() {
                let sum = parameters.entry(size).or_default();
                *sum = sum.saturating_add(all);
            }
        }
        let vectors = |size: &u64| self.vectors.get(size).copied().unwrap_or(0);
        let mut widths: Vec<(u64, u128)> = parameters.into_iter().filter(|(size, _)| *size > 1).collect();
        widths.sort_unstable_by(|(a, m), (b, n)| {
            n.cmp(m).then_with(|| vectors(b).cmp(&vectors(a))).then_with(|| a.cmp(b))
        });
        widths.truncate(MOST_WIDTHS);
        widths
    }
}

/// Whether a tensor can hold weights.
pub(super) fn weights(tensor: &TensorMeta) -> bool {
    let stored = tensor.dtype.is_float() || matches!(tensor.dtype, DType::I8 | DType::Strided(_) | DType::Other(_));
    stored && !tensor.shape.contains(&0)
}

/// Parameters of a matrix.
pub(super) fn elements(rows: u64, columns: u64) -> u128 {
    u128::from(rows).saturating_mul(u128::from(columns))
}
