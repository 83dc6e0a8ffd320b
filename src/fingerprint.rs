//! What is kept of a checkpoint so that it can be compared later without its weights.
//!
//! A fingerprint holds digests, moments, sampled values, energies of rows and columns, row sketches, embedding norms
//! and the channel profile: a few megabytes for a model of any size. It holds no verdict and compares nothing.

mod accumulate;
pub mod anchors;
mod channels;
mod content;
mod describe;
mod file;
mod frame;
mod heads;
mod join;
mod kernel;
pub mod labels;
mod neurons;
mod pass;
mod plan;
mod projection;
mod relay;
mod remarks;
mod sample;
mod schedule;
mod segment;
mod shape;
mod steps;

use std::path::Path;

use half::f16;
use serde::{Deserialize, Serialize};

pub use crate::bytes::spool::Numbers;
pub use accumulate::{RowKey, Summary};
pub use channels::Channels;
pub use content::{ContentKeys, RUN};
pub use frame::{Anchor, DIRECTIONS, FrameKind, FrameRecord, SAMPLED_NEURONS};
pub use heads::{Attention, FORM_NUMBERS, form_places};
pub use neurons::{Matrix, Unit};
pub use pass::Progress;
pub use sample::Sample;
pub use shape::SHAPE_NUMBERS;

use crate::anatomy::Assignment;
use crate::assemble::Subject;
use crate::checkpoint::adapter::Merged;
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::model::Architecture;
use crate::model::naming::lacks_base;
use crate::tensor::DType;
use crate::unread::Unread;

/// Name and version of the file format.
pub const SCHEMA: &str = "weightprint/fingerprint/1";

/// Number of what a pass makes of a checkpoint: raised whenever the same checkpoint and settings give other bytes, so that
/// what an older build kept is not taken for what this one would find. A test beside the cache holds it to the bytes.
pub const FORMAT: u32 = 2;

/// Most row keys that the sketch of one matrix keeps.
pub const SKETCH_ROWS: usize = 64;

/// Rows and columns of the grid of sampled values; a vector keeps their product.
pub const SAMPLE_GRID: (usize, usize) = (32, 64);

/// Most labels whose energy is kept for each axis of a matrix.
pub const ENERGY_LABELS: usize = 1024;

/// Rows or columns beyond this get no energies: no real model has them, and a hostile header could.
const MAX_AXIS: u64 = 1 << 24;

/// Fewest rows of an embedding for its row norms to be kept.
const MIN_VOCABULARY: u64 = 256;

/// The fingerprint of one checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// What is bit-identical on every machine.
    pub exact: Exact,
    /// What comes out of products.
    pub approximate: Approximate,
}

/// The half of a fingerprint that is the same for the same checkpoint on every machine: digests, integer sums, sampled
/// values, and sums whose terms are added in a fixed order. It is what two parties can hold against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Exact {
    /// Where the checkpoint came from and what its headers say.
    pub subject: Origin,
    /// The architecture record.
    pub architecture: Architecture,
    /// One entry for each tensor, in file order.
    pub tensors: Vec<TensorFingerprint>,
    /// The profile of the residual channels.
    pub channels: Channels,
    /// Which short runs of values there are, wherever they lie; `None` in fingerprints of before these were kept.
    pub content: Option<ContentKeys>,
    /// Remarks made while the values were read.
    pub findings: Vec<Finding>,
}

/// The half of a fingerprint that comes out of matrix products, rounded to 8 bits: on another processor or device their
/// terms are added in another order, and a number between two steps may fall on the other one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Approximate {
    /// The frames along which neurons are described.
    pub frames: Vec<FrameRecord>,
    /// For each token frame, the embedding rows that span it, `DIRECTIONS` rows of the hidden size.
    pub anchor_rows: Vec<Vec<i8>>,
    /// The neurons of each MLP or expert.
    pub units: Vec<Unit>,
    /// The heads of each attention.
    pub attentions: Vec<Attention>,
}

/// A file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path relative to the checkpoint's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file, where it is known: only if a published file has the same size, or may be in the same
    /// container where its size was not published, or if an adapter was merged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
}

/// Where a fingerprint came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Identifier as a reference of a catalog, if it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id: Option<String>,
    /// Name under which the checkpoint is reported: its repository if known, otherwise its folder or file name.
    pub name: String,
    /// Container format.
    pub format: String,
    /// Weight files.
    pub files: Vec<FileRecord>,
    /// Number of values in floating-point tensors.
    pub parameters: u64,
    /// Version of the program that took it.
    pub tool_version: String,
    /// SHA-256 of `tokenizer.json`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokenizer_sha256: Option<String>,
    /// What was merged, if it is an adapter seen together with its base.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub merged: Option<Merged>,
    /// What lies in the files and beside them and was not read as part of the model.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unread: Vec<Unread>,
}

/// What is kept of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorFingerprint {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// What the tensor is for.
    pub assignment: Assignment,
    /// Whether the values follow from a formula or are a mask or an index, so that equality says nothing.
    pub formula: bool,
    /// Stored bytes, whatever the shape says.
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes.
    pub stored_sha256: [u8; 32],
    /// Everything that needs the values; `None` where the type is unknown or the tensor is empty.
    pub values: Option<ValueFingerprint>,
}

/// What is kept of a tensor's values.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueFingerprint {
    /// Moments, extrema and counts.
    pub summary: Summary,
    /// SHA-256 over the values widened to `f32` (see [`TensorDigests::values`]).
    pub sha256: Option<[u8; 32]>,
    /// Of a norm gain that is stored less one, the same over the values as they are stored: a copy whose claims are gone
    /// may pass for one of another convention.
    pub less_one_sha256: Option<[u8; 32]>,
    /// XXH3-128 of the values rounded to `bf16` and to `f16`.
    pub rounded: [u128; 2],
    /// Values on the grid of chosen rows and columns, row by row (see [`TensorFingerprint::sample_labels`]).
    pub sample: Sample,
    /// For a type in blocks, and for gains that are stored less one, how far apart the levels are to which each sampled
    /// value was rounded; empty for others, whose values tell it, and for code books, which have no such distance.
    pub steps: Vec<half::bf16>,
    /// RMS of chosen rows relative to the tensor's, so 1 is typical.
    pub row_rms: Vec<f16>,
    /// RMS of chosen columns relative to the tensor's.
    pub col_rms: Vec<f16>,
    /// Sketch of the rows of a matrix.
    pub sketch: Vec<RowKey>,
    /// L2 norm of every row, for embeddings and output heads.
    pub row_norms: Option<Vec<f32>>,
}

impl TensorFingerprint {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The tensor as a matrix: leading dimensions folded into rows.
    pub fn matrix(&self) -> (u64, u64) {
        crate::tensor::matrix(&self.shape)
    }

    /// Labels of the rows and columns of the sampled grid.
    pub fn sample_labels(&self) -> (Vec<u32>, Vec<u32>) {
        let (rows, cols) = self.matrix();
        sample_labels(rows, cols)
    }

    /// Whether agreement with another tensor can say anything: decoded, finite enough, not constant, not a formula.
    pub fn informative(&self) -> Option<&ValueFingerprint> {
        self.values.as_ref().filter(|values| {
            !self.formula
                && !values.summary.is_constant()
                && values.summary.nonfinite_share() <= crate::limits::MAX_NONFINITE_SHARE
        })
    }

    /// Whether the tensor counts among what a scan has to look at: anything but empty tensors and those whose values were
    /// read and say nothing: one value throughout, or a formula. That a name says so is not enough.
    pub fn counts(&self) -> bool {
        let says_nothing = |values: &ValueFingerprint| {
            let summary = &values.summary;
            let one_value = summary.finite > 0 && summary.is_constant() && summary.nonfinite_share() == 0.0;
            one_value || self.formula && remarks::follows_formula(self, values)
        };
        self.weights() > 0 && !self.values.as_ref().is_some_and(says_nothing)
    }

    /// How many weights the tensor may hold: its elements, or two to each byte of what is not known to be weights, which
    /// stands for them only as codes, and codes have four bits as a rule; saturates. Where no byte of it was found, what it
    /// states has to be believed.
    pub fn weights(&self) -> u64 {
        let is_known = self.dtype.is_float() && self.values.is_some();
        if is_known || self.stored_bytes == 0 {
            self.shape.iter().fold(1, |product: u64, &size| product.saturating_mul(size))
        } else {
            self.stored_bytes.saturating_mul(2)
        }
    }
}

impl ValueFingerprint {
    /// The quantile at each of `probabilities`, by linear interpolation in the sorted sample. With 2,048 sampled values
    /// the rank of the true quantile `p` is off by `sqrt(p(1-p)/2048)`, one standard error; tensors of up to 2,048
    /// values are exact.
    pub fn quantiles(&self, probabilities: &[f64]) -> Vec<f32> {
        let mut sorted = self.sample.values().into_owned();
        sorted.sort_unstable_by(f32::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return vec![0.0; probabilities.len()] };
        let at = |p: f64| {
            let place = p.clamp(0.0, 1.0) * last as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract() as f32
        };
        probabilities.iter().map(|&p| at(p)).collect()
    }
}

/// Widest residual stream for which frames are made.
const MAX_HIDDEN: usize = 1 << 17;

/// Layers beyond this have no gains folded in.
const MAX_FRAMED_LAYERS: usize = 1 << 12;

/// How many row and column energies are kept of a matrix of this size.
fn energy_counts(rows: u64, cols: u64) -> (usize, usize) {
    if rows > MAX_AXIS || cols > MAX_AXIS {
        return (0, 0);
    }
    let count = |len: u64| usize::try_from(len).map_or(ENERGY_LABELS, |len| len.min(ENERGY_LABELS));
    (count(rows), count(cols))
}

/// Labels of the rows and columns whose values are sampled from a matrix of this size.
pub(crate) fn sample_labels(rows: u64, cols: u64) -> (Vec<u32>, Vec<u32>) {
    let (grid_rows, grid_cols) = SAMPLE_GRID;
    let wanted_rows = labels::chosen(rows, grid_rows);
    let cols_each = if rows <= 1 { grid_rows * grid_cols } else { grid_cols };
    (wanted_rows, labels::chosen(cols, cols_each))
}

/// Memory for sums unless something else is asked for, in bytes.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// How a fingerprint is taken. Only `descriptors` and `lists` change what comes out.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Anchors of references with which it will be compared: neurons are described along them too.
    pub lists: &'a [Vec<Anchor>],
    /// Whether neurons and heads are described. Without descriptions nothing that was disguised can be found again.
    pub descriptors: bool,
    /// Bytes that the sums of the tensors being read at a time may hold; a tensor that needs more is read alone. Beside
    /// them a pass needs about 10 MB for each thread and what it keeps.
    pub memory: u64,
    /// Folder of temporary files for the descriptors and landmarks of large models; by default the system's.
    pub scratch: Option<&'a Path>,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self { lists: &[], descriptors: true, memory: DEFAULT_MEMORY, scratch: None }
    }
}

impl Fingerprint {
    /// Reads every tensor of the checkpoint in one pass, and beside it what the pass shows to be needed again (see
    /// DESIGN.md, section 4), and takes its fingerprint, in parallel on the current rayon pool.
    ///
    /// The result does not depend on the number of threads.
    ///
    /// # Errors
    /// If a read fails, or if a file changed meanwhile.
    pub fn take(subject: &Subject, settings: &Settings<'_>, progress: Progress<'_>) -> Result<Self> {
        pass::run(subject, settings, progress)
    }

    /// All descriptors that it holds, in one order: of all neurons right after a pass.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &Numbers> {
        self.approximate.units.iter().flat_map(|unit| unit.frames.iter().flatten())
    }

    /// The fingerprint with all neurons' descriptors, as [`Fingerprint::descriptors`] gave them. `None` where there are
    /// too few or too many.
    pub(crate) fn with_descriptors(mut self, numbers: &Numbers) -> Option<Self> {
        let mut at = 0;
        let units = std::mem::take(&mut self.approximate.units);
        let units = units.into_iter().map(|unit| unit.whole(numbers, &mut at)).collect::<Option<_>>()?;
        let approximate = Approximate { units, ..self.approximate };
        (at == numbers.len()).then_some(Self { approximate, ..self })
    }

    /// Whether it is of a model that others can be compared with: not of pointers without weights, nor of an adapter
    /// without its base.
    pub fn holds_model(&self) -> bool {
        !self.exact.tensors.is_empty() && !lacks_base(self.exact.tensors.iter().map(|tensor| tensor.name.as_str()))
    }

    /// Refuses what cannot be a reference; errors name `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) unless it [holds a model](Self::holds_model).
    pub fn require_model(&self, path: &Path) -> Result<()> {
        if self.holds_model() {
            return Ok(());
        }
        let what =
            if self.exact.tensors.is_empty() { "pointers without weights" } else { "an adapter without its base" };
        Err(Error::nothing(path, format!("{what} cannot serve as a reference")))
    }

    /// The anchors of its own token frame, if it has one.
    pub fn anchors(&self) -> Option<&Vec<Anchor>> {
        self.approximate.frames.iter().find_map(|frame| match &frame.kind {
            FrameKind::Token(anchors) => Some(anchors),
            FrameKind::Raw => None,
        })
    }
}
