//! Pure mathematics: no files, no models, no thresholds.

pub mod mutual;
pub mod product;
pub mod rank;
pub mod tail;
