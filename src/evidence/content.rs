//! `content`: short runs of values that both models hold, in whatever tensors and shapes.
//!
//! **What is compared.** A run is sixteen consecutive values of a tensor, rounded to `bf16`, that begins where a value's
//! own bits say so; runs of few distinct values are left out, and so are those of constants and of tensors that follow
//! from a formula. Both sketches keep the runs with the smallest digests, so up to the smaller of the two largest digests
//! both are complete, and there the share of one's runs that the other holds estimates the share of all (Broder, *On the
//! resemblance and containment of documents*, 1997). Tensors that are read the other way round have runs along both axes,
//! so that a container with them upright and one with them as they are stored are both found; a share of runs is then not
//! quite one of values.
//!
//! **Null hypothesis.** Sixteen trained values, at least eight of them distinct, that are equal one by one: with the eleven
//! bits or so of a trained `bf16` a coincidence has a probability about 10^-50, which no number of pairs of runs makes up
//! for. It is not stated as a p, because it rests on how values are distributed and not on labels; like equal digests of
//! whole tensors, equal runs speak by their share. What can be equal without common descent is public content: a frozen
//! component that two models took from a third one. A class says that content is shared, never where it comes from.
//!
//! **Where it fails.** One changed value in each run hides it, so that nothing trained on is found: a low share proves
//! nothing. Values planted to have small digests can crowd the others out of a sketch; then nothing of the other model
//! lies where both are complete, and the test does not apply.

use super::{Evidence, Facts, Measure, TestKind, WhyNot};
use crate::fingerprint::{ContentKeys, Fingerprint};

/// Fewest runs of a model up to where both sketches are complete: with fewer, a share is not known to 10 %.
const MIN_RUNS: usize = 24;

/// Fewer common runs than this are not reported: a few could be planted or a constant of mathematics.
const MIN_COMMON: usize = 4;

/// What two models have in common by their runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Content {
    /// Runs of the suspect up to where both sketches are complete.
    pub suspect: usize,
    /// Runs of the reference up to there.
    pub reference: usize,
    /// Those that both hold.
    pub common: usize,
}

impl Content {
    /// Holds the sketches of two models against each other.
    ///
    /// # Errors
    /// Why the test does not apply.
    pub(crate) fn of(suspect: &Fingerprint, reference: &Fingerprint) -> Result<Self, WhyNot> {
        let (Some(ours), Some(theirs)) = (&suspect.exact.content, &reference.exact.content) else {
            return Err(WhyNot::NoRunsKept);
        };
        let end = ours.complete_to().min(theirs.complete_to());
        let up_to_end = |keys: &'_ ContentKeys| keys.keys().partition_point(|&key| key <= end);
        let (suspect, reference) = (up_to_end(ours), up_to_end(theirs));
        if suspect.min(reference) < MIN_RUNS {
            return Err(WhyNot::FewRuns);
        }
        let common = common(&ours.keys()[..suspect], &theirs.keys()[..reference]);
        let common = if common < MIN_COMMON { 0 } else { common };
        Ok(Self { suspect, reference, common })
    }

    /// Share of the suspect's runs that the reference holds.
    pub fn of_suspect(&self) -> f64 {
        self.common as f64 / self.suspect.max(1) as f64
    }

    /// Share of the reference's runs that the suspect holds.
    pub fn of_reference(&self) -> f64 {
        self.common as f64 / self.reference.max(1) as f64
    }

    pub(crate) fn test(found: Result<Self, WhyNot>) -> Evidence {
        let found = match found {
            Ok(found) => found,
            Err(why) => return Evidence::not_applicable(TestKind::Content, why),
        };
        let (of_suspect, of_reference) = (found.of_suspect(), found.of_reference());
        let measure = Measure {
            statistic: found.common as f64,
            n: found.suspect as u64,
            log10_p: None,
            effect: of_suspect,
            facts: Facts::Content { of_suspect, of_reference },
        };
        Evidence::measured(TestKind::Content, measure)
    }
}

/// How many of two ascending lists' keys are in both.
fn common(ours: &[u64], theirs: &[u64]) -> usize {
    let mut rest = theirs.iter().peekable();
    let is_there = |key: &&u64| {
        while rest.next_if(|other| *other < *key).is_some() {}
        rest.next_if(|other| *other == *key).is_some()
    };
    ours.iter().filter(is_there).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_both_lists_are_counted_once() {
        assert_eq!(common(&[1, 3, 5, 9], &[2, 3, 4, 9, 10]), 2);
        assert_eq!(common(&[], &[1]), 0);
        assert_eq!(common(&[7], &[7]), 1);
    }
}
