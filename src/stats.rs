//! Pure mathematics: no files, no models, no thresholds.

pub mod rank;
pub mod tail;
