//! Whether p-values keep their promise: P(p ≤ α) ≤ α.

use weightprint::internals::math::tails;

/// The levels that are looked at.
pub(crate) const LEVELS: [f64; 4] = [0.1, 0.01, 0.001, 0.0001];

/// An excess less probable than this under a valid p-value counts as a violation: about a hundred are looked for.
const EXCESS_LOG10_P: f64 = -4.0;

/// How many p-values of independent pairs lie at or below each level.
pub(crate) struct Levels {
    pub(crate) pairs: u64,
    pub(crate) at_or_below: [u64; LEVELS.len()],
    pub(crate) smallest: f64,
}

impl Levels {
    pub(crate) fn of(log10_p: impl Iterator<Item = f64>) -> Self {
        let mut levels = Self { pairs: 0, at_or_below: [0; LEVELS.len()], smallest: 0.0 };
        for value in log10_p {
            levels.pairs += 1;
            levels.smallest = levels.smallest.min(value);
            for (count, level) in levels.at_or_below.iter_mut().zip(LEVELS) {
                *count += u64::from(value <= level.log10() + 1e-9);
            }
        }
        levels
    }

    /// Whether no count is larger than a valid p-value explains.
    pub(crate) fn hold(&self) -> bool {
        let excess = |(&count, level)| tails::log10_binomial_sf(count, self.pairs, level) < EXCESS_LOG10_P;
        !self.at_or_below.iter().zip(LEVELS).any(excess)
    }

    /// Number of pairs, counts, smallest log10 p, whether the levels hold.
    pub(crate) fn cells(&self) -> [String; LEVELS.len() + 3] {
        let [a, b, c, d] = self.at_or_below.map(|count| count.to_string());
        let holds = if self.hold() { "yes" } else { "**no**" };
        [self.pairs.to_string(), a, b, c, d, super::log10_p(self.smallest), holds.into()]
    }

    /// What a p-value that is exact would show, in the columns of [`Levels::cells`].
    pub(crate) fn expected(pairs: u64) -> [String; LEVELS.len() + 3] {
        let [a, b, c, d] = LEVELS.map(|level| format!("{:.1}", level * pairs as f64));
        [pairs.to_string(), a, b, c, d, super::log10_p(-(pairs as f64).log10()), String::new()]
    }
}
