//! What it costs to compare a LLaMA-7B-shaped suspect with 200 references of the same shape.
//!
//! `cargo bench --bench search` makes the references once under the target folder (about 2 GB of random fingerprints in
//! the shape of LLaMA-7B), with the suspect's own among them, and scans it twice: as it is, and with every label shuffled.
//! As a test it does nothing.
#![allow(clippy::disallowed_macros, reason = "a bench speaks to whoever runs it")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use weightprint::internals::assemble::Subject;
use weightprint::internals::catalog::Catalog;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::fingerprint::{
    DIRECTIONS, Fingerprint, FrameKind, SAMPLED_NEURONS, Settings, Unit, labels,
};
use weightprint::internals::model::Architecture;
use weightprint::internals::scanner::{self, Prepared};

const REFERENCES: u64 = 200;
const LAYERS: u32 = 32;
const HIDDEN: u64 = 4096;
const NEURONS: u64 = 11008;
const VOCABULARY: u64 = 32_000;
/// Rows and columns whose energies are kept.
const ENERGIES: u64 = weightprint::internals::fingerprint::ENERGY_LABELS as u64;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// About normal, with variance 1.
    fn value(&mut self) -> f32 {
        let sum: u32 = self.next().to_le_bytes().iter().map(|&byte| u32::from(byte)).sum();
        (sum as f32 - 1020.0) / 209.0
    }

    fn bytes(&mut self, count: usize) -> Vec<i8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).map(|byte| byte as i8 / 2).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo").join(name)
}

/// A fingerprint in the shape of LLaMA-7B with random content: base-a's, stretched.
fn model(seed: u64, neurons_kept: &[u32]) -> Fingerprint {
    let random = &mut Random(seed << 32);
    let checkpoint = Checkpoint::open(&zoo("base-a"), OpenOptions::default()).unwrap();
    let mut print = Fingerprint::take(&Subject::of(&checkpoint), &Settings::default(), &|_| ()).unwrap();
    print.exact.architecture = Architecture {
        hidden_size: HIDDEN,
        layers: u64::from(LAYERS),
        q_size: Some(HIDDEN),
        kv_size: Some(HIDDEN),
        intermediate_size: Some(NEURONS),
        vocab_size: Some(VOCABULARY),
        heads: Some(32),
        kv_heads: Some(32),
        head_dim: Some(128),
        ..print.exact.architecture
    };
    print.exact.subject.name = format!("random-{seed}");
    let wide = |size: u64| match size {
        128 => HIDDEN,
        256 => NEURONS,
        1024 => VOCABULARY,
        64 => HIDDEN,
        other => other,
    };
    let (of_layer, mut others): (Vec<_>, Vec<_>) =
        print.exact.tensors.iter().cloned().partition(|tensor| tensor.assignment.layer == Some(0));
    others.retain(|tensor| tensor.assignment.layer.is_none());
    print.exact.tensors = (0..LAYERS)
        .flat_map(|layer| {
            of_layer.iter().cloned().map(move |mut tensor| {
                tensor.name = tensor.name.replace(".0.", &format!(".{layer}."));
                tensor.assignment.layer = Some(layer);
                tensor
            })
        })
        .chain(others)
        .collect();
    for tensor in &mut print.exact.tensors {
        tensor.shape.iter_mut().for_each(|size| *size = wide(*size));
        tensor.stored_sha256 = std::array::from_fn(|_| random.next() as u8);
        let (rows, cols) = tensor.sample_labels();
        let sampled = rows.len() * cols.len();
        let (energy_rows, energy_cols) = (tensor.matrix().0.min(ENERGIES), tensor.matrix().1.min(ENERGIES));
        let embeds = tensor.values.as_ref().is_some_and(|values| values.row_norms.is_some());
        if let Some(values) = &mut tensor.values {
            values.sha256 = Some(std::array::from_fn(|_| random.next() as u8));
            values.rounded = [u128::from(random.next()), u128::from(random.next())];
            let value = |random: &mut Random| f32::from_bits(random.value().to_bits() & 0xffff_0000);
            values.sample = (0..sampled).map(|_| value(random)).collect::<Vec<f32>>().into();
            values.row_rms = (0..energy_rows).map(|_| half::f16::from_f32(1.0)).collect();
            values.col_rms = (0..energy_cols).map(|_| half::f16::from_f32(1.0)).collect();
            values.sketch.iter_mut().for_each(|key| key.id = random.next());
            values.row_norms = embeds.then(|| (0..VOCABULARY).map(|_| 1.0 + 0.1 * random.value()).collect());
        }
    }
    print.exact.channels.profile = (0..HIDDEN).map(|_| random.value()).collect();
    print.exact.channels.layers = Vec::new();
    for (frame, rows) in print.approximate.frames.iter().zip(&mut print.approximate.anchor_rows) {
        if frame.kind != FrameKind::Raw {
            *rows = random.bytes(DIRECTIONS * HIDDEN as usize);
        }
    }
    let frames = print.approximate.frames.len();
    let template = print.approximate.units[0].clone();
    print.approximate.units = (0..LAYERS).map(|layer| unit(&template, layer, frames, neurons_kept, random)).collect();
    print.approximate.attentions.clear();
    print
}

fn unit(template: &Unit, layer: u32, frames: usize, kept: &[u32], random: &mut Random) -> Unit {
    let mut unit = template.clone();
    (unit.layer, unit.neurons, unit.labels) = (Some(layer), NEURONS, kept.to_vec());
    let matrix = |random: &mut Random| random.bytes(kept.len() * DIRECTIONS).into();
    unit.frames = (0..frames).map(|_| std::array::from_fn(|_| matrix(random))).collect();
    unit.shapes.iter_mut().for_each(|shape| *shape = random.bytes(shape.len()).into_iter().map(|v| v as u8).collect());
    unit
}

/// The suspect with the labels of channels and neurons drawn anew.
fn shuffled(mut print: Fingerprint) -> Fingerprint {
    let random = &mut Random(7);
    random.shuffle(&mut print.exact.channels.profile);
    for tensor in &mut print.exact.tensors {
        tensor.stored_sha256 = std::array::from_fn(|_| random.next() as u8);
        if let Some(values) = &mut tensor.values {
            values.sha256 = None;
            values.rounded = [u128::from(random.next()), u128::from(random.next())];
            let mut sample = values.sample.values().into_owned();
            random.shuffle(&mut sample);
            values.sample = sample.into();
            values.sketch.iter_mut().for_each(|key| key.id = random.next());
        }
    }
    for unit in &mut print.approximate.units {
        let mut order: Vec<usize> = (0..unit.labels.len()).collect();
        random.shuffle(&mut order);
        for numbers in unit.frames.iter_mut().flatten() {
            let moved: Vec<i8> =
                order.iter().flat_map(|&from| numbers[from * DIRECTIONS..][..DIRECTIONS].to_vec()).collect();
            *numbers = moved.into();
        }
    }
    print
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--bench") || args.iter().any(|arg| arg == "--test") {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("references-200");
    let all: Vec<u32> = (0..NEURONS as u32).collect();
    let suspect = model(1, &all);
    let catalog = Catalog::open(&folder).ok().filter(|catalog| catalog.files().len() as u64 == REFERENCES);
    let catalog = catalog.unwrap_or_else(|| {
        let sampled = labels::chosen(NEURONS, SAMPLED_NEURONS);
        (1..=REFERENCES).into_par_iter().for_each(|seed| {
            let print = if seed == 1 { suspect.clone() } else { model(seed, &sampled) };
            Catalog::create(&folder).unwrap().add(&format!("random/{seed}"), print, true).unwrap();
        });
        Catalog::open(&folder).unwrap()
    });
    let bytes: u64 = catalog.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    println!("{REFERENCES} references, {:.1} MB each", bytes as f64 / 1e6 / REFERENCES as f64);
    let start = Instant::now();
    let lists = catalog.anchors().unwrap();
    println!("anchors of all references: {:.2} s, {} lists", start.elapsed().as_secs_f64(), lists.len());
    let permuted = shuffled(suspect.clone());
    for (what, print) in [("labels survive", suspect), ("all labels shuffled", permuted)] {
        let subject = Prepared::of(print, what.to_owned());
        let start = Instant::now();
        let report = scanner::scan(&subject, std::slice::from_ref(&catalog), true).unwrap();
        let best = &report.candidates[0];
        println!(
            "{what}: {:.2} s; {} of {} in full; {} {}, log10 p {:.0}",
            start.elapsed().as_secs_f64(),
            report.tested.in_full,
            report.tested.weights,
            best.id,
            best.class,
            best.log10_p.unwrap_or(0.0),
        );
    }
}
