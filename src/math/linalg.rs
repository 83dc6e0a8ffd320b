//! The one door to linear algebra: products of row-major `f32` matrices, in `f32`.
//!
//! No other file names a crate of linear algebra. faer takes products on the processor, one thread each, because callers
//! run many side by side; candle-core takes them on a [`Device`] of its own, where one is [chosen](choose). The functions
//! are the same, so is the result but for the order in which its terms are added up. Small products stay on the
//! processor: the way to a device and back takes longer than they do.

use std::sync::OnceLock;

use candle_core::Tensor;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::error::{Error, Result};

/// Where products are taken.
#[derive(Debug)]
pub struct Device {
    backend: Backend,
    name: &'static str,
    /// Products of fewer multiplications are taken by faer.
    least: usize,
    trouble: OnceLock<String>,
}

#[derive(Debug)]
enum Backend {
    Faer,
    Candle(candle_core::Device),
}

/// Multiplications that are worth the way to a GPU. An estimate: so many take a thread half a millisecond, a copy of
/// their operands there and back and the start of a kernel a good part of that.
const WORTH_THE_WAY: usize = 1 << 24;

impl Device {
    /// The processor, by faer.
    pub const fn cpu() -> Self {
        Self { backend: Backend::Faer, name: "cpu", least: 0, trouble: OnceLock::new() }
    }

    /// The processor, by candle: slower than [`Device::cpu`], but the way that products take to a GPU, on any machine.
    /// Takes small products too.
    pub const fn candle_cpu() -> Self {
        Self::candle(candle_core::Device::Cpu, "candle-cpu", 0)
    }

    /// The first NVIDIA GPU.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if the crate was built without its feature `cuda`, or there is no
    /// such GPU.
    pub fn cuda() -> Result<Self> {
        Self::gpu("cuda", candle_core::utils::cuda_is_available(), candle_core::Device::new_cuda)
    }

    /// The first GPU that speaks Apple's Metal.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if the crate was built without its feature `metal`, or there is no
    /// such GPU.
    pub fn metal() -> Result<Self> {
        Self::gpu("metal", candle_core::utils::metal_is_available(), candle_core::Device::new_metal)
    }

    /// A GPU if the crate was built for one and it opens, otherwise the processor.
    pub fn auto() -> Self {
        Self::cuda().or_else(|_| Self::metal()).unwrap_or_else(|_| Self::cpu())
    }

    const fn candle(device: candle_core::Device, name: &'static str, least: usize) -> Self {
        Self { backend: Backend::Candle(device), name, least, trouble: OnceLock::new() }
    }

    /// `built_in` tells a GPU that is not there from one that no machine could open with this build.
    fn gpu(
        name: &'static str,
        built_in: bool,
        open: impl Fn(usize) -> candle_core::Result<candle_core::Device>,
    ) -> Result<Self> {
        if !built_in {
            return Err(Error::usage(format!("this build has no {name}: it was made without the feature `{name}`")));
        }
        let device = open(0).map_err(|error| Error::usage(format!("cannot open a {name} device: {error}")))?;
        Ok(Self::candle(device, name, WORTH_THE_WAY))
    }

    /// `cpu`, `candle-cpu`, `cuda` or `metal`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What went wrong, if the device failed at a product. That product and all that follow are the processor's.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// As the function of this name, on this device.
    #[doc(hidden)]
    pub fn by_rows(&self, left: &[f32], right: &[f32], width: usize, out: &mut Vec<f32>) {
        let (left, right) = (Matrix::of_width(left, width), Matrix::of_width(right, width));
        out.resize(left.rows * right.rows, 0.0);
        self.multiply(left, right.transposed(), Update::Replace, out);
    }

    /// As the function of this name, on this device.
    #[doc(hidden)]
    pub fn append(&self, block: &[f32], inner: usize, weights: &[f32], out: &mut Vec<f32>) {
        let (block, start) = (Matrix::of_width(block, inner), out.len());
        let width = weights.len().checked_div(inner).unwrap_or(0);
        let weights = Matrix { values: weights, rows: inner, cols: width, turned: false };
        out.resize(start + block.rows * weights.cols, 0.0);
        self.multiply(block, weights, Update::Replace, &mut out[start..]);
    }

    /// As the function of this name, on this device.
    #[doc(hidden)]
    pub fn add_transposed(&self, block: &[f32], cols: usize, weights: &[f32], out: &mut [f32]) {
        let block = Matrix::of_width(block, cols);
        let weights = Matrix { values: weights, rows: block.rows, cols: out.len() / cols.max(1), turned: false };
        self.multiply(block.transposed(), weights, Update::Add, out);
    }

    /// `out` is row-major, of `left.rows` times `right.cols` values.
    fn multiply(&self, left: Matrix<'_>, right: Matrix<'_>, update: Update, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let multiplications = left.rows.saturating_mul(left.cols).saturating_mul(right.cols);
        if let Backend::Candle(device) = &self.backend
            && multiplications >= self.least.max(1)
            && self.trouble.get().is_none()
        {
            match by_candle(device, left, right) {
                Ok(product) => return update.write(&product, out),
                // Threads may fail side by side; the first one's reason stands for all.
                Err(error) => drop(self.trouble.set(error.to_string())),
            }
        }
        by_faer(left, right, update, out);
    }
}

/// Rows and columns of values that are stored row after row, or, if `turned`, column after column.
#[derive(Debug, Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    turned: bool,
}

impl<'a> Matrix<'a> {
    /// As many rows of so many values as there are.
    fn of_width(values: &'a [f32], cols: usize) -> Self {
        Self { values, rows: values.len().checked_div(cols).unwrap_or(0), cols, turned: false }
    }

    fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, turned: !self.turned, ..self }
    }

    fn view(self) -> MatRef<'a, f32> {
        let (rows, cols) = self.stored();
        let stored = MatRef::from_row_major_slice(self.values, rows, cols);
        if self.turned { stored.transpose() } else { stored }
    }

    /// Rows and columns as they are stored.
    fn stored(self) -> (usize, usize) {
        if self.turned { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }
}

/// What becomes of the values that are there.
#[derive(Debug, Clone, Copy)]
enum Update {
    Replace,
    Add,
}

impl Update {
    fn write(self, product: &[f32], out: &mut [f32]) {
        match self {
            Self::Replace => out.copy_from_slice(product),
            Self::Add => out.iter_mut().zip(product).for_each(|(sum, value)| *sum += value),
        }
    }
}

fn by_faer(left: Matrix<'_>, right: Matrix<'_>, update: Update, out: &mut [f32]) {
    let accum = match update {
        Update::Replace => Accum::Replace,
        Update::Add => Accum::Add,
    };
    let out = MatMut::from_row_major_slice_mut(out, left.rows, right.cols);
    matmul(out, accum, left.view(), right.view(), 1.0, Par::Seq);
}

fn by_candle(device: &candle_core::Device, left: Matrix<'_>, right: Matrix<'_>) -> candle_core::Result<Vec<f32>> {
    let tensor = |matrix: Matrix<'_>| {
        let stored = Tensor::from_slice(matrix.values, matrix.stored(), device)?;
        if matrix.turned { stored.t() } else { Ok(stored) }
    };
    tensor(left)?.matmul(&tensor(right)?)?.flatten_all()?.to_vec1()
}

static CHOSEN: OnceLock<Device> = OnceLock::new();

/// Has the products of this process taken on a device from now on.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) once a device was chosen, or a product was taken on the one that is
/// there by default: results of one process do not come from two devices.
pub fn choose(device: Device) -> Result<()> {
    let name = device.name;
    CHOSEN
        .set(device)
        .map_err(|_| Error::usage(format!("cannot change over to {name}: products were taken on another device")))
}

/// The device that was chosen; otherwise the processor.
pub fn device() -> &'static Device {
    CHOSEN.get_or_init(Device::cpu)
}

/// Inner products of each row of `left` with each row of `right`, rows of `width` values; `out` becomes as large as the
/// table (rows of `left` × rows of `right`) and holds nothing else.
pub fn by_rows(left: &[f32], right: &[f32], width: usize, out: &mut Vec<f32>) {
    device().by_rows(left, right, width, out);
}

/// Appends `block` (rows × inner) times `weights` (inner × width) to `out`.
pub fn append(block: &[f32], inner: usize, weights: &[f32], out: &mut Vec<f32>) {
    device().append(block, inner, weights, out);
}

/// Adds the transpose of `block` (rows × cols) times as many rows of weights (rows × width) to `out` (cols × width).
pub fn add_transposed(block: &[f32], cols: usize, weights: &[f32], out: &mut [f32]) {
    device().add_transposed(block, cols, weights, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_by_hand() {
        // [1 2; 3 4] and [5 6; 7 8], whose sums are exact.
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        for device in [Device::cpu(), Device::candle_cpu()] {
            let mut out = vec![9.0; 7];
            device.by_rows(&a, &b, 2, &mut out);
            assert_eq!(out, [17.0, 23.0, 39.0, 53.0]);
            let mut out = vec![1.0];
            device.append(&a, 2, &b, &mut out);
            assert_eq!(out, [1.0, 19.0, 22.0, 43.0, 50.0]);
            let mut out = vec![100.0; 4];
            device.add_transposed(&a, 2, &b, &mut out);
            assert_eq!(out, [126.0, 130.0, 138.0, 144.0]);
            assert_eq!(device.trouble(), None);
        }
    }

    /// Values between -1 and 1.
    fn values(count: usize, seed: u64) -> Vec<f32> {
        let value = |index: usize| xxhash_rust::xxh3::xxh3_64_with_seed(&index.to_le_bytes(), seed) as i64;
        (0..count).map(|index| value(index) as f32 / i64::MAX as f32).collect()
    }

    /// Two orders of adding n products of numbers up to 1 differ by n·2^-23 at most, to first order (Higham, *Accuracy and
    /// Stability of Numerical Algorithms*, section 3.1: n·2^-24 from the true sum, each).
    fn assert_near(found: &[f32], expected: &[f32], inner: usize, what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let most = inner as f32 * f32::EPSILON;
        for (at, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= most, "{what}, {at}: {a} {b}");
        }
    }

    #[test]
    fn candle_and_faer_take_the_same_products() {
        let (faer, candle) = (Device::cpu(), Device::candle_cpu());
        // Rows, inner, columns: no rows, one row, blocks of the pass, tables of the search, and what fits no register.
        let shapes = [
            (0, 5, 3),
            (3, 5, 0),
            (0, 0, 0),
            (1, 1, 1),
            (1, 4096, 256),
            (17, 1, 31),
            (64, 1024, 256),
            (128, 128, 1500),
            (33, 127, 65),
        ];
        for (rows, inner, cols) in shapes {
            let what = format!("{rows} x {inner} x {cols}");
            let (left, right) = (values(rows * inner, 1), values(inner * cols, 2));
            let (mut ours, mut theirs) = (vec![7.0; 9], vec![7.0; 2]);
            faer.by_rows(&left, &right, inner, &mut ours);
            candle.by_rows(&left, &right, inner, &mut theirs);
            assert_eq!(ours.len(), rows * cols);
            assert_near(&theirs, &ours, inner, &what);
            let (mut ours, mut theirs) = (vec![7.0; 2], vec![7.0; 2]);
            faer.append(&left, inner, &right, &mut ours);
            candle.append(&left, inner, &right, &mut theirs);
            assert_near(&theirs, &ours, inner, &what);
            let (block, weights) = (values(inner * rows, 3), values(inner * cols, 4));
            let (mut ours, mut theirs) = (vec![0.5; rows * cols], vec![0.5; rows * cols]);
            faer.add_transposed(&block, rows, &weights, &mut ours);
            candle.add_transposed(&block, rows, &weights, &mut theirs);
            assert_near(&theirs, &ours, inner + 1, &what);
        }
        assert_eq!(candle.trouble(), None);
        let mut sums = [1.0; 6];
        candle.add_transposed(&[], 2, &[], &mut sums);
        faer.add_transposed(&[], 2, &[], &mut sums);
        assert_eq!(sums, [1.0; 6], "nothing to add");
    }

    #[test]
    fn what_is_not_finite_spreads_alike() {
        let mut left = values(4 * 64, 1);
        (left[3], left[64], left[129]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let right = values(8 * 64, 2);
        let table = |device: Device| {
            let mut table = Vec::new();
            device.by_rows(&left, &right, 64, &mut table);
            table
        };
        for (a, b) in table(Device::cpu()).into_iter().zip(table(Device::candle_cpu())) {
            assert!(a.is_nan() && b.is_nan() || a == b || (a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn small_products_and_those_after_a_failure_are_the_processors() {
        let (left, right) = (values(6, 1), values(6, 2));
        let by = |device: &Device| {
            let mut table = Vec::new();
            device.by_rows(&left, &right, 3, &mut table);
            table
        };
        let expected = by(&Device::cpu());
        // Of 2 x 3 and 3 x 2 that is one multiplication too few.
        let distant = Device::candle(candle_core::Device::Cpu, "candle-cpu", 13);
        assert_eq!(by(&distant), expected);
        let failed = Device::candle_cpu();
        failed.trouble.set("out of memory".to_owned()).unwrap();
        assert_eq!(by(&failed), expected);
        assert_eq!(failed.trouble(), Some("out of memory"));
    }

    #[test]
    fn a_gpu_that_the_build_lacks_is_refused_and_auto_is_then_the_processor() {
        for (name, built_in, device) in
            [("cuda", cfg!(feature = "cuda"), Device::cuda()), ("metal", cfg!(feature = "metal"), Device::metal())]
        {
            if !built_in {
                let error = device.unwrap_err();
                assert!(error.kind() == crate::ErrorKind::Usage && error.to_string().contains(name), "{error}");
            }
        }
        if !cfg!(any(feature = "cuda", feature = "metal")) {
            assert_eq!(Device::auto().name(), "cpu");
        }
    }
}
