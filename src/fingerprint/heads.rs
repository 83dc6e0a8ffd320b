//! Forms of attention heads: what a head does to tokens, whatever the basis of the stream and of the head.
//!
//! A head scores a pair of tokens by the bilinear form W_qᵀ W_k of the stream and copies by the form W_vᵀ W_oᵀ. Along the
//! directions of a token frame both are small matrices that a change of the stream's basis leaves as they are, once
//! norm gains are folded. Rotary positions leave a thief one angle and one scale in each plane of queries and keys, and
//! nothing ties the coordinates of values: neither changes a sum over the coordinates of a head. A sample of entries of
//! the two forms, the same in every model, describes the head.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::labels;
use crate::anatomy::Assignment;
use crate::model::{Architecture, Role};

/// Directions of a token frame along which heads are described: its first.
pub(super) const HEAD_DIRECTIONS: usize = 64;

/// Sampled entries of one form.
pub const FORM_NUMBERS: usize = 256;

/// Sizes of a head that are tried where nothing tells.
const USUAL_SIZES: [u64; 6] = [32, 64, 80, 96, 128, 256];

/// More heads than this in a layer are not described; no model has them.
const MAX_HEADS: u64 = 1 << 10;

/// The heads of one layer's attention. Where the size of a head is unknown, a layer has one entry for each usual size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// Its layer.
    pub layer: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads, each shared by a group of query heads that follow each other.
    pub groups: u32,
    /// Size of a head.
    pub head_dim: u32,
    /// For each token frame, two times [`FORM_NUMBERS`] numbers for each head: the query-key form and the value-output
    /// form, each centred and scaled so that the largest is 127.
    pub forms: Vec<Vec<i8>>,
}

/// Which entries of a form are sampled: direction of the query or value, direction of the key or output.
pub fn form_places() -> &'static [(u32, u32)] {
    static PLACES: OnceLock<Vec<(u32, u32)>> = OnceLock::new();
    PLACES.get_or_init(|| {
        let side = HEAD_DIRECTIONS as u32;
        let entries = labels::chosen(u64::from(side * side), FORM_NUMBERS);
        entries.into_iter().map(|entry| (entry / side, entry % side)).collect()
    })
}

/// The matrices that make an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Query,
    Key,
    Value,
    Output,
}

/// Which matrix of which layer a tensor is, where both are settled.
pub(super) fn part(assignment: &Assignment) -> Option<(Part, u32)> {
    let part = match assignment.role()? {
        Role::AttnQ => Part::Query,
        Role::AttnK => Part::Key,
        Role::AttnV => Part::Value,
        Role::AttnO => Part::Output,
        _ => return None,
    };
    Some((part, assignment.layer?))
}

/// The rows of a matrix of an attention (columns of the output's) along the token frames: half precision, each row with
/// a scale of its own.
pub(super) struct Projected {
    part: Part,
    width: usize,
    scales: Vec<f32>,
    values: Vec<f16>,
}

impl Projected {
    /// A matrix of which no row was taken yet.
    pub(super) fn new(part: Part, width: usize) -> Self {
        Self { part, width, scales: Vec::new(), values: Vec::new() }
    }

    /// Takes rows of projections.
    pub(super) fn push(&mut self, projected: &[f32]) {
        for row in projected.chunks_exact(self.width.max(1)) {
            let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let inverse = if largest > 0.0 && largest.is_finite() { largest.recip() } else { 0.0 };
            self.scales.push(if inverse > 0.0 && inverse.is_finite() { largest } else { 0.0 });
            let scaled: Vec<f32> = row.iter().map(|value| value * inverse).collect();
            let start = self.values.len();
            self.values.resize(start + row.len(), f16::ZERO);
            self.values[start..].convert_from_f32_slice(&scaled);
        }
    }

    /// Takes the rows of the same matrix that follow.
    pub(super) fn append(&mut self, next: Self) {
        self.scales.extend(next.scales);
        self.values.extend(next.values);
    }

    fn rows(&self) -> u64 {
        self.scales.len() as u64
    }

    /// The rows of a head along one frame.
    fn head(&self, head: usize, size: usize, frame: usize) -> Vec<f32> {
        let mut rows = vec![0.0; size * HEAD_DIRECTIONS];
        for (row, out) in (head * size..).zip(rows.chunks_exact_mut(HEAD_DIRECTIONS)) {
            self.values[row * self.width + frame * HEAD_DIRECTIONS..][..HEAD_DIRECTIONS].convert_to_f32_slice(out);
            out.iter_mut().for_each(|value| *value *= self.scales[row]);
        }
        rows
    }
}

/// Puts matrices together into attentions and describes their heads, each layer as soon as its last matrix was read.
pub(super) struct Gathering {
    architecture: Architecture,
    layers: Mutex<BTreeMap<u32, Layer>>,
}

/// One layer's matrices, or what was made of them.
#[derive(Default)]
struct Layer {
    missing: usize,
    matrices: Vec<Projected>,
    attentions: Vec<Attention>,
}

impl Gathering {
    /// Awaits as many matrices as each layer occurs in `expected`.
    pub(super) fn new(architecture: &Architecture, expected: impl Iterator<Item = u32>) -> Self {
        let mut layers: BTreeMap<u32, Layer> = BTreeMap::new();
        for layer in expected {
            layers.entry(layer).or_default().missing += 1;
        }
        Self { architecture: architecture.clone(), layers: Mutex::new(layers) }
    }

    /// Takes a matrix that was awaited, or word that it cannot be used.
    pub(super) fn arrived(&self, layer: u32, matrix: Option<Projected>) {
        let lock = || self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let matrices = {
            let mut layers = lock();
            let gathered = layers.entry(layer).or_default();
            gathered.matrices.extend(matrix);
            gathered.missing = gathered.missing.saturating_sub(1);
            if gathered.missing > 0 {
                return;
            }
            std::mem::take(&mut gathered.matrices)
        };
        let attentions = attentions(layer, &matrices, &self.architecture);
        lock().entry(layer).or_default().attentions = attentions;
    }

    /// The attentions of all layers, in order.
    pub(super) fn finish(self) -> Vec<Attention> {
        let layers = self.layers.into_inner().unwrap_or_else(PoisonError::into_inner);
        layers.into_values().flat_map(|layer| layer.attentions).collect()
    }
}

/// The attentions that the matrices of a layer make.
fn attentions(layer: u32, matrices: &[Projected], architecture: &Architecture) -> Vec<Attention> {
    // Their labels mean something.
    if architecture.family.orders_heads_without_positions() && architecture.position_embeddings.is_none() {
        return Vec::new();
    }
    // Two of a kind belong to something else that counts layers too.
    let of = [Part::Query, Part::Key, Part::Value, Part::Output].map(|part| {
        let mut found = matrices.iter().filter(|matrix| matrix.part == part);
        found.next().filter(|_| found.next().is_none())
    });
    match of {
        [Some(query), Some(key), Some(value), Some(output)] => {
            let four = Four { query, key, value, output };
            four.sizes(architecture).into_iter().filter_map(|size| four.attention(layer, size)).collect()
        }
        _ => Vec::new(),
    }
}

/// The matrices of one attention.
struct Four<'a> {
    query: &'a Projected,
    key: &'a Projected,
    value: &'a Projected,
    output: &'a Projected,
}

impl Four<'_> {
    /// The size of a head if it is known, otherwise all usual ones.
    fn sizes(&self, architecture: &Architecture) -> Vec<u64> {
        let by_number = architecture.heads.and_then(|heads| self.query.rows().checked_div(heads));
        match architecture.head_dim.or(by_number) {
            Some(size) => vec![size],
            None => USUAL_SIZES.to_vec(),
        }
    }

    fn attention(&self, layer: u32, size: u64) -> Option<Attention> {
        let (heads, groups) = (self.query.rows().checked_div(size)?, self.key.rows().checked_div(size)?);
        let whole = heads * size == self.query.rows() && groups * size == self.key.rows();
        let alike = self.output.rows() == self.query.rows() && self.value.rows() == self.key.rows();
        if !whole || !alike || !(1..=MAX_HEADS).contains(&heads) || groups == 0 || !heads.is_multiple_of(groups) {
            return None;
        }
        let (per_group, frames) = ((heads / groups) as usize, self.query.width / HEAD_DIRECTIONS);
        let forms_of = |frame: usize| {
            let mut forms = Vec::with_capacity(heads as usize * 2 * FORM_NUMBERS);
            for head in 0..heads as usize {
                let group = head / per_group;
                let rows = |matrix: &Projected, head: usize| matrix.head(head, size as usize, frame);
                forms.extend(quantised(&form(&rows(self.query, head), &rows(self.key, group))));
                forms.extend(quantised(&form(&rows(self.value, group), &rows(self.output, head))));
            }
            forms
        };
        let forms = (0..frames).map(forms_of).collect();
        Some(Attention { layer, heads: heads as u32, groups: groups as u32, head_dim: size as u32, forms })
    }
}

/// The sampled entries of `leftᵀ right`, both with one row for each coordinate of a head.
fn form(left: &[f32], right: &[f32]) -> Vec<f64> {
    let mut entries = vec![0.0f64; FORM_NUMBERS];
    for (left, right) in left.chunks_exact(HEAD_DIRECTIONS).zip(right.chunks_exact(HEAD_DIRECTIONS)) {
        for (entry, &(a, b)) in entries.iter_mut().zip(form_places()) {
            *entry += f64::from(left[a as usize]) * f64::from(right[b as usize]);
        }
    }
    entries
}

fn quantised(entries: &[f64]) -> impl Iterator<Item = i8> {
    let mean = entries.iter().sum::<f64>() / entries.len() as f64;
    let largest = entries.iter().fold(0.0f64, |largest, entry| largest.max((entry - mean).abs()));
    let scale = if largest > 0.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
    entries.iter().map(move |entry| ((entry - mean) * scale).round() as i8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 24;
    const SIZE: usize = 8;
    const HEADS: usize = 4;
    const GROUPS: usize = 2;
    /// Rows are kept in half precision: forms of length one differ by no more than a rounding step of 1.
    const HALF: f64 = 1.0 / 2048.0;

    /// SplitMix64, sums of uniform numbers.
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f32 {
            self.0 = self.0.wrapping_add(1);
            (labels::hash((self.0 as u32).wrapping_mul(2_654_435_761)) >> 40) as f32 / (1u64 << 24) as f32
        }

        fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
            let values = (0..rows * cols).map(|_| (0..6).map(|_| self.uniform()).sum::<f32>() - 3.0).collect();
            Matrix { cols, values }
        }
    }

    #[derive(Clone)]
    struct Matrix {
        cols: usize,
        values: Vec<f32>,
    }

    impl Matrix {
        fn row(&self, row: usize) -> &[f32] {
            &self.values[row * self.cols..][..self.cols]
        }

        /// Times the transpose of another.
        fn times_t(&self, other: &Self) -> Self {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let rows = self.values.len() / self.cols;
            let cols = other.values.len() / other.cols;
            let values = (0..rows * cols).map(|i| dot(self.row(i / cols), other.row(i % cols)) as f32).collect();
            Self { cols, values }
        }

        /// `mix` times the rows of one head.
        fn mix(&mut self, head: usize, mix: impl Fn(usize, usize) -> f32) {
            let old = self.clone();
            for row in 0..SIZE {
                for col in 0..self.cols {
                    self.values[(head * SIZE + row) * self.cols + col] =
                        (0..SIZE).map(|k| mix(row, k) * old.values[(head * SIZE + k) * self.cols + col]).sum();
                }
            }
        }

        fn reflect(&mut self, normal: &[f32]) {
            let square: f32 = normal.iter().map(|v| v * v).sum();
            for row in self.values.chunks_exact_mut(normal.len()) {
                let along: f32 = row.iter().zip(normal).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(normal).for_each(|(v, n)| *v -= 2.0 * along / square * n);
            }
        }
    }

    /// Query, key, value, the transpose of output, and the directions for reading and writing.
    fn model() -> [Matrix; 6] {
        let random = &mut Random(5);
        let rows = [HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE, HEADS * SIZE, HEAD_DIRECTIONS, HEAD_DIRECTIONS];
        rows.map(|rows| random.matrix(rows, HIDDEN))
    }

    fn whole(part: Part, rows: &Matrix) -> Projected {
        let mut projected = Projected::new(part, HEAD_DIRECTIONS);
        projected.push(&rows.values);
        projected
    }

    fn projected(model: &[Matrix; 6]) -> Vec<Projected> {
        let parts = [Part::Query, Part::Key, Part::Value, Part::Output];
        let project = |(matrix, part): (&Matrix, Part)| {
            let directions = &model[if part == Part::Output { 5 } else { 4 }];
            whole(part, &matrix.times_t(directions))
        };
        model.iter().zip(parts).map(project).collect()
    }

    /// Both forms of every head before they are rounded, each of length one.
    fn forms(model: &[Matrix; 6]) -> Vec<Vec<f64>> {
        let all = projected(model);
        let one = |head: usize| {
            let group = head / (HEADS / GROUPS);
            let rows = |part: usize, head: usize| all[part].head(head, SIZE, 0);
            [form(&rows(0, head), &rows(1, group)), form(&rows(2, group), &rows(3, head))].map(|mut entries| {
                let length = entries.iter().map(|v| v * v).sum::<f64>().sqrt();
                entries.iter_mut().for_each(|v| *v /= length);
                entries
            })
        };
        (0..HEADS).flat_map(one).collect()
    }

    fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
        let far = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
        far.fold(0.0, f64::max)
    }

    #[test]
    fn a_change_of_basis_changes_no_form() {
        let before = model();
        let mut after = before.clone();
        for seed in 1..9 {
            let normal = Random(1000 * seed).matrix(1, HIDDEN).values;
            after.iter_mut().for_each(|matrix| matrix.reflect(&normal));
        }
        assert!(distance(&forms(&before), &forms(&after)) < HALF);
    }

    #[test]
    fn turned_and_scaled_rotary_planes_change_no_form() {
        let before = model();
        let mut after = before.clone();
        let random = &mut Random(77);
        let planes: Vec<(f32, f32)> =
            (0..SIZE / 2).map(|_| (6.0 * random.uniform(), 0.25 + 4.0 * random.uniform())).collect();
        let turn = |row: usize, col: usize, up: bool| {
            let (half, (angle, scale)) = (SIZE / 2, planes[row % (SIZE / 2)]);
            let scale = if up { scale } else { scale.recip() };
            match (row % half == col % half, row < half, col < half) {
                (false, ..) => 0.0,
                (true, true, false) => -angle.sin() * scale,
                (true, false, true) => angle.sin() * scale,
                (true, ..) => angle.cos() * scale,
            }
        };
        for head in 0..HEADS {
            after[0].mix(head, |row, col| turn(row, col, true));
        }
        for group in 0..GROUPS {
            after[1].mix(group, |row, col| turn(row, col, false));
        }
        assert!(distance(&forms(&before), &forms(&after)) < HALF);
    }

    #[test]
    fn mixed_values_change_no_form() {
        let before = model();
        let mut after = before.clone();
        // Value rows are mixed by I + N, output columns by (I - N)ᵀ, with N² = 0.
        let shear =
            |row: usize, col: usize| if row < SIZE / 2 && col >= SIZE / 2 { 0.05 * (row + col) as f32 } else { 0.0 };
        let one = |row: usize, col: usize| f32::from(u8::from(row == col));
        for group in 0..GROUPS {
            after[2].mix(group, |row, col| one(row, col) + shear(row, col));
        }
        for head in 0..HEADS {
            after[3].mix(head, |row, col| one(row, col) - shear(col, row));
        }
        assert_ne!(before[2].values, after[2].values);
        assert!(distance(&forms(&before), &forms(&after)) < HALF);
    }

    fn described(model: &[Matrix; 6]) -> Attention {
        let architecture = Architecture { head_dim: Some(SIZE as u64), ..Architecture::default() };
        let mut all = attentions(3, &projected(model), &architecture);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn permuted_heads_permute_forms() {
        let before = model();
        let mut after = before.clone();
        let blocks = |matrix: &Matrix, order: &[usize]| -> Vec<f32> {
            let len = SIZE * HIDDEN;
            order.iter().flat_map(|&block| matrix.values[block * len..][..len].to_vec()).collect()
        };
        let (heads, groups) = ([3, 2, 0, 1], [1, 0]);
        for (slot, order) in [(0, &heads[..]), (1, &groups[..]), (2, &groups[..]), (3, &heads[..])] {
            after[slot].values = blocks(&before[slot], order);
        }
        let (before, after) = (described(&before), described(&after));
        assert_eq!((before.heads, before.groups, before.layer), (4, 2, 3));
        let head = |attention: &Attention, head: usize| {
            attention.forms[0][head * 2 * FORM_NUMBERS..][..2 * FORM_NUMBERS].to_vec()
        };
        for (new, old) in heads.into_iter().enumerate() {
            assert_eq!(head(&after, new), head(&before, old));
        }
        assert_ne!(head(&before, 0), head(&before, 1));
    }

    #[test]
    fn without_a_known_size_the_usual_ones_that_fit_are_tried() {
        let all = attentions(0, &projected(&model()), &Architecture::default());
        assert_eq!(all.iter().map(|attention| attention.head_dim).collect::<Vec<_>>(), [] as [u32; 0]);
        let random = &mut Random(3);
        let wide = [Part::Query, Part::Key, Part::Value, Part::Output]
            .map(|part| whole(part, &random.matrix(192, HEAD_DIRECTIONS)));
        let all = attentions(0, &wide, &Architecture::default());
        assert_eq!(all.iter().map(|attention| attention.head_dim).collect::<Vec<_>>(), [32, 64, 96]);
    }

    #[test]
    fn two_queries_in_one_layer_are_left_alone() {
        let mut all = projected(&model());
        all.extend(projected(&model()));
        assert!(
            attentions(3, &all, &Architecture { head_dim: Some(SIZE as u64), ..Architecture::default() }).is_empty()
        );
    }

    #[test]
    fn places_are_distinct_and_within_the_directions() {
        let mut places = form_places().to_vec();
        places.dedup();
        assert_eq!(places.len(), FORM_NUMBERS);
        assert!(places.iter().all(|&(a, b)| a.max(b) < HEAD_DIRECTIONS as u32));
    }
}
