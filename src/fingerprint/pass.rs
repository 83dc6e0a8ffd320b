//! The one pass over a checkpoint: each chunk is read and decoded once and handed to every accumulator.
//!
//! Tensors run in parallel, each from its first byte to its last on one thread; what they share is folded with integer
//! sums, so the order in which threads finish leaves no trace.

use std::sync::Mutex;

use half::{bf16, f16};
use rayon::prelude::*;

use super::accumulate::{Digests, Energies, Moments, Sketch};
use super::frame::{Anchor, Frames};
use super::heads::{self, Projected};
use super::neurons::{self, Along, Described, Projector};
use super::shape;
use super::{
    ENERGY_LABELS, FileRecord, Fingerprint, MAX_AXIS, MIN_VOCABULARY, Subject, TensorPrint, ValuePrint, labels,
    sample_labels,
};
use crate::anatomy::{Anatomy, Assignment, Residual, Role};
use crate::catalog::digests;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::finding::{Code, Finding, Level};
use crate::limits::MAX_NONFINITE_SHARE;
use crate::stats::rank;
use crate::tensor::{DType, TensorMeta};

/// Called with the number of bytes just finished, from any thread.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Values handled at a time: their `f32` form fits a core's second-level cache.
const CHUNK: usize = 1 << 16;

/// More layers than this are folded as one; no model has them.
const MAX_LAYERS: u64 = 1 << 12;

/// Normal scores are folded as integers in units of 1/4096, so that their sum has no order.
const SCORE_UNIT: f64 = 4096.0;

/// The profile of the residual channels: how strongly each is used, averaged over the tensors that touch it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Channels {
    /// For each channel, the mean over `tensors` of the normal score of its RMS in the tensor (of the gain itself for
    /// norm gains). Empty where no tensor touches a residual stream.
    pub profile: Vec<f32>,
    /// How many tensors took part.
    pub tensors: u32,
    /// The same for each layer alone, row by row: mean normal score times 32, rounded. Empty where the layers of
    /// tensors are not known.
    pub layers: Vec<i8>,
}

/// Integer sums of normal scores: one row for each layer, the last for tensors outside the layers.
struct ScoreSums {
    channels: usize,
    sums: Vec<i64>,
    counts: Vec<u32>,
}

impl ScoreSums {
    fn new(channels: usize, layers: usize) -> Self {
        Self { channels, sums: vec![0; channels * (layers + 1)], counts: vec![0; layers + 1] }
    }

    fn add(&mut self, layer: Option<u32>, energies: &[f32]) {
        if energies.len() != self.channels {
            return;
        }
        let last = self.counts.len() - 1;
        let slot = layer.map_or(last, |layer| (layer as usize).min(last));
        let sums = &mut self.sums[slot * self.channels..][..self.channels];
        for (sum, score) in sums.iter_mut().zip(rank::normal_scores(energies)) {
            *sum += (score * SCORE_UNIT).round() as i64;
        }
        self.counts[slot] += 1;
    }

    fn profile(&self) -> (Vec<f32>, u32) {
        let tensors: u32 = self.counts.iter().sum();
        if tensors == 0 {
            return (Vec::new(), 0);
        }
        let mean = |channel: usize| {
            let sum: i64 = self.sums.iter().skip(channel).step_by(self.channels).sum();
            (sum as f64 / SCORE_UNIT / f64::from(tensors)) as f32
        };
        ((0..self.channels).map(mean).collect(), tensors)
    }

    fn finish(&self) -> Channels {
        let (profile, tensors) = self.profile();
        let layers = self.counts.len() - 1;
        let mut by_layer = Vec::new();
        if self.counts[..layers].iter().any(|&count| count > 0) {
            for (sums, &count) in self.sums.chunks(self.channels).zip(&self.counts).take(layers) {
                let scale = 32.0 / SCORE_UNIT / f64::from(count.max(1));
                by_layer.extend(sums.iter().map(|&sum| (sum as f64 * scale).round().clamp(-127.0, 127.0) as i8));
            }
        }
        Channels { profile, tensors, layers: by_layer }
    }
}

/// A square matrix whose residual axis is still unknown, with the energies along both.
struct Square {
    layer: Option<u32>,
    rows: Vec<f32>,
    cols: Vec<f32>,
}

pub(super) fn run(
    checkpoint: &Checkpoint,
    anatomy: &Anatomy,
    lists: &[Vec<Anchor>],
    progress: Progress<'_>,
) -> Result<Fingerprint> {
    let frames = Frames::of(checkpoint, anatomy, lists)?;
    let architecture = anatomy.architecture.clone();
    let channels = Some(architecture.hidden_size).filter(|&d| d <= MAX_AXIS).unwrap_or(0) as usize;
    let layers = architecture.layers.min(MAX_LAYERS) as usize;
    let sums = Mutex::new(ScoreSums::new(channels, layers));
    let results: Vec<Result<Outcome>> = checkpoint
        .tensors
        .par_iter()
        .zip(&anatomy.assignments)
        .with_max_len(1)
        .map_init(Scratch::default, |scratch, (tensor, assignment)| {
            let read = read_tensor(checkpoint, tensor, assignment, &frames, scratch, progress)?;
            Ok(describe(tensor, assignment, read, &sums))
        })
        .collect();
    let (mut tensors, mut squares, mut described) = (Vec::with_capacity(results.len()), Vec::new(), Vec::new());
    let mut projected = Vec::new();
    for (index, result) in results.into_iter().enumerate() {
        let Outcome { print, square, neurons, heads } = result?;
        projected.extend(heads);
        squares.extend(square);
        described.extend(neurons.map(|neurons| Described { tensor: index, ..neurons }));
        tensors.push(print);
    }
    let mut sums = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    settle_squares(&mut sums, &squares);
    let files = file_records(checkpoint)?;
    checkpoint.check_unchanged()?;
    let findings = findings(&tensors, &files);
    let subject = Subject {
        id: None,
        name: subject_name(checkpoint),
        format: checkpoint.format.as_str().to_owned(),
        files,
        parameters: checkpoint.parameters(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        tokenizer_sha256: checkpoint.sidecar.tokenizer.as_ref().map(|tokenizer| tokenizer.sha256.clone()),
    };
    let mut units = neurons::units(described);
    shape::describe(checkpoint, &frames, &mut units)?;
    let (frames, anchor_rows) = (frames.records(), frames.anchor_rows());
    let attentions = heads::attentions(projected, &architecture);
    let channels = sums.finish();
    Ok(Fingerprint { subject, architecture, tensors, channels, frames, anchor_rows, units, attentions, findings })
}

/// What the pass makes of one tensor.
struct Outcome {
    print: TensorPrint,
    square: Option<Square>,
    neurons: Option<Described>,
    heads: Option<Projected>,
}

fn subject_name(checkpoint: &Checkpoint) -> String {
    let file_name = || checkpoint.root.file_name().map(|name| name.to_string_lossy().into_owned());
    checkpoint.repository.clone().or_else(file_name).unwrap_or_else(|| checkpoint.root.display().to_string())
}

/// Shards with sizes, and digests of those that a published digest could match.
fn file_records(checkpoint: &Checkpoint) -> Result<Vec<FileRecord>> {
    let record = |shard: &crate::checkpoint::Shard| {
        let sha256 = digests::could_match_size(shard.bytes).then(|| shard.sha256()).transpose()?;
        Ok(FileRecord { path: shard.name.clone(), bytes: shard.bytes, sha256 })
    };
    checkpoint.shards.par_iter().map(record).collect()
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

/// What a tensor's bytes came to.
struct Read {
    digests: super::TensorDigests,
    /// `None` where the values could not be decoded, or there are none.
    values: Option<ReadValues>,
}

struct ReadValues {
    summary: super::Summary,
    energies: Energies,
    sample: Vec<f32>,
    steps: Vec<bf16>,
    sketch: Vec<super::RowKey>,
    /// Every value of a norm gain; empty for other tensors.
    gain: Vec<f32>,
    /// Descriptors of its neurons or heads, for matrices of an MLP or an attention.
    along: Option<Along>,
}

fn read_tensor(
    checkpoint: &Checkpoint,
    tensor: &TensorMeta,
    assignment: &Assignment,
    frames: &Frames,
    scratch: &mut Scratch,
    progress: Progress<'_>,
) -> Result<Read> {
    let plain = tensor.layout.is_plain();
    let mut digests = Digests::new(tensor.dtype == DType::BF16 && plain);
    let (rows, cols) = tensor.matrix();
    let decoded = tensor.dtype.is_decoded() && tensor.elements() > 0;
    if !decoded || !plain {
        checkpoint.stored(tensor, &mut scratch.bytes, |bytes| {
            digests.add_bytes(bytes);
            progress(bytes.len() as u64);
        })?;
    }
    if !decoded {
        return Ok(Read { digests: digests.finish(), values: None });
    }
    let mut walk = Walk::new(rows, cols, assignment);
    let mut projector = if cols <= CHUNK as u64 { Projector::new(tensor, assignment, frames) } else { None };
    for (first, count) in chunks(rows, cols) {
        scratch.values.resize(count, 0.0);
        let read = checkpoint.values(tensor, first, &mut scratch.values, &mut scratch.bytes)?;
        if let Some(bytes) = read.and_then(|read| read.stored) {
            digests.add_bytes(bytes);
            progress(bytes.len() as u64);
        }
        digests.add_values(&scratch.values, read.is_some_and(|read| read.exact));
        walk.add(first, &mut scratch.values);
        if let Some(projector) = &mut projector {
            projector.add(&scratch.values);
        }
    }
    let along = projector.map(|projector| projector.finish(assignment));
    let steps = sampled_steps(checkpoint, tensor, scratch)?;
    Ok(Read { digests: digests.finish(), values: Some(ReadValues { along, steps, ..walk.finish() }) })
}

/// The distance of levels at each sampled value of a type in blocks; empty for other types.
fn sampled_steps(checkpoint: &Checkpoint, tensor: &TensorMeta, scratch: &mut Scratch) -> Result<Vec<bf16>> {
    let (rows, cols) = tensor.matrix();
    let per_block = match &tensor.dtype {
        DType::Block(block) => block.values(),
        DType::Packed(_) => cols,
        _ => return Ok(Vec::new()),
    };
    let (sample_rows, sample_cols) = sample_labels(rows, cols);
    let mut steps = Vec::with_capacity(sample_rows.len() * sample_cols.len());
    scratch.values.resize(per_block as usize, 0.0);
    for &row in &sample_rows {
        let mut read = None;
        for &col in &sample_cols {
            let first = u64::from(row) * cols + u64::from(col) / per_block * per_block;
            if read.replace(first) != Some(first)
                && !checkpoint.steps(tensor, first, &mut scratch.values, &mut scratch.bytes)?
            {
                return Ok(Vec::new());
            }
            steps.push(bf16::from_f32(scratch.values[(u64::from(col) % per_block) as usize]));
        }
    }
    Ok(steps)
}

/// First element and length of each chunk: whole rows where a row fits, otherwise pieces of one row. Depends on the
/// shape alone.
fn chunks(rows: u64, cols: u64) -> impl Iterator<Item = (u64, usize)> {
    let per_chunk = if cols <= CHUNK as u64 { (CHUNK as u64 / cols.max(1)) * cols } else { CHUNK as u64 };
    let unit = if cols <= CHUNK as u64 { rows * cols } else { cols };
    let units = if cols <= CHUNK as u64 { 1 } else { rows };
    (0..units).flat_map(move |index| {
        (0..unit).step_by(per_chunk as usize).map(move |at| (index * unit + at, (unit - at).min(per_chunk) as usize))
    })
}

/// The accumulators of one tensor and where its rows and columns stand.
struct Walk {
    cols: u64,
    moments: Moments,
    energies: Option<Energies>,
    sketch: Option<Sketch>,
    sample_rows: Vec<u32>,
    sample_cols: Vec<u32>,
    sample: Vec<f32>,
    gain: Option<Vec<f32>>,
}

impl Walk {
    fn new(rows: u64, cols: u64, assignment: &Assignment) -> Self {
        let sized = rows <= MAX_AXIS && cols <= MAX_AXIS;
        let sketched = rows > 1 && cols <= CHUNK as u64 && !matches!(assignment.residual, Residual::Gain);
        let (sample_rows, sample_cols) = sample_labels(rows, cols);
        Self {
            cols,
            moments: Moments::new(),
            energies: sized.then(|| Energies::new(rows as usize, cols as usize)),
            sketch: sketched.then(Sketch::default),
            sample: Vec::with_capacity(sample_rows.len() * sample_cols.len()),
            sample_rows,
            sample_cols,
            gain: (sized && assignment.residual == Residual::Gain).then(Vec::new),
        }
    }

    /// Takes the values from element `first` on; they lie in whole rows, or all in one.
    fn add(&mut self, first: u64, values: &mut [f32]) {
        if let Some(sketch) = &mut self.sketch {
            values.chunks(self.cols as usize).for_each(|row| sketch.add(row));
        }
        let masked = self.moments.mask(values);
        self.moments.add(values, masked);
        if let Some(gain) = &mut self.gain {
            gain.extend_from_slice(values);
        }
        let mut at = first;
        while !values[(at - first) as usize..].is_empty() {
            let (row, col) = (at / self.cols, at % self.cols);
            let rest = &values[(at - first) as usize..];
            let run = &rest[..rest.len().min((self.cols - col) as usize)];
            if let Some(energies) = &mut self.energies {
                energies.add(row as usize, col as usize, run);
            }
            if u32::try_from(row).is_ok_and(|row| self.sample_rows.binary_search(&row).is_ok()) {
                let from = self.sample_cols.partition_point(|&label| u64::from(label) < col);
                let picked = self.sample_cols[from..].iter().map(|&label| u64::from(label) - col);
                self.sample.extend(picked.map_while(|label| run.get(label as usize)));
            }
            at += run.len() as u64;
        }
    }

    fn finish(self) -> ReadValues {
        ReadValues {
            summary: self.moments.summary(),
            energies: self.energies.unwrap_or_else(|| Energies::new(0, 0)),
            sample: self.sample,
            steps: Vec::new(),
            sketch: self.sketch.map(Sketch::finish).unwrap_or_default(),
            gain: self.gain.unwrap_or_default(),
            along: None,
        }
    }
}

/// Turns sums into what is kept, and hands the channel energies on.
fn describe(tensor: &TensorMeta, assignment: &Assignment, read: Read, sums: &Mutex<ScoreSums>) -> Outcome {
    let mut print = TensorPrint {
        name: tensor.name.clone(),
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        assignment: assignment.clone(),
        formula: false,
        stored_sha256: read.digests.stored,
        values: None,
    };
    let Some(mut values) = read.values else {
        print.formula = has_formula_role(assignment);
        return Outcome { print, square: None, neurons: None, heads: None };
    };
    let (rows, cols) = tensor.matrix();
    let row_rms = root_mean(&values.energies.rows, cols);
    let col_rms = root_mean(&values.energies.cols, rows);
    print.formula = is_formula(tensor, assignment, &values, &row_rms);
    let usable = !print.formula
        && !values.summary.is_constant()
        && values.summary.nonfinite_share() <= MAX_NONFINITE_SHARE
        && tensor.dtype.is_float();
    let mut square = None;
    if usable {
        let energies = channel_energies(assignment.residual, &tensor.shape, &values, &row_rms, &col_rms);
        if let Some(energies) = energies {
            sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(assignment.layer, &energies);
        } else if assignment.residual == Residual::Ambiguous {
            square = Some(Square { layer: assignment.layer, rows: row_rms.clone(), cols: col_rms.clone() });
        }
    }
    let (neurons, heads) = match values.along.take().filter(|_| usable) {
        Some(Along::Neurons(frames, gained)) => {
            let by_rows = matches!(assignment.residual, Residual::Reads(1) | Residual::Writes(1));
            let energies = gained.unwrap_or_else(|| if by_rows { row_rms.clone() } else { col_rms.clone() });
            (Some(Described { tensor: 0, assignment: assignment.clone(), frames, energies }), None)
        }
        Some(Along::Heads(projected)) => (None, Some(projected)),
        None => (None, None),
    };
    let embeds = matches!(assignment.residual, Residual::Embeds(1)) && rows >= MIN_VOCABULARY;
    let row_norms = embeds.then(|| values.energies.rows.iter().map(|energy| energy.sqrt() as f32).collect());
    print.values = Some(ValuePrint {
        sha256: read.digests.values,
        rounded: [read.digests.as_bf16, read.digests.as_f16],
        row_rms: relative(&row_rms, values.summary.rms),
        col_rms: relative(&col_rms, values.summary.rms),
        summary: values.summary,
        sample: values.sample,
        steps: values.steps,
        sketch: values.sketch,
        row_norms,
    });
    Outcome { print, square, neurons, heads }
}

fn root_mean(energies: &[f64], count: u64) -> Vec<f32> {
    energies.iter().map(|energy| (energy / count.max(1) as f64).sqrt() as f32).collect()
}

/// The energies of the chosen labels, relative to the tensor's own.
fn relative(rms: &[f32], whole: f64) -> Vec<f16> {
    let scale = if whole > 0.0 { 1.0 / whole } else { 0.0 };
    let labels = labels::chosen(rms.len() as u64, ENERGY_LABELS);
    labels.into_iter().map(|label| f16::from_f64(f64::from(rms[label as usize]) * scale)).collect()
}

/// RMS of each residual channel in a tensor whose residual axis is known; the gains themselves for norm gains.
fn channel_energies(
    residual: Residual,
    shape: &[u64],
    values: &ReadValues,
    row_rms: &[f32],
    col_rms: &[f32],
) -> Option<Vec<f32>> {
    match residual {
        Residual::Gain => Some(values.gain.clone()),
        Residual::Reads(axis) | Residual::Writes(axis) | Residual::Embeds(axis) => {
            if axis + 1 == shape.len() {
                return Some(col_rms.to_vec());
            }
            // Any other axis is folded into the rows: average over the dimensions around it.
            let inner: u64 = shape[axis + 1..shape.len() - 1].iter().product();
            let size = shape[axis];
            let cols = *shape.last()?;
            let mut sums = vec![0.0; size as usize];
            for (row, energy) in values.energies.rows.iter().enumerate() {
                sums[(row as u64 / inner % size) as usize] += energy;
            }
            let repeats = row_rms.len() as u64 / size.max(1) * cols;
            Some(root_mean(&sums, repeats))
        }
        Residual::Bias | Residual::Ambiguous | Residual::None => None,
    }
}

/// Decides for each square matrix which of its axes is the residual one, by which agrees better with the profile of
/// all the others, and adds it. Undecided ones stay out.
fn settle_squares(sums: &mut ScoreSums, squares: &[Square]) {
    let (profile, tensors) = sums.profile();
    if tensors == 0 {
        return;
    }
    let profile = rank::normal_scores(&profile);
    let agreement = |energies: &[f32]| rank::correlation(&rank::normal_scores(energies), &profile);
    let decided: Vec<Option<&[f32]>> = squares
        .par_iter()
        .map(|square| {
            let (rows, cols) = (agreement(&square.rows), agreement(&square.cols));
            // Three standard errors of a difference of two correlations near zero.
            let clear = 3.0 * (2.0 / profile.len() as f64).sqrt();
            ((rows - cols).abs() > clear).then_some(if rows > cols { &square.rows[..] } else { &square.cols[..] })
        })
        .collect();
    for (square, energies) in squares.iter().zip(decided) {
        if let Some(energies) = energies {
            sums.add(square.layer, energies);
        }
    }
}

fn has_formula_role(assignment: &Assignment) -> bool {
    matches!(assignment.roles.as_slice(), [Role::RopeFreqs | Role::Buffer])
}

/// Whether the values follow from a formula, or are a mask or an index: equality of such tensors says nothing.
fn is_formula(tensor: &TensorMeta, assignment: &Assignment, values: &ReadValues, row_rms: &[f32]) -> bool {
    if has_formula_role(assignment) {
        return true;
    }
    let s = &values.summary;
    let n = s.finite as f64;
    // All values are 0 or 1: a mask, unless it is a norm gain that was never trained.
    let mask = s.min >= 0.0 && s.max == 1.0 && s.zeros > 0 && (s.mean * n + s.zeros as f64 - n).abs() < 1e-6 * n;
    // 0, 1, …: the mean of squares pins the set down.
    let whole = !tensor.dtype.is_float();
    let index = whole && s.min == 0.0 && s.max + 1.0 == n && (s.mean - (n - 1.0) / 2.0).abs() < 1e-9 * n;
    // Rows of sines and cosines in pairs have a mean square of exactly one half (Vaswani et al. 2017, section 3.5).
    let sinusoids = row_rms.len() >= 16
        && s.max <= 1.000_01
        && s.min >= -1.000_01
        && s.max > 0.999
        && row_rms.iter().all(|rms| (rms - 0.5f32.sqrt()).abs() < 1e-3);
    mask || index || sinusoids || tensor.shape.len() == 1 && is_geometric(&values.sample)
}

/// Whether a vector falls by one factor from each value to the next, as rotary frequencies do.
fn is_geometric(values: &[f32]) -> bool {
    if values.len() < 8 || values.iter().any(|v| !v.is_normal()) {
        return false;
    }
    let ratio = values[1] / values[0];
    (ratio - 1.0).abs() > 1e-3 && values.windows(2).all(|pair| (pair[1] / pair[0] / ratio - 1.0).abs() < 5e-3)
}

/// Remarks on values: one for each kind, naming how many tensors and the first.
fn findings(tensors: &[TensorPrint], files: &[FileRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |code, level, what: &str, which: &dyn Fn(&TensorPrint) -> bool| {
        let mut hits = tensors.iter().filter(|tensor| which(tensor));
        let Some(first) = hits.next() else { return };
        let count = 1 + hits.count();
        let message = format!("{count} {} {what}", if count == 1 { "tensor" } else { "tensors" });
        findings.push(Finding::new(code, level, message, first.name.clone()));
    };
    let nonfinite = |share: f64| {
        move |tensor: &TensorPrint| tensor.values.as_ref().is_some_and(|v| v.summary.nonfinite_share() > share)
    };
    let untested =
        format!("with NaN or infinite values in more than {} % of places: not tested", MAX_NONFINITE_SHARE * 1e2);
    tell(Code::NonFinite, Level::Error, &untested, &nonfinite(MAX_NONFINITE_SHARE));
    tell(Code::NonFinite, Level::Warning, "with some NaN or infinite values", &|tensor| {
        nonfinite(0.0)(tensor) && !nonfinite(MAX_NONFINITE_SHARE)(tensor)
    });
    tell(Code::ConstantTensor, Level::Warning, "holding one value throughout: not tested", &|tensor| {
        tensor.dtype.is_float()
            && !tensor.formula
            && tensor.elements() > 1
            && tensor.values.as_ref().is_some_and(|v| v.summary.finite > 0 && v.summary.is_constant())
    });
    tell(Code::FormulaTensor, Level::Note, "following from a formula, or masks and indices: not evidence", &|tensor| {
        tensor.formula
    });
    for file in files {
        for published in file.sha256.iter().flat_map(|sha256| digests::lookup_sha256(sha256)) {
            let message = format!("is {} of {} by its published SHA-256", published.file, published.model);
            findings.push(Finding::new(Code::PublishedDigest, Level::Warning, message, file.path.clone()));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once_in_order() {
        for (rows, cols) in [(1, 1), (3, 100_000), (1000, 7), (5, CHUNK as u64), (2, CHUNK as u64 + 1), (70_000, 1)] {
            let mut at = 0;
            for (first, count) in chunks(rows, cols) {
                assert_eq!(first, at);
                assert!(count > 0 && count <= CHUNK);
                at += count as u64;
            }
            assert_eq!(at, rows * cols, "{rows} x {cols}");
        }
    }

    #[test]
    fn rotary_frequencies_are_a_formula_and_gains_are_not() {
        let rotary: Vec<f32> = (0..64).map(|i| 10_000f32.powf(-i as f32 / 64.0)).collect();
        assert!(is_geometric(&rotary));
        let gains: Vec<f32> = (0..64).map(|i| 1.0 + 0.1 * (i as f32).sin()).collect();
        assert!(!is_geometric(&gains) && !is_geometric(&[1.0; 64]) && !is_geometric(&rotary[..4]));
    }

    #[test]
    fn scores_do_not_depend_on_the_order_of_tensors() {
        let energies: Vec<Vec<f32>> =
            (0..9).map(|k| (0..32).map(|c| ((c * 7 + k * 3) % 32) as f32).collect()).collect();
        let (mut forward, mut backward) = (ScoreSums::new(32, 2), ScoreSums::new(32, 2));
        for (k, energy) in energies.iter().enumerate() {
            forward.add(Some(k as u32 % 3), energy);
        }
        for (k, energy) in energies.iter().enumerate().rev() {
            backward.add(Some(k as u32 % 3), energy);
        }
        assert_eq!(forward.finish(), backward.finish());
    }
}
