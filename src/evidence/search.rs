//! The search for neurons: unit vectors of descriptors, their cosines, and which reference MLP lies beside a suspect's.
//!
//! All sampled neurons of a reference MLP against all neurons of a suspect MLP is the full comparison. Where a reference
//! has many MLPs, a few neurons of each are looked for first, and the full comparison is made with those that come
//! nearest alone: those of the MLP at the same place before the others, which are not needed where these are evident.
//! No step looks at a neuron's label.
//!
//! Cost for one suspect MLP of h neurons, a reference of L of them, and K directions: `2·K·h·m` operations for each
//! matrix, with m = [`SCREENED`]·L neurons to screen and 128 for each MLP that is compared in full.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use crate::fingerprint::{DIRECTIONS, Matrix, Unit};
use crate::math::lanes::standardise;
use crate::math::linalg;
use crate::math::mutual::{Pair, largest, mutual};

/// Up to this many MLPs of a reference are all compared in full.
const UNSCREENED: usize = 4;

/// Neurons of each MLP that are looked for first.
const SCREENED: usize = 16;

/// MLPs compared in full after screening.
const FINALISTS: usize = 4;

/// Mean cosine with which neurons of the MLP at the same place end the search.
const EVIDENT: f32 = 0.9;

/// A mean cosine that is larger than the next by this much needs no further look.
const CLEAR: f32 = 0.15;

/// Rows of length one, or zeros, for each matrix that a unit has; the number of columns is that of the kept directions.
pub(crate) struct Vectors {
    rows: usize,
    by_matrix: [Vec<f32>; 3],
}

impl Vectors {
    /// Descriptors by matrix along the kept directions, centred.
    pub(crate) fn new(descriptors: &[impl Deref<Target = [i8]>; 3], kept: &[usize]) -> Self {
        let of = |matrix: Matrix| {
            let numbers: &[i8] = &descriptors[matrix as usize];
            let neurons = numbers.as_chunks::<DIRECTIONS>().0;
            let mut values = Vec::with_capacity(neurons.len() * kept.len());
            for neuron in neurons {
                if kept.len() == DIRECTIONS {
                    values.extend(neuron.iter().map(|&number| f32::from(number)));
                } else {
                    values.extend(kept.iter().map(|&direction| f32::from(neuron[direction])));
                }
            }
            standardise(&mut values, kept.len());
            values
        };
        let by_matrix = Matrix::ALL.map(of);
        Self { rows: by_matrix[Matrix::Up as usize].len() / kept.len().max(1), by_matrix }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn has_gate(&self) -> bool {
        !self.by_matrix[Matrix::Gate as usize].is_empty()
    }

    /// The same with all directions, zero where they were not kept.
    pub(crate) fn widened(self, kept: &[usize], directions: usize) -> Self {
        let widen = |rows: Vec<f32>| {
            let mut wide = vec![0.0; rows.len() / kept.len().max(1) * directions];
            for (wide, row) in wide.chunks_exact_mut(directions).zip(rows.chunks_exact(kept.len().max(1))) {
                kept.iter().zip(row).for_each(|(&place, &value)| wide[place] = value);
            }
            wide
        };
        if kept.len() == directions { self } else { Self { rows: self.rows, by_matrix: self.by_matrix.map(widen) } }
    }

    /// The rows of several below each other.
    pub(crate) fn joined<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self { rows: 0, by_matrix: Default::default() };
        for part in parts {
            all.rows += part.rows;
            all.by_matrix.iter_mut().zip(&part.by_matrix).for_each(|(all, own)| all.extend_from_slice(own));
        }
        all
    }
}

/// The MLPs of a reference along one frame.
pub(crate) struct References {
    directions: usize,
    units: Vec<Vectors>,
    /// Rows of all units that are looked for first, and how many each unit has there.
    screened: Vectors,
    counts: Vec<usize>,
}

impl References {
    pub(crate) fn new(units: &[Unit], frame: usize, kept: &[usize]) -> Self {
        let units: Vec<Vectors> = units.iter().map(|unit| Vectors::new(&unit.frames[frame], kept)).collect();
        let mut screened = Vectors { rows: 0, by_matrix: Default::default() };
        let mut counts = Vec::with_capacity(units.len());
        let gated = units.iter().all(|unit| !unit.by_matrix[Matrix::Gate as usize].is_empty());
        for unit in &units {
            let rows: Vec<usize> = (0..unit.rows).step_by(unit.rows.div_ceil(SCREENED).max(1)).collect();
            for (all, own) in screened.by_matrix.iter_mut().zip(&unit.by_matrix) {
                if !own.is_empty() {
                    rows.iter().for_each(|row| all.extend_from_slice(&own[row * kept.len()..][..kept.len()]));
                }
            }
            screened.rows += rows.len();
            counts.push(rows.len());
        }
        if !gated {
            screened.by_matrix[Matrix::Gate as usize].clear();
        }
        Self { directions: kept.len(), units, screened, counts }
    }

    /// The unit that fits a suspect's best, with all cosines: how well the matched pairs fit, over all sampled neurons.
    /// The one at `place` is looked at first.
    pub(crate) fn beside(&self, suspect: &Vectors, place: usize, space: &mut Space) -> Option<UnitPair> {
        let mut best: Option<(f32, usize, Vec<Pair>)> = None;
        for index in self.finalists(suspect, place, space) {
            if !space.tried.fill(&self.units[index], suspect, self.directions) {
                continue;
            }
            let pairs = space.tried.mutual();
            let score = pairs.iter().map(|pair| pair.2).sum::<f32>() / space.tried.rows.max(1) as f32;
            if best.as_ref().is_none_or(|best| (score, best.1) > (best.0, index)) {
                best = Some((score, index, pairs));
                std::mem::swap(&mut space.best, &mut space.tried);
            }
        }
        let (score, index, pairs) = best?;
        let cosines = &space.best;
        let (rows, cols) = (cosines.rows, cosines.cols);
        let agreeing = agreeing(&cosines.by_matrix, rows, cols);
        Some(UnitPair { score, index, rows, cols, agreeing, explained: cosines.explained(), pairs })
    }

    /// The neurons of one unit that are looked for first.
    fn screened_of(&self, unit: usize) -> Option<Vectors> {
        let rows = *self.counts.get(unit).filter(|&&rows| rows > 0)?;
        let first: usize = self.counts[..unit].iter().sum();
        let part = |all: &Vec<f32>| {
            let range = first * self.directions..(first + rows) * self.directions;
            all.get(range).map(<[f32]>::to_vec).unwrap_or_default()
        };
        Some(Vectors { rows, by_matrix: self.screened.by_matrix.each_ref().map(part) })
    }

    /// The units to be compared in full.
    fn finalists(&self, suspect: &Vectors, place: usize, space: &mut Space) -> Vec<usize> {
        let all = || (0..self.units.len()).collect();
        if self.units.len() <= UNSCREENED {
            return all();
        }
        let at_place = self.screened_of(place).and_then(|rows| nearest(&rows, suspect, self.directions, space));
        if at_place.is_some_and(|fits| fits.iter().sum::<f32>() >= EVIDENT * fits.len() as f32) {
            return vec![place];
        }
        let Some(nearest) = nearest(&self.screened, suspect, self.directions, space) else { return all() };
        let mut nearest = nearest.into_iter();
        let fit =
            |(index, &count): (usize, &usize)| (nearest.by_ref().take(count).sum::<f32>() / count.max(1) as f32, index);
        let mut fits: Vec<(f32, usize)> = self.counts.iter().enumerate().map(fit).collect();
        fits.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let clear = fits[0].0 - fits[1].0 >= CLEAR;
        fits.into_iter().take(if clear { 1 } else { FINALISTS }).map(|(_, index)| index).collect()
    }
}

/// A reference unit laid beside a suspect's.
pub(crate) struct UnitPair {
    /// Mean cosine of the mutual nearest neighbours, over all sampled neurons.
    pub(crate) score: f32,
    /// Which unit of the reference.
    pub(crate) index: usize,
    /// Sampled neurons of the reference.
    pub(crate) rows: usize,
    /// Neurons of the suspect.
    pub(crate) cols: usize,
    /// Mutual nearest neighbours by all matrices together: reference row, suspect column, mean cosine.
    pub(crate) pairs: Vec<Pair>,
    /// Neurons that are matched alike by two matrices.
    pub(crate) agreeing: usize,
    /// Pairs matched by the first matrix alone, and the mean squared cosine of the others along them.
    pub(crate) explained: (usize, f64),
}

/// Memory that is used again for every pair of units: asking for megabytes each time costs more than products.
#[derive(Default)]
pub(crate) struct Spaces(Mutex<Vec<Space>>);

impl Spaces {
    /// Runs `work` with memory that nobody else uses at the time.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Space) -> T) -> T {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut space = free().pop().unwrap_or_default();
        let done = work(&mut space);
        free().push(space);
        done
    }
}

/// What one thread needs of it.
#[derive(Default)]
pub(crate) struct Space {
    best: Cosines,
    tried: Cosines,
    table: Vec<f32>,
    sum: Vec<f32>,
}

/// Columns of a table that are looked at together while they lie in the processor's cache.
const TILE: usize = 512;

/// Mean cosine of each row of `reference` with the column of `suspect` that is nearest to it; `None` where they have not
/// two matrices in common.
pub(crate) fn nearest(
    reference: &Vectors,
    suspect: &Vectors,
    directions: usize,
    space: &mut Space,
) -> Option<Vec<f32>> {
    let common = common(reference, suspect, directions)?;
    let Space { table, sum, .. } = space;
    let mut nearest = vec![f32::NEG_INFINITY; reference.rows];
    for start in (0..suspect.rows).step_by(TILE) {
        let cols = TILE.min(suspect.rows - start);
        sum.clear();
        sum.resize(reference.rows * cols, 0.0);
        for &matrix in &common {
            let ours = &suspect.by_matrix[matrix as usize][start * directions..][..cols * directions];
            cosines(matrix, &reference.by_matrix[matrix as usize], ours, directions, table, sum);
        }
        for (nearest, row) in nearest.iter_mut().zip(sum.chunks_exact(cols)) {
            *nearest = nearest.max(largest(row));
        }
    }
    nearest.iter_mut().for_each(|sum| *sum /= common.len() as f32);
    Some(nearest)
}

/// The matrices that both have, at least two of them.
fn common(reference: &Vectors, suspect: &Vectors, directions: usize) -> Option<Vec<Matrix>> {
    let both = |matrix: &Matrix| {
        let (theirs, ours) = (&reference.by_matrix[*matrix as usize], &suspect.by_matrix[*matrix as usize]);
        theirs.len() == reference.rows * directions && ours.len() == suspect.rows * directions && !theirs.is_empty()
    };
    let common: Vec<Matrix> = Matrix::ALL.into_iter().filter(both).collect();
    (common.len() >= 2).then_some(common)
}

/// Cosines of rows of one matrix with rows of the other, row by row into `table`, and added to `sum`.
fn cosines(matrix: Matrix, theirs: &[f32], ours: &[f32], directions: usize, table: &mut Vec<f32>, sum: &mut [f32]) {
    linalg::by_rows(theirs, ours, directions, table);
    // The sign of up and down is free; SiLU fixes the gate's.
    if matrix != Matrix::Gate {
        table.iter_mut().for_each(|cosine| *cosine = cosine.abs());
    }
    sum.iter_mut().zip(table).for_each(|(sum, cosine)| *sum += *cosine);
}

/// Cosines of the sampled reference neurons (rows) with all suspect neurons (columns) for each matrix that both have.
#[derive(Default)]
struct Cosines {
    rows: usize,
    cols: usize,
    by_matrix: Vec<Vec<f32>>,
    sum: Vec<f32>,
}

impl Cosines {
    /// Computes them for another pair of units. `false` where these have not two matrices in common.
    fn fill(&mut self, reference: &Vectors, suspect: &Vectors, directions: usize) -> bool {
        let Some(common) = common(reference, suspect, directions) else { return false };
        (self.rows, self.cols) = (reference.rows, suspect.rows);
        self.by_matrix.resize_with(common.len(), Vec::new);
        self.sum.clear();
        self.sum.resize(self.rows * self.cols, 0.0);
        for (matrix, table) in common.into_iter().zip(&mut self.by_matrix) {
            let [theirs, ours] = [reference, suspect].map(|side| &side.by_matrix[matrix as usize]);
            cosines(matrix, theirs, ours, directions, table, &mut self.sum);
        }
        true
    }

    /// Mutual nearest neighbours by the sum of cosines: reference row, suspect column, mean cosine.
    fn mutual(&self) -> Vec<Pair> {
        let matrices = self.by_matrix.len() as f32;
        mutual(&self.sum, self.rows, self.cols).into_iter().map(|(row, col, sum)| (row, col, sum / matrices)).collect()
    }

    /// Explained variance, gate or up aside: for pairs matched by the first matrix alone, the mean squared cosine of the
    /// others, which took no part in the matching.
    fn explained(&self) -> (usize, f64) {
        let pairs = mutual(&self.by_matrix[0], self.rows, self.cols);
        let held_out = &self.by_matrix[1..];
        let squares = pairs.iter().flat_map(|&(row, col, _)| {
            held_out.iter().map(move |cosines| f64::from(cosines[row * self.cols + col]).powi(2))
        });
        let sum: f64 = squares.sum();
        (pairs.len(), sum / (pairs.len() * held_out.len()).max(1) as f64)
    }
}

/// Rows for which the matchings of two tables of cosines contain the same pair.
pub(crate) fn agreeing(tables: &[Vec<f32>], rows: usize, cols: usize) -> usize {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for cosines in tables {
        pairs.extend(mutual(cosines, rows, cols).into_iter().map(|(row, col, _)| (row, col)));
    }
    pairs.sort_unstable();
    let mut agreeing: Vec<usize> = pairs.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0].0).collect();
    agreeing.dedup();
    agreeing.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchings_agree_where_two_tables_hold_the_same_pair() {
        let one = vec![0.9, 0.1, 0.1, 0.8];
        let other = vec![0.9, 0.1, 0.7, 0.2];
        assert_eq!(agreeing(&[one.clone(), other.clone()], 2, 2), 1);
        assert_eq!(agreeing(&[one.clone(), one], 2, 2), 2);
        assert_eq!(agreeing(&[other], 2, 2), 0);
    }
}
