//! A small LLaMA or Mixtral whose tensors are held by role, in f64, and its forward pass, so that a disguise can be
//! proved to leave the function alone. No speed, no cache, no biases, no query or key norms.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test crate uses a part of it")]

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::{Raw, load, zoo};

/// Both as in `fixtures/zoo/llama.py`.
const EPSILON: f64 = 1e-5;
const THETA: f64 = 10_000.0;
const EXPERTS_PER_TOKEN: usize = 2;

/// Row-major, as safetensors has it: a linear layer's rows are its outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn from_fn(rows: usize, columns: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let mut values = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            values.extend((0..columns).map(|column| value(row, column)));
        }
        Self { rows, columns, values }
    }

    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..][..self.columns]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.columns..][..self.columns]
    }

    pub fn transposed(&self) -> Self {
        Self::from_fn(self.columns, self.rows, |row, column| self.at(column, row))
    }

    /// This matrix times a column vector.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(self.columns, x.len());
        (0..self.rows).map(|row| dot(self.row(row), x)).collect()
    }

    /// Row `i` becomes what row `order[i]` was.
    pub fn permute_rows(&mut self, order: &[usize]) {
        assert_eq!(self.rows, order.len());
        *self = Self::from_fn(self.rows, self.columns, |row, column| self.at(order[row], column));
    }

    /// Column `i` becomes what column `order[i]` was.
    pub fn permute_columns(&mut self, order: &[usize]) {
        assert_eq!(self.columns, order.len());
        *self = Self::from_fn(self.rows, self.columns, |row, column| self.at(row, order[column]));
    }

    pub fn scale_rows(&mut self, factors: &[f64]) {
        assert_eq!(self.rows, factors.len());
        *self = Self::from_fn(self.rows, self.columns, |row, column| self.at(row, column) * factors[row]);
    }

    pub fn scale_columns(&mut self, factors: &[f64]) {
        assert_eq!(self.columns, factors.len());
        *self = Self::from_fn(self.rows, self.columns, |row, column| self.at(row, column) * factors[column]);
    }

    /// Replaces the rows from `start` by `mix` times them.
    pub fn mix_rows(&mut self, start: usize, mix: &Self) {
        let block = &mut self.values[start * self.columns..][..mix.rows * self.columns];
        let mixed = product(&mix.values, block, mix.columns);
        block.copy_from_slice(&mixed);
    }

    /// Replaces the columns from `start` by them times `mix`.
    pub fn mix_columns(&mut self, start: usize, mix: &Self) {
        let block: Vec<f64> =
            self.values.chunks(self.columns).flat_map(|row| &row[start..][..mix.rows]).copied().collect();
        let mixed = product(&block, &mix.values, mix.rows);
        for (row, mixed) in self.values.chunks_mut(self.columns).zip(mixed.chunks(mix.columns)) {
            row[start..][..mix.columns].copy_from_slice(mixed);
        }
    }
}

/// The product of two row-major matrices; `inner` is the columns of the first and the rows of the second.
fn product(a: &[f64], b: &[f64], inner: usize) -> Vec<f64> {
    let tensor = |values, rows, columns| Tensor::from_slice(values, (rows, columns), &Device::Cpu).unwrap();
    let (a, b) = (tensor(a, a.len() / inner, inner), tensor(b, inner, b.len() / inner));
    a.matmul(&b).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(target: &mut [f64], factor: f64, source: &[f64]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += factor * source;
    }
}

/// A SwiGLU block: neuron `i` is row `i` of gate and up and column `i` of down.
#[derive(Clone)]
pub struct Mlp {
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

#[derive(Clone)]
pub struct Layer {
    pub attention_gain: Vec<f64>,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub output: Matrix,
    pub mlp_gain: Vec<f64>,
    /// None where the layer is dense.
    pub router: Option<Matrix>,
    /// One where the layer is dense.
    pub experts: Vec<Mlp>,
}

impl Layer {
    /// The gains and the matrices that read the stream through them, for the attention and for the MLP.
    pub fn norms(&mut self) -> [(&mut Vec<f64>, Vec<&mut Matrix>); 2] {
        let experts = self.experts.iter_mut().flat_map(|mlp| [&mut mlp.gate, &mut mlp.up]);
        [
            (&mut self.attention_gain, vec![&mut self.query, &mut self.key, &mut self.value]),
            (&mut self.mlp_gain, self.router.iter_mut().chain(experts).collect()),
        ]
    }

    /// The matrices that write to the stream.
    pub fn writers(&mut self) -> Vec<&mut Matrix> {
        std::iter::once(&mut self.output).chain(self.experts.iter_mut().map(|mlp| &mut mlp.down)).collect()
    }
}

/// What the shapes say, but for the head counts, which they do not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub d: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub f: usize,
    pub vocab: usize,
    /// Zero where the model is dense.
    pub experts: usize,
}

#[derive(Clone)]
pub struct Model {
    pub config: Config,
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub final_gain: Vec<f64>,
    /// A head tied to the embedding is written out: most disguises part the two.
    pub head: Matrix,
}

/// Every tensor of a model by its name, left over until something takes it.
struct Parts(HashMap<String, Raw>);

impl Parts {
    fn values(&mut self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let raw = self.0.remove(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let values = raw.values().into_iter().map(f64::from).collect();
        (raw.shape, values)
    }

    fn gain(&mut self, name: &str) -> Vec<f64> {
        self.values(name).1
    }

    fn matrix(&mut self, name: &str) -> Matrix {
        let (shape, values) = self.values(name);
        Matrix { rows: shape[0], columns: shape[1], values }
    }

    fn layer(&mut self, index: usize) -> Layer {
        let prefix = layer_prefix(index);
        let router = format!("{prefix}block_sparse_moe.gate.weight");
        let router = self.0.contains_key(&router).then(|| self.matrix(&router));
        let experts = router.as_ref().map_or(1, |router| router.rows);
        Layer {
            attention_gain: self.gain(&format!("{prefix}input_layernorm.weight")),
            query: self.matrix(&format!("{prefix}self_attn.q_proj.weight")),
            key: self.matrix(&format!("{prefix}self_attn.k_proj.weight")),
            value: self.matrix(&format!("{prefix}self_attn.v_proj.weight")),
            output: self.matrix(&format!("{prefix}self_attn.o_proj.weight")),
            mlp_gain: self.gain(&format!("{prefix}post_attention_layernorm.weight")),
            experts: (0..experts)
                .map(|expert| {
                    let [gate, up, down] = mlp_names(index, router.is_some().then_some(expert));
                    Mlp { gate: self.matrix(&gate), up: self.matrix(&up), down: self.matrix(&down) }
                })
                .collect(),
            router,
        }
    }
}

fn layer_prefix(index: usize) -> String {
    format!("model.layers.{index}.")
}

/// The names of gate, up and down, with the expert's number where there are experts.
fn mlp_names(layer: usize, expert: Option<usize>) -> [String; 3] {
    let prefix = layer_prefix(layer);
    match expert {
        None => ["gate_proj", "up_proj", "down_proj"].map(|role| format!("{prefix}mlp.{role}.weight")),
        Some(expert) => {
            ["w1", "w3", "w2"].map(|role| format!("{prefix}block_sparse_moe.experts.{expert}.{role}.weight"))
        }
    }
}

impl Model {
    /// A checkpoint of the zoo.
    pub fn load(zoo_name: &str) -> Self {
        let config = std::fs::read(zoo(zoo_name).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let count = |key: &str| usize::try_from(config[key].as_u64().unwrap()).unwrap();
        Self::from_raw(&load(zoo_name), count("num_attention_heads"), count("num_key_value_heads"))
    }

    /// From tensors with Hugging Face's names for LLaMA or Mixtral; any other tensor is an error.
    pub fn from_raw(tensors: &[Raw], heads: usize, kv_heads: usize) -> Self {
        let mut parts = Parts(tensors.iter().map(|raw| (raw.name.clone(), raw.clone())).collect());
        let is_layer = |index: &usize| parts.0.contains_key(&format!("{}input_layernorm.weight", layer_prefix(*index)));
        let count = (0..).take_while(is_layer).count();
        let embedding = parts.matrix("model.embed_tokens.weight");
        let tied = !parts.0.contains_key("lm_head.weight");
        let head = if tied { embedding.clone() } else { parts.matrix("lm_head.weight") };
        let layers: Vec<Layer> = (0..count).map(|index| parts.layer(index)).collect();
        let final_gain = parts.gain("model.norm.weight");
        assert!(parts.0.is_empty(), "tensors without a place: {:?}", parts.0.keys());
        let config = Config {
            d: embedding.columns,
            layers: count,
            heads,
            kv_heads,
            head_dim: layers[0].query.rows / heads,
            f: layers[0].experts[0].gate.rows,
            vocab: embedding.rows,
            experts: layers[0].router.as_ref().map_or(0, |router| router.rows),
        };
        Self { config, embedding, layers, final_gain, head }
    }

    /// The checkpoint again, sorted by name.
    pub fn to_raw(&self, dtype: Dtype) -> Vec<Raw> {
        let vector = |name: &str, values: &[f64], shape: &[usize]| {
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            Raw::from_f32(name, shape, &values).cast(dtype)
        };
        let matrix = |name: &str, matrix: &Matrix| vector(name, &matrix.values, &[matrix.rows, matrix.columns]);
        let d = [self.config.d];
        let mut raws = vec![
            matrix("model.embed_tokens.weight", &self.embedding),
            vector("model.norm.weight", &self.final_gain, &d),
            matrix("lm_head.weight", &self.head),
        ];
        for (index, layer) in self.layers.iter().enumerate() {
            let name = |rest: &str| format!("{}{rest}.weight", layer_prefix(index));
            raws.push(vector(&name("input_layernorm"), &layer.attention_gain, &d));
            raws.push(matrix(&name("self_attn.q_proj"), &layer.query));
            raws.push(matrix(&name("self_attn.k_proj"), &layer.key));
            raws.push(matrix(&name("self_attn.v_proj"), &layer.value));
            raws.push(matrix(&name("self_attn.o_proj"), &layer.output));
            raws.push(vector(&name("post_attention_layernorm"), &layer.mlp_gain, &d));
            raws.extend(layer.router.iter().map(|router| matrix(&name("block_sparse_moe.gate"), router)));
            for (expert, mlp) in layer.experts.iter().enumerate() {
                let [gate, up, down] = mlp_names(index, layer.router.is_some().then_some(expert));
                raws.extend([matrix(&gate, &mlp.gate), matrix(&up, &mlp.up), matrix(&down, &mlp.down)]);
            }
        }
        raws.sort_by(|a, b| a.name.cmp(&b.name));
        raws
    }

    /// The model as someone who loads its file in this dtype would have it.
    pub fn written(&self, dtype: Dtype) -> Self {
        Self::from_raw(&self.to_raw(dtype), self.config.heads, self.config.kv_heads)
    }

    /// Every RMSNorm's gains with the matrices that read the stream through them; the last is the head's.
    pub fn norms(&mut self) -> Vec<(&mut Vec<f64>, Vec<&mut Matrix>)> {
        let last = (&mut self.final_gain, vec![&mut self.head]);
        self.layers.iter_mut().flat_map(Layer::norms).chain([last]).collect()
    }

    /// The matrices that write to the stream, which is their rows; the embedding, transposed, is not among them.
    pub fn writers(&mut self) -> Vec<&mut Matrix> {
        self.layers.iter_mut().flat_map(Layer::writers).collect()
    }

    /// The logits at every position.
    pub fn logits(&self, tokens: &[usize]) -> Vec<Vec<f64>> {
        let mut stream: Vec<Vec<f64>> = tokens.iter().map(|&token| self.embedding.row(token).to_vec()).collect();
        for layer in &self.layers {
            let normed: Vec<_> = stream.iter().map(|x| rms_norm(x, &layer.attention_gain)).collect();
            for (x, change) in stream.iter_mut().zip(self.attend(layer, &normed)) {
                add_scaled(x, 1.0, &change);
                let normed = rms_norm(x, &layer.mlp_gain);
                for (expert, share) in route(layer, &normed) {
                    add_scaled(x, share, &feed_forward(&layer.experts[expert], &normed));
                }
            }
        }
        stream.iter().map(|x| self.head.apply(&rms_norm(x, &self.final_gain))).collect()
    }

    /// What the attention of one layer adds at each position.
    fn attend(&self, layer: &Layer, normed: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let project = |matrix: &Matrix| -> Vec<Vec<f64>> { normed.iter().map(|x| matrix.apply(x)).collect() };
        let (mut queries, mut keys, values) = (project(&layer.query), project(&layer.key), project(&layer.value));
        for rows in [&mut queries, &mut keys] {
            for (position, row) in rows.iter_mut().enumerate() {
                row.chunks_mut(head_dim).for_each(|head| rotate(head, position));
            }
        }
        let head_of = |row: &'_ [f64], head: usize| row[head * head_dim..][..head_dim].to_vec();
        let at = |(position, query): (usize, &Vec<f64>)| {
            let mixed = (0..heads).flat_map(|head| {
                let group = head / (heads / kv_heads);
                let query = head_of(query, head);
                let score = |key: &Vec<f64>| dot(&query, &head_of(key, group)) / (head_dim as f64).sqrt();
                let weights = softmax(&keys[..=position].iter().map(score).collect::<Vec<_>>());
                let mut mixed = vec![0.0; head_dim];
                for (weight, value) in weights.iter().zip(&values) {
                    add_scaled(&mut mixed, *weight, &head_of(value, group));
                }
                mixed
            });
            layer.output.apply(&mixed.collect::<Vec<_>>())
        };
        queries.iter().enumerate().map(at).collect()
    }

    /// Of each token given those before it; the vocabulary's size for a model that knows nothing.
    pub fn perplexity(&self, tokens: &[usize]) -> f64 {
        let logits = self.logits(tokens);
        let loss = |(logits, &next): (&Vec<f64>, &usize)| -softmax(logits)[next].ln();
        (logits.iter().zip(&tokens[1..]).map(loss).sum::<f64>() / (tokens.len() - 1) as f64).exp()
    }
}

fn rms_norm(x: &[f64], gain: &[f64]) -> Vec<f64> {
    let scale = (dot(x, x) / x.len() as f64 + EPSILON).sqrt().recip();
    x.iter().zip(gain).map(|(x, gain)| x * scale * gain).collect()
}

/// Rotary position embedding of one head: frequency `i` turns the plane of `i` and `i + half`.
fn rotate(head: &mut [f64], position: usize) {
    let size = head.len() as f64;
    let (first, second) = head.split_at_mut(head.len() / 2);
    for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
        let (sin, cos) = (position as f64 * THETA.powf(-2.0 * i as f64 / size)).sin_cos();
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The experts that a token goes to with their shares: the best of the softmax over all, renormalised.
fn route(layer: &Layer, normed: &[f64]) -> Vec<(usize, f64)> {
    let Some(router) = &layer.router else { return vec![(0, 1.0)] };
    let mut shares: Vec<(usize, f64)> = softmax(&router.apply(normed)).into_iter().enumerate().collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares.truncate(EXPERTS_PER_TOKEN);
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    shares.into_iter().map(|(expert, share)| (expert, share / sum)).collect()
}

fn feed_forward(mlp: &Mlp, normed: &[f64]) -> Vec<f64> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let (gate, up) = (mlp.gate.apply(normed), mlp.up.apply(normed));
    mlp.down.apply(&gate.iter().zip(&up).map(|(&gate, up)| silu(gate) * up).collect::<Vec<_>>())
}
