//! The one pass over a checkpoint: each chunk is read and decoded once and handed to every accumulator.
//!
//! Threads take tensors in file order, and whoever has one reads it from its first byte to its last, which is the order
//! of its digests. A large tensor is several segments, each with sums of its own that are added up in order; a thread for
//! which there is no tensor takes the sums of a segment off the reading one's hands. What tensors share is folded with
//! integer sums. So neither the number of threads nor the order in which they finish leaves a trace in the result.
//!
//! Four things are read beside the pass, all before files are checked for changes: before it, the rows and gains that
//! span the frames; after it, the landmarks ([`shape`]); the levels around the sampled values of quantised tensors; and
//! whole files whose size is that of a published one. Of a tensor that is put together from pieces or codes, the stored
//! bytes are read once more for their digest, which takes them in another order than the values.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::accumulate::{Digests, TensorDigests};
use super::channels::{MAX_LAYERS, ScoreSums, settle_squares};
use super::content::{Gathered, Runs, TensorKeys};
use super::describe::{Outcome, describe};
use super::frame::Frames;
use super::heads::Gathering;
use super::neurons::{self, Described};
use super::plan::Plan;
use super::projection::{Target, Weights};
use super::relay::{Giver, Taker, relay};
use super::schedule::{Next, Queue, StopOnPanic};
use super::segment::{Ground, Part, Walk};
use super::{Approximate, Exact, FileRecord, Fingerprint, MAX_AXIS, Origin, Settings, remarks, shape, steps};
use crate::anatomy::Assignment;
use crate::assemble::Subject;
use crate::bytes::spool::Spool;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::published::digests::{self, Container};
use crate::tensor::decode::decode;
use crate::tensor::view::Piece;
use crate::tensor::{DType, Storage, TensorMeta};

/// Called with the number of bytes just finished, from any thread.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

pub(super) fn run(subject: &Subject, settings: &Settings<'_>, progress: Progress<'_>) -> Result<Fingerprint> {
    let (checkpoint, anatomy) = (subject.checkpoint(), subject.anatomy());
    let frames = if settings.descriptors { Frames::of(subject, settings.lists)? } else { Frames::none() };
    let architecture = anatomy.architecture.clone();
    let channels = Some(architecture.hidden_size).filter(|&d| d <= MAX_AXIS).unwrap_or(0) as usize;
    let layers = architecture.layers.min(MAX_LAYERS) as usize;
    let jobs: Vec<Job<'_>> = checkpoint
        .tensors
        .iter()
        .zip(&anatomy.assignments)
        .map(|(tensor, assignment)| Job::new(tensor, assignment, &frames))
        .collect();
    let attentions = jobs.iter().filter_map(|job| job.target.as_ref()?.attention());
    let scratch = settings.scratch.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let pass = Pass {
        checkpoint,
        frames: &frames,
        queue: Queue::new(jobs.iter().map(Job::demand).collect(), settings.memory),
        flights: jobs.iter().map(|_| Mutex::default()).collect(),
        sums: Mutex::new(ScoreSums::new(channels, layers)),
        heads: Gathering::new(&architecture, attentions),
        content: Gathered::new(),
        spool: Spool::new(&scratch),
        failed: Mutex::default(),
        jobs,
        progress,
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| pass.work());
        }
    });
    let Pass { flights, sums, heads, content, spool, failed, .. } = pass;
    if let Some((_, error)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let numbers = spool.finish()?;
    let (mut tensors, mut squares, mut described) = (Vec::with_capacity(flights.len()), Vec::new(), Vec::new());
    for (index, flight) in flights.into_iter().enumerate() {
        let flight = flight.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(Outcome { tensor_fingerprint, square, neurons }) = flight.outcome else { continue };
        squares.extend(square);
        described.extend(neurons.map(|(places, energies)| Described {
            tensor: index,
            assignment: tensor_fingerprint.assignment.clone(),
            frames: places.into_iter().map(|place| numbers.part(place)).collect(),
            energies,
        }));
        tensors.push(tensor_fingerprint);
    }
    let mut sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    settle_squares(&mut sums, &squares);
    let files = file_records(checkpoint)?;
    let findings = remarks::findings(&tensors, &files);
    let origin = origin(checkpoint, files);
    let mut units = neurons::units(described);
    shape::describe(checkpoint, &frames, &mut units, &scratch)?;
    // Only after the last read does it say that all of them saw one state of the files.
    checkpoint.check_unchanged()?;
    let (frames, anchor_rows) = (frames.records(), frames.anchor_rows());
    let (attentions, channels) = (heads.finish(), sums.finish());
    Ok(Fingerprint {
        exact: Exact { subject: origin, architecture, tensors, channels, content: Some(content.finish()), findings },
        approximate: Approximate { frames, anchor_rows, units, attentions },
    })
}

/// The repository; otherwise the one file, if its name says something; otherwise the folder.
fn subject_name(checkpoint: &Checkpoint) -> String {
    if let Some(merged) = &checkpoint.merged {
        return merged.adapter.clone();
    }
    let lossy = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    let file = || match checkpoint.shards.as_slice() {
        [one] => Path::new(&one.name).file_stem().map(lossy).filter(|stem| !GENERIC_NAMES.contains(&stem.as_str())),
        _ => None,
    };
    let folder = || checkpoint.root.file_name().map(lossy);
    let name = checkpoint.repository.clone().or_else(file).or_else(folder).or_else(|| checkpoint.folder.clone());
    name.unwrap_or_else(|| checkpoint.root.display().to_string())
}

/// Stems of weight files that every model has.
const GENERIC_NAMES: [&str; 5] = ["model", "pytorch_model", "consolidated", "consolidated.00", "adapter_model"];

fn origin(checkpoint: &Checkpoint, files: Vec<FileRecord>) -> Origin {
    Origin {
        id: None,
        name: subject_name(checkpoint),
        format: checkpoint.format.as_str().to_owned(),
        files,
        parameters: checkpoint.parameters(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        tokenizer_sha256: checkpoint.tokenizer.as_ref().map(|tokenizer| tokenizer.sha256.clone()),
        merged: checkpoint.merged.clone(),
        unread: checkpoint.unread.clone(),
    }
}

/// Shards with sizes, and digests of those that could be published files, by size or by container. Of an adapter and
/// its base all have one: there is no merged file that could be looked at again.
fn file_records(checkpoint: &Checkpoint) -> Result<Vec<FileRecord>> {
    let container = Container::of_format(checkpoint.format.as_str());
    let record = |shard: &crate::checkpoint::Shard| {
        if let Some(stated) = &shard.stated {
            let (bytes, sha256) = (stated.bytes, Some(stated.sha256.clone()));
            return Ok(FileRecord { path: shard.name.clone(), bytes, sha256 });
        }
        let wanted = checkpoint.merged.is_some() || digests::could_be(shard.bytes, container);
        let sha256 = wanted.then(|| shard.sha256()).transpose()?;
        Ok(FileRecord { path: shard.name.clone(), bytes: shard.bytes, sha256 })
    };
    checkpoint.shards.par_iter().map(record).collect()
}

/// What is to be done with one tensor.
struct Job<'a> {
    tensor: &'a TensorMeta,
    assignment: &'a Assignment,
    target: Option<Target>,
    plan: Plan,
    /// Whether its values are looked at: the type is known and there are some.
    decoded: bool,
}

impl<'a> Job<'a> {
    fn new(tensor: &'a TensorMeta, assignment: &'a Assignment, frames: &Frames) -> Self {
        let decoded = tensor.dtype.is_decoded() && tensor.elements() > 0;
        let (rows, cols) = if decoded { tensor.matrix() } else { (0, 0) };
        let plan = Plan::of(rows, cols);
        let target = Target::of(tensor, assignment, frames).filter(|_| decoded && plan.whole_rows());
        Self { tensor, assignment, target, plan, decoded }
    }

    /// The segments whose values are looked at.
    fn segments(&self) -> usize {
        if self.decoded { self.plan.segments() } else { 0 }
    }

    /// The first value of a segment.
    fn first(&self, segment: usize) -> u64 {
        self.plan.chunk(self.plan.segment(segment).start).0
    }

    /// Bytes that it holds while it is read.
    fn demand(&self) -> u64 {
        let segments = self.plan.segments();
        let Plan { rows, cols, .. } = self.plan;
        let energies = if rows.max(cols) <= MAX_AXIS { 8 * (2 * rows + cols * (segments as u64 + 1)) } else { 0 };
        energies + self.target.as_ref().map_or(0, |target| target.bytes(segments))
    }

    /// Digests, and the runs of values where these may be weights. Integers are indices or codes, which recur by their
    /// nature. Keys of runs beyond `limit` are not wanted.
    fn new_digests(&self, limit: u64) -> Digests {
        let runs = (self.decoded && self.tensor.dtype.is_float()).then(|| Runs::below(limit));
        Digests::new(self.tensor.dtype == DType::BF16 && self.tensor.storage.is_plain()).with_runs(runs)
    }

    /// Whether values that lie side by side in the file do not do so in the tensor.
    fn is_turned(&self) -> bool {
        let width = self.tensor.dtype.bytes();
        let turned = |piece: &Piece| piece.cols > 1 && width.is_some_and(|width| piece.col_step != width);
        matches!(&self.tensor.storage, Storage::View(view) if view.pieces().iter().any(turned))
    }
}

/// Hands the values on in the order in which a run of bytes has them.
fn add_stored_runs(digests: &mut Digests, dtype: &DType, run: &[u8], values: &mut Vec<f32>) {
    let width = dtype.bytes().unwrap_or(1) as usize;
    values.resize(run.len() / width, 0.0);
    if decode(dtype, run, values).is_some() {
        digests.add_stored_runs(values);
    }
}

/// A pass under way.
struct Pass<'a> {
    checkpoint: &'a Checkpoint,
    frames: &'a Frames,
    jobs: Vec<Job<'a>>,
    queue: Queue<Taker>,
    flights: Vec<Mutex<Flight<'a>>>,
    sums: Mutex<ScoreSums>,
    heads: Gathering,
    content: Gathered,
    spool: Spool,
    /// The error in the tensor that comes first.
    failed: Mutex<Option<(usize, Error)>>,
    progress: Progress<'a>,
}

/// What is known of a tensor that is being read.
#[derive(Default)]
struct Flight<'a> {
    ground: Option<Arc<Ground<'a>>>,
    weights: Option<Arc<Weights>>,
    digests: Option<(TensorDigests, TensorKeys)>,
    /// The sum of the segments below `next`, and those that came too early.
    whole: Option<Part>,
    next: usize,
    early: BTreeMap<usize, Part>,
    outcome: Option<Outcome>,
}

impl Flight<'_> {
    fn add(&mut self, segment: usize, part: Part) {
        self.early.insert(segment, part);
        while let Some(part) = self.early.remove(&self.next) {
            match &mut self.whole {
                Some(whole) => whole.append(part),
                none => *none = Some(part),
            }
            self.next += 1;
        }
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    values: Vec<f32>,
    block: Vec<f32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Pass<'a> {
    /// What one thread does until nothing is left.
    fn work(&self) {
        let _guard = StopOnPanic(&self.queue);
        let mut scratch = Scratch::default();
        while let Some(next) = self.queue.next() {
            let (index, done) = match next {
                Next::Tensor(index) => (index, self.tensor(index, &mut scratch)),
                Next::Part(part) => (part.tensor, self.part(&part, &mut scratch)),
            };
            if let Err(error) = done {
                self.queue.stop();
                let mut failed = lock(&self.failed);
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    *failed = Some((index, error));
                }
            }
        }
    }

    /// Reads a tensor for its digests and its segments.
    fn tensor(&self, index: usize, scratch: &mut Scratch) -> Result<()> {
        let job = &self.jobs[index];
        let mut digests = job.new_digests(self.content.limit());
        if !job.decoded || !job.tensor.storage.is_plain() {
            let Scratch { bytes, values, .. } = &mut *scratch;
            self.checkpoint.stored(job.tensor, bytes, |run| {
                digests.add_bytes(run);
                if job.is_turned() {
                    add_stored_runs(&mut digests, &job.tensor.dtype, run, values);
                }
                (self.progress)(run.len() as u64);
            })?;
        }
        for segment in 0..job.segments() {
            if lock(&self.failed).as_ref().is_some_and(|(first, _)| *first < index) {
                return Ok(());
            }
            let Scratch { bytes, values, block } = scratch;
            if let Some(giver) = self.offer(index, segment) {
                self.read(job, segment, &mut digests, values, bytes, |first, values| giver.give(first, values))?;
                continue;
            }
            let (ground, weights) = self.shared(index);
            let mut walk = Walk::new(&ground, weights.as_deref(), job.first(segment), block);
            self.read(job, segment, &mut digests, values, bytes, |first, values| walk.add(first, values))?;
            let part = walk.finish();
            lock(&self.flights[index]).add(segment, part);
        }
        self.settle(index, scratch, |flight| flight.digests = Some(digests.finish()))
    }

    /// Offers the statistics of one of several segments to a thread that has nothing to do.
    fn offer(&self, index: usize, segment: usize) -> Option<Giver> {
        if self.jobs[index].segments() > 1 { self.queue.offer(|| relay(index, segment)) } else { None }
    }

    /// Takes the statistics of a segment that another thread reads.
    fn part(&self, taker: &Taker, scratch: &mut Scratch) -> Result<()> {
        let &Taker { tensor: index, segment, .. } = taker;
        let (ground, weights) = self.shared(index);
        let first = self.jobs[index].first(segment);
        let mut walk = Walk::new(&ground, weights.as_deref(), first, &mut scratch.block);
        taker.each(|first, values| walk.add(first, values));
        let part = walk.finish();
        self.settle(index, scratch, |flight| flight.add(segment, part))
    }

    /// Notes what has come of a tensor, and describes it when that was the last of it.
    fn settle(&self, index: usize, scratch: &mut Scratch, note: impl FnOnce(&mut Flight<'a>)) -> Result<()> {
        let job = &self.jobs[index];
        let mut flight = lock(&self.flights[index]);
        note(&mut flight);
        if flight.digests.is_none() || flight.next < job.segments() {
            return Ok(());
        }
        let Flight { digests, whole, ground, .. } = std::mem::take(&mut *flight);
        drop(flight);
        if let Some((digests, keys)) = digests {
            let target = ground.as_ref().and_then(|ground| ground.target.as_ref());
            let values = whole.map(|whole| whole.finish(target, self.frames.hidden()));
            let mut outcome = describe(job.tensor, job.assignment, digests, values, &self.sums, &self.spool)?;
            if let Some(values) = &mut outcome.0.tensor_fingerprint.values {
                values.steps = steps::sampled(self.checkpoint, job.tensor, &mut scratch.values, &mut scratch.bytes)?;
                values.less_one_sha256 = self.less_one(job.tensor, scratch)?;
            }
            if outcome.0.tensor_fingerprint.informative().is_some() {
                self.content.merge(keys);
            }
            if let Some(layer) = job.target.as_ref().and_then(Target::attention) {
                self.heads.arrived(layer, outcome.1);
            }
            lock(&self.flights[index]).outcome = Some(outcome.0);
        }
        self.checkpoint.release(job.tensor);
        self.queue.finished(index);
        Ok(())
    }

    /// The digest over the values of a gain as they are stored, if that is less one. Gains are vectors: they are read
    /// again as a whole.
    fn less_one(&self, tensor: &TensorMeta, scratch: &mut Scratch) -> Result<Option<[u8; 32]>> {
        let Storage::PlusOne(gain) = &tensor.storage else { return Ok(None) };
        let Scratch { bytes, values, .. } = scratch;
        values.resize(gain.elements() as usize, 0.0);
        let Some(exact) = self.checkpoint.values(gain, 0, values, bytes)?.map(|read| read.exact) else {
            return Ok(None);
        };
        let mut digests = Digests::new(false);
        digests.add_values(values, exact, None);
        Ok(digests.finish().0.values)
    }

    /// What the segments of a tensor share, and the directions that it is multiplied with.
    fn shared(&self, index: usize) -> (Arc<Ground<'a>>, Option<Arc<Weights>>) {
        let mut flight = lock(&self.flights[index]);
        let job = &self.jobs[index];
        let ground = match &flight.ground {
            Some(ground) => Arc::clone(ground),
            None => {
                let target = Target::of(job.tensor, job.assignment, self.frames);
                Arc::clone(flight.ground.insert(Arc::new(Ground::new(job.plan, target, job.assignment))))
            }
        };
        if flight.weights.is_none() {
            flight.weights = ground.target.as_ref().map(|target| Arc::new(target.weights(self.frames)));
        }
        (ground, flight.weights.clone())
    }

    /// Reads a segment: the digests see each chunk, and then `take` has it.
    fn read(
        &self,
        job: &Job<'_>,
        segment: usize,
        digests: &mut Digests,
        values: &mut Vec<f32>,
        bytes: &mut Vec<u8>,
        mut take: impl FnMut(u64, &mut Vec<f32>),
    ) -> Result<()> {
        for chunk in job.plan.segment(segment) {
            let (first, count) = job.plan.chunk(chunk);
            values.resize(count, 0.0);
            let read = self.checkpoint.values(job.tensor, first, values, bytes)?;
            let stored = read.and_then(|read| read.stored);
            if let Some(stored) = stored {
                digests.add_bytes(stored);
                (self.progress)(stored.len() as u64);
            }
            digests.add_values(values, read.is_some_and(|read| read.exact), stored);
            take(first, values);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use safetensors::tensor::{Dtype, TensorView, serialize};

    use super::*;
    use crate::checkpoint::OpenOptions;

    const HIDDEN: usize = 512;
    const NEURONS: usize = 1100;

    /// A model of two layers whose matrices are several segments each.
    fn write_model(path: &Path) {
        let mut shapes =
            vec![("model.embed_tokens".to_owned(), vec![900, HIDDEN]), ("model.norm".to_owned(), vec![HIDDEN])];
        for layer in 0..2 {
            for (name, shape) in [
                ("input_layernorm", vec![HIDDEN]),
                ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
                ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
                ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
                ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
                ("post_attention_layernorm", vec![HIDDEN]),
                ("mlp.gate_proj", vec![NEURONS, HIDDEN]),
                ("mlp.up_proj", vec![NEURONS, HIDDEN]),
                ("mlp.down_proj", vec![HIDDEN, NEURONS]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}"), shape));
            }
        }
        let mut state = 1u32;
        let mut value = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            half::bf16::from_f32((state >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
        };
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
            .into_iter()
            .map(|(name, shape)| {
                let bytes = (0..shape.iter().product::<usize>()).flat_map(|_| value()).collect();
                (format!("{name}.weight"), shape, bytes)
            })
            .collect();
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, shape, bytes)| (&name[..], TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()))
            .collect();
        std::fs::write(path, serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn threads_memory_and_way_of_reading_leave_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_model(&path);
        let take = |threads: usize, memory: u64, mmap: bool| {
            let checkpoint = Checkpoint::open(&path, OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
            let settings = Settings { memory, ..Settings::default() };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let fingerprint = pool.install(|| run(&Subject::of(&checkpoint), &settings, &|_| ())).unwrap();
            (fingerprint.to_bytes().unwrap(), fingerprint.approximate.units, fingerprint.approximate.attentions)
        };
        let one = take(1, u64::MAX, true);
        assert_eq!((one.1.len(), one.1[1].labels.len(), one.2.is_empty()), (2, NEURONS, false));
        for (threads, memory, mmap) in [(2, u64::MAX, true), (8, u64::MAX, true), (3, 0, true), (8, 6 << 20, false)] {
            assert!(one == take(threads, memory, mmap), "{threads} threads, {memory} bytes, mapped: {mmap}");
        }
    }

    /// Bytes that a pass reads.
    fn read_by_a_pass(path: &Path, threads: usize, mmap: bool, descriptors: bool) -> (u64, Checkpoint) {
        let checkpoint = Checkpoint::open(path, OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
        let settings = Settings { descriptors, ..Settings::default() };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let tally = || checkpoint.shards[0].tally.read.load(Ordering::SeqCst);
        let subject = Subject::of(&checkpoint);
        let before = tally();
        pool.install(|| run(&subject, &settings, &|_| ())).unwrap();
        (tally() - before, checkpoint)
    }

    #[test]
    fn every_byte_of_a_plain_tensor_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_model(&path);
        for (threads, mmap) in [(1, true), (2, false), (8, true)] {
            let (read, checkpoint) = read_by_a_pass(&path, threads, mmap, false);
            assert!(checkpoint.tensors.iter().any(|tensor| job_segments(tensor) > 2), "some have several segments");
            assert_eq!(read, checkpoint.total_bytes(), "{threads} threads, mapped: {mmap}");
        }
    }

    fn job_segments(tensor: &TensorMeta) -> usize {
        let (rows, cols) = tensor.matrix();
        Plan::of(rows, cols).segments()
    }

    #[test]
    fn descriptors_read_anchors_gains_and_landmarks_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_model(&path);
        let (read, checkpoint) = read_by_a_pass(&path, 2, true, true);
        let row = 2 * HIDDEN as u64;
        // For reading and for writing, from the one table that there is.
        let anchors = 2 * 128 * row;
        let gains = (1 + 2 * 2) * row;
        // Of each layer some gates and ups, and the whole down, in whose rows the columns lie.
        let landmarks = 2 * (2 * shape::LANDMARKS as u64 + NEURONS as u64) * row;
        assert_eq!(read, checkpoint.total_bytes() + anchors + gains + landmarks);
    }

    #[test]
    fn files_are_checked_for_changes_after_the_last_byte_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_model(&path);
        let checkpoint = Checkpoint::open(&path, OpenOptions::default()).unwrap();
        let fingerprint = run(&Subject::of(&checkpoint), &Settings::default(), &|_| ()).unwrap();
        assert!(fingerprint.approximate.units.iter().all(|unit| !unit.shapes[0].is_empty()), "landmarks were read");
        let tally = &checkpoint.shards[0].tally;
        assert_eq!(tally.checked.load(Ordering::SeqCst), tally.read.load(Ordering::SeqCst));
    }

    #[test]
    fn the_error_in_the_tensor_that_comes_first_is_told_and_no_thread_waits_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_model(&path);
        let checkpoint = Checkpoint::open(&path, OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
        let subject = Subject::of(&checkpoint);
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
        for memory in [0, u64::MAX] {
            let settings = Settings { memory, ..Settings::default() };
            let error = run(&subject, &settings, &|_| ()).unwrap_err();
            assert!(error.kind() == crate::ErrorKind::Changed, "{error}");
        }
    }
}
