//! The nouns of the field: what a tensor is for, which part of a model it belongs to, what an architecture is, how models
//! name their tensors, and the architectures that are known.
//!
//! Nothing here looks at a file or a value.

pub mod architecture;
pub mod blueprint;
pub mod known;
pub mod naming;
mod part;
pub mod role;

pub use self::architecture::{Architecture, Latent, QkNorm};
pub use self::part::Part;
pub use self::role::{Role, Touch};
