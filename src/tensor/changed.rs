//! A matrix with a low-rank change added, which no file holds: `W + s·B·A`, and for DoRA each out brought to a stated
//! length.
//!
//! A changed tensor is one tensor with the role of the one that it changes. Reading it is the checkpoint's work; nothing
//! here touches a file.

use std::sync::Arc;

use super::layout::{Extent, Layout};
use super::{DType, TensorMeta};

/// A tensor and what is added to it. Outs are the axis of `B`, ins that of `A`; a bias has outs only.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The tensor that is changed, as its own file has it.
    pub base: TensorMeta,
    /// `B`, outs × rank.
    pub outs: TensorMeta,
    /// `A`, rank × ins. Of a bias `None`: its one in is 1.
    pub ins: Option<TensorMeta>,
    /// Which outs of `B` the tensor has, as runs (first, count) one after the other; `None` for all in order.
    pub runs: Option<Arc<[(u64, u64)]>>,
    /// Whether the tensor's rows are its ins.
    pub turned: bool,
    /// The finite factor `s`.
    pub scale: f32,
    /// The lengths of DoRA.
    pub magnitude: Option<Magnitude>,
}

/// How long each out of a changed matrix is made, outs in the order of `B`.
#[derive(Debug, Clone, PartialEq)]
pub enum Magnitude {
    /// The stated lengths; how long the outs are is found from their values, which lie in rows.
    Lengths(TensorMeta),
    /// The stated lengths, and how long the outs are.
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
impl Eq for Changed {}

impl Changed {
    /// The rank of the change; of a bias 1.
    pub fn rank(&self) -> u64 {
        self.ins.as_ref().map_or(1, |ins| ins.matrix().0)
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
        TensorMeta { dtype, ..self.base.clone() }.with(Layout::Changed(Arc::new(self)))
    }

    /// The same change of a part of the base: the outs in `runs`, with the base's rows and columns exchanged if `turns`.
    /// `None` where the part does not have whole outs.
    pub(crate) fn part(&self, base: TensorMeta, runs: &[(u64, u64)], turns: bool) -> Option<TensorMeta> {
        let is_bias = self.ins.is_none();
        if is_bias && turns || !is_bias && self.turned != turns {
            return None;
        }
        let count = |runs: &[(u64, u64)]| runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.1));
        let outs = count(self.runs.as_deref().unwrap_or(&[(0, self.outs.matrix().0)]));
        let fits = runs.iter().all(|&(first, count)| first.checked_add(count).is_some_and(|end| end <= outs));
        let all = runs == [(0, outs)];
        if !fits || !all && self.runs.is_some() {
            return None;
        }
        let runs = if all { self.runs.clone() } else { Some(runs.into()) };
        Some(Self { base, runs, turned: is_bias, ..self.clone() }.tensor())
    }

    /// The outs of `B` that the tensor's own outs from `first` on are, as runs.
    pub(crate) fn own_outs(&self, first: u64, count: u64) -> Vec<(u64, u64)> {
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
        let factors = [Some(&self.outs), self.ins.as_ref(), self.magnitude.as_ref().map(Magnitude::stated)];
        let parts = std::iter::once(&self.base).chain(factors.into_iter().flatten());
        parts.flat_map(TensorMeta::extents).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(shape: &[u64]) -> TensorMeta {
        let len = 4 * shape.iter().product::<u64>();
        let (name, layout) = ("w".to_owned(), Layout::Plain);
        TensorMeta { name, dtype: DType::F32, shape: shape.to_vec(), shard: 0, offset: 0, len, layout }
    }

    fn changed(turned: bool) -> Changed {
        let shape = if turned { [4, 10] } else { [10, 4] };
        let (outs, ins) = (plain(&[10, 2]), Some(plain(&[2, 4])));
        Changed { base: plain(&shape), outs, ins, runs: None, turned, scale: 1.0, magnitude: None }
    }

    fn seen(tensor: TensorMeta) -> Changed {
        let Layout::Changed(changed) = tensor.layout else { panic!("changed") };
        Changed::clone(&changed)
    }

    #[test]
    fn parts_keep_the_outs_that_they_have() {
        for turned in [false, true] {
            let part = seen(changed(turned).part(plain(&[5, 4]), &[(1, 2), (6, 3)], turned).unwrap());
            assert!(!part.turned);
            assert_eq!(part.own_outs(0, 5), [(1, 2), (6, 3)]);
            assert_eq!(part.own_outs(1, 2), [(2, 1), (6, 1)]);
            assert_eq!(part.own_outs(3, 2), [(7, 2)]);
            let whole = seen(part.part(plain(&[5, 4]), &[(0, 5)], false).unwrap());
            assert_eq!(whole.own_outs(0, 5), [(1, 2), (6, 3)]);
        }
    }

    #[test]
    fn parts_that_cut_outs_or_leave_the_tensor_are_none() {
        assert_eq!(changed(true).part(plain(&[4, 4]), &[(0, 4)], false), None);
        assert_eq!(changed(false).part(plain(&[10, 4]), &[(0, 10)], true), None);
        assert_eq!(changed(false).part(plain(&[4, 4]), &[(8, 4)], false), None);
        assert_eq!(changed(false).part(plain(&[4, 4]), &[(u64::MAX, 4)], false), None);
    }
}
