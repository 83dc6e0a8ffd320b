//! Pure mathematics: no files, no models, no thresholds.

pub(crate) mod lanes;
pub(crate) mod linalg;
pub mod ranks;
pub mod tails;
