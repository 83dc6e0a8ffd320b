//! From the tensors of files to those of a model: adapters added to their base, fused matrices taken apart.

pub(crate) mod adapter;
pub mod logical;
mod punned;
mod restored;
mod subject;
mod summed;

pub use self::adapter::open_merged;
pub use self::logical::{Logical, logical};
pub use self::subject::Subject;
