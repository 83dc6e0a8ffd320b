//! The statistics of one segment of a tensor, and how those of the segments that follow are added.

use super::accumulate::{Energies, Moments, RowKey, Sketch, Summary};
use super::plan::Plan;
use super::projection::{Along, Projector, Strip, Target, Weights};
use super::{MAX_AXIS, kernel, sample_labels};
use crate::anatomy::{Assignment, Residual};

/// What all segments of a tensor know.
pub(super) struct Ground<'a> {
    pub(super) plan: Plan,
    pub(super) target: Option<Target>,
    assignment: &'a Assignment,
    /// Whether rows and columns are few enough to keep sums for each.
    sized: bool,
    sample_rows: Vec<u32>,
    sample_cols: Vec<u32>,
}

impl<'a> Ground<'a> {
    pub(super) fn new(plan: Plan, target: Option<Target>, assignment: &'a Assignment) -> Self {
        let (sample_rows, sample_cols) = sample_labels(plan.rows, plan.cols);
        let sized = plan.rows <= MAX_AXIS && plan.cols <= MAX_AXIS;
        Self { plan, target: target.filter(|_| plan.whole_rows()), assignment, sized, sample_rows, sample_cols }
    }
}

/// The accumulators of one segment while its values come by.
pub(super) struct Walk<'a> {
    ground: &'a Ground<'a>,
    first_row: usize,
    part: Part,
    projector: Option<Projector<'a>>,
}

/// What a segment, or several that follow each other, came to.
pub(super) struct Part {
    moments: Moments,
    /// Rows count from `first_row`.
    energies: Energies,
    first_row: usize,
    sketch: Option<Sketch>,
    sample: Vec<f32>,
    gain: Option<Vec<f32>>,
    strip: Option<Strip>,
}

/// What a whole tensor came to.
pub(super) struct ReadValues {
    pub(super) summary: Summary,
    pub(super) energies: Energies,
    pub(super) sample: Vec<f32>,
    pub(super) sketch: Vec<RowKey>,
    /// Every value of a norm gain; empty for other tensors.
    pub(super) gain: Vec<f32>,
    /// Descriptors of its neurons or heads, for matrices of an MLP or an attention.
    pub(super) along: Option<Along>,
}

impl<'a> Walk<'a> {
    /// For values from element `first` on. `block` is a buffer for products that is used again.
    pub(super) fn new(
        ground: &'a Ground<'a>,
        weights: Option<&'a Weights>,
        first: u64,
        block: &'a mut Vec<f32>,
    ) -> Self {
        let Plan { rows, cols, .. } = ground.plan;
        let first_row = (first / cols.max(1)) as usize;
        let is_gain = ground.assignment.residual == Residual::Gain;
        let energies = if ground.sized { Energies::new(0, cols as usize) } else { Energies::new(0, 0) };
        let sketched = rows > 1 && ground.plan.whole_rows() && !is_gain;
        let part = Part {
            moments: Moments::new(),
            energies,
            first_row,
            sketch: sketched.then(Sketch::default),
            sample: Vec::new(),
            gain: (ground.sized && is_gain).then(Vec::new),
            strip: None,
        };
        let target = ground.target.as_ref().zip(weights);
        let projector = target.map(|(target, weights)| Projector::new(target, weights, first_row, block));
        Self { ground, first_row, part, projector }
    }

    /// Takes the values from element `first` on, which are whole rows or lie in one.
    pub(super) fn add(&mut self, first: u64, values: &mut [f32]) {
        let cols = self.ground.plan.cols.max(1);
        let (row, col) = (first / cols, (first % cols) as usize);
        if let Some(sketch) = &mut self.part.sketch {
            values.chunks(cols as usize).for_each(|row| sketch.add(row));
        }
        let masked = self.part.moments.mask(values);
        let sums = if self.ground.sized {
            let width = values.len().min(cols as usize);
            let Energies { rows, cols } = &mut self.part.energies;
            let at = row as usize - self.first_row;
            rows.resize(rows.len().max(at + values.len() / width.max(1)), 0.0);
            kernel::sums(values, width, &mut rows[at..], &mut cols[col..col + width])
        } else {
            kernel::sums(values, 0, &mut [], &mut [])
        };
        self.part.moments.add(values, masked, &sums);
        if let Some(gain) = &mut self.part.gain {
            gain.extend_from_slice(values);
        }
        self.sample(row, col, values);
        if let Some(projector) = &mut self.projector {
            projector.add(values);
        }
    }

    /// Keeps what lies on the grid of sampled rows and columns.
    fn sample(&mut self, first_row: u64, col: usize, values: &[f32]) {
        let cols = self.ground.plan.cols as usize;
        let run = values.len().min(cols - col).max(1);
        let from = self.ground.sample_cols.partition_point(|&label| (label as usize) < col);
        for (row, values) in (first_row..).zip(values.chunks(run)) {
            if u32::try_from(row).is_ok_and(|row| self.ground.sample_rows.binary_search(&row).is_ok()) {
                let picked = self.ground.sample_cols[from..].iter().map(|&label| label as usize - col);
                self.part.sample.extend(picked.map_while(|label| values.get(label)));
            }
        }
    }

    pub(super) fn finish(mut self) -> Part {
        self.part.strip = self.projector.map(Projector::finish);
        self.part
    }
}

impl Part {
    /// Takes the segment that follows. Sums are added one segment after the other, so they are the same bits however
    /// the segments were shared out.
    pub(super) fn append(&mut self, next: Self) {
        self.moments.merge(&next.moments);
        self.energies.merge(next.first_row - self.first_row, &next.energies);
        if let (Some(sketch), Some(next)) = (&mut self.sketch, next.sketch) {
            sketch.merge(next);
        }
        self.sample.extend(next.sample);
        if let (Some(gain), Some(next)) = (&mut self.gain, next.gain) {
            gain.extend(next);
        }
        if let (Some(strip), Some(next)) = (&mut self.strip, next.strip) {
            strip.append(next);
        }
    }

    /// The whole tensor's values, when all segments were taken. `hidden` is the width of the residual stream.
    pub(super) fn finish(self, target: Option<&Target>, hidden: usize) -> ReadValues {
        ReadValues {
            summary: self.moments.summary(),
            energies: self.energies,
            sample: self.sample,
            sketch: self.sketch.map(Sketch::finish).unwrap_or_default(),
            gain: self.gain.unwrap_or_default(),
            along: self.strip.zip(target).map(|(strip, target)| strip.finish(target, hidden)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::plan::CHUNK;

    /// Everything but projections.
    fn walked(plan: Plan, assignment: &Assignment, values: &[f32], cuts: &[u64]) -> ReadValues {
        let ground = Ground::new(plan, None, assignment);
        let (mut whole, mut block): (Option<Part>, _) = (None, Vec::new());
        for range in cuts.windows(2) {
            let mut walk = Walk::new(&ground, None, plan.chunk(range[0]).0, &mut block);
            for chunk in range[0]..range[1] {
                let (first, count) = plan.chunk(chunk);
                walk.add(first, &mut values[first as usize..][..count].to_vec());
            }
            match &mut whole {
                Some(whole) => whole.append(walk.finish()),
                none => *none = Some(walk.finish()),
            }
        }
        whole.unwrap().finish(None, 1)
    }

    #[test]
    fn segments_add_up_to_the_whole() {
        let (roles, layer, expert, by) = Default::default();
        let assignment = Assignment { roles, layer, expert, by, residual: Residual::None };
        for (rows, cols) in [(300, 700), (3, CHUNK as u64 + 900), (1, 3 * CHUNK as u64), (200_000, 1)] {
            let plan = Plan::of(rows, cols);
            let values: Vec<f32> = (0..rows * cols).map(|i| ((i % 9973) as f32 * 0.7).sin()).collect();
            let chunks = plan.all().end;
            let one = walked(plan, &assignment, &values, &[0, chunks]);
            let many = walked(plan, &assignment, &values, &[0, 1, chunks / 2 + 1, chunks]);
            let plain: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            assert!((one.summary.rms.powi(2) * values.len() as f64 - plain).abs() < 1e-9 * plain);
            assert_eq!((one.summary.finite, many.summary.finite), (rows * cols, rows * cols));
            assert_eq!((one.summary.min, one.summary.zeros), (many.summary.min, many.summary.zeros));
            assert_eq!((&one.sample, &one.sketch), (&many.sample, &many.sketch));
            for row in 0..rows as usize {
                let plain: f64 =
                    values[row * cols as usize..][..cols as usize].iter().map(|&v| f64::from(v).powi(2)).sum();
                for found in [one.energies.rows[row], many.energies.rows[row]] {
                    assert!((found - plain).abs() < 1e-9 * plain.max(1.0), "{rows} x {cols}, row {row}");
                }
            }
            for (a, b) in one.energies.cols.iter().zip(&many.energies.cols) {
                assert!((a - b).abs() < 1e-9 * a.max(1.0));
            }
        }
    }
}
