//! What lies beside a model and is no part of it: idle matrices, towers, a draft model, layers that predict further
//! tokens. The model is read as if it lay alone.

use std::time::Instant;

use weightprint::internals::anatomy::{Anatomy, Hints, dissect};
use weightprint::internals::model::{Architecture, Family, Role};
use weightprint::internals::tensor::TensorMeta;

use crate::anatomy::{contradictions, disguised, model, nameless, of_role, problems, record, tensor, tensors};

/// A model as small as those of the zoo: four layers of width 128.
fn small() -> Architecture {
    Architecture {
        hidden_size: 128,
        layers: 4,
        q_size: Some(128),
        kv_size: Some(64),
        intermediate_size: Some(256),
        vocab_size: Some(1024),
        heads: None,
        kv_heads: None,
        head_dim: None,
        ..record("Llama-3-8B").architecture()
    }
}

fn named(tensors: &[TensorMeta]) -> Anatomy {
    dissect(tensors, Hints::default())
}

/// The tensors as they lie, under names that say nothing.
fn opaque(tensors: &[TensorMeta]) -> Anatomy {
    let renamed = tensors.iter().enumerate();
    let renamed: Vec<TensorMeta> =
        renamed.map(|(i, meta)| TensorMeta { name: format!("t{i:05}"), ..meta.clone() }).collect();
    dissect(&renamed, Hints::default())
}

/// Fields that differ but for the family and what has no place in its block: where something lies beside the layers that
/// names do not set apart, no family is told.
fn sizes(found: &Architecture, expected: &Architecture) -> Vec<String> {
    let told = |field: &String| !field.starts_with("family:") && !field.starts_with("unplaced:");
    contradictions(found, expected).into_iter().filter(told).collect()
}

#[test]
fn idle_matrices_change_nothing_whatever_their_size_and_number() {
    let own = tensors(&small());
    // Small ones of no size of the model's, ones of its sizes, ones of its very shapes; a third of its bytes at most.
    let idle: [(usize, &[u64]); 9] = [
        (40, &[16, 16]),
        (60, &[64, 64]),
        (40, &[48, 48]),
        (300, &[3, 5]),
        (13, &[128, 128]),
        (17, &[64, 128]),
        (7, &[256, 128]),
        (7, &[128, 256]),
        (24, &[16, 128]),
    ];
    for (number, shape) in idle {
        let mut all = own.clone();
        all.extend((0..number).map(|i| tensor(format!("aux.{i}"), shape)));
        for anatomy in [named(&all), opaque(&all), nameless(&all)] {
            assert_eq!(sizes(&anatomy.architecture, &small()), Vec::<String>::new(), "{number} of {shape:?}");
        }
        let leftovers: Vec<usize> = (own.len()..all.len()).collect();
        assert_eq!(named(&all).leftovers, leftovers, "{number} of {shape:?}");
        let all = named(&all);
        // Where most names are of no scheme, names tell no family.
        let told = all.architecture.family == Family::Llama;
        assert_eq!(told, all.naming.is_some(), "{number} of {shape:?}");
    }
}

#[test]
fn side_factors_of_every_matrix_change_nothing() {
    let mut all = tensors(&small());
    for (at, (rows, columns)) in
        [(128, 128), (64, 128), (64, 128), (128, 128), (256, 128), (128, 256)].iter().enumerate()
    {
        for layer in 0..4 {
            all.push(tensor(format!("side.{layer}.{at}.in"), &[16, *columns]));
            all.push(tensor(format!("side.{layer}.{at}.out"), &[*rows, 16]));
        }
    }
    let found = nameless(&all).architecture;
    assert_eq!((found.hidden_size, found.layers), (128, 4));
    assert_eq!((found.q_size, found.kv_size, found.intermediate_size), (Some(128), Some(64), Some(256)));
}

/// A vision tower of `layers` layers, with biases everywhere.
fn tower(prefix: &str, layers: u64, width: u64, hidden: u64) -> Vec<TensorMeta> {
    let mut all = vec![tensor(format!("{prefix}patch_embed.weight"), &[width, 3, 14, 14])];
    for layer in 0..layers {
        let mut put = |part: &str, rows: u64, columns: u64| {
            all.push(tensor(format!("{prefix}blocks.{layer}.{part}.weight"), &[rows, columns]));
            all.push(tensor(format!("{prefix}blocks.{layer}.{part}.bias"), &[rows]));
        };
        for part in ["q", "k", "v", "out"] {
            put(part, width, width);
        }
        put("fc1", hidden, width);
        put("fc2", width, hidden);
        for norm in ["norm1", "norm2"] {
            all.push(tensor(format!("{prefix}blocks.{layer}.{norm}.weight"), &[width]));
            all.push(tensor(format!("{prefix}blocks.{layer}.{norm}.bias"), &[width]));
        }
    }
    all
}

#[test]
fn a_tower_is_a_component_with_layers_of_its_own() {
    let whole = Architecture { router_bias: None, ..record("Qwen2.5-7B").architecture() };
    let own = tensors(&whole);
    // More layers than the model has; as many hidden units as the model has channels; as wide as its keys.
    for (layers, width, hidden) in [(40, 1152, 4304), (24, 896, 3584), (24, 512, 2048)] {
        let beside = tower("eyes.", layers, width, hidden);
        for all in [[own.clone(), beside.clone()].concat(), [beside.clone(), own.clone()].concat()] {
            for anatomy in [named(&all), opaque(&all)] {
                assert_eq!(contradictions(&anatomy.architecture, &whole), Vec::<String>::new(), "{width}");
                let [component] = &anatomy.components[..] else { panic!("{:?}", anatomy.components) };
                let a = &component.architecture;
                assert_eq!((a.layers, a.hidden_size, a.intermediate_size), (layers, width, Some(hidden)));
                // Which vectors lie at the seam, order alone cannot tell.
                assert!(component.tensors.len().abs_diff(beside.len()) <= 4, "{}", component.tensors.len());
            }
            let anatomy = named(&all);
            assert_eq!(anatomy.components[0].prefix, "eyes.blocks.");
            assert!(anatomy.leftovers.is_empty(), "{:?}", anatomy.leftovers);
            for &index in &anatomy.components[0].tensors {
                assert!(all[index].name.starts_with("eyes."), "{}", all[index].name);
                assert!(anatomy.assignments[index].roles.is_empty());
            }
        }
    }
}

#[test]
fn a_draft_model_beside_does_not_mix_its_layers_with_the_models() {
    let whole = record("Llama-3-8B").architecture();
    let of_width = |hidden_size, layers, intermediate_size| Architecture {
        hidden_size,
        layers,
        intermediate_size: Some(intermediate_size),
        q_size: Some(hidden_size),
        kv_size: Some(hidden_size / 4),
        ..whole.clone()
    };
    for draft in [of_width(1024, 12, 4096), of_width(4096, 2, 14336)] {
        let mut all = tensors(&whole);
        let own = all.len();
        all.extend(tensors(&draft).into_iter().map(|mut meta| {
            meta.name.insert_str(0, "draft.");
            meta
        }));
        let anatomy = named(&all);
        assert_eq!(problems(&anatomy, record("Llama-3-8B")), Vec::<String>::new());
        let [component] = &anatomy.components[..] else { panic!("{:?}", anatomy.components) };
        let a = &component.architecture;
        assert_eq!((a.layers, a.hidden_size), (draft.layers, draft.hidden_size));
        assert_eq!(component.tensors, (own..all.len()).collect::<Vec<_>>());
    }
}

#[test]
fn an_encoder_and_a_decoder_are_two_stacks() {
    let whole = small();
    let decoder = tensors(&whole);
    let mut all = Vec::new();
    for (prefix, cross) in [("encoder.", false), ("decoder.", true)] {
        for meta in &decoder {
            let name = meta.name.replacen("model.", prefix, 1);
            if cross && name.contains("self_attn") {
                all.push(tensor(name.replace("self_attn", "cross_attn"), &meta.shape));
            }
            all.push(tensor(name, &meta.shape));
        }
    }
    let anatomy = named(&all);
    assert_eq!(anatomy.architecture.layers, 4);
    let [component] = &anatomy.components[..] else { panic!("{:?}", anatomy.components) };
    assert_eq!((component.prefix.as_str(), component.architecture.layers), ("encoder.layers.", 4));
}

#[test]
fn states_of_an_optimiser_are_no_layers() {
    let mut all = tensors(&small());
    let own = all.clone();
    for state in ["exp_avg", "exp_avg_sq"] {
        all.extend(own.iter().map(|meta| tensor(format!("optimizer.state.{state}.{}", meta.name), &meta.shape)));
    }
    all.rotate_left(own.len());
    assert_eq!(contradictions(&named(&all).architecture, &small()), Vec::<String>::new());
}

#[test]
fn heads_that_draft_further_tokens_are_no_layers() {
    let mut all = tensors(&small());
    for head in 0..3 {
        all.push(tensor(format!("medusa_head.{head}.0.linear.weight"), &[128, 128]));
        all.push(tensor(format!("medusa_head.{head}.0.linear.bias"), &[128]));
        all.push(tensor(format!("medusa_head.{head}.1.weight"), &[1024, 128]));
    }
    assert_eq!(contradictions(&named(&all).architecture, &small()), Vec::<String>::new());
}

/// The model with a layer that predicts a further token; `layer` names the layer, `beside` what only such a layer has.
fn predicting(a: &Architecture, layer: &str, beside: &[(&str, &[u64])]) -> Vec<TensorMeta> {
    let mut all = tensors(a);
    let last = format!("model.layers.{}.", a.layers - 1);
    let copied: Vec<TensorMeta> = all.iter().filter(|meta| meta.name.starts_with(&last)).cloned().collect();
    all.extend(copied.into_iter().map(|meta| tensor(meta.name.replace(&last, layer), &meta.shape)));
    all.extend(beside.iter().map(|(name, shape)| tensor(*name, shape)));
    all
}

#[test]
fn layers_that_predict_further_tokens_are_not_counted() {
    for name in ["Llama-3-8B", "DeepSeek-V3", "Qwen3-30B-A3B"] {
        let a = record(name).architecture();
        let (d, v) = (a.hidden_size, a.vocab_size.unwrap());
        let behind = format!("model.layers.{}.", a.layers);
        let own =
            [("mix.weight", vec![d, 2 * d]), ("n1.weight", vec![d]), ("n2.weight", vec![d]), ("n3.weight", vec![d])];
        let tables = [("emb.weight", vec![v, d]), ("out.weight", vec![v, d])];
        for (layer, around, tables) in [
            (behind.as_str(), behind.as_str(), &tables[..]),
            ("mtp.layers.0.", "mtp.", &[]),
            ("model.further.0.", "model.further.0.", &tables[..]),
        ] {
            let beside: Vec<(String, &[u64])> =
                own.iter().chain(tables).map(|(part, shape)| (format!("{around}{part}"), &shape[..])).collect();
            let beside: Vec<(&str, &[u64])> = beside.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
            let all = predicting(&a, layer, &beside);
            assert_eq!(problems(&named(&all), record(name)), Vec::<String>::new(), "{name} {layer}");
            let found = nameless(&all).architecture;
            assert_eq!(sizes(&found, &a), Vec::<String>::new(), "{name} {layer}, nameless");
            let joining = all.iter().position(|meta| meta.name.ends_with("mix.weight")).unwrap();
            assert!(of_role(&named(&all), Role::Mtp).contains(&joining), "{name} {layer}");
        }
    }
}

#[test]
fn a_last_layer_that_only_has_an_mlp_of_twice_the_width_is_a_layer() {
    let a = Architecture { intermediate_size: Some(256), ..small() };
    assert_eq!(named(&tensors(&a)).architecture.layers, 4);
    let mut all = tensors(&a);
    for meta in all.iter_mut().filter(|meta| meta.name.starts_with("model.layers.3.mlp")) {
        meta.name = meta.name.replace("mlp", "other");
    }
    assert_eq!(named(&all).architecture.layers, 4);
}

#[test]
fn one_layer_is_one_layer() {
    for (q, kv, f, v) in [(128, 64, 256, 1024), (128, 128, 512, 384), (128, 128, 128, 1024), (64, 64, 256, 512)] {
        let (q_size, kv_size) = (Some(q), Some(kv));
        let a = Architecture { layers: 1, q_size, kv_size, intermediate_size: Some(f), vocab_size: Some(v), ..small() };
        for tied in [true, false] {
            let a = Architecture { tied: Some(tied), ..a.clone() };
            let all = tensors(&a);
            assert_eq!(named(&all).architecture.layers, 1, "{q} {kv} {f} {v}");
            assert_eq!(nameless(&all).architecture.layers, 1, "{q} {kv} {f} {v}");
        }
    }
}

#[test]
fn a_state_space_model_is_not_read_as_attention_and_mlp() {
    let mut all = vec![tensor("backbone.embeddings.weight", &[50280, 1024]), tensor("backbone.norm_f.weight", &[1024])];
    for layer in 0..12 {
        let mut put = |part: &str, shape: &[u64]| {
            all.push(tensor(format!("backbone.layers.{layer}.{part}"), shape));
        };
        put("norm.weight", &[1024]);
        put("mixer.in_proj.weight", &[4096, 1024]);
        put("mixer.out_proj.weight", &[1024, 2048]);
        put("mixer.x_proj.weight", &[96, 2048]);
        put("mixer.dt_proj.weight", &[2048, 64]);
        put("mixer.conv1d.weight", &[2048, 1, 4]);
        put("mixer.A_log", &[2048, 16]);
        put("mixer.D", &[2048]);
    }
    for anatomy in [named(&all), nameless(&all)] {
        assert_eq!((anatomy.architecture.hidden_size, anatomy.architecture.q_size), (1024, None));
        assert!(anatomy.leftovers.len() >= 12 * 4, "{}", anatomy.leftovers.len());
    }
}

#[test]
fn many_stacks_and_many_joining_matrices_take_no_long() {
    let started = Instant::now();
    let stacks: Vec<TensorMeta> =
        (0..60_000).map(|i| tensor(format!("m{}.layers.{}.w{}", i / 6, i % 2, i % 3), &[64, 128])).collect();
    let joining: Vec<TensorMeta> =
        (0..60_000).map(|i| tensor(format!("m{i}.fc.weight"), &[64, 128])).chain(model("Llama-3-8B")).collect();
    let layers: Vec<TensorMeta> =
        (0..60_000).map(|i| tensor(format!("model.layers.{i}.fc{i}.weight"), &[64, 128])).collect();
    for tensors in [stacks, joining, layers] {
        assert_eq!(named(&tensors).assignments.len(), tensors.len());
        assert_eq!(named(&disguised(&tensors)).assignments.len(), tensors.len());
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
