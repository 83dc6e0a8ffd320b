//! Running statistics of one tensor, fed with consecutive runs of values and never with the whole tensor.
//!
//! Sums go to `f64` in an order that depends on the shape alone, so results are the same bits on every machine with
//! IEEE arithmetic and for every number of threads.

use half::f16;
use half::slice::HalfFloatSliceExt;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::SKETCH_ROWS;
use super::content::{Runs, TensorKeys};
use super::kernel::{self, Sums};

/// Moments and extrema over the finite values of a tensor, and counts of the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Number of finite values.
    pub finite: u64,
    /// Number of exact zeros, of either sign.
    pub zeros: u64,
    /// Number of NaN values.
    pub nan: u64,
    /// Number of infinite values.
    pub infinite: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation (population).
    pub std: f64,
    /// Third standardised moment; 0 where the standard deviation is 0.
    pub skewness: f64,
    /// Fourth standardised moment minus 3; 0 where the standard deviation is 0.
    pub excess_kurtosis: f64,
    /// Root of the mean square.
    pub rms: f64,
    /// Smallest finite value; 0 where there is none.
    pub min: f64,
    /// Largest finite value; 0 where there is none.
    pub max: f64,
}

impl Summary {
    /// Whether every finite value is the same, so that agreement with another tensor would mean nothing.
    pub fn is_constant(&self) -> bool {
        self.finite == 0 || self.min == self.max
    }

    /// Share of values that are NaN or infinite; 0 for an empty tensor.
    pub fn nonfinite_share(&self) -> f64 {
        let bad = self.nan + self.infinite;
        if bad == 0 { 0.0 } else { bad as f64 / (bad + self.finite) as f64 }
    }
}

/// Power sums, extrema and counts.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    sums: [f64; 4],
    min: f32,
    max: f32,
    finite: u64,
    zeros: u64,
    nan: u64,
    infinite: u64,
}

impl Moments {
    pub(crate) fn new() -> Self {
        Self { sums: [0.0; 4], min: f32::INFINITY, max: f32::NEG_INFINITY, finite: 0, zeros: 0, nan: 0, infinite: 0 }
    }

    /// Counts NaN and infinities among `values` and puts zeros in their place, so that no sum is poisoned. Returns how
    /// many there were.
    pub(crate) fn mask(&mut self, values: &mut [f32]) -> u64 {
        if kernel::largest_bits(values) < f32::INFINITY.to_bits() {
            return 0;
        }
        let mut masked = 0;
        for value in values.iter_mut().filter(|v| !v.is_finite()) {
            if value.is_nan() {
                self.nan += 1;
            } else {
                self.infinite += 1;
            }
            masked += 1;
            *value = 0.0;
        }
        masked
    }

    /// Takes the sums over a run of finite values, of which `masked` are placeholders that [`Moments::mask`] put there.
    ///
    /// Every sum is of `f64` terms that are exact for Σx and Σx² and rounded once or twice for the others, in lanes and
    /// then run by run: its relative error is below `(n/8 + 10) 2⁻⁵³` of the sum of magnitudes for runs of `n` values,
    /// 10⁻¹² for a chunk, and grows by 2⁻⁵³ a run.
    pub(crate) fn add(&mut self, values: &[f32], masked: u64, sums: &Sums) {
        self.sums.iter_mut().zip(sums.powers).for_each(|(total, sum)| *total += sum);
        self.zeros += sums.zeros - masked;
        self.finite += values.len() as u64 - masked;
        let (mut min, mut max) = (sums.min, sums.max);
        if masked > 0 && sums.zeros == masked {
            // Every zero stands for a value that is not finite.
            let real = || values.iter().copied().filter(|&value| value != 0.0);
            (min, max) = (real().fold(f32::INFINITY, f32::min), real().fold(f32::NEG_INFINITY, f32::max));
        }
        self.min = self.min.min(min);
        self.max = self.max.max(max);
    }

    /// Takes what another run of the same tensor came to.
    pub(crate) fn merge(&mut self, next: &Self) {
        self.sums.iter_mut().zip(next.sums).for_each(|(total, sum)| *total += sum);
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        self.finite += next.finite;
        self.zeros += next.zeros;
        self.nan += next.nan;
        self.infinite += next.infinite;
    }

    pub(crate) fn summary(&self) -> Summary {
        let n = (self.finite as f64).max(1.0);
        let [m1, m2, m3, m4] = self.sums.map(|sum| sum / n);
        let variance = (m2 - m1 * m1).max(0.0);
        let std = variance.sqrt();
        // Below this, the difference of power sums is rounding noise.
        let degenerate = variance <= 1e-13 * m2;
        let central3 = m3 - 3.0 * m1 * m2 + 2.0 * m1.powi(3);
        let central4 = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1.powi(4);
        let none = self.finite == 0;
        Summary {
            finite: self.finite,
            zeros: self.zeros,
            nan: self.nan,
            infinite: self.infinite,
            mean: m1,
            std: if degenerate { 0.0 } else { std },
            skewness: if degenerate { 0.0 } else { central3 / (variance * std) },
            excess_kurtosis: if degenerate { 0.0 } else { central4 / (variance * variance) - 3.0 },
            rms: m2.sqrt(),
            min: if none { 0.0 } else { f64::from(self.min) },
            max: if none { 0.0 } else { f64::from(self.max) },
        }
    }
}

/// Sums of squares along rows and columns of a matrix.
#[derive(Debug, Clone)]
pub(crate) struct Energies {
    pub(crate) rows: Vec<f64>,
    pub(crate) cols: Vec<f64>,
}

impl Energies {
    pub(crate) fn new(rows: usize, cols: usize) -> Self {
        Self { rows: vec![0.0; rows], cols: vec![0.0; cols] }
    }

    /// Adds the energies of rows that begin at row `first` of these, and of all columns.
    pub(crate) fn merge(&mut self, first: usize, next: &Self) {
        self.rows.resize(self.rows.len().max(first + next.rows.len()), 0.0);
        self.rows[first..].iter_mut().zip(&next.rows).for_each(|(sum, energy)| *sum += energy);
        self.cols.iter_mut().zip(&next.cols).for_each(|(sum, energy)| *sum += energy);
    }
}

/// [`TensorDigests`] in the making.
pub(crate) struct Digests {
    stored: Sha256,
    planes: Option<Planes>,
    exact: bool,
    bf16: Xxh3,
    f16: Xxh3,
    halves: [Vec<u16>; 2],
    f16_block: Vec<f16>,
    runs: Option<Runs>,
}

/// The widened values split into their upper and lower halves.
///
/// The upper halves of widened `bf16` values are the stored bytes, so its digest over values costs nothing extra.
struct Planes {
    high: Sha256,
    low: Sha256,
    /// Every bit that was set in some lower half.
    low_bits: u16,
}

/// Digests of a tensor's bytes and of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorDigests {
    /// SHA-256 of the stored bytes.
    pub stored: [u8; 32],
    /// SHA-256 over the values widened to `f32`; `None` where widening loses something.
    ///
    /// `SHA-256("weightprint values 1" ‖ SHA-256(upper 16-bit halves) ‖ L)`, where `L` is 32 zero bytes if every lower
    /// half is zero and their SHA-256 otherwise; halves are little-endian, in element order.
    pub values: Option<[u8; 32]>,
    /// XXH3-128 of the values rounded to `bf16` (nearest, ties to even).
    pub as_bf16: u128,
    /// XXH3-128 of the values rounded to `f16` (nearest, ties to even; overflow to infinity).
    pub as_f16: u128,
}

impl Digests {
    /// `stored_is_high_plane`: the stored bytes are the upper halves of the widened values (`bf16`).
    pub(crate) fn new(stored_is_high_plane: bool) -> Self {
        let planes = (!stored_is_high_plane).then(|| Planes { high: Sha256::new(), low: Sha256::new(), low_bits: 0 });
        let (bf16, f16) = (Xxh3::new(), Xxh3::new());
        let (halves, f16_block) = Default::default();
        Self { stored: Sha256::new(), planes, exact: true, bf16, f16, halves, f16_block, runs: None }
    }

    /// The same, with keys of the runs of values.
    pub(crate) fn with_runs(self, runs: Option<Runs>) -> Self {
        Self { runs, ..self }
    }

    /// Takes runs alone of values that lie like this in the file, while the tensor has them in another order.
    pub(crate) fn add_stored_runs(&mut self, values: &[f32]) {
        if let Some(runs) = &mut self.runs {
            let [upper, _] = &mut self.halves;
            upper.resize(values.len(), 0);
            kernel::to_bf16(values, upper);
            runs.add(upper);
            runs.break_off();
        }
    }

    /// Takes the stored bytes alone, where they cannot be decoded.
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        self.stored.update(bytes);
    }

    /// Takes a run of values; `exact` says that widening lost nothing, `stored` what they were decoded from.
    pub(crate) fn add_values(&mut self, values: &[f32], exact: bool, stored: Option<&[u8]>) {
        self.exact &= exact;
        let [upper, lower] = &mut self.halves;
        upper.resize(values.len(), 0);
        if let Some(planes) = &mut self.planes {
            lower.resize(values.len(), 0);
            planes.low_bits |= kernel::halves(values, upper, lower);
            planes.high.update(little_endian(upper));
            planes.low.update(little_endian(lower));
        }
        // Rounding changes no `bf16` but a signalling NaN.
        let is_rounded = self.planes.is_none() && kernel::largest_bits(values) <= f32::INFINITY.to_bits();
        let stored = stored.filter(|_| is_rounded);
        match stored {
            Some(stored) => {
                self.bf16.update(stored);
                let halves = upper.iter_mut().zip(stored.as_chunks::<2>().0);
                halves.for_each(|(half, stored)| *half = u16::from_le_bytes(*stored));
            }
            None => kernel::to_bf16(values, upper),
        }
        if let Some(runs) = &mut self.runs {
            runs.add(upper);
        }
        if stored.is_none() {
            self.bf16.update(little_endian(upper));
        }
        self.f16_block.resize(values.len(), f16::ZERO);
        self.f16_block.convert_from_f32_slice(values);
        self.f16.update(little_endian(self.f16_block.reinterpret_cast_mut()));
    }

    /// The digests, and the keys of runs where they were asked for.
    pub(crate) fn finish(self) -> (TensorDigests, TensorKeys) {
        let keys = self.runs.map(Runs::finish).unwrap_or_default();
        let stored: [u8; 32] = self.stored.finalize().into();
        let (high, low) = match self.planes {
            Some(planes) if planes.low_bits == 0 => (planes.high.finalize().into(), [0; 32]),
            Some(planes) => (planes.high.finalize().into(), planes.low.finalize().into()),
            None => (stored, [0; 32]),
        };
        let values = self.exact.then(|| {
            let mut all = Sha256::new();
            all.update(b"weightprint values 1");
            all.update(high);
            all.update(low);
            all.finalize().into()
        });
        (TensorDigests { stored, values, as_bf16: self.bf16.digest128(), as_f16: self.f16.digest128() }, keys)
    }
}

/// The bytes of 16-bit values, the low one first.
fn little_endian(values: &mut [u16]) -> &[u8] {
    if cfg!(target_endian = "big") {
        values.iter_mut().for_each(|value| *value = value.to_le());
    }
    bytemuck::cast_slice(values)
}

/// A row as a sketch keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// XXH3-64 of the row's values widened to `f32`: decides which rows a sketch keeps.
    pub order: u64,
    /// First eight bytes, big-endian, of the SHA-256 of the same: decides equality.
    pub id: u64,
}

/// The rows of a matrix with the smallest keys (a bottom-k sketch: Broder, *On the resemblance and containment of
/// documents*, 1997): two sketches tell what share of rows two matrices have in common, in whatever order they are.
///
/// Rows with few distinct values are left out, because equal padding is no evidence of anything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sketch {
    kept: std::collections::BTreeSet<RowKey>,
}

/// A row with fewer distinct values than this could recur by accident.
const MIN_DISTINCT: usize = 12;

impl Sketch {
    pub(crate) fn add(&mut self, row: &[f32]) {
        let bytes: &[u8] = bytemuck::cast_slice(row);
        let order = xxh3_64(bytes);
        let full = self.kept.len() >= SKETCH_ROWS;
        if full && self.kept.last().is_some_and(|last| order >= last.order) || distinct(row) < MIN_DISTINCT {
            return;
        }
        let digest = Sha256::digest(bytes);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        self.kept.insert(RowKey { order, id: u64::from_be_bytes(id) });
        if self.kept.len() > SKETCH_ROWS {
            self.kept.pop_last();
        }
    }

    /// Takes the rows of another sketch.
    pub(crate) fn merge(&mut self, next: Self) {
        self.kept.extend(next.kept);
        while self.kept.len() > SKETCH_ROWS {
            self.kept.pop_last();
        }
    }

    pub(crate) fn finish(self) -> Vec<RowKey> {
        self.kept.into_iter().collect()
    }
}

/// Number of distinct values, counted no further than [`MIN_DISTINCT`].
fn distinct(row: &[f32]) -> usize {
    let mut seen = [0u32; MIN_DISTINCT];
    let mut count = 0;
    for bits in row.iter().map(|v| v.to_bits()) {
        if !seen[..count].contains(&bits) {
            seen[count] = bits;
            count += 1;
            if count == MIN_DISTINCT {
                break;
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn summarise(values: &[f32]) -> Summary {
        let mut values = values.to_vec();
        let mut moments = Moments::new();
        for run in values.chunks_mut(13) {
            let masked = moments.mask(run);
            moments.add(run, masked, &kernel::sums(run, 0, &mut [], &mut []));
        }
        moments.summary()
    }

    #[test]
    fn moments_match_scipy() {
        // x = numpy.arange(1, 41, dtype=numpy.float32) ** 1.5 / 10 (f32); x.mean(), x.std(), scipy.stats.skew(x),
        // scipy.stats.kurtosis(x), all in float64.
        let values: Vec<f32> = (1..=40).map(|i: i32| (f64::from(i).powf(1.5) / 10.0) as f32).collect();
        let s = summarise(&values);
        for (ours, scipy) in [
            (s.mean, 10.437_429_030_425_847),
            (s.std, 7.691_558_747_818_854_5),
            (s.skewness, 0.352_684_541_383_601_45),
            (s.excess_kurtosis, -1.135_708_896_336_488_7),
        ] {
            assert!((ours - scipy).abs() < 1e-9 * scipy.abs(), "{ours} {scipy}");
        }
        assert_eq!((s.finite, s.zeros, s.min), (40, 0, f64::from(0.1f32)));
    }

    #[test]
    fn nan_and_infinity_are_counted_and_kept_out_of_the_sums() {
        let s = summarise(&[1.0, f32::NAN, 3.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!((s.finite, s.nan, s.infinite, s.zeros), (2, 1, 2, 0));
        assert_eq!((s.mean, s.min, s.max), (2.0, 1.0, 3.0));
        let all_bad = summarise(&[f32::NAN; 20]);
        assert!(all_bad.is_constant() && all_bad.nonfinite_share() == 1.0 && all_bad.mean == 0.0);
    }

    #[test]
    fn a_real_zero_beside_a_nan_counts_in_the_range() {
        let s = summarise(&[0.0, f32::NAN, 2.0]);
        assert_eq!((s.min, s.max, s.zeros), (0.0, 2.0, 1));
    }

    fn digests(values: &[f32], bf16_storage: bool) -> TensorDigests {
        let mut digests = Digests::new(bf16_storage);
        for run in values.chunks(7) {
            let bytes: Vec<u8> = if bf16_storage {
                run.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
            } else {
                run.iter().flat_map(|v| v.to_le_bytes()).collect()
            };
            digests.add_bytes(&bytes);
            digests.add_values(run, true, bf16_storage.then_some(&bytes));
        }
        digests.finish().0
    }

    #[test]
    fn values_digest_does_not_depend_on_the_stored_type() {
        let values: Vec<f32> = (0..100).map(|i| bf16::from_f32(i as f32 * 0.37 - 9.0).to_f32()).collect();
        let (narrow, wide) = (digests(&values, true), digests(&values, false));
        assert_ne!(narrow.stored, wide.stored);
        assert_eq!(narrow.values, wide.values);
        assert_eq!((narrow.as_bf16, narrow.as_f16), (wide.as_bf16, wide.as_f16));
        let mut changed = values.clone();
        changed[50] = f32::from_bits(changed[50].to_bits() ^ 1);
        let changed = digests(&changed, false);
        assert_ne!(changed.values, wide.values);
        assert_eq!(changed.as_bf16, wide.as_bf16, "a change below half a step of bf16 is within its grid");
    }

    #[test]
    fn sketches_of_the_same_rows_agree_in_any_order_and_ignore_padding() {
        let row = |i: usize| -> Vec<f32> { (0..64).map(|j| ((i * 64 + j) as f32).sin()).collect() };
        let (mut forward, mut backward) = (Sketch::default(), Sketch::default());
        for i in 0..300 {
            forward.add(&row(i));
            backward.add(&row(299 - i));
            backward.add(&[0.0; 64]);
        }
        let (forward, backward) = (forward.finish(), backward.finish());
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), SKETCH_ROWS);
    }
}
