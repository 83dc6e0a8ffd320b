//! Running statistics of one tensor, fed with consecutive runs of values and never with the whole tensor.
//!
//! Sums go to `f64` in an order that depends on the shape alone, so results are the same bits on every machine with
//! IEEE arithmetic and for every number of threads.

use half::{bf16, f16};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::SKETCH_ROWS;

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

const LANES: usize = 8;

impl Moments {
    pub(crate) fn new() -> Self {
        Self { sums: [0.0; 4], min: f32::INFINITY, max: f32::NEG_INFINITY, finite: 0, zeros: 0, nan: 0, infinite: 0 }
    }

    /// Counts NaN and infinities among `values` and puts zeros in their place, so that no sum is poisoned. Returns how
    /// many there were.
    pub(crate) fn mask(&mut self, values: &mut [f32]) -> u64 {
        let worst = values.iter().fold(0, |worst, v| worst.max(v.to_bits() & 0x7fff_ffff));
        if worst < f32::INFINITY.to_bits() {
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

    /// Takes a run of finite values, of which `masked` are placeholders that [`Moments::mask`] put there.
    pub(crate) fn add(&mut self, values: &[f32], masked: u64) {
        let mut sums = [[0.0f64; LANES]; 4];
        let mut zeros = [0u32; LANES];
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                let x = f64::from(block[lane]);
                let square = x * x;
                sums[0][lane] += x;
                sums[1][lane] += square;
                sums[2][lane] += square * x;
                sums[3][lane] += square * square;
                zeros[lane] += u32::from(block[lane] == 0.0);
            }
        }
        for x in rest.iter().map(|&value| f64::from(value)) {
            let square = x * x;
            for (sum, power) in sums.iter_mut().zip([x, square, square * x, square * square]) {
                sum[0] += power;
            }
            zeros[0] += u32::from(x == 0.0);
        }
        for (total, lanes) in self.sums.iter_mut().zip(&sums) {
            *total += lanes.iter().sum::<f64>();
        }
        let zeros = zeros.iter().map(|&z| u64::from(z)).sum::<u64>();
        self.zeros += zeros - masked;
        self.finite += values.len() as u64 - masked;
        self.widen_range(values, masked > 0 && zeros == masked);
    }

    /// `zeros_are_placeholders`: every zero in the run stands for a value that is not finite.
    fn widen_range(&mut self, values: &[f32], zeros_are_placeholders: bool) {
        let (mut min, mut max) = ([self.min; LANES], [self.max; LANES]);
        let (blocks, rest) = values.as_chunks::<LANES>();
        if zeros_are_placeholders {
            for &value in values.iter().filter(|&&v| v != 0.0) {
                min[0] = min[0].min(value);
                max[0] = max[0].max(value);
            }
        } else {
            for block in blocks {
                for lane in 0..LANES {
                    min[lane] = min[lane].min(block[lane]);
                    max[lane] = max[lane].max(block[lane]);
                }
            }
            for &value in rest {
                min[0] = min[0].min(value);
                max[0] = max[0].max(value);
            }
        }
        self.min = min.into_iter().fold(self.min, f32::min);
        self.max = max.into_iter().fold(self.max, f32::max);
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

    /// Takes `values` of `row`, starting at column `col`.
    pub(crate) fn add(&mut self, row: usize, col: usize, values: &[f32]) {
        let mut lanes = [0.0f64; LANES];
        let cols = &mut self.cols[col..col + values.len()];
        let (values, value_rest) = values.as_chunks::<LANES>();
        let (cols, col_rest) = cols.as_chunks_mut::<LANES>();
        for (values, cols) in values.iter().zip(cols) {
            for lane in 0..LANES {
                let square = f64::from(values[lane]) * f64::from(values[lane]);
                lanes[lane] += square;
                cols[lane] += square;
            }
        }
        for (value, col) in value_rest.iter().zip(col_rest) {
            let square = f64::from(*value) * f64::from(*value);
            lanes[0] += square;
            *col += square;
        }
        self.rows[row] += lanes.iter().sum::<f64>();
    }
}

/// [`TensorDigests`] in the making.
pub(crate) struct Digests {
    stored: Sha256,
    planes: Option<Planes>,
    exact: bool,
    bf16: Xxh3,
    f16: Xxh3,
    scratch: Vec<u8>,
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
        Self { stored: Sha256::new(), planes, exact: true, bf16: Xxh3::new(), f16: Xxh3::new(), scratch: Vec::new() }
    }

    /// Takes the stored bytes alone, where they cannot be decoded.
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        self.stored.update(bytes);
    }

    /// Takes a run of values; `exact` says that widening lost nothing.
    pub(crate) fn add_values(&mut self, values: &[f32], exact: bool) {
        self.exact &= exact;
        if let Some(planes) = &mut self.planes {
            fill(&mut self.scratch, values, |v| (v.to_bits() >> 16) as u16);
            planes.high.update(&self.scratch);
            fill(&mut self.scratch, values, |v| v.to_bits() as u16);
            planes.low.update(&self.scratch);
            planes.low_bits = values.iter().fold(planes.low_bits, |bits, v| bits | v.to_bits() as u16);
        }
        fill(&mut self.scratch, values, |v| bf16::from_f32(v).to_bits());
        self.bf16.update(&self.scratch);
        self.add_f16(values);
    }

    fn add_f16(&mut self, values: &[f32]) {
        use half::slice::HalfFloatSliceExt;
        let mut block = [f16::ZERO; 1024];
        for run in values.chunks(block.len()) {
            let halves = &mut block[..run.len()];
            halves.convert_from_f32_slice(run);
            self.scratch.clear();
            self.scratch.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
            self.f16.update(&self.scratch);
        }
    }

    pub(crate) fn finish(self) -> TensorDigests {
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
        TensorDigests { stored, values, as_bf16: self.bf16.digest128(), as_f16: self.f16.digest128() }
    }
}

/// Little-endian bytes of a 16-bit image of each value.
fn fill(scratch: &mut Vec<u8>, values: &[f32], image: impl Fn(f32) -> u16) {
    scratch.resize(2 * values.len(), 0);
    for (slot, value) in scratch.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *slot = image(*value).to_le_bytes();
    }
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
    use super::*;

    fn summarise(values: &[f32]) -> Summary {
        let mut values = values.to_vec();
        let mut moments = Moments::new();
        for run in values.chunks_mut(13) {
            let masked = moments.mask(run);
            moments.add(run, masked);
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
            digests.add_values(run, true);
        }
        digests.finish()
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
