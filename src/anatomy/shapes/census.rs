//! How many tensors there are of each shape.

use std::collections::BTreeMap;

use crate::tensor::{DType, TensorMeta};

/// Counts of shapes, by rank.
#[derive(Debug, Default)]
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
            let weights =
                tensor.dtype.is_float() || matches!(tensor.dtype, DType::I8 | DType::Strided(_) | DType::Other(_));
            if !weights || tensor.shape.contains(&0) {
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

    /// The residual stream's width: the size that most matrices have; then the one that most vectors have; then the
    /// smaller.
    pub(in crate::anatomy) fn width(&self) -> Option<u64> {
        let mut matrices: BTreeMap<u64, usize> = BTreeMap::new();
        let flat = self.stacks.iter().map(|(&(_, rows, columns), &n)| ((rows, columns), n));
        for ((rows, columns), n) in self.matrices.iter().map(|(&shape, &n)| (shape, n)).chain(flat) {
            *matrices.entry(rows).or_default() += n;
            if columns != rows {
                *matrices.entry(columns).or_default() += n;
            }
        }
        let vectors = |size: &u64| self.vectors.get(size).copied().unwrap_or(0);
        matrices
            .iter()
            .filter(|(size, _)| **size > 1)
            .max_by(|(a, m), (b, n)| m.cmp(n).then_with(|| vectors(a).cmp(&vectors(b))).then_with(|| b.cmp(a)))
            .map(|(&size, _)| size)
    }
}
