//! Runs of this program's stages, and of other programs, in processes of their own: time, processor time and memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weightprint::anatomy;
use weightprint::checkpoint::{Checkpoint, OpenOptions};
use weightprint::fingerprint::{Fingerprint, Settings};

/// What one run cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// From start to end, without the start of the process.
    pub(crate) seconds: f64,
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
}

impl Stage {
    const ALL: [Self; 3] = [Self::Open, Self::Statistics, Self::Fingerprint];

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Statistics => "statistics",
            Self::Fingerprint => "fingerprint",
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
        let anatomy = anatomy::dissect(&checkpoint.tensors, checkpoint.sidecar.config.as_ref());
        let settings = Settings { descriptors: self == Self::Fingerprint, ..Settings::default() };
        if self != Self::Open {
            let print = Fingerprint::take_with(&checkpoint, &anatomy, &settings, &|_| ()).unwrap();
            assert_eq!(print.units.is_empty(), self == Self::Statistics);
        }
    }
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
    let cost = Cost { seconds, anonymous: peak.into_inner(), resident: status("VmHWM:") };
    println!("{}", serde_json::to_string(&cost).unwrap());
}

/// A line of this process's status, in bytes; 0 where the system has no such thing.
fn status(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Seconds that a shell command takes; `None` where it fails.
pub(crate) fn shell(script: &str, path: &Path) -> Option<f64> {
    let start = Instant::now();
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(path).stdout(Stdio::null()).status().ok()?;
    status.success().then(|| start.elapsed().as_secs_f64())
}
