//! Containers that no tool writes for a model: flat, stacked, laid end to end, cast to another type, split into sums. A
//! copy is found in each, and a stranger in the same container is not.

use crate::support::reports::{class, report, say, test};
use crate::support::{Raw, load, obfuscate, write_file, zoo};
use safetensors::tensor::Dtype;
use serde_json::Value;

const HEAD: usize = 32;

/// The class of a container of a copy and of the same of a stranger, with the report on the copy. The configuration says
/// how many layers there are.
fn contained(what: &str, container: &dyn Fn(&[Raw]) -> Vec<Raw>) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(zoo("base-a").join("config.json"), folder.path().join("config.json")).unwrap();
    let run = |name: &str| {
        write_file(&folder.path().join("model.safetensors"), &container(&load(name)));
        report(folder.path(), &zoo("base-a"))
    };
    let (copy, stranger) = (run("base-a"), run("base-b"));
    say(&format!("{what}: copy {} ({}), stranger {}", class(&copy), test(&copy, "content")["says"], class(&stranger)));
    let shared = stranger["verdict"]["references"].as_array().unwrap();
    assert!(shared.is_empty(), "{what}: {}", stranger["verdict"]["summary"]);
    assert_eq!(test(&stranger, "content")["statistic"], 0.0, "{what}: runs in common with a stranger");
    let found = class(&copy).to_owned();
    (copy, found)
}

fn layers(tensors: &[Raw]) -> usize {
    tensors.iter().filter(|tensor| tensor.name.ends_with("input_layernorm.weight")).count()
}

/// What is behind the number of a layer in the names.
fn parts(tensors: &[Raw]) -> Vec<String> {
    tensors.iter().filter_map(|tensor| tensor.name.strip_prefix("model.layers.0.").map(str::to_owned)).collect()
}

fn part<'a>(tensors: &'a [Raw], layer: usize, name: &str) -> &'a Raw {
    let name = format!("model.layers.{layer}.{name}");
    tensors.iter().find(|tensor| tensor.name == name).unwrap()
}

fn flat(name: &str, tensors: &[&Raw]) -> Raw {
    let bytes: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    Raw { name: name.to_owned(), dtype: Dtype::BF16, shape: vec![bytes.len() / 2], bytes }
}

#[test]
fn a_copy_in_one_flat_tensor_or_one_of_each_layer_is_found_by_its_content() {
    let whole = |tensors: &[Raw]| vec![flat("_flat_param", &tensors.iter().collect::<Vec<_>>())];
    let by_layer = |tensors: &[Raw]| {
        let within = |layer: usize| tensors.iter().filter(move |raw| raw.name.contains(&format!(".layers.{layer}.")));
        let outside = tensors.iter().filter(|raw| !raw.name.contains(".layers."));
        let mut out = vec![flat("root._flat_param", &outside.collect::<Vec<_>>())];
        out.extend(
            (0..layers(tensors)).map(|layer| flat(&format!("l{layer}._flat"), &within(layer).collect::<Vec<_>>())),
        );
        out
    };
    let wide = |tensors: &[Raw]| vec![whole(tensors)[0].cast(Dtype::F32)];
    let halves = |tensors: &[Raw]| vec![whole(tensors)[0].cast(Dtype::F16)];
    for (what, container) in [
        ("flat", &whole as &dyn Fn(&[Raw]) -> Vec<Raw>),
        ("flat by layer", &by_layer),
        ("flat f32", &wide),
        ("flat f16", &halves),
    ] {
        let (copy, found) = contained(what, container);
        assert_eq!(found, "derived", "{what}: {}", copy["verdict"]["summary"]);
        assert!(test(&copy, "content")["effect"].as_f64().unwrap() > 0.95, "{what}");
    }
}

#[test]
fn a_part_of_a_model_in_a_flat_tensor_is_a_component() {
    let (folder, strangers) = (tempfile::tempdir().unwrap(), load("base-b"));
    let copied = load("base-a");
    let taken: Vec<&Raw> = copied.iter().filter(|raw| raw.name.contains("layers.1.mlp")).collect();
    let mut tensors = strangers;
    tensors.push(flat("cache", &taken));
    write_file(&folder.path().join("model.safetensors"), &tensors);
    let found = report(folder.path(), &zoo("base-a"));
    assert_eq!(class(&found), "shares-components", "{}", found["verdict"]["summary"]);
}

/// All layers of each part in one tensor: stacked, or end to end.
fn joined(tensors: &[Raw], end_to_end: bool) -> Vec<Raw> {
    let count = layers(tensors);
    let mut out: Vec<Raw> = tensors.iter().filter(|raw| !raw.name.contains(".layers.")).cloned().collect();
    out.extend(parts(tensors).iter().map(|name| {
        let each: Vec<&Raw> = (0..count).map(|layer| part(tensors, layer, name)).collect();
        let mut shape = each[0].shape.clone();
        if end_to_end {
            shape[0] *= count;
        } else {
            shape.insert(0, count);
        }
        Raw { shape, ..flat(&format!("model.layers.{name}"), &each) }
    }));
    out
}

#[test]
fn layers_stacked_or_laid_end_to_end_are_taken_apart() {
    for (what, end_to_end) in [("stacked", false), ("end to end", true)] {
        let (copy, found) = contained(what, &|tensors| joined(tensors, end_to_end));
        assert_eq!(found, "identical", "{what}: {}", copy["verdict"]["summary"]);
    }
    let (copy, found) = contained("stacked and nameless", &|tensors| {
        let mut tensors = joined(tensors, false);
        obfuscate(&mut tensors, 3);
        tensors
    });
    assert_eq!(found, "identical", "{}", copy["verdict"]["summary"]);
}

/// The transpose in values of two bytes, in another shape of the same size.
fn kernel(raw: &Raw, shape: &[usize]) -> Raw {
    let [rows, cols] = raw.shape[..] else { panic!("a matrix") };
    let at = |col: usize, row: usize| raw.bytes[(row * cols + col) * 2..][..2].to_vec();
    let bytes = (0..cols).flat_map(|col| (0..rows).flat_map(move |row| at(col, row))).collect();
    Raw { shape: shape.to_vec(), bytes, ..raw.clone() }
}

/// As Flax has a layer: (in, out), with an axis for heads.
fn flax(raw: &Raw) -> Raw {
    let [rows, cols] = raw.shape[..] else { return raw.clone() };
    let shape = match &raw.name {
        name if name.contains("o_proj") => vec![cols / HEAD, HEAD, rows],
        name if name.contains("self_attn") => vec![cols, rows / HEAD, HEAD],
        _ => vec![cols, rows],
    };
    kernel(raw, &shape)
}

/// The layers of each part along an axis of one tensor, as JAX scans over them.
fn scanned(tensors: &[Raw], axis: usize) -> Vec<Raw> {
    let count = layers(tensors);
    let mut out: Vec<Raw> = tensors.iter().filter(|raw| !raw.name.contains(".layers.")).cloned().collect();
    for head in out.iter_mut().filter(|raw| raw.name.contains("lm_head")) {
        *head = flax(head);
    }
    out.extend(parts(tensors).iter().map(|name| {
        let each: Vec<Raw> = (0..count).map(|layer| flax(part(tensors, layer, name))).collect();
        let mut shape = each[0].shape.clone();
        let lines: usize = shape[..axis].iter().product();
        let line = each[0].bytes.len() / lines;
        shape.insert(axis, count);
        let bytes = (0..lines)
            .flat_map(|at| each.iter().flat_map(move |raw| raw.bytes[at * line..][..line].to_vec()))
            .collect();
        Raw { name: format!("params.decoder.layers.{name}"), dtype: Dtype::BF16, shape, bytes }
    }));
    out
}

#[test]
fn layers_as_jax_scans_over_them_are_taken_apart_and_turned() {
    for axis in [0, 1] {
        let (copy, found) = contained(&format!("scanned along {axis}"), &|tensors| scanned(tensors, axis));
        assert_eq!(found, "identical", "{axis}: {}", copy["verdict"]["summary"]);
    }
    let (copy, found) = contained("flax", &|tensors| {
        tensors.iter().map(|raw| if raw.name.contains("embed") { raw.clone() } else { flax(raw) }).collect()
    });
    assert_eq!(found, "identical", "{}", copy["verdict"]["summary"]);
}

#[test]
fn values_under_the_name_of_another_type_are_read_as_what_they_are() {
    let stated: [(Dtype, usize); 7] = [
        (Dtype::U8, 1),
        (Dtype::I8, 1),
        (Dtype::I16, 2),
        (Dtype::F16, 2),
        (Dtype::I32, 4),
        (Dtype::F32, 4),
        (Dtype::I64, 8),
    ];
    let cast = |held: Dtype, (stated, width): (Dtype, usize)| {
        let (copy, found) = contained(&format!("{held:?} as {stated:?}"), &|tensors| {
            let pun = |raw: &Raw| {
                let mut raw = raw.cast(held);
                *raw.shape.last_mut().unwrap() =
                    raw.bytes.len() / width / raw.shape[..raw.shape.len() - 1].iter().product::<usize>();
                Raw { dtype: stated, ..raw }
            };
            tensors.iter().map(pun).collect()
        });
        let codes: Vec<&str> =
            copy["findings"].as_array().unwrap().iter().map(|found| found["code"].as_str().unwrap()).collect();
        assert!(codes.contains(&"dtype-punned"), "{held:?} as {stated:?}: {codes:?}");
        found
    };
    for stated in stated {
        assert_eq!(cast(Dtype::BF16, stated), "identical", "BF16 as {stated:?}");
    }
    assert_eq!(cast(Dtype::F32, (Dtype::U8, 1)), "identical");
    assert_eq!(cast(Dtype::F16, (Dtype::BF16, 2)), "re-encoded");
}

#[test]
fn no_type_of_the_zoo_is_taken_for_another() {
    for name in ["base-a", "a-sft", "moe-scratch"] {
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            let folder = tempfile::tempdir().unwrap();
            let tensors: Vec<Raw> = load(name).iter().map(|raw| raw.cast(dtype)).collect();
            write_file(&folder.path().join("model.safetensors"), &tensors);
            let found = report(folder.path(), &zoo(name));
            let codes = found["findings"].as_array().unwrap().iter().map(|found| &found["code"]);
            assert!(codes.clone().all(|code| code != "dtype-punned" && code != "summed-tensors"), "{name} {dtype:?}");
        }
    }
}

#[test]
fn matrices_split_into_two_that_add_up_to_them_are_read_as_their_sum() {
    for times in [2.0, 30.0] {
        let (copy, found) = contained(&format!("sums, {times} times as large"), &|tensors| {
            let mut seed = 1u32;
            let split = |raw: &Raw| {
                let values = raw.values();
                if raw.shape.len() < 2 {
                    return vec![raw.clone()];
                }
                let rms = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
                let noise: Vec<f32> = values
                    .iter()
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        ((seed >> 8) as f32 / (1 << 24) as f32 - 0.5) * rms * times
                    })
                    .collect();
                let rest: Vec<f32> = values.iter().zip(&noise).map(|(value, noise)| value - noise).collect();
                let stem = raw.name.trim_end_matches(".weight");
                let named = |end: &str, values: &[f32]| Raw::from_f32(&format!("{stem}.{end}"), &raw.shape, values);
                vec![named("w0", &noise), named("w1", &rest)]
            };
            tensors.iter().map(split).collect::<Vec<_>>().concat()
        });
        let codes = copy["findings"].as_array().unwrap().iter().map(|found| &found["code"]);
        let is_told = codes.clone().any(|code| code == "summed-tensors");
        let sums_matter = times > 4.0;
        assert_eq!(is_told, sums_matter, "{times}");
        // Where the parts are large, their rounding in `f32` is beyond that of `bf16` only for values near zero.
        assert_eq!(found, "derived", "{times}: {}", copy["verdict"]["summary"]);
        let runs = test(&copy, "content")["effect"].as_f64().unwrap();
        assert!(runs > 0.95 || !is_told, "{times}: {runs}");
    }
}
