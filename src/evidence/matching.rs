//! Which tensor of the suspect corresponds to which of the reference, by content: digests first, then values.
//!
//! Names, roles and order are not looked at, except to choose among counterparts with the same content. A
//! correspondence is a map, not evidence: its strength is reported as an effect, and never given a p-value.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use half::{bf16, f16};

use crate::fingerprint::{Fingerprint, TensorFingerprint, ValueFingerprint};
use crate::math::lanes::standardise;
use crate::math::linalg;
use crate::tensor::DType;
use crate::tensor::decode::grid_step;

/// How a counterpart was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The values are equal, all of them.
    Equal,
    /// The values are equal once both are rounded to a coarser type: all of them where that is `bf16` or `f16`, all
    /// sampled ones otherwise.
    ReEncoded,
    /// Sampled values correlate at equal labels.
    Close,
}

/// A tensor of the suspect and its counterpart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// Index into the suspect's tensors.
    pub suspect: usize,
    /// Index into the reference's tensors.
    pub reference: usize,
    /// How the counterpart was found.
    pub how: How,
    /// Correlation of the sampled values; 1 where the values are equal.
    pub correlation: f64,
}

/// Smallest correlation of sampled values for matrices to count as counterparts. Output heads of models trained apart on
/// the same data reach .27, because their sampled values are not independent of one another.
const MIN_CORRELATION: f64 = 0.35;

/// Smallest correlation times the root of the sample size, for small matrices.
const MIN_SCORE: f64 = 8.0;

/// Vectors (gains, biases) resemble one another across layers and models; below this they are no counterparts.
const MIN_VECTOR_CORRELATION: f64 = 0.5;

/// Most pairs of one shape that are compared by value; a checkpoint of thousands of experts is matched by digest alone
/// beyond it.
const MAX_PAIRS: usize = 1 << 28;

/// Fewest rows for tensors of unequal height to be compared: an extended vocabulary, not another layer type.
const MIN_TALL_ROWS: u64 = 256;

/// Finds counterparts. At most one for each tensor of the suspect; one tensor of the reference may serve several, as
/// it does for repeated layers and upcycled experts.
pub fn matches(suspect: &Fingerprint, reference: &Fingerprint) -> Vec<Match> {
    let mut found: Vec<Option<Match>> = vec![None; suspect.exact.tensors.len()];
    by_digest(suspect, reference, &mut found);
    by_value(suspect, reference, &mut found);
    found.into_iter().flatten().collect()
}

/// The types to which [`ValueFingerprint::rounded`] rounds.
const ROUNDED: [fn(f32) -> f32; 2] = [|value| bf16::from_f32(value).to_f32(), |value| f16::from_f32(value).to_f32()];

/// Whether equality after rounding says that tensors are equal: whether rounding leaves the values apart.
fn survives(values: &ValueFingerprint, round: fn(f32) -> f32) -> bool {
    let sample = values.sample.values();
    small_beside(sample.iter().map(|&value| (round(value) - value).abs()), &sample)
}

/// Whether rounding that moves values by these distances keeps most of what they say: of the values that are not the
/// median, the median distance moved is at most [`MOST_MOVED`] of the median distance from it. Otherwise most of them
/// come out on a few levels, as values do that are subnormal in the coarser type, beyond its largest, or close around a
/// number far from zero, and unrelated tensors come out equal. Medians, because a few large values survive any rounding;
/// of the other values, because exact zeros do so too.
fn small_beside(moved: impl Iterator<Item = f32>, values: &[f32]) -> bool {
    let Some(centre) = median(values.to_vec()) else { return false };
    let apart = moved.zip(values).filter(|&(_, &value)| value != centre);
    let (moved, distances) = apart.map(|(moved, value)| (moved, (value - centre).abs())).unzip();
    median(moved).zip(median(distances)).is_some_and(|(moved, distance)| moved <= MOST_MOVED * distance)
}

/// Values spread evenly over four steps of a grid are at this limit, and normal ones whose standard deviation is one
/// and a half steps: about two bits a value are left.
const MOST_MOVED: f32 = 0.25;

/// The upper median; NaN counts as large.
fn median(mut values: Vec<f32>) -> Option<f32> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f32::total_cmp).1)
}

/// Tensors of a reference by the digests of their values rounded to each type of [`ROUNDED`].
struct Rounded<'a> {
    reference: &'a Fingerprint,
    by_digest: [HashMap<u128, Vec<usize>>; 2],
    /// Whether a tensor survives each rounding, where that was asked.
    survives: Vec<[Option<bool>; 2]>,
}

impl<'a> Rounded<'a> {
    fn new(reference: &'a Fingerprint) -> Self {
        let mut by_digest: [HashMap<u128, Vec<usize>>; 2] = Default::default();
        for (index, values) in informative(reference) {
            for (map, key) in by_digest.iter_mut().zip(values.rounded) {
                map.entry(key).or_default().push(index);
            }
        }
        Self { reference, by_digest, survives: vec![[None; 2]; reference.exact.tensors.len()] }
    }

    /// The tensors that are equal to a tensor of the suspect after a rounding that both survive.
    fn equal_to(&mut self, values: &ValueFingerprint) -> Option<Vec<usize>> {
        let Self { reference, by_digest, survives: known } = self;
        let mut tried = ROUNDED.into_iter().zip(by_digest).zip(values.rounded).enumerate();
        tried.find_map(|(which, ((round, map), key))| {
            let mut hits = map.get(&key).filter(|_| survives(values, round))?.clone();
            hits.retain(|&hit| {
                let ask = || reference.exact.tensors[hit].informative().is_some_and(|values| survives(values, round));
                *known[hit][which].get_or_insert_with(ask)
            });
            Some(hits).filter(|hits| !hits.is_empty())
        })
    }
}

fn by_digest(suspect: &Fingerprint, reference: &Fingerprint, found: &mut [Option<Match>]) {
    let mut by_values: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    for (index, values) in informative(reference) {
        for digest in digests(values) {
            by_values.entry(digest).or_default().push(index);
        }
    }
    let mut rounded = Rounded::new(reference);
    let mut used = vec![0u32; reference.exact.tensors.len()];
    for (index, values) in informative(suspect) {
        let equal = digests(values).find_map(|digest| by_values.get(&digest)).map(|hits| (How::Equal, Cow::from(hits)));
        let rounded = || Some((How::ReEncoded, Cow::from(rounded.equal_to(values)?)));
        let Some((how, hits)) = equal.or_else(rounded) else { continue };
        let tensor = &suspect.exact.tensors[index];
        let same_size =
            hits.iter().copied().filter(|&hit| reference.exact.tensors[hit].elements() == tensor.elements());
        let preference = |hit: &usize| (used[*hit], !same_place(tensor, &reference.exact.tensors[*hit]), *hit);
        let Some(hit) = same_size.min_by_key(preference) else { continue };
        used[hit] += 1;
        found[index] = Some(Match { suspect: index, reference: hit, how, correlation: 1.0 });
    }
}

/// The digests over a tensor's values, of a gain that is stored less one under either convention: of a copy without claims
/// the convention is not known.
fn digests(values: &ValueFingerprint) -> impl Iterator<Item = [u8; 32]> {
    values.sha256.into_iter().chain(values.less_one_sha256)
}

/// Whether two tensors have the same name, or the same settled role in the same layer.
fn same_place(a: &TensorFingerprint, b: &TensorFingerprint) -> bool {
    let (x, y) = (&a.assignment, &b.assignment);
    a.name == b.name || x.roles.len() == 1 && (&x.roles, x.layer, x.expert) == (&y.roles, y.layer, y.expert)
}

fn informative(fingerprint: &Fingerprint) -> impl Iterator<Item = (usize, &ValueFingerprint)> {
    fingerprint.exact.tensors.iter().enumerate().filter_map(|(index, tensor)| Some((index, tensor.informative()?)))
}

/// Tensors of one shape, by index.
#[derive(Default)]
struct Group {
    ours: Vec<usize>,
    theirs: Vec<usize>,
}

/// Tensors by rows and columns.
type Groups = BTreeMap<(u64, u64), Group>;

fn by_value(suspect: &Fingerprint, reference: &Fingerprint, found: &mut [Option<Match>]) {
    let mut groups = Groups::new();
    for (index, _) in informative(suspect).filter(|&(index, _)| found[index].is_none()) {
        groups.entry(suspect.exact.tensors[index].matrix()).or_default().ours.push(index);
    }
    for (index, _) in informative(reference) {
        groups.entry(reference.exact.tensors[index].matrix()).or_default().theirs.push(index);
    }
    for Group { ours, theirs } in groups.values() {
        if ours.len().saturating_mul(theirs.len()) <= MAX_PAIRS {
            match_group(suspect, reference, ours, theirs, found);
        }
    }
    match_tall(suspect, reference, &groups, found);
}

/// Counterparts among tensors of one shape.
fn match_group(
    suspect: &Fingerprint,
    reference: &Fingerprint,
    ours: &[usize],
    theirs: &[usize],
    found: &mut [Option<Match>],
) {
    let Some(Nearest { rows, cols }) = correlations(suspect, reference, ours, theirs) else { return };
    for ((column, correlation), &index) in rows.into_iter().zip(ours) {
        let tensor = &suspect.exact.tensors[index];
        // Vectors of neighbouring layers resemble each other: only a mutual best counts.
        let vector = tensor.matrix().0 == 1;
        let rival = vector && cols[column] > correlation;
        // Far from enough for a matrix, whatever the rounding of the product: most pairs end here.
        if !vector && correlation < 0.5 * MIN_CORRELATION as f32 {
            continue;
        }
        let counterpart = theirs[column];
        if let Some(agreement) = agreement(tensor, &reference.exact.tensors[counterpart]).filter(|_| !rival) {
            found[index] = Some(Match { suspect: index, reference: counterpart, ..agreement });
        }
    }
}

fn best_of(row: &[f32]) -> Option<(usize, f32)> {
    row.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
}

/// Samples of one side that are multiplied with as many of the other at a time. The table of all is never held: for each
/// thread there are two blocks of 2,048 values a sample and a tile of the table, 20 MB.
const BLOCK: usize = 1024;

/// What matching needs of a table of correlations.
#[derive(Debug, Default, PartialEq)]
struct Nearest {
    /// For each row its largest value and in which column that is, the first of several.
    rows: Vec<(usize, f32)>,
    /// For each column its largest value.
    cols: Vec<f32>,
}

impl Nearest {
    fn new(rows: usize, cols: usize) -> Self {
        Self { rows: vec![(0, f32::NEG_INFINITY); rows], cols: vec![f32::NEG_INFINITY; cols] }
    }

    /// Takes a tile whose corner is at `row` and `col`. Of one row, tiles come from left to right.
    fn add(&mut self, row: usize, col: usize, tile: &[f32], width: usize) {
        let cols = &mut self.cols[col..col + width];
        for (best, line) in self.rows[row..].iter_mut().zip(tile.chunks_exact(width)) {
            if let Some((at, value)) = best_of(line)
                && value.total_cmp(&best.1).is_gt()
            {
                *best = (col + at, value);
            }
            for (largest, &value) in cols.iter_mut().zip(line) {
                if value > *largest {
                    *largest = value;
                }
            }
        }
    }
}

/// Correlations of the samples of each of `ours` with each of `theirs`, by one matrix product for each tile of the table.
/// Correlations of f32 sums: good for choosing, not for reporting.
fn correlations(suspect: &Fingerprint, reference: &Fingerprint, ours: &[usize], theirs: &[usize]) -> Option<Nearest> {
    if ours.is_empty() || theirs.is_empty() {
        return None;
    }
    nearest(ours.len(), theirs.len(), |of_theirs, block| {
        let (fingerprint, indices) = if of_theirs { (reference, theirs) } else { (suspect, ours) };
        let mut rows = Vec::new();
        for &index in &indices[block] {
            rows.extend_from_slice(&fingerprint.exact.tensors[index].informative()?.sample.values());
        }
        Some(rows)
    })
}

/// The nearest of two lists of samples. `samples` gives those in a range of the first list, or of the second if told so.
/// `None` where one is missing, or they have no common length.
fn nearest(ours: usize, theirs: usize, samples: impl Fn(bool, Range<usize>) -> Option<Vec<f32>>) -> Option<Nearest> {
    let mut common = None;
    let mut standardised = |of_theirs: bool, block: Range<usize>| {
        let count = block.len();
        let mut rows = samples(of_theirs, block)?;
        let width = *common.get_or_insert(rows.len() / count);
        standardise(&mut rows, width);
        (width > 0 && rows.len() == count * width).then_some((rows, width))
    };
    // Tiles of nearly equal width: a product of few columns would be summed in another order.
    let across = theirs.div_ceil(theirs.div_ceil(BLOCK));
    let (mut found, mut tile) = (Nearest::new(ours, theirs), Vec::new());
    for row in (0..ours).step_by(BLOCK) {
        let (left, width) = standardised(false, row..(row + BLOCK).min(ours))?;
        for col in (0..theirs).step_by(across) {
            let end = (col + across).min(theirs);
            let (right, _) = standardised(true, col..end)?;
            linalg::by_rows(&left, &right, width, &mut tile);
            found.add(row, col, &tile, end - col);
        }
    }
    Some(found)
}

/// What two tensors of one shape have in common, if enough to be counterparts. The indices are left at 0.
fn agreement(ours: &TensorFingerprint, theirs: &TensorFingerprint) -> Option<Match> {
    let (a, b) = (ours.informative()?, theirs.informative()?);
    let (x, y) = (a.sample.values(), b.sample.values());
    let ours_sampled = Sampled { values: &x, dtype: &ours.dtype, steps: &a.steps };
    let theirs_sampled = Sampled { values: &y, dtype: &theirs.dtype, steps: &b.steps };
    judge(ours_sampled, theirs_sampled, ours.matrix().0 == 1)
}

/// Sampled values, and what tells how they were rounded.
#[derive(Debug, Clone, Copy)]
struct Sampled<'a> {
    values: &'a [f32],
    dtype: &'a DType,
    /// Where the values do not tell the distance of levels: that at each value.
    steps: &'a [bf16],
}

impl Sampled<'_> {
    /// Whether they are stored in blocks, which state levels of their own.
    fn in_blocks(&self) -> bool {
        matches!(self.dtype, DType::Block(_) | DType::Packed(_))
    }

    /// The distance of representable values near the larger of a pair; `None` where it is unknown.
    fn step(&self, at: usize, larger: f32) -> Option<f32> {
        match (self.steps.get(at), self.dtype) {
            (Some(step), _) => Some(step.to_f32()),
            (None, DType::Block(_) | DType::Packed(_)) => None,
            (None, dtype) => grid_step(dtype, larger),
        }
    }
}

fn judge(ours: Sampled<'_>, theirs: Sampled<'_>, vector: bool) -> Option<Match> {
    let (a, b) = (ours.values, theirs.values);
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
    let correlation = crate::math::ranks::correlation(&wide(a), &wide(b));
    let least = if vector { MIN_VECTOR_CORRELATION } else { MIN_CORRELATION };
    let strong = correlation >= least && correlation * (a.len() as f64).sqrt() >= MIN_SCORE;
    // Where a grid leaves few levels, as 8 bits do to gains about one, being on it says little by itself.
    let is_rounded = on_grid(ours, theirs) && (strong || leaves_apart(ours, theirs));
    let how = if is_rounded { How::ReEncoded } else { How::Close };
    (strong || how == How::ReEncoded).then_some(Match { suspect: 0, reference: 0, how, correlation })
}

/// Whether the coarser of two types explains every difference: 99 % of sampled values within half a step of its grid
/// and none off by more than one. Types with the same grid explain none.
///
/// A block type rounds each value to levels whose distance its block states, so the same holds for it, with two
/// allowances: its scale is itself rounded to `f16`, and quantisers cut off what lies beyond the last level, so that
/// [`MOST_CUT_OFF`] of the values may be further away. What this cannot exclude: a change that is small beside the
/// levels of a coarse type (a light fine-tune in two bits) moves few values across half a step and passes for rounding.
/// What it does not see: copies in code-book types (IQ1, IQ2, IQ3), which are told to be close, never re-encoded.
fn on_grid(ours: Sampled<'_>, theirs: Sampled<'_>) -> bool {
    if ours.dtype == theirs.dtype || ours.values.is_empty() || ours.values.len() != theirs.values.len() {
        return false;
    }
    let blocks = ours.in_blocks() || theirs.in_blocks();
    let (mut within_half, n) = (0, ours.values.len());
    for (at, (&x, &y)) in ours.values.iter().zip(theirs.values).enumerate() {
        let larger = if x.abs() > y.abs() { x } else { y };
        let (Some(s), Some(t)) = (ours.step(at, larger), theirs.step(at, larger)) else { return false };
        let gap = (x - y).abs();
        if blocks {
            within_half += usize::from(gap <= 0.505 * (s + t) + SCALE_ROUNDING * larger.abs());
            continue;
        }
        let step = s.max(t);
        if gap > step {
            return false;
        }
        within_half += usize::from(gap <= 0.51 * step);
    }
    let least = if blocks { 1.0 - MOST_CUT_OFF } else { 0.99 };
    within_half as f64 >= least * n as f64
}

/// Whether the differences leave the values of both apart ([`small_beside`]), so that agreement within a grid says that
/// they are equal even where they do not vary together. Blocks state levels of their own.
fn leaves_apart(ours: Sampled<'_>, theirs: Sampled<'_>) -> bool {
    let gaps = || ours.values.iter().zip(theirs.values).map(|(x, y)| (x - y).abs());
    let small = || small_beside(gaps(), ours.values) && small_beside(gaps(), theirs.values);
    ours.in_blocks() || theirs.in_blocks() || small()
}

/// Share of a value by which the rounding of its block's scale to `f16` may move it.
const SCALE_ROUNDING: f32 = 1.0 / 2048.0;

/// Share of values that a quantiser may have cut off at the end of the levels. Among the zoo's matrices in ten block
/// types, rounding alone left 0.9 % at most beyond half a step; a light fine-tune before it, 13.8 % at least.
const MOST_CUT_OFF: f64 = 0.03;

/// Counterparts among tall matrices of one width and unequal height: a vocabulary that was extended or cut. The samples
/// of both keep mostly the same labels, and the common ones are compared.
fn match_tall(suspect: &Fingerprint, reference: &Fingerprint, groups: &Groups, found: &mut [Option<Match>]) {
    // A handful: embeddings and heads. Layers come in groups of at least as many as there are layers.
    let few = |group: &&Vec<usize>| (1..=2).contains(&group.len());
    let tall = || groups.iter().filter(|((rows, _), _)| *rows >= MIN_TALL_ROWS).map(|(_, group)| group);
    let ours: Vec<usize> = tall().map(|group| &group.ours).filter(few).flatten().copied().collect();
    let theirs: Vec<usize> = tall().map(|group| &group.theirs).filter(few).flatten().copied().collect();
    for index in ours {
        if found[index].is_some() {
            continue;
        }
        let tensor = &suspect.exact.tensors[index];
        let best = theirs
            .iter()
            .filter(|&&other| reference.exact.tensors[other].matrix().1 == tensor.matrix().1)
            .filter_map(|&other| {
                let (a, b) = common_sample(tensor, &reference.exact.tensors[other])?;
                let side = |values| Sampled { values, dtype: &tensor.dtype, steps: &[] };
                let agreement = judge(side(&a), side(&b), false)?;
                // Equal at common labels is not equal as a whole.
                Some(Match { suspect: index, reference: other, how: How::Close, ..agreement })
            })
            .max_by(|a, b| a.correlation.total_cmp(&b.correlation).then(b.reference.cmp(&a.reference)));
        found[index] = best;
    }
}

/// Sampled values at the labels that both tensors keep.
fn common_sample(ours: &TensorFingerprint, theirs: &TensorFingerprint) -> Option<(Vec<f32>, Vec<f32>)> {
    let (a, b) = (ours.informative()?.sample.values(), theirs.informative()?.sample.values());
    let ((our_rows, our_cols), (their_rows, their_cols)) = (ours.sample_labels(), theirs.sample_labels());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (i, row) in our_rows.iter().enumerate() {
        let Ok(k) = their_rows.binary_search(row) else { continue };
        for (j, col) in our_cols.iter().enumerate() {
            let Ok(l) = their_cols.binary_search(col) else { continue };
            left.push(*a.get(i * our_cols.len() + j)?);
            right.push(*b.get(k * their_cols.len() + l)?);
        }
    }
    Some((left, right))
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView, serialize};

    use super::*;
    use crate::assemble::Subject;
    use crate::checkpoint::{Checkpoint, OpenOptions};
    use crate::fingerprint::Settings;

    fn within_grid(ours: Sampled<'_>, theirs: Sampled<'_>) -> bool {
        on_grid(ours, theirs) && leaves_apart(ours, theirs)
    }

    fn plain<'a>(values: &'a [f32], dtype: &'a DType) -> Sampled<'a> {
        Sampled { values, dtype, steps: &[] }
    }

    #[test]
    fn rounding_to_a_coarser_type_is_within_its_grid_and_a_changed_value_is_not() {
        let values: Vec<f32> = (1..500).map(|i| (i as f32 * 0.731).sin() * 0.02).collect();
        let halves: Vec<f32> = values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
        assert!(within_grid(plain(&values, &DType::F32), plain(&halves, &DType::F16)));
        assert!(
            !within_grid(plain(&values, &DType::F32), plain(&halves, &DType::F32)),
            "one type explains no difference"
        );
        let mut tuned = halves.clone();
        for value in &mut tuned {
            *value *= 1.002;
        }
        assert!(!within_grid(plain(&values, &DType::F32), plain(&tuned, &DType::F16)));
    }

    /// The fingerprint of one matrix of `f32`.
    fn print_of(values: &[f32]) -> Fingerprint {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![64, values.len() / 64], &bytes).unwrap();
        std::fs::write(&path, serialize([("weight", view)], None).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(&path, OpenOptions::default()).unwrap();
        Fingerprint::take(&Subject::of(&checkpoint), &Settings::default(), &|_| ()).unwrap()
    }

    /// Values from 0 to 1 that are independent for different seeds.
    fn random(seed: u64) -> Vec<f32> {
        let hash = |i: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&i.to_le_bytes(), seed);
        (0..64 * 64).map(|i| (hash(i) >> 40) as f32 / (1u64 << 24) as f32).collect()
    }

    fn scaled(values: &[f32], offset: f32, scale: f32) -> Vec<f32> {
        values.iter().map(|value| offset + scale * value).collect()
    }

    #[test]
    fn unrelated_values_that_round_to_few_levels_are_no_counterparts() {
        let (a, b) = (random(1), random(2));
        // All zero in f16, all infinite in f16, all one in bf16.
        for (what, offset, scale) in [("tiny", 1e-9, 2.5e-8), ("huge", 7e4, 1e5), ("near one", 1.0, 1e-3)] {
            let (ours, theirs) = (print_of(&scaled(&a, offset, scale)), print_of(&scaled(&b, offset, scale)));
            let rounded = |fingerprint: &Fingerprint| fingerprint.exact.tensors[0].values.as_ref().unwrap().rounded;
            assert!(rounded(&ours).iter().zip(rounded(&theirs)).any(|(x, y)| *x == y), "{what}: nothing to refuse");
            assert_eq!(matches(&ours, &theirs), [], "{what}");
        }
        let tiny = |values: &[f32]| scaled(values, 1e-9, 2.5e-8);
        let with_one = |values: &[f32]| [&[1.0], &tiny(values)[1..]].concat();
        assert_eq!(matches(&print_of(&with_one(&a)), &print_of(&with_one(&b))), [], "one value that survives");
        let sparse =
            |values: &[f32]| tiny(values).iter().map(|v| if *v < 1.8e-8 { 0.0 } else { *v }).collect::<Vec<_>>();
        assert_eq!(matches(&print_of(&sparse(&a)), &print_of(&sparse(&b))), [], "most are zero before and after");
    }

    #[test]
    fn values_below_the_levels_of_the_coarser_type_are_within_no_grid() {
        let (a, b) = (random(1), random(2));
        let ours = scaled(&a, 0.0, 2.9e-8);
        // Two levels of f16, one of them rare.
        let theirs: Vec<f32> = b.iter().map(|&value| if value > 0.995 { 2f32.powi(-24) } else { 0.0 }).collect();
        assert!(!within_grid(plain(&ours, &DType::F32), plain(&theirs, &DType::F16)));
    }

    #[test]
    fn casts_are_counterparts_down_to_the_last_few_levels() {
        let values = scaled(&random(1), -0.5, 1.0);
        for scale in [1.0, 0.02, 1e-5, 1e-6] {
            let wide = scaled(&values, 0.0, scale);
            let halves: Vec<f32> = wide.iter().map(|&value| f16::from_f32(value).to_f32()).collect();
            let found = matches(&print_of(&halves), &print_of(&wide));
            assert_eq!(found.iter().map(|found| found.how).collect::<Vec<_>>(), [How::ReEncoded], "{scale}");
            assert!(within_grid(plain(&wide, &DType::F32), plain(&halves, &DType::F16)), "{scale}");
        }
        // Gains about one, of which bf16 leaves some dozens of levels.
        let gains = scaled(&random(1), 0.9, 0.2);
        let rounded: Vec<f32> = gains.iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!(matches(&print_of(&rounded), &print_of(&gains))[0].how, How::ReEncoded);
    }

    #[test]
    fn tiles_give_what_the_whole_table_would() {
        const WIDTH: usize = 2048;
        let random = |seed: u32, count: usize| -> Vec<f32> {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            (0..count * WIDTH).map(|_| next()).collect()
        };
        for (ours, theirs) in [(1, 1), (3, 1500), (1100, 2 * BLOCK + 1), (1, BLOCK + 1), (BLOCK + 1, 2), (40, 3100)] {
            let (left, mut right) = (random(1, ours), random(2, theirs));
            // A sample that comes twice: the first of both is the nearest.
            right.copy_within(..WIDTH, (theirs - 1) * WIDTH);
            let samples = |of_theirs: bool, block: Range<usize>| {
                let all = if of_theirs { &right } else { &left };
                Some(all[block.start * WIDTH..block.end * WIDTH].to_vec())
            };
            let tiled = nearest(ours, theirs, samples).unwrap();
            let (mut left, mut right) = (left.clone(), right.clone());
            standardise(&mut left, WIDTH);
            standardise(&mut right, WIDTH);
            let (mut table, mut rows) = (Vec::new(), Vec::new());
            let mut cols = vec![f32::NEG_INFINITY; theirs];
            for block in left.chunks(BLOCK * WIDTH) {
                linalg::by_rows(block, &right, WIDTH, &mut table);
                for line in table.chunks_exact(theirs) {
                    rows.push(best_of(line).unwrap());
                    cols.iter_mut().zip(line).for_each(|(largest, &value)| *largest = largest.max(value));
                }
            }
            let whole = Nearest { rows, cols };
            assert!(tiled == whole, "{ours} x {theirs}");
        }
    }

    #[test]
    fn samples_of_unequal_length_have_no_nearest() {
        let samples =
            |of_theirs: bool, block: Range<usize>| Some(vec![0.5; block.len() * if of_theirs { 3 } else { 4 }]);
        assert_eq!(nearest(5, 7, samples), None);
        assert_eq!(nearest(5, 7, |_, _| None), None);
        assert_eq!(nearest(5, 7, |_, _| Some(Vec::new())), None);
    }

    #[test]
    fn independent_samples_are_no_counterparts() {
        let sample = |seed: f32| -> Vec<f32> { (0..2048).map(|i| (i as f32 * seed).sin()).collect() };
        assert!(judge(plain(&sample(1.37), &DType::BF16), plain(&sample(2.91), &DType::BF16), false).is_none());
        let close: Vec<f32> = sample(1.37).iter().zip(sample(2.91)).map(|(a, b)| a + b).collect();
        let found = judge(plain(&sample(1.37), &DType::BF16), plain(&close, &DType::BF16), false).unwrap();
        assert_eq!(found.how, How::Close);
        assert!((found.correlation - 0.5f64.sqrt()).abs() < 0.05);
    }
}
