//! The `published-norms` test: do a suspect's embedding rows have a reference's norms, up to one common factor?
//!
//! The L2 norm of an embedding row survives renaming and every rotation, permutation or sign flip of the hidden axis.
//! Rows of rare tokens get almost no gradient: fine-tuning leaves them, and weight decay shrinks them all by one
//! factor. So a descendant shows *one ratio* suspect/reference over rows of very different norm; models trained apart
//! show ratios spread over tens of percent. Only published norms are needed, not the reference's weights.
//!
//! What the evidence is about: the input embedding alone. A model that took only another's embedding shows it too, and
//! so do two models that share an initialisation, over the rows that neither trained; the span that is demanded keeps
//! those out where the hidden size is in the thousands (initial norms then differ by a few percent). Long continued
//! training hides it, and so does training the embedding anew, or scaling its rows one by one: no match means nothing.

use crate::limits::MAX_NONFINITE_SHARE;
use crate::math::tails::{log10_binomial_sf, log10_corrected};

/// Fewest usable rows with which the test says anything.
pub const MIN_USABLE: usize = 6;

/// Fewest distinct rows on the common ratio with which it counts as evidence.
pub const MIN_ON_RATIO: usize = 8;

/// Smallest factor between the largest and the smallest norm on the common ratio with which it counts.
pub const MIN_SPAN: f64 = 3.0;

/// Largest p-value, corrected for the scan, with which it counts. Callers that tried several references correct for
/// those as well.
pub const MAX_P: f64 = 0.05;

/// Below this a row is dead: it was never updated and decayed to nothing, or is padding. For a whole embedding it is
/// relative to the median norm, so that scaling the embedding changes nothing.
pub const DEAD: f64 = 1e-9;

/// ln 1.005: a ratio is on the common one if it lies within half a percent of the window's middle.
const HALF_WINDOW: f64 = 0.004_987_541_511_038_968;

/// ln 1.01, within which two norms are at one level.
const LEVEL: f64 = 0.009_950_330_853_168_083;

/// ln 1.1, within which the density around a level is taken.
const AROUND: f64 = 0.095_310_179_804_324_87;

/// Most other rows at a row's level with which the row is still used.
const LEVEL_ROWS: usize = 4;

/// How many times denser than its surroundings a level of a whole embedding must be to be dropped. A normal bulk of
/// norms with a standard deviation of 2.5 % or more stays below it everywhere.
const LEVEL_EXCESS: f64 = 4.0;

/// Neighbourhoods that the window's share of rows is held against: width in windows, and how many times its even share
/// a window may hold under the null hypothesis.
const NEIGHBOURHOODS: [(f64, f64); 2] = [(5.0, 1.0), (10.0, 1.5)];

/// Rounding must not push a row over the window's edge.
const SLACK: f64 = 1e-12;

/// Why the test cannot be run on a pair; never evidence of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotApplicable {
    /// The suspect has no rows.
    NoRows,
    /// Too many norms are NaN or infinite.
    NotFinite,
    /// Every norm is zero.
    AllZero,
    /// Too few rows are common to both, alive and not at a level shared by many.
    TooFewRows {
        /// How many there are.
        usable: usize,
    },
}

/// What the test saw on one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct NormsEvidence {
    /// Rows that both sides have, alive and not degenerate.
    pub usable: usize,
    /// Usable rows after rows that tie on both sides were counted once.
    pub distinct: usize,
    /// Usable rows within half a percent of the common ratio.
    pub on_ratio: usize,
    /// Distinct rows within half a percent of the common ratio: what the p-value and [`MIN_ON_RATIO`] are about.
    pub distinct_on_ratio: usize,
    /// The common ratio, suspect over reference: the median of those on it.
    pub ratio: f64,
    /// Largest over smallest reference norm of the rows on the ratio.
    pub span: f64,
    /// Standard deviation of the log-ratios of all distinct rows: how widely the two models' norms differ.
    pub spread: f64,
    /// log10 of the p-value, corrected for the scan over windows but not for the number of references tried.
    pub log10_p: f64,
    /// Whether the pair deserves a look: [`MIN_ON_RATIO`], [`MIN_SPAN`] and [`MAX_P`] are all met. A verdict needs a
    /// far smaller p-value, corrected for the references tried.
    pub accepted: bool,
    /// Common rows left out because one side's is dead or not finite.
    pub dropped_dead: usize,
    /// Common rows left out because one side's shares its level with many others.
    pub dropped_degenerate: usize,
}

/// The norms of a suspect, prepared once for any number of references.
#[derive(Debug, Clone)]
pub struct SuspectEmbedding(Rows);

#[derive(Debug, Clone)]
enum Rows {
    /// All rows, by token id, and their logarithms sorted (live rows only).
    Embedding { norms: Vec<f64>, sorted_ln: Vec<f64>, dead_below: f64 },
    /// Some rows, sorted by token id.
    Listed(Vec<Listed>),
}

/// A row of a printed list.
#[derive(Debug, Clone, Copy)]
struct Listed {
    id: u32,
    norm: f64,
    degenerate: bool,
}

/// A usable common row.
#[derive(Debug, Clone, Copy)]
struct RowPair {
    reference: f64,
    ln_ratio: f64,
}

impl SuspectEmbedding {
    /// A suspect of which every row's norm is known; `norms[id]` is that of token `id`.
    ///
    /// # Errors
    ///
    /// [`NotApplicable`] where there are no rows, where more than [`MAX_NONFINITE_SHARE`] of them are NaN or infinite,
    /// and where all are zero.
    pub fn embedding<T: Copy + Into<f64>>(norms: &[T]) -> Result<Self, NotApplicable> {
        if norms.is_empty() {
            return Err(NotApplicable::NoRows);
        }
        let norms: Vec<f64> = norms.iter().map(|&norm| norm.into()).collect();
        let not_finite = norms.iter().filter(|norm| !norm.is_finite()).count();
        if not_finite as f64 > MAX_NONFINITE_SHARE * norms.len() as f64 {
            return Err(NotApplicable::NotFinite);
        }
        let mut sorted_ln: Vec<f64> =
            norms.iter().filter(|norm| norm.is_finite() && **norm > 0.0).map(|norm| norm.ln()).collect();
        sorted_ln.sort_unstable_by(f64::total_cmp);
        let median = sorted_ln.get(sorted_ln.len() / 2).ok_or(NotApplicable::AllZero)?.exp();
        Ok(Self(Rows::Embedding { norms, sorted_ln, dead_below: DEAD * median }))
    }

    /// A suspect of which only a printed list of rows is known: token id and norm.
    ///
    /// # Errors
    ///
    /// [`NotApplicable`] where there are no rows, and where none is finite and above zero.
    #[cfg_attr(not(feature = "_internals"), expect(dead_code, reason = "calibration alone has printed suspects"))]
    pub fn listed(rows: &[(u32, f64)]) -> Result<Self, NotApplicable> {
        if rows.is_empty() {
            return Err(NotApplicable::NoRows);
        }
        if rows.iter().all(|row| !row.1.is_finite()) {
            return Err(NotApplicable::NotFinite);
        }
        if rows.iter().all(|row| !is_live(row.1, 0.0)) {
            return Err(NotApplicable::AllZero);
        }
        Ok(Self(Rows::Listed(printed(rows))))
    }

    /// The suspect's rows at the ids of `reference`, in their order; `None` where it has none.
    fn at(&self, reference: &[Listed]) -> Vec<Option<Listed>> {
        match &self.0 {
            Rows::Listed(rows) => reference
                .iter()
                .map(|row| rows.binary_search_by_key(&row.id, |own| own.id).ok().map(|index| rows[index]))
                .collect(),
            Rows::Embedding { norms, sorted_ln, .. } => {
                let norm_of = |row: &Listed| norms.get(row.id as usize).map(|norm| (row.id, *norm));
                let mut own = printed(&reference.iter().filter_map(norm_of).collect::<Vec<_>>());
                for row in &mut own {
                    row.degenerate |= stands_on_a_level(row.norm, sorted_ln);
                }
                let mut own = own.into_iter().peekable();
                reference.iter().map(|row| own.next_if(|candidate| candidate.id == row.id)).collect()
            }
        }
    }

    fn dead_below(&self) -> f64 {
        match self.0 {
            Rows::Embedding { dead_below, .. } => dead_below,
            Rows::Listed(_) => DEAD,
        }
    }
}

/// Tests whether `suspect` has the norms of `reference` (token id and norm, as printed) up to one factor.
///
/// **Rows.** A common row is dropped where either norm is dead (below [`DEAD`]) and where either is degenerate: more
/// than four other rows of the same printed list within 1 %. Tokens that were never seen sit at one level in each of
/// two unrelated models, so that their ratio is constant without any kinship. Of a suspect with all its rows known,
/// the rows that the reference lists are put under the same rule, for a copy repeats the reference's spacing there and
/// loses nothing by it; and a row is dropped too if the whole embedding holds, within 1 % of it, more than four others
/// *and* four times what the density from 1 to 10 % around it would put there, beyond four. The bulk of an embedding is
/// dense but smooth, so rows in it stay; a level is a spike.
///
/// **Statistic.** The densest window of ±0.5 % among the ratios, found by starting a window at every ratio. Rows that
/// lie within 1 % of each other on both sides say one thing and are counted once.
///
/// **Null hypothesis.** Trained apart, the two models' log-ratios are independent draws from a density that is smooth on
/// the scale of a few percent; nothing else about it is assumed. Given how many rows lie in a neighbourhood of a row,
/// the number of them that fall into the window at that row is then binomial with the window's share of the
/// neighbourhood, so the tail needs no estimate of the density. Two neighbourhoods are used and the weaker p-value
/// taken: ±2.5 % with an even share (1/5), and ±5 % with one and a half times the even share (3/20), which leaves room
/// for a density that peaks at the window. The sum over all windows (Bonferroni; every usable row starts one) bounds
/// the scan.
///
/// **Where it fails.** Simulated, the p-value is valid down to a standard deviation of the log-ratios of 3 % for a
/// normal and 5 % for a Laplace density; the narrowest pair without known kinship among the published ones has 5 %. Two
/// trainings of one recipe on the same data in the same order that differ in nothing but their seed may come nearer
/// than that. Rows are not strictly independent (tokens that occur only together are trained together), so figures far
/// below 10^-10 say "certain under the model", not more. `docs/published-norms.md` has the study.
///
/// # Errors
///
/// [`NotApplicable::TooFewRows`] with fewer than [`MIN_USABLE`] usable rows.
pub fn published_norms(suspect: &SuspectEmbedding, reference: &[(u32, f64)]) -> Result<NormsEvidence, NotApplicable> {
    let reference = printed(reference);
    let (mut dropped_dead, mut dropped_degenerate) = (0, 0);
    let mut pairs = Vec::with_capacity(reference.len());
    for (row, own) in reference.iter().zip(suspect.at(&reference)) {
        let Some(own) = own else { continue };
        if !is_live(row.norm, DEAD) || !is_live(own.norm, suspect.dead_below()) {
            dropped_dead += 1;
        } else if row.degenerate || own.degenerate {
            dropped_degenerate += 1;
        } else {
            pairs.push(RowPair { reference: row.norm, ln_ratio: own.norm.ln() - row.norm.ln() });
        }
    }
    if pairs.len() < MIN_USABLE {
        return Err(NotApplicable::TooFewRows { usable: pairs.len() });
    }
    let distinct = ratios_of_distinct(&mut pairs);
    let window = densest_window(&distinct, &pairs);
    let on_ratio: Vec<&RowPair> = pairs.iter().filter(|pair| window.holds(pair.ln_ratio)).collect();
    let (shortest, longest) = on_ratio.iter().fold((f64::INFINITY, 0.0_f64), |(shortest, longest), pair| {
        (shortest.min(pair.reference), longest.max(pair.reference))
    });
    let span = longest / shortest;
    let accepted = window.distinct >= MIN_ON_RATIO && span >= MIN_SPAN && window.log10_p <= MAX_P.log10();
    Ok(NormsEvidence {
        usable: pairs.len(),
        distinct: distinct.len(),
        on_ratio: on_ratio.len(),
        distinct_on_ratio: window.distinct,
        ratio: on_ratio[on_ratio.len() / 2].ln_ratio.exp(),
        span,
        spread: standard_deviation(&distinct),
        log10_p: window.log10_p,
        accepted,
        dropped_dead,
        dropped_degenerate,
    })
}

fn standard_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / n).sqrt()
}

fn is_live(norm: f64, dead_below: f64) -> bool {
    norm.is_finite() && norm > 0.0 && norm >= dead_below
}

/// A printed list sorted by id, each id once, with the rows marked that have more than [`LEVEL_ROWS`] others at their
/// level.
fn printed(rows: &[(u32, f64)]) -> Vec<Listed> {
    let mut list: Vec<Listed> = rows.iter().map(|&(id, norm)| Listed { id, norm, degenerate: false }).collect();
    list.sort_by_key(|row| row.id);
    list.dedup_by_key(|row| row.id);
    let mut sorted: Vec<f64> = list.iter().map(|row| row.norm).filter(|norm| norm.is_finite()).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    for row in &mut list {
        let at_level = count_between(&sorted, 0.99 * row.norm, 1.01 * row.norm);
        row.degenerate = at_level > LEVEL_ROWS + 1;
    }
    list
}

/// Whether the embedding holds far more rows within 1 % of this norm than the density around it explains.
fn stands_on_a_level(norm: f64, sorted_ln: &[f64]) -> bool {
    if !is_live(norm, 0.0) {
        return false;
    }
    let ln = norm.ln();
    let within = count_between(sorted_ln, ln - LEVEL, ln + LEVEL);
    let around = count_between(sorted_ln, ln - AROUND, ln + AROUND) - within;
    let expected = around as f64 * LEVEL / (AROUND - LEVEL);
    within.saturating_sub(1) as f64 > LEVEL_ROWS as f64 + LEVEL_EXCESS * expected
}

/// How many of the sorted values lie from `low` to `high`, both included.
fn count_between(sorted: &[f64], low: f64, high: f64) -> usize {
    let start = sorted.partition_point(|value| *value < low);
    sorted[start..].partition_point(|value| *value <= high)
}

/// The log-ratios, ascending, with rows that lie within 1 % of an earlier one on both sides left out. `pairs` comes
/// back sorted by ratio.
fn ratios_of_distinct(pairs: &mut [RowPair]) -> Vec<f64> {
    // Twice the logarithm of the geometric mean, so that the order is the same whichever side is the reference.
    let height = |pair: &RowPair| 2.0 * pair.reference.ln() + pair.ln_ratio;
    pairs.sort_by(|one, other| height(one).total_cmp(&height(other)));
    let mut kept: Vec<RowPair> = Vec::with_capacity(pairs.len());
    for pair in pairs.iter() {
        let ties = |earlier: &RowPair| {
            let reference = (pair.reference / earlier.reference).ln();
            let own = reference + pair.ln_ratio - earlier.ln_ratio;
            reference.abs() <= LEVEL && own.abs() <= LEVEL
        };
        let mut near = kept.iter().rev().take_while(|earlier| height(pair) - height(earlier) <= 2.0 * LEVEL + SLACK);
        if !near.any(ties) {
            kept.push(*pair);
        }
    }
    let mut ratios: Vec<f64> = kept.iter().map(|pair| pair.ln_ratio).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    pairs.sort_by(|one, other| one.ln_ratio.total_cmp(&other.ln_ratio).then(one.reference.total_cmp(&other.reference)));
    ratios
}

/// A window of log-ratios.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: f64,
    distinct: usize,
    rows: usize,
    log10_p: f64,
}

impl Window {
    fn holds(&self, ln_ratio: f64) -> bool {
        (self.start..=self.start + 2.0 * HALF_WINDOW + SLACK).contains(&ln_ratio)
    }
}

/// The window with the most distinct rows; of several the one with the most rows, then the one with the weakest
/// p-value, then the lowest. Both slices are sorted by ratio, neither is empty.
fn densest_window(distinct: &[f64], pairs: &[RowPair]) -> Window {
    let all: Vec<f64> = pairs.iter().map(|pair| pair.ln_ratio).collect();
    let mut best = Window { start: 0.0, distinct: 0, rows: 0, log10_p: 0.0 };
    for (first, &anchor) in distinct.iter().enumerate() {
        let count = distinct[first..].partition_point(|ratio| *ratio <= anchor + 2.0 * HALF_WINDOW + SLACK);
        if count < best.distinct {
            continue;
        }
        let (start, rows) = widest_placing(&all, anchor, distinct[first + count - 1]);
        let window = Window { start, distinct: count, rows, log10_p: window_p(distinct, anchor, count, pairs.len()) };
        let order = (count, rows).cmp(&(best.distinct, best.rows)).then(window.log10_p.total_cmp(&best.log10_p));
        if order.is_gt() {
            best = window;
        }
    }
    best
}

/// Where a window that reaches from `first` to `last` must start to hold the most rows, and how many it then holds:
/// rows that tie with a counted one may lie just below it.
fn widest_placing(all: &[f64], first: f64, last: f64) -> (f64, usize) {
    let width = 2.0 * HALF_WINDOW + SLACK;
    let starts = all.iter().copied().filter(|start| (last - width..=first).contains(start));
    let placed = starts.map(|start| (start, count_between(all, start, start + width)));
    placed.fold((first, 0), |best, placing| if placing.1 > best.1 { placing } else { best })
}

/// The p-value of `count` rows in the window at `start`, corrected for `windows` windows.
///
/// The row that starts the window is in it by construction, so it is taken off both counts.
fn window_p(distinct: &[f64], start: f64, count: usize, windows: usize) -> f64 {
    let width = 2.0 * HALF_WINDOW;
    let weakest = NEIGHBOURHOODS.iter().map(|&(windows_wide, allowance)| {
        let margin = (windows_wide - 1.0) / 2.0 * width + SLACK;
        let near = count_between(distinct, start - margin, start + width + margin);
        log10_binomial_sf(count as u64 - 1, near as u64 - 1, allowance / windows_wide)
    });
    log10_corrected(weakest.fold(f64::MIN, f64::max), windows as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of norms `step` apart, from 0.01 upwards.
    fn ladder(rows: u32, step: f64) -> Vec<(u32, f64)> {
        (0..rows).map(|id| (id, 0.01 * step.powi(id as i32))).collect()
    }

    fn scaled(rows: &[(u32, f64)], factor: f64) -> Vec<(u32, f64)> {
        rows.iter().map(|&(id, norm)| (id, norm * factor)).collect()
    }

    #[test]
    fn a_copy_has_ratio_one_on_every_row() {
        let rows = ladder(40, 1.05);
        let found = published_norms(&SuspectEmbedding::listed(&rows).unwrap(), &rows).unwrap();
        assert_eq!((found.usable, found.on_ratio, found.ratio), (40, 40, 1.0));
        assert!(found.accepted);
        // 40 windows, 39 further rows each with a share of 1/5: scipy.stats.binom.logsf(38, 39, .2)/log(10)+log10(40).
        assert!((found.log10_p - (39.0 * 0.2_f64.log10() + 40_f64.log10())).abs() < 1e-9);
    }

    #[test]
    fn a_common_factor_changes_nothing_but_the_ratio() {
        let rows = ladder(40, 1.05);
        let plain = published_norms(&SuspectEmbedding::listed(&rows).unwrap(), &rows).unwrap();
        for factor in [1e-3, 0.968, 7.0, 1e6] {
            let found = published_norms(&SuspectEmbedding::listed(&scaled(&rows, factor)).unwrap(), &rows).unwrap();
            assert!((found.ratio / factor - 1.0).abs() < 1e-12);
            assert_eq!((found.on_ratio, found.log10_p), (plain.on_ratio, plain.log10_p));
        }
    }

    #[test]
    fn a_narrow_span_is_not_accepted_however_many_rows_agree() {
        let rows: Vec<_> = ladder(40, 1.021);
        let found = published_norms(&SuspectEmbedding::listed(&rows).unwrap(), &rows).unwrap();
        assert!(found.span < MIN_SPAN && found.log10_p < -20.0 && !found.accepted, "{found:?}");
    }

    #[test]
    fn rows_that_tie_on_both_sides_count_once() {
        // Groups of four within 1 %, which the rule of more than four others leaves in place.
        let norm = |id: u32| 0.01 * 2_f64.powi(id as i32 / 4) * (1.0 + f64::from(id) * 1e-5);
        let rows: Vec<_> = (0..24).map(|id| (id, norm(id))).collect();
        let found = published_norms(&SuspectEmbedding::listed(&rows).unwrap(), &rows).unwrap();
        assert_eq!((found.on_ratio, found.distinct_on_ratio), (24, 6));
        assert!(!found.accepted);
    }

    #[test]
    fn no_rows_zero_rows_and_unreadable_rows_are_not_applicable() {
        let error = |norms: &[f64]| SuspectEmbedding::embedding(norms).unwrap_err();
        assert_eq!(error(&[]), NotApplicable::NoRows);
        assert_eq!(error(&[0.0; 100]), NotApplicable::AllZero);
        assert_eq!(error(&[f64::NAN; 100]), NotApplicable::NotFinite);
        assert_eq!(error(&[f64::INFINITY; 100]), NotApplicable::NotFinite);
        assert_eq!(SuspectEmbedding::listed(&[]).unwrap_err(), NotApplicable::NoRows);
        assert_eq!(SuspectEmbedding::listed(&[(0, 0.0), (1, -1.0)]).unwrap_err(), NotApplicable::AllZero);
        let rows = ladder(40, 1.05);
        let constant = SuspectEmbedding::embedding(&[0.5_f32; 1000]).unwrap();
        assert_eq!(published_norms(&constant, &rows), Err(NotApplicable::TooFewRows { usable: 0 }));
        let elsewhere = SuspectEmbedding::listed(&[(5000, 0.1)]).unwrap();
        assert_eq!(published_norms(&elsewhere, &rows), Err(NotApplicable::TooFewRows { usable: 0 }));
    }

    #[test]
    fn a_few_unreadable_rows_only_drop_out() {
        let rows = ladder(40, 1.05);
        let mut norms: Vec<f64> = (0..2000).map(|id| 1.0 + f64::from(id) * 1e-3).collect();
        for &(id, norm) in &rows {
            norms[id as usize] = norm;
        }
        norms[3] = f64::NAN;
        norms[4] = 0.0;
        let found = published_norms(&SuspectEmbedding::embedding(&norms).unwrap(), &rows).unwrap();
        assert_eq!((found.usable, found.on_ratio, found.dropped_dead), (38, 38, 2));
    }

    #[test]
    fn a_level_of_an_embedding_is_dropped_and_a_dense_bulk_is_not() {
        // Norms spread over ±20 %, one every 0.01 %: dense, without a level.
        let bulk: Vec<f64> = (-2000..2000).map(|i| f64::from(i) * 1e-4).collect();
        assert!(!stands_on_a_level(1.0, &bulk));
        // Two hundred never-seen tokens at half the bulk's norm.
        let mut with_level = bulk.clone();
        with_level.extend((0..200).map(|i| 0.5_f64.ln() + f64::from(i) * 1e-5));
        with_level.sort_unstable_by(f64::total_cmp);
        assert!(stands_on_a_level(0.501, &with_level));
        assert!(!stands_on_a_level(1.0, &with_level));
        // A handful of rows alone in the tail is no level.
        assert!(!stands_on_a_level(0.3, &[0.3_f64.ln(), 0.3003_f64.ln(), 0.301_f64.ln()]));
    }

    #[test]
    fn the_order_of_rows_does_not_matter() {
        let rows = ladder(40, 1.05);
        let noisy: Vec<_> = rows.iter().map(|&(id, norm)| (id, norm * (1.0 + f64::from(id * id % 7) * 4e-3))).collect();
        let mut reversed = noisy.clone();
        reversed.reverse();
        let one = published_norms(&SuspectEmbedding::listed(&noisy).unwrap(), &rows);
        assert_eq!(one, published_norms(&SuspectEmbedding::listed(&reversed).unwrap(), &rows));
    }
}
