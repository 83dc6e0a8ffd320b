//! The disguises that the other tests use leave the function as it is: a forward pass says so, and numpy says that the
//! forward pass is the zoo's.

use crate::support::disguise::{self, Disguise};
use crate::support::model::Model;
use crate::support::{Random, zoo};
use safetensors::tensor::Dtype;
use serde_json::Value;

/// "When you call a function that returns a value, the ownership of that value moves to the caller. The compiler checks
/// that every reference is val" in the zoo's tokenizer.
const TEXT: [usize; 48] = [
    54, 404, 571, 790, 264, 597, 416, 450, 82, 264, 613, 11, 271, 291, 86, 77, 278, 789, 753, 328, 416, 613, 300, 78,
    85, 306, 294, 271, 270, 280, 268, 81, 13, 502, 998, 81, 270, 730, 82, 416, 310, 425, 88, 304, 983, 372, 303, 963,
];

/// The largest difference of logits that writing f32 tensors may cause, as a share of the largest logit.
const TOLERANCE: f64 = 1e-6;

/// A matrix that was replaced by an unrelated one is about √2 of its size away.
const ANOTHER: f64 = 1.0;

/// The zoo's gains stayed near one, so ones, or the same gains in another order, are not far from them.
const LEAST_GAIN_CHANGE: f64 = 0.02;

/// Dense, dense and far from base-a, mixture of experts.
const MODELS: [&str; 3] = ["base-a", "a-cpt", "a-moe-upcycled"];

fn relative_error(before: &Model, after: &Model) -> f64 {
    let (before, after) = (before.logits(&TEXT).concat(), after.logits(&TEXT).concat());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |top: f64, value| top.max(value.abs()));
    let difference = largest(&mut before.iter().zip(&after).map(|(before, after)| after - before));
    // A NaN would be lost in the maximum.
    assert!(after.iter().all(|logit| logit.is_finite()));
    difference / largest(&mut before.iter().copied())
}

/// By name, how far each tensor is from what it was, as a share of its size.
fn changes(before: &Model, after: &Model) -> Vec<(String, f64)> {
    let change = |(before, after): (crate::support::Raw, crate::support::Raw)| {
        assert_eq!((&before.name, &before.shape), (&after.name, &after.shape));
        let (old, new) = (before.values(), after.values());
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let distance = square(&mut old.iter().zip(&new).map(|(old, new)| old - new));
        (before.name, (distance / square(&mut old.iter().copied())).sqrt())
    };
    before.to_raw(Dtype::F32).into_iter().zip(after.to_raw(Dtype::F32)).map(change).collect()
}

fn is_one_of(name: &str, roles: &[&str]) -> bool {
    roles.iter().any(|role| name.ends_with(&format!("{role}.weight")))
}

fn reads_stream(name: &str) -> bool {
    let roles = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "w1", "w3", "block_sparse_moe.gate", "lm_head"];
    is_one_of(name, &roles)
}

fn is_gain(name: &str) -> bool {
    is_one_of(name, &["norm"])
}

/// The function stays while exactly the tensors that the disguise is about change, matrices by at least a share.
fn assert_disguises(disguise: Disguise, least: f64, touches: impl Fn(&str) -> bool) {
    for (seed, name) in MODELS.into_iter().enumerate() {
        let before = Model::load(name);
        let mut after = before.clone();
        disguise(&mut after, &mut Random(seed as u64));
        let after = after.written(Dtype::F32);
        let error = relative_error(&before, &after);
        assert!(error < TOLERANCE, "{name}: {error}");
        for (tensor, change) in changes(&before, &after) {
            let least = if is_gain(&tensor) { LEAST_GAIN_CHANGE } else { least };
            let expected = if touches(&tensor) { change > least } else { change == 0.0 };
            assert!(expected, "{name}: {tensor} changed by {change}");
        }
    }
}

#[test]
fn roles_hold_every_tensor_of_the_file() {
    for name in MODELS {
        let written = Model::load(name).to_raw(Dtype::BF16);
        let read = crate::support::load(name);
        assert_eq!(written.len(), read.len());
        for (written, read) in written.iter().zip(&read) {
            assert_eq!((&written.name, &written.shape), (&read.name, &read.shape));
            assert!(written.bytes == read.bytes, "{name}: {}", read.name);
        }
    }
}

/// At these (position, token)…
const WHERE: [(usize, usize); 5] = [(0, 404), (10, 11), (23, 375), (47, 971), (47, 0)];

/// … these are the logits by `fixtures/zoo/llama.py` written once more in numpy 2.4 and f64 (einsum over heads, key and
/// value heads repeated, a masked score matrix), on the bf16 tensors as they are in the files.
const GOLDEN: [(&str, [f64; 5]); 3] = [
    ("base-a", [2.043208, 6.843874, 8.454257, 10.552419, -1.701715]),
    ("a-cpt", [0.938043, 5.711447, 5.177825, 9.444826, -0.812082]),
    ("a-moe-upcycled", [2.274832, 5.176181, 7.926487, 9.728852, -0.587409]),
];

#[test]
fn logits_are_those_of_the_python_reference() {
    for (name, golden) in GOLDEN {
        let logits = Model::load(name).logits(&TEXT);
        for ((position, token), expected) in WHERE.into_iter().zip(golden) {
            let logit = logits[position][token];
            assert!((logit - expected).abs() < 1e-5, "{name}: {logit} at {position}, {token}");
        }
    }
}

/// The most likely next token at each of the last eight positions, from the same reference.
const GREEDY: [(&str, [usize; 8]); 3] = [
    ("base-a", [64, 88, 198, 70, 372, 198, 198, 971]),
    ("a-cpt", [64, 88, 285, 368, 372, 198, 198, 971]),
    ("a-moe-upcycled", [602, 567, 271, 368, 372, 198, 198, 971]),
];

#[test]
fn greedy_tokens_are_those_of_the_python_reference() {
    let best = |logits: &Vec<f64>| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    for (name, greedy) in GREEDY {
        let logits = Model::load(name).logits(&TEXT);
        assert_eq!(logits[40..].iter().map(best).collect::<Vec<_>>(), greedy, "{name}");
    }
}

#[test]
fn text_is_far_likelier_than_chance_and_than_its_reverse() {
    let reverse: Vec<usize> = TEXT.into_iter().rev().collect();
    for name in MODELS {
        let model = Model::load(name);
        let perplexity = model.perplexity(&TEXT);
        assert!(perplexity < model.config.vocab as f64 / 20.0, "{name}: {perplexity}");
        assert!(model.perplexity(&reverse) > 10.0 * perplexity, "{name}");
    }
}

#[test]
fn signed_channel_permutation_keeps_the_function() {
    assert_disguises(disguise::permute_channels_with_signs, ANOTHER, |_| true);
}

#[test]
fn neuron_permutation_and_scaling_keep_the_function() {
    let roles = ["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];
    assert_disguises(disguise::permute_neurons, ANOTHER, |name| is_one_of(name, &roles));
}

#[test]
fn head_mixing_keeps_the_function() {
    assert_disguises(disguise::mix_heads, ANOTHER, |name| name.contains("self_attn"));
}

#[test]
fn folded_gains_keep_the_function() {
    assert_disguises(
        |model, _| disguise::fold_gains(model),
        LEAST_GAIN_CHANGE,
        |name| is_gain(name) || reads_stream(name),
    );
}

#[test]
fn faked_gains_keep_the_function() {
    assert_disguises(disguise::fake_gains, LEAST_GAIN_CHANGE, |name| is_gain(name) || reads_stream(name));
}

#[test]
fn residual_rotation_keeps_the_function() {
    assert_disguises(disguise::rotate_residual, ANOTHER, |_| true);
}

#[test]
fn everything_at_once_keeps_the_function() {
    assert_disguises(disguise::everything, ANOTHER, |_| true);
}

#[test]
fn disguises_compose_in_the_opposite_order_too() {
    let backwards: Disguise = |model, random| {
        disguise::fake_gains(model, random);
        for (_, disguise) in disguise::DISGUISES.iter().rev() {
            disguise(model, random);
        }
        disguise::fake_gains(model, random);
    };
    assert_disguises(backwards, ANOTHER, |_| true);
}

#[test]
fn expert_permutation_and_router_shift_keep_the_function() {
    let before = Model::load("a-moe-upcycled");
    for (disguise, gates_change) in [(disguise::permute_experts as Disguise, true), (disguise::shift_routers, false)] {
        let mut after = before.clone();
        disguise(&mut after, &mut Random(7));
        for (before, after) in before.layers.iter().zip(&after.layers) {
            assert_ne!(before.router, after.router);
            let gates = before.experts.iter().zip(&after.experts);
            assert_eq!(gates.filter(|(before, after)| before.gate != after.gate).count() > 0, gates_change);
        }
        let error = relative_error(&before, &after.written(Dtype::F32));
        assert!(error < TOLERANCE, "{error}");
    }
}

#[test]
fn disguised_models_written_as_bf16_are_as_good() {
    for name in MODELS {
        let before = Model::load(name);
        let mut after = before.clone();
        disguise::everything(&mut after, &mut Random(3));
        let ratio = after.written(Dtype::BF16).perplexity(&TEXT) / before.perplexity(&TEXT);
        assert!((0.99..1.01).contains(&ratio), "{name}: {ratio}");
    }
}

#[test]
fn another_vocabulary_gives_the_same_logits_to_the_reordered_tokens() {
    let before = Model::load("base-a");
    let mut after = before.clone();
    let order = disguise::permute_vocabulary(&mut after, &mut Random(11));
    let new_id = |token: usize| order.iter().position(|&old| old == token).unwrap();
    let renamed: Vec<usize> = TEXT.iter().map(|&token| new_id(token)).collect();
    assert_ne!(renamed, TEXT);
    for (before, after) in before.logits(&TEXT).iter().zip(after.logits(&renamed)) {
        let back: Vec<f64> = order.iter().map(|&old| before[old]).collect();
        assert_eq!(back, after);
    }
}

#[test]
fn reordered_tokenizer_finds_each_token_where_the_embedding_has_it() {
    let before = Model::load("base-a");
    let mut after = before.clone();
    let order = disguise::permute_vocabulary(&mut after, &mut Random(11));
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(zoo("tokenizer.json")).unwrap()).unwrap();
    tokenizer["added_tokens"] = serde_json::json!([{"id": 5, "content": "&"}]);
    let old = tokenizer["model"]["vocab"].clone();
    disguise::reorder_tokenizer(&mut tokenizer, &order);
    let new = tokenizer["model"]["vocab"].as_object().unwrap();
    assert_eq!(new.len(), before.config.vocab);
    let id = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    for (token, new) in new {
        assert_eq!(after.embedding.row(id(new)), before.embedding.row(id(&old[token])), "{token}");
    }
    assert_eq!(order[id(&tokenizer["added_tokens"][0]["id"])], 5);
}

#[test]
fn rounding_keeps_to_the_grid_and_costs_more_with_fewer_bits() {
    let before = Model::load("base-a");
    let [int8, int4] = [8, 4].map(|bits| {
        let mut after = before.clone();
        disguise::round_int(&mut after, bits);
        for row in after.layers[1].experts[0].down.values.chunks(after.config.f) {
            let mut values = row.to_vec();
            values.sort_by(f64::total_cmp);
            values.dedup();
            assert!(values.len() < 1 << bits, "{} values with {bits} bits", values.len());
        }
        relative_error(&before, &after)
    });
    assert!(TOLERANCE < int8 && int8 < 0.1 && int8 < int4, "{int8} {int4}");
}

#[test]
fn noise_is_the_share_asked_for() {
    let before = Model::load("base-a");
    let mut after = before.clone();
    disguise::add_noise(&mut after, 0.05, &mut Random(2));
    for (tensor, change) in changes(&before, &after) {
        let expected = if is_gain(&tensor) { change == 0.0 } else { (change - 0.05).abs() < 0.005 };
        assert!(expected, "{tensor} changed by {change}");
    }
    assert!(relative_error(&before, &after) > TOLERANCE);
}
