//! Models with adapters inside: the weights are the model, and what changes them is told.

use safetensors::tensor::Dtype;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};

use crate::support::reports::{class, report};
use crate::support::{Random, Raw, load, write_file, zoo};

fn factor(name: String, rows: usize, cols: usize) -> Raw {
    let mut random = Random(rows as u64);
    let values: Vec<f32> = (0..rows * cols).map(|_| random.normal() as f32 * 0.01).collect();
    Raw::from_f32(&name, &[rows, cols], &values).cast(Dtype::BF16)
}

/// Every projection with factors of rank 2 beside it, called by `names` behind the module's name.
fn with_factors(tensors: &[Raw], [weight, a, b]: [&str; 3]) -> Vec<Raw> {
    let each = |raw: &Raw| {
        let Some(module) = raw.name.strip_suffix("_proj.weight") else { return vec![raw.clone()] };
        let named = |part: &str| format!("{module}_proj.{part}");
        let (outs, ins) = (raw.shape[0], raw.shape[1]);
        vec![Raw { name: named(weight), ..raw.clone() }, factor(named(a), 2, ins), factor(named(b), outs, 2)]
    };
    tensors.iter().flat_map(each).collect()
}

#[test]
fn weights_with_adapters_beside_them_are_the_model() {
    for names in [
        ["base_layer.weight", "lora_A.vision.weight", "lora_B.vision.weight"],
        ["base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"],
        ["weight", "Plora_A.weight", "Plora_B.weight"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for (zoo_name, wanted) in [("base-a", "derived"), ("base-b", "same-architecture")] {
            write_file(&path, &with_factors(&load(zoo_name), names));
            let report = report(folder.path(), &zoo("base-a"));
            assert_eq!(report["architecture"]["family"], "llama", "{names:?}");
            assert_eq!(class(&report), wanted, "{names:?}: {}", report["verdict"]["summary"]);
            let codes: Vec<_> = report["findings"].as_array().unwrap().iter().map(|f| &f["code"]).collect();
            assert!(codes.iter().any(|code| *code == "adapter-inside"), "{codes:?}");
            assert!(!codes.iter().any(|code| *code == "needs-base"), "{codes:?}");
        }
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert!(checkpoint.tensors.iter().any(|tensor| tensor.name == "model.layers.0.self_attn.q_proj.weight"));
        // As a reference it is a model too.
        let of_copy = report(&zoo("base-b"), folder.path());
        assert!(["identical", "derived"].contains(&class(&of_copy)), "{names:?}");
    }
}
