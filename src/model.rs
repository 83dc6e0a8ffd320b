//! The nouns of the field: what a tensor is for, which part of a model it belongs to, what an architecture is, how models
//! name their tensors, and the architectures that are known.
//!
//! Nothing here looks at a file or a value.

mod architecture;
pub mod block;
pub mod blueprint;
mod family;
pub mod known;
pub mod naming;
mod part;
mod role;

pub use self::architecture::{Architecture, Latent, NormGain, QkNorm};
pub use self::family::Family;
pub use self::part::Part;
pub use self::role::{Role, Touch};
