//! Runs of this program's stages, and of other programs, in processes of their own: time, processor time and memory.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use weightprint::internals::assemble::Subject;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::fingerprint::{DIRECTIONS, Fingerprint, Settings};

/// What one run cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// From start to end, without the start of the process.
    pub(crate) seconds: f64,
    /// Processor time of all threads.
    pub(crate) processor: f64,
    /// Largest anonymous memory seen, sampled every 10 milliseconds.
    pub(crate) anonymous: u64,
    /// Largest resident memory, mapped files included.
    pub(crate) resident: u64,
}

/// A part of this program's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Headers and architecture.
    Open,
    /// Statistics and digests of every tensor.
    Statistics,
    /// Everything.
    Fingerprint,
    /// The matrix product of the full fingerprint alone, from memory: as many operations at its own peak.
    Product,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Open, Self::Statistics, Self::Fingerprint, Self::Product];

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Statistics => "statistics",
            Self::Fingerprint => "fingerprint",
            Self::Product => "product",
        }
    }

    /// Runs the stage in a process of its own, on two threads.
    pub(crate) fn measure(self, path: &Path) -> Cost {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--stage", self.name()])
            .arg(path)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{self:?} failed");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn run(self, path: &Path) {
        let checkpoint = Checkpoint::open(path, OpenOptions::default()).unwrap();
        let subject = Subject::of(&checkpoint);
        let settings = Settings { descriptors: self == Self::Fingerprint, ..Settings::default() };
        if self == Self::Product {
            return product(&checkpoint);
        }
        if self != Self::Open {
            let fingerprint = Fingerprint::take(&subject, &settings, &|_| ()).unwrap();
            assert_eq!(fingerprint.approximate.units.is_empty(), self == Self::Statistics);
        }
    }
}

/// Multiplies a block of values that stays where it is with the directions of a raw and a token frame, as often as there
/// are such blocks in the MLPs.
fn product(checkpoint: &Checkpoint) {
    const VALUES: usize = 1 << 21;
    let mlp: Vec<_> = checkpoint.tensors.iter().filter(|tensor| tensor.name.contains(".mlp.")).collect();
    let hidden = mlp.iter().filter_map(|tensor| tensor.shape.iter().min().copied()).min().unwrap_or(1) as usize;
    let values: u64 = mlp.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
    let rows = VALUES / hidden;
    let number = |i: usize| (i % 251) as f32 / 251.0 - 0.5;
    let block: Vec<f32> = (0..rows * hidden).map(number).collect();
    let directions: Vec<f32> = (0..hidden * 2 * DIRECTIONS).map(number).collect();
    let block = MatRef::from_row_major_slice(&block, rows, hidden);
    let directions = MatRef::from_row_major_slice(&directions, hidden, 2 * DIRECTIONS);
    let product = || {
        let mut out = vec![0.0f32; rows * 2 * DIRECTIONS];
        let into = MatMut::from_row_major_slice_mut(&mut out, rows, 2 * DIRECTIONS);
        matmul(into, Accum::Replace, block, directions, 1.0, Par::Seq);
        std::hint::black_box(out);
    };
    (0..values.div_ceil(VALUES as u64)).into_par_iter().for_each(|_| product());
}

/// In the process that [`Stage::measure`] started: runs the stage and prints what it cost.
pub(crate) fn child(stage: &str, path: &Path) {
    let stage = Stage::ALL.into_iter().find(|known| known.name() == stage).unwrap();
    rayon::ThreadPoolBuilder::new().num_threads(crate::THREADS).build_global().unwrap();
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let seconds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(status("RssAnon:"), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let start = Instant::now();
        stage.run(path);
        done.store(true, Ordering::Relaxed);
        start.elapsed().as_secs_f64()
    });
    let cost = Cost {
        seconds,
        processor: processor_time("/proc/self/stat", 13),
        anonymous: peak.into_inner(),
        resident: status("VmHWM:"),
    };
    println!("{}", serde_json::to_string(&cost).unwrap());
}

/// A line of this process's status, in bytes; 0 where the system has no such thing.
fn status(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// User and system time in seconds from a `stat` file of a process, two numbers from `field` on (counted from 0, the
/// name being one): 13 for its own, 15 for that of its children. 0 where the system has no such thing.
fn processor_time(file: &str, field: usize) -> f64 {
    // The kernel shows times in this unit whatever its own is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(field - 2);
    fields.take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Wall-clock and processor seconds of a shell command; `None` where it fails.
pub(crate) fn shell(script: &str, path: &Path) -> Option<Spent> {
    let (start, before) = (Instant::now(), processor_time("/proc/self/stat", 15));
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(path).stdout(Stdio::null()).status().ok()?;
    let seconds = start.elapsed().as_secs_f64();
    status.success().then(|| Spent { seconds, processor: processor_time("/proc/self/stat", 15) - before })
}

/// What a program says, and what that took; `None` where it fails or is not there.
pub(crate) fn output<'a>(program: &str, arguments: impl Iterator<Item = &'a OsStr>) -> Option<(String, Spent)> {
    let (start, before) = (Instant::now(), processor_time("/proc/self/stat", 15));
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let seconds = start.elapsed().as_secs_f64();
    let processor = processor_time("/proc/self/stat", 15) - before;
    output
        .status
        .success()
        .then(|| (String::from_utf8_lossy(&output.stdout).into_owned(), Spent { seconds, processor }))
}

/// What a run of another program took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) processor: f64,
}

impl Spent {
    /// One run after the other.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { seconds: self.seconds + other.seconds, processor: self.processor + other.processor }
    }
}

impl Cost {
    pub(crate) fn spent(&self) -> Spent {
        Spent { seconds: self.seconds, processor: self.processor }
    }
}
