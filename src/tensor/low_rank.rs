//! A matrix with a low-rank change added, which no file holds: `W + s·B·A`, and for DoRA each out feature brought to
//! a stated length.
//!
//! A changed tensor is one tensor with the role of the one that it changes. Reading it is the checkpoint's work; nothing
//! here touches a file.

use std::sync::Arc;

use super::{DType, Extent, Storage, TensorMeta};

/// A tensor and what is added to it. Out features are the axis of `B`, in features that of `A`; a bias has the former only.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// The tensor that is changed, as its own file has it.
    pub base: TensorMeta,
    /// Out features × rank.
    pub b: TensorMeta,
    /// Rank × in features. Of a bias `None`: its one in feature is 1.
    pub a: Option<TensorMeta>,
    /// Which out features of `B` the tensor has, as runs (first, count) one after the other; `None` for all in order.
    pub runs: Option<Arc<[(u64, u64)]>>,
    /// Whether the tensor's rows are its in features.
    pub transposed: bool,
    /// The finite factor `s`.
    pub scale: f32,
    /// The lengths of DoRA.
    pub magnitude: Option<Magnitude>,
}

/// How long each out feature of a changed matrix is made, in the order of `B`.
#[derive(Debug, Clone, PartialEq)]
pub enum Magnitude {
    /// The stated lengths; how long the out features are is found from their values, which lie in rows.
    Lengths(TensorMeta),
    /// The stated lengths, and how long the out features are.
    Known(TensorMeta, Arc<[f32]>),
}

impl Magnitude {
    /// The vector of stated lengths.
    pub fn stated(&self) -> &TensorMeta {
        match self {
            Self::Lengths(stated) | Self::Known(stated, _) => stated,
        }
    }
}

// The scale is finite, and lengths are compared as they were computed.
impl Eq for LowRank {}

impl LowRank {
    /// The rank of the change; of a bias 1.
    pub fn rank(&self) -> u64 {
        self.a.as_ref().map_or(1, |a| a.matrix().0)
    }

    /// The element type of the result: that of the base where it is a plain float, as a merged file would have it;
    /// otherwise `F32`.
    pub fn dtype(&self) -> DType {
        match self.base.dtype {
            DType::F16 | DType::BF16 => self.base.dtype.clone(),
            _ => DType::F32,
        }
    }

    /// The tensor that readers see.
    pub fn tensor(self) -> TensorMeta {
        let dtype = self.dtype();
        TensorMeta { dtype, ..self.base.clone() }.with(Storage::LowRank(Arc::new(self)))
    }

    /// The same change of a part of the base: the out features in `runs`, with the base's rows and columns exchanged if
    /// `transposes`. `None` where the part does not have whole out features.
    pub(crate) fn part(&self, base: TensorMeta, runs: &[(u64, u64)], transposes: bool) -> Option<TensorMeta> {
        let is_bias = self.a.is_none();
        if is_bias && transposes || !is_bias && self.transposed != transposes {
            return None;
        }
        let count = |runs: &[(u64, u64)]| runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.1));
        let out_features = count(self.runs.as_deref().unwrap_or(&[(0, self.b.matrix().0)]));
        let fits = runs.iter().all(|&(first, count)| first.checked_add(count).is_some_and(|end| end <= out_features));
        let all = runs == [(0, out_features)];
        if !fits || !all && self.runs.is_some() {
            return None;
        }
        let runs = if all { self.runs.clone() } else { Some(runs.into()) };
        Some(Self { base, runs, transposed: is_bias, ..self.clone() }.tensor())
    }

    /// The out features of `B` that the tensor's own from `first` on are, as runs.
    pub(crate) fn own_out_features(&self, first: u64, count: u64) -> Vec<(u64, u64)> {
        let Some(runs) = &self.runs else { return vec![(first, count)] };
        let (mut at, end, mut found) = (0, first + count, Vec::new());
        for &(from, len) in runs.iter() {
            let (low, high) = (first.max(at), end.min(at + len));
            if low < high {
                found.push((from + low - at, high - low));
            }
            at += len;
        }
        found
    }

    /// The bytes of the parts, in the order in which the stored digest takes them: base, `B`, `A`, lengths.
    pub fn extents(&self) -> Vec<Extent> {
        let factors = [Some(&self.b), self.a.as_ref(), self.magnitude.as_ref().map(Magnitude::stated)];
        let parts = std::iter::once(&self.base).chain(factors.into_iter().flatten());
        parts.flat_map(TensorMeta::extents).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(shape: &[u64]) -> TensorMeta {
        let len = 4 * shape.iter().product::<u64>();
        let storage = Storage::Plain(Extent { shard: 0, offset: 0, len });
        TensorMeta { name: "w".to_owned(), dtype: DType::F32, shape: shape.to_vec(), storage }
    }

    fn change(transposed: bool) -> LowRank {
        let shape = if transposed { [4, 10] } else { [10, 4] };
        let (b, a) = (plain(&[10, 2]), Some(plain(&[2, 4])));
        LowRank { base: plain(&shape), b, a, runs: None, transposed, scale: 1.0, magnitude: None }
    }

    fn seen(tensor: TensorMeta) -> LowRank {
        let Storage::LowRank(change) = tensor.storage else { panic!("changed") };
        LowRank::clone(&change)
    }

    #[test]
    fn parts_keep_the_out_features_that_they_have() {
        for transposed in [false, true] {
            let part = seen(change(transposed).part(plain(&[5, 4]), &[(1, 2), (6, 3)], transposed).unwrap());
            assert!(!part.transposed);
            assert_eq!(part.own_out_features(0, 5), [(1, 2), (6, 3)]);
            assert_eq!(part.own_out_features(1, 2), [(2, 1), (6, 1)]);
            assert_eq!(part.own_out_features(3, 2), [(7, 2)]);
            let whole = seen(part.part(plain(&[5, 4]), &[(0, 5)], false).unwrap());
            assert_eq!(whole.own_out_features(0, 5), [(1, 2), (6, 3)]);
        }
    }

    #[test]
    fn parts_that_cut_out_features_or_leave_the_tensor_are_none() {
        assert_eq!(change(true).part(plain(&[4, 4]), &[(0, 4)], false), None);
        assert_eq!(change(false).part(plain(&[10, 4]), &[(0, 10)], true), None);
        assert_eq!(change(false).part(plain(&[4, 4]), &[(8, 4)], false), None);
        assert_eq!(change(false).part(plain(&[4, 4]), &[(u64::MAX, 4)], false), None);
    }
}
