//! Pure mathematics: no files, no models, no thresholds.

pub(crate) mod lanes;
pub mod linalg;
pub mod mutual;
pub mod ranks;
pub mod tails;
