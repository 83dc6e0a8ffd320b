//! The architecture from shapes and counts: names and values are not looked at.
//!
//! The residual stream's width is the size that most parameters have as an axis and that explains most of them as
//! layers and embeddings. For every plausible number of layers, attention and MLP are read off the counts of equal
//! shapes, and the reading that explains most matrices is taken. Embeddings and vectors follow from what is left. Order
//! is asked for one thing: where another tower lies beside the model, which vectors lie with it.

mod census;
mod foreign;
mod layers;
mod predictions;
mod vectors;

use std::collections::{BTreeMap, HashMap};

use crate::model::blueprint::blueprint;
use crate::model::{Architecture, Role};
use crate::tensor::TensorMeta;
pub(super) use census::Census;
use layers::Reading;

/// What shapes tell.
#[derive(Debug)]
pub(super) struct Shapes {
    pub(super) architecture: Architecture,
    /// The roles that a tensor of a shape can have.
    pub(super) roles: HashMap<Vec<u64>, Vec<Role>>,
    /// Whether every matrix has its place in the architecture.
    pub(super) complete: bool,
    /// Which of the tensors lie among those of another tower, in the order of the tensors.
    pub(super) foreign: Vec<bool>,
    pub(super) notes: Vec<String>,
}

/// Reads the architecture off the shapes of `tensors`. `width` is the residual stream's, where it is known from
/// elsewhere.
pub(super) fn analyse(tensors: &[&TensorMeta], width: Option<u64>) -> Shapes {
    let census = Census::take(tensors.iter().copied());
    let widths = width.map_or_else(|| census.widths(), |width| vec![(width, 0)]);
    // A width that touches less than half of what the first does cannot win: it explains no more than it touches.
    let most = widths.first().map_or(0, |(_, touched)| *touched);
    let widths = widths.into_iter().filter(|(_, touched)| touched.saturating_mul(2) >= most);
    let candidates = widths.map(|(d, touched)| {
        let a = matrices(&census, d);
        // What has the width as an axis speaks for it, and once more what has its place in a block.
        (touched.saturating_add(explained(&a, &census)), a)
    });
    // Of equal ones the first, which `widths` prefers.
    let best = candidates.reduce(|best, other| if other.0 > best.0 { other } else { best });
    let Some((_, mut a)) = best else {
        let notes = vec!["no matrix of floating-point numbers: nothing tells an architecture".to_owned()];
        let (architecture, roles) = Default::default();
        return Shapes { architecture, roles, complete: false, foreign: Vec::new(), notes };
    };
    let foreign = foreign::tensors(tensors, &a);
    let mut census = census;
    if foreign.contains(&true) {
        let own = tensors.iter().zip(&foreign).filter(|(_, foreign)| !**foreign).map(|(tensor, _)| *tensor);
        census.vectors = Census::take(own).vectors;
    }
    let further = predictions::take_off(&mut a, &mut census);
    if further > 0 {
        embeddings(&mut a, &census, further);
    }
    let rope = vectors::read(&mut a, &census);
    a.name_family();
    if a.family.rotates_whole_heads() && a.head_dim.is_none() {
        a.head_dim = rope.map(|n| n * 2);
    }
    heads(&mut a);
    conclude(a, &census, rope, foreign)
}

/// What the matrices make where the residual stream has width `d`: layers and embeddings.
fn matrices(census: &Census, d: u64) -> Architecture {
    let mut a = Architecture { hidden_size: d, ..Architecture::default() };
    if let Some(reading) = layers::read(census, d) {
        fill(&mut a, &reading);
        // A matrix of one row in each mixture layer reads one number from the stream: nothing else has that shape.
        let of_one_row = census.matrices.get(&(1, d)).map_or(0, |&n| n as u64);
        let mixtures = a.expert_layers.unwrap_or(0);
        a.shared_expert_router = a.shared_expert_size.map(|_| mixtures > 0 && of_one_row >= mixtures);
    }
    embeddings(&mut a, census, 0);
    a
}

/// Parameters of the tensors that have a place in `a`.
fn explained(a: &Architecture, census: &Census) -> u128 {
    let mut expected: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
    for slot in blueprint(a) {
        let n = slot.tensors(a);
        let sum = expected.entry(slot.shape).or_default();
        *sum = sum.saturating_add(n);
    }
    let parameters = expected.into_iter().map(|(shape, n)| {
        let found = match shape[..] {
            [rows, columns] => census.matrices.get(&(rows, columns)).copied().unwrap_or(0),
            [depth, rows, columns] => census.stacks.get(&(depth, rows, columns)).copied().unwrap_or(0),
            _ => 0,
        };
        let each = shape.iter().fold(1_u128, |product, &n| product.saturating_mul(u128::from(n)));
        each.saturating_mul(u128::from(n.min(found as u64)))
    });
    parameters.fold(0, u128::saturating_add)
}

fn fill(a: &mut Architecture, reading: &Reading) {
    a.layers = reading.layers;
    a.q_size = Some(reading.attention.q);
    a.kv_size = Some(reading.attention.kv);
    a.fused_qkv = reading.attention.fused;
    a.latent = reading.attention.latent;
    a.conv1d_transposed = reading.transposed;
    let mlp = &reading.mlp;
    a.gated_mlp = mlp.gated;
    a.fused_gate_up = mlp.fused;
    if let Some(dense) = mlp.dense.iter().max_by_key(|dense| dense.layers) {
        a.intermediate_size = Some(dense.size);
    }
    if let Some(mixture) = &mlp.mixture {
        a.experts = Some(mixture.experts);
        a.expert_size = Some(mixture.size);
        a.expert_layers = Some(mixture.layers);
        a.shared_expert_size = mixture.shared;
        a.stacked_experts = mixture.stacked;
        a.conv1d_transposed |= mixture.transposed;
    }
}

/// Fills in what follows from the size of a head.
pub(super) fn heads(a: &mut Architecture) {
    if let (Some(latent), Some(q), Some(kv)) = (a.latent, a.q_size, a.kv_size) {
        a.heads = latent.heads(q, kv);
        a.kv_heads = a.heads;
        a.head_dim = a.heads.map(|heads| q / heads);
        return;
    }
    let Some(head) = a.head_dim.filter(|&head| head > 0) else { return };
    let whole = |size: Option<u64>| size.filter(|size| size % head == 0).map(|size| size / head);
    a.heads = a.heads.or(whole(a.q_size));
    a.kv_heads = a.kv_heads.or(whole(a.kv_size));
}

/// Matrices that the architecture has: shape to count.
fn expected(a: &Architecture) -> BTreeMap<(u64, u64), u64> {
    let mut expected: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for slot in blueprint(a) {
        if let [rows, columns] = slot.shape[..] {
            let n = slot.tensors(a);
            let sum = expected.entry((rows, columns)).or_default();
            *sum = sum.saturating_add(n);
        }
    }
    expected
}

/// How many matrices have no place in the architecture.
fn leftover(a: &Architecture, census: &Census) -> u64 {
    let expected = expected(a);
    let place = |shape| expected.get(shape).copied().unwrap_or(0);
    census.matrices.iter().map(|(shape, &n)| (n as u64).saturating_sub(place(shape))).sum()
}

/// How many matrices the architecture has and the checkpoint lacks.
fn missing(a: &Architecture, census: &Census) -> u64 {
    let found = |shape| census.matrices.get(shape).map_or(0, |&n| n as u64);
    expected(a).iter().map(|(shape, n)| n.saturating_sub(found(shape))).sum()
}

/// The tallest table left over is the token embedding, a second one as tall the output head; much smaller ones embed
/// positions and segments.
fn embeddings(a: &mut Architecture, census: &Census, predictions: u64) {
    let d = a.hidden_size;
    let layers = a.layers.saturating_add(predictions);
    let expert_layers = a.expert_layers.map(|mixtures| mixtures.saturating_add(predictions));
    let (vocab_size, position_embeddings, token_types) = (None, None, None);
    *a = Architecture { vocab_size, position_embeddings, token_types, tied: None, ..std::mem::take(a) };
    let expected = expected(&Architecture { layers, expert_layers, ..a.clone() });
    let left = |shape: (u64, u64)| {
        let found = census.matrices.get(&shape).map_or(0, |&n| n as u64);
        found.saturating_sub(expected.get(&shape).copied().unwrap_or(0))
    };
    // An embedding and a head; a layer that predicts further tokens may bring its own.
    let most = predictions.saturating_mul(2).saturating_add(2);
    let rows = census.matrices.keys().filter(|(_, columns)| *columns == d).map(|(rows, _)| *rows);
    let mut tables: Vec<(u64, u64)> = rows.map(|rows| (rows, left((rows, d)))).collect();
    tables.retain(|(_, n)| (1..=most).contains(n));
    tables.sort_unstable_by(|a, b| b.cmp(a));
    let mut tables = tables.into_iter();
    let Some((rows, n)) = tables.next().filter(|(rows, _)| *rows > 4) else { return };
    a.vocab_size = Some(rows);
    let transposed = rows != d && left((d, rows)) > 0;
    a.tied = Some(n == 1 && !transposed);
    // BERT's pooler is a square of this kind; a square table left over is a position embedding only in a GPT-2.
    for (rows, _) in tables.filter(|&(rows, n)| n == 1 && (rows != d || a.conv1d_transposed)) {
        if rows.saturating_mul(2) >= a.vocab_size.unwrap_or(0) && a.tied == Some(true) {
            // An embedding that was extended, or cut, and a head that was not.
            a.tied = Some(false);
        } else if a.gated_mlp {
            // No known model with a gated MLP has such tables: a classifier's head, perhaps.
        } else if rows <= 4 {
            a.token_types = a.token_types.or(Some(rows));
        } else if a.position_embeddings.is_none() {
            a.position_embeddings = Some(rows);
        }
    }
}

fn conclude(a: Architecture, census: &Census, rope: Option<u64>, foreign: Vec<bool>) -> Shapes {
    let mut roles: HashMap<Vec<u64>, Vec<Role>> = HashMap::new();
    for slot in blueprint(&a) {
        let known = roles.entry(slot.shape).or_default();
        if !known.contains(&slot.role) {
            known.push(slot.role);
        }
    }
    if let Some(n) = rope {
        roles.entry(vec![n]).or_insert_with(|| vec![Role::RopeFreqs]);
    }
    let mut notes = Vec::new();
    let mut ambiguous: Vec<_> = roles.iter().filter(|(_, roles)| roles.len() > 1).collect();
    ambiguous.sort_unstable();
    for (shape, roles) in ambiguous {
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        notes.push(format!("shape {shape:?} cannot tell {} apart", names.join(", ")));
    }
    if a.heads.is_none() && a.q_size.is_some() {
        notes.push("the number of heads is not visible in shapes".to_owned());
    }
    let missing = missing(&a, census);
    if missing > 0 {
        notes.push(format!("{missing} matrices are missing from the architecture that the others make"));
    }
    let left = leftover(&a, census);
    if left > 0 {
        notes.push(format!("{left} matrices have no place in the architecture that the others make"));
    }
    Shapes { complete: left == 0 && a.layers > 0, architecture: a, roles, foreign, notes }
}
