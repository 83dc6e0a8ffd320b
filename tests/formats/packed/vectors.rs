//! Values held to other implementations: vectors that `fixtures/packed.py` wrote with each tool's own decoder, and
//! anamnesis on the zoo.

use std::path::Path;

use anamnesis::{Dtype as TheirDtype, F32Out};
use safetensors::tensor::SafeTensors;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::tensor::TensorMeta;

use super::{GROUP, floats, integers, packed};
use crate::support::{Raw, load, load_file, write_file};

fn values(checkpoint: &Checkpoint, tensor: &TensorMeta) -> Vec<f32> {
    let mut out = vec![f32::NAN; tensor.elements() as usize];
    checkpoint.values(tensor, 0, &mut out, &mut Vec::new()).unwrap().unwrap();
    out
}

/// Any window of rows, or of one row, holds the same as the whole.
fn check_windows(what: &str, checkpoint: &Checkpoint, tensor: &TensorMeta, all: &[f32]) {
    let ins = tensor.matrix().1 as usize;
    for (first, count) in [(ins, 3 * ins), (5 * ins + 9, 17), (all.len() - ins, ins), (3 * ins + 1, 1)] {
        let mut part = vec![0.0; count];
        checkpoint.values(tensor, first as u64, &mut part, &mut Vec::new()).unwrap().unwrap();
        assert_eq!(part, all[first..][..count], "{what}: {count} from {first}");
    }
}

/// Bit for bit, but for the sign of zeros.
#[test]
fn values_are_those_of_the_tools_that_write_the_files() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/packed.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let configs = header.metadata().clone().unwrap();
    assert_eq!(configs.len(), 32, "{configs:?}");
    let all = load_file(&path);
    let mut wrong = Vec::new();
    for (case, config) in &configs {
        let prefix = format!("{case}/");
        let own = |raw: &Raw| raw.name.strip_prefix(&prefix).map(|name| Raw { name: name.into(), ..raw.clone() });
        let (expected, parts): (Vec<Raw>, Vec<Raw>) = all.iter().filter_map(own).partition(|raw| raw.name == "values");
        let folder = tempfile::tempdir().unwrap();
        write_file(&folder.path().join("model.safetensors"), &parts);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        for mmap in [true, false] {
            let checkpoint = Checkpoint::open(folder.path(), OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
            let [tensor] = &checkpoint.tensors[..] else { panic!("{case}: {:?}", checkpoint.tensors) };
            assert_eq!(tensor.name, if case == "gpt-oss" { "w" } else { "w.weight" }, "{case}");
            let (ours, theirs) = (values(&checkpoint, tensor), expected[0].values());
            let shape: Vec<usize> = tensor.shape.iter().map(|&size| size as usize).collect();
            assert_eq!(shape, expected[0].shape, "{case}");
            // A zero of either sign is one.
            if let Some(at) = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs) {
                wrong.push(format!("{case}: at {at} {} and {}", ours[at], theirs[at]));
            }
            check_windows(case, &checkpoint, tensor, &ours);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every matrix of a layer, decoded by another implementation from the same bytes.
#[test]
fn values_of_the_zoo_are_those_of_anamnesis() {
    type Theirs = fn(&[Raw], usize, usize) -> Vec<u8>;
    fn gptq(parts: &[Raw], outs: usize, ins: usize, bits: u8) -> Vec<u8> {
        let [codes, zeros, scales, order] = [0, 1, 2, 3].map(|part| &parts[part].bytes);
        let order = Some(order.as_slice());
        anamnesis::dequantize_gptq::<F32Out>(codes, scales, zeros, order, ins, outs, GROUP, bits, TheirDtype::F16)
            .unwrap()
    }
    fn awq(parts: &[Raw], outs: usize, ins: usize) -> Vec<u8> {
        let [codes, zeros, scales] = [0, 1, 2].map(|part| &parts[part].bytes);
        anamnesis::dequantize_awq::<F32Out>(codes, scales, zeros, ins, outs, GROUP, 4, TheirDtype::F16).unwrap()
    }
    fn fp8(parts: &[Raw], outs: usize, ins: usize) -> Vec<u8> {
        anamnesis::dequantize_fp8::<F32Out>(&parts[0].bytes, &parts[1].bytes, outs, ins, TheirDtype::F32).unwrap()
    }
    let kinds: [(&str, super::Pack, Theirs); 4] = [
        ("GPTQ-4", |raw| integers::gptq(raw, 4, 1, true), |parts, outs, ins| gptq(parts, outs, ins, 4)),
        ("GPTQ-8", |raw| integers::gptq(raw, 8, 1, false), |parts, outs, ins| gptq(parts, outs, ins, 8)),
        ("AWQ-4", integers::awq, awq),
        ("FP8", floats::fp8, fp8),
    ];
    let base = load("base-a");
    for (what, pack, theirs) in kinds {
        let folder = tempfile::tempdir().unwrap();
        write_file(&folder.path().join("model.safetensors"), &packed(&base, pack));
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        for raw in base.iter().filter(|raw| raw.name.contains("layers.0.") && raw.name.contains("_proj")) {
            let (outs, ins) = (raw.shape[0], raw.shape[1]);
            let theirs = theirs(&pack(raw), outs, ins);
            let theirs: Vec<f32> = theirs.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let tensor = checkpoint.tensors.iter().find(|meta| meta.name == raw.name).unwrap();
            assert_eq!(tensor.shape, [outs as u64, ins as u64]);
            let ours = values(&checkpoint, tensor);
            for (at, value) in ours.iter().enumerate() {
                // GPTQ and AWQ come out by (in, out).
                let place = if what == "FP8" { at } else { at % ins * outs + at / ins };
                assert_eq!(value.to_bits(), theirs[place].to_bits(), "{what}, {} at {at}", raw.name);
            }
            check_windows(what, &checkpoint, tensor, &ours);
        }
    }
}
