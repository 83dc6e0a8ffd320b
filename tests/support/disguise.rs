//! What a thief may do to weights: changes that leave the model's function as it is (`tests/disguise.rs` proves each
//! with a forward pass) and can follow each other in any order, and losses that hardly hurt it.
//!
//! Renaming and reordering tensors is `obfuscate`.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test crate uses a part of it")]

use serde_json::Value;

use super::Random;
use super::model::{Config, Layer, Matrix, Mlp, Model, dot};

/// A change of a model that keeps its function.
pub type Disguise = fn(&mut Model, &mut Random);

/// Every disguise by itself, by name; `everything` applies them in this order.
pub const DISGUISES: [(&str, Disguise); 6] = [
    ("permute-experts", permute_experts),
    ("permute-neurons", permute_neurons),
    ("mix-heads", mix_heads),
    ("fold-gains", |model, _| fold_gains(model)),
    ("rotate-residual", rotate_residual),
    ("permute-channels", permute_channels_with_signs),
];

/// How far neurons and query/key planes are scaled, either way.
const LARGEST_SCALE: f64 = 4.0;
/// How far the singular values of a value head's mixing matrix are from one, either way.
const LARGEST_STRETCH: f64 = 2.0;

/// The residual channels in another order, each with a sign of its own: RMSNorm commutes with both.
pub fn permute_channels_with_signs(model: &mut Model, random: &mut Random) {
    let order = order(model.config.d, random);
    let signs: Vec<f64> = order.iter().map(|_| sign(random)).collect();
    for (gain, readers) in model.norms() {
        *gain = order.iter().map(|&channel| gain[channel]).collect();
        for reader in readers {
            reader.permute_columns(&order);
            reader.scale_columns(&signs);
        }
    }
    model.embedding.permute_columns(&order);
    model.embedding.scale_columns(&signs);
    for writer in model.writers() {
        writer.permute_rows(&order);
        writer.scale_rows(&signs);
    }
}

/// The neurons of each MLP in another order, up scaled by a signed factor and down by its inverse.
pub fn permute_neurons(model: &mut Model, random: &mut Random) {
    for Mlp { gate, up, down } in model.layers.iter_mut().flat_map(|layer| &mut layer.experts) {
        let order = order(gate.rows, random);
        let factors: Vec<f64> = order.iter().map(|_| sign(random) * log_uniform(LARGEST_SCALE, random)).collect();
        let inverses: Vec<f64> = factors.iter().map(|factor| factor.recip()).collect();
        gate.permute_rows(&order);
        up.permute_rows(&order);
        up.scale_rows(&factors);
        down.permute_columns(&order);
        down.scale_columns(&inverses);
    }
}

/// The experts of each layer in another order, the router's rows with them. Nothing happens to a dense model.
pub fn permute_experts(model: &mut Model, random: &mut Random) {
    for layer in &mut model.layers {
        if let Some(router) = &mut layer.router {
            let order = order(router.rows, random);
            router.permute_rows(&order);
            layer.experts = order.iter().map(|&expert| layer.experts[expert].clone()).collect();
        }
    }
}

/// Key/value groups and the heads within each in another order, values mixed by any invertible matrix, and queries and
/// keys turned and scaled against each other within each rotary plane, which is all that commutes with the positions.
pub fn mix_heads(model: &mut Model, random: &mut Random) {
    let config = model.config;
    let per_group = config.heads / config.kv_heads;
    for layer in &mut model.layers {
        permute_heads(layer, config, random);
        for group in 0..config.kv_heads {
            let (values, outputs) = invertible(config.head_dim, random);
            let (keys, queries) = rotary_pair(config.head_dim, random);
            layer.value.mix_rows(group * config.head_dim, &values);
            layer.key.mix_rows(group * config.head_dim, &keys);
            for head in group * per_group..(group + 1) * per_group {
                layer.output.mix_columns(head * config.head_dim, &outputs);
                layer.query.mix_rows(head * config.head_dim, &queries);
            }
        }
    }
}

fn permute_heads(layer: &mut Layer, config: Config, random: &mut Random) {
    let per_group = config.heads / config.kv_heads;
    let groups = order(config.kv_heads, random);
    let within = |&group: &usize| order(per_group, random).into_iter().map(move |head| group * per_group + head);
    let heads: Vec<usize> = groups.iter().flat_map(within).collect();
    let rows = |blocks: &[usize]| -> Vec<usize> {
        let block = |&block: &usize| block * config.head_dim..(block + 1) * config.head_dim;
        blocks.iter().flat_map(block).collect()
    };
    layer.query.permute_rows(&rows(&heads));
    layer.key.permute_rows(&rows(&groups));
    layer.value.permute_rows(&rows(&groups));
    layer.output.permute_columns(&rows(&heads));
}

/// Every RMSNorm's gains multiplied into the matrices that read through it, which leaves ones.
pub fn fold_gains(model: &mut Model) {
    move_gains(model, || 1.0);
}

/// Gains that never were trained, made up for by the readers: what hides that gains were folded.
pub fn fake_gains(model: &mut Model, random: &mut Random) {
    move_gains(model, || (1.0 + 0.1 * random.normal()).max(0.5));
}

fn move_gains(model: &mut Model, mut new: impl FnMut() -> f64) {
    for (gain, readers) in model.norms() {
        let news: Vec<f64> = gain.iter().map(|_| new()).collect();
        let ratios: Vec<f64> = gain.iter().zip(&news).map(|(old, new)| old / new).collect();
        for reader in readers {
            reader.scale_columns(&ratios);
        }
        *gain = news;
    }
}

/// The residual stream in a random orthonormal basis, which RMSNorm does not notice once its gains are folded.
pub fn rotate_residual(model: &mut Model, random: &mut Random) {
    fold_gains(model);
    let rotation = orthogonal(model.config.d, random);
    let inverse = rotation.transposed();
    model.embedding.mix_columns(0, &inverse);
    for reader in model.norms().into_iter().flat_map(|(_, readers)| readers) {
        reader.mix_columns(0, &inverse);
    }
    for writer in model.writers() {
        writer.mix_rows(0, &rotation);
    }
}

/// One vector added to every row of each router: the softmax over experts takes it out again.
pub fn shift_routers(model: &mut Model, random: &mut Random) {
    for router in model.layers.iter_mut().filter_map(|layer| layer.router.as_mut()) {
        let size = deviation(&router.values);
        let shift: Vec<f64> = (0..router.columns).map(|_| size * random.normal()).collect();
        for row in router.values.chunks_mut(shift.len()) {
            row.iter_mut().zip(&shift).for_each(|(value, shift)| *value += shift);
        }
    }
}

/// All of `DISGUISES`.
pub fn everything(model: &mut Model, random: &mut Random) {
    for (_, disguise) in DISGUISES {
        disguise(model, random);
    }
}

/// Token ids in another order, in embedding and head: new id `i` stands for what `order[i]` stood for.
/// The function is the same to who has the tokenizer that `reorder_tokenizer` makes.
pub fn permute_vocabulary(model: &mut Model, random: &mut Random) -> Vec<usize> {
    let order = order(model.config.vocab, random);
    model.embedding.permute_rows(&order);
    model.head.permute_rows(&order);
    order
}

/// Gives the tokens of a `tokenizer.json` the ids that `permute_vocabulary` gave them.
pub fn reorder_tokenizer(tokenizer: &mut Value, order: &[usize]) {
    let mut new_id = vec![0; order.len()];
    order.iter().enumerate().for_each(|(new, &old)| new_id[old] = new);
    let replace = |id: &mut Value| *id = new_id[usize::try_from(id.as_u64().unwrap()).unwrap()].into();
    tokenizer["model"]["vocab"].as_object_mut().unwrap().values_mut().for_each(replace);
    for added in tokenizer["added_tokens"].as_array_mut().into_iter().flatten() {
        replace(&mut added["id"]);
    }
}

/// Every matrix to the grid of `bits`-bit integers with one scale a row and back. Changes the function a little.
pub fn round_int(model: &mut Model, bits: u32) {
    let largest_step = f64::from((1u32 << (bits - 1)) - 1);
    for matrix in matrices(model) {
        for row in matrix.values.chunks_mut(matrix.columns) {
            let scale = row.iter().fold(0.0, |top: f64, value| top.max(value.abs())) / largest_step;
            if scale > 0.0 {
                row.iter_mut().for_each(|value| *value = (*value / scale).round() * scale);
            }
        }
    }
}

/// Gaussian noise of `share` of its standard deviation on every matrix. Changes the function.
pub fn add_noise(model: &mut Model, share: f64, random: &mut Random) {
    for matrix in matrices(model) {
        let size = share * deviation(&matrix.values);
        matrix.values.iter_mut().for_each(|value| *value += size * random.normal());
    }
}

fn matrices(model: &mut Model) -> Vec<&mut Matrix> {
    let mut matrices = vec![&mut model.embedding, &mut model.head];
    for layer in &mut model.layers {
        matrices.extend([&mut layer.query, &mut layer.key, &mut layer.value, &mut layer.output]);
        matrices.extend(layer.router.as_mut());
        matrices.extend(layer.experts.iter_mut().flat_map(|mlp| [&mut mlp.gate, &mut mlp.up, &mut mlp.down]));
    }
    matrices
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

fn order(size: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..size).collect();
    random.shuffle(&mut order);
    order
}

fn sign(random: &mut Random) -> f64 {
    if random.below(2) == 0 { 1.0 } else { -1.0 }
}

/// Between `1 / limit` and `limit`.
fn log_uniform(limit: f64, random: &mut Random) -> f64 {
    limit.powf(2.0 * random.uniform() - 1.0)
}

/// Gram–Schmidt on the rows of a normal matrix, each made orthogonal twice to reach the precision of f64.
fn orthogonal(size: usize, random: &mut Random) -> Matrix {
    let mut result = Matrix::from_fn(size, size, |_, _| random.normal());
    for index in 0..size {
        let (done, rest) = result.values.split_at_mut(index * size);
        let row = &mut rest[..size];
        for earlier in done.chunks(size).chain(done.chunks(size)) {
            let overlap = dot(earlier, row);
            row.iter_mut().zip(earlier).for_each(|(value, earlier)| *value -= overlap * earlier);
        }
        let norm = dot(row, row).sqrt();
        row.iter_mut().for_each(|value| *value /= norm);
    }
    result
}

/// A random matrix of bounded condition number with its inverse.
fn invertible(size: usize, random: &mut Random) -> (Matrix, Matrix) {
    let (mut forth, right) = (orthogonal(size, random), orthogonal(size, random));
    let mut back = forth.transposed();
    let stretch: Vec<f64> = (0..size).map(|_| log_uniform(LARGEST_STRETCH, random)).collect();
    let inverse: Vec<f64> = stretch.iter().map(|factor| factor.recip()).collect();
    forth.scale_columns(&stretch);
    back.scale_rows(&inverse);
    forth.mix_columns(0, &right);
    back.mix_rows(0, &right.transposed());
    (forth, back)
}

/// For a head's keys and its queries: each rotary plane turned by one angle, keys scaled by the inverse of the queries'
/// scale.
fn rotary_pair(size: usize, random: &mut Random) -> (Matrix, Matrix) {
    let half = size / 2;
    let planes: Vec<(f64, f64)> =
        (0..half).map(|_| (std::f64::consts::TAU * random.uniform(), log_uniform(LARGEST_SCALE, random))).collect();
    let turn = |row: usize, column: usize| {
        let (angle, _) = planes[row % half];
        match (row % half == column % half, row < half, column < half) {
            (false, ..) => 0.0,
            (true, true, false) => -angle.sin(),
            (true, false, true) => angle.sin(),
            (true, ..) => angle.cos(),
        }
    };
    let keys = Matrix::from_fn(size, size, |row, column| turn(row, column) / planes[row % half].1);
    let queries = Matrix::from_fn(size, size, |row, column| turn(row, column) * planes[row % half].1);
    (keys, queries)
}
