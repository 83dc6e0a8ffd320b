//! `neuron-shape`: do the strongest neurons of two models have the same shapes, with no frame at all?
//!
//! A shape is the sorted list of a neuron's largest cosines with the other strong neurons of its model
//! ([`Fingerprint`]). Shapes are matched by gate, by up and by down separately, and neurons for which two matchings
//! name the same partner agree. Shapes do not change with basis, order, scales or embedding, and
//! neither does the choice of strong neurons where it is known which norm gains a matrix reads through; continued
//! training changes both, and after much of it the test sees nothing. There is no exact null: the p
//! reported is the binomial tail for [`UNIVERSAL`] agreement, more than any independent
//! pair showed.

use rayon::prelude::*;

use super::neurons::UNIVERSAL;
use super::search::agreeing;
use super::{Evidence, Facts, Measure, TestKind, WhyNot};
use crate::fingerprint::{Fingerprint, SHAPE_NUMBERS, Unit};
use crate::math::mutual::mutual;
use crate::math::{linalg, tails};

/// The test for one pair.
pub(crate) fn test(suspect: &Fingerprint, reference: &Fingerprint) -> Evidence {
    let (Some(ours), Some(theirs)) = (standardised(suspect), standardised(reference)) else {
        return Evidence::not_applicable(TestKind::NeuronShape, WhyNot::NoGatedMlp);
    };
    let beside = |own: &Shapes| {
        let beside = theirs.iter().enumerate().map(|(index, other)| {
            let tables = tables(other, own);
            let (rows, cols) = (other.rows, own.rows);
            let fit: f32 = tables.iter().flat_map(|table| mutual(table, rows, cols)).map(|pair| pair.2).sum();
            (fit / rows as f32, index, agreeing(&tables, rows, cols), rows.min(cols))
        });
        let best = beside.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        best.map_or((0, 0), |(_, _, agreed, of)| (agreed as u64, of as u64))
    };
    let (agreed, looked_at) = ours.par_iter().map(beside).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let measure = Measure {
        statistic: agreed as f64,
        n: looked_at,
        log10_p: Some(tails::log10_binomial_sf(agreed, looked_at, UNIVERSAL)),
        effect: agreed as f64 / (looked_at as f64).max(1.0),
        facts: Facts::NeuronShape { looked_at, agreeing: agreed },
    };
    Evidence::measured(TestKind::NeuronShape, measure)
}

/// The shapes of one unit's landmarks, as rows of length one.
struct Shapes {
    rows: usize,
    by_matrix: Vec<Vec<f32>>,
}

/// Shapes of all units: each number less its mean over the model's landmarks, by its standard deviation.
fn standardised(fingerprint: &Fingerprint) -> Option<Vec<Shapes>> {
    let shaped: Vec<&Unit> = fingerprint.approximate.units.iter().filter(|unit| !unit.shapes[0].is_empty()).collect();
    let scales: Vec<Vec<(f32, f32)>> = (0..3).map(|slot| moments(&shaped, slot)).collect();
    let unit = |unit: &&Unit| -> Option<Shapes> {
        let rows = unit.shapes[0].len() / SHAPE_NUMBERS;
        let by_matrix = (0..3).map(|slot| {
            let mut values = Vec::with_capacity(rows * SHAPE_NUMBERS);
            for shape in unit.shapes[slot].chunks_exact(SHAPE_NUMBERS) {
                let centred: Vec<f32> =
                    shape.iter().zip(&scales[slot]).map(|(&v, (mean, std))| (f32::from(v) - mean) / std).collect();
                let length = centred.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                values.extend(centred.iter().map(|v| v / length));
            }
            (values.len() == rows * SHAPE_NUMBERS).then_some(values)
        });
        Some(Shapes { rows, by_matrix: by_matrix.collect::<Option<Vec<_>>>()? })
    };
    let all: Vec<Shapes> = shaped.iter().filter_map(unit).collect();
    (!all.is_empty()).then_some(all)
}

/// Mean and standard deviation of each number over all landmarks; at least one unit of the stored scale.
fn moments(units: &[&Unit], slot: usize) -> Vec<(f32, f32)> {
    let (mut sums, mut squares, mut count) = (vec![0.0f64; SHAPE_NUMBERS], vec![0.0f64; SHAPE_NUMBERS], 0.0);
    for shape in units.iter().flat_map(|unit| unit.shapes[slot].chunks_exact(SHAPE_NUMBERS)) {
        for ((sum, square), &value) in sums.iter_mut().zip(&mut squares).zip(shape) {
            *sum += f64::from(value);
            *square += f64::from(value) * f64::from(value);
        }
        count += 1.0;
    }
    let moment = |(sum, square): (f64, f64)| {
        let mean = sum / f64::max(count, 1.0);
        let variance = square / f64::max(count, 1.0) - mean * mean;
        (mean as f32, variance.max(1.0).sqrt() as f32)
    };
    sums.into_iter().zip(squares).map(moment).collect()
}

/// Cosines of a reference unit's shapes (rows) with a suspect unit's (columns), matrix by matrix.
fn tables(reference: &Shapes, suspect: &Shapes) -> Vec<Vec<f32>> {
    let table = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let mut table = Vec::new();
        linalg::by_rows(a, b, SHAPE_NUMBERS, &mut table);
        table
    };
    reference.by_matrix.iter().zip(&suspect.by_matrix).map(table).collect()
}
