//! From evidence to a verdict: the classes, the thresholds, and what follows from them.
//!
//! A class above `shared-initialisation` needs exact equality, or a probability of at most 10⁻¹⁰ after correction for
//! every reference tried together with an effect of at least 5 % of what was looked at. [`pair`] judges one comparison,
//! [`overall`] alone concludes. Reasons are typed; the report has the sentences.

pub(crate) mod class;
pub mod declared;
pub mod overall;
pub mod pair;
pub mod thresholds;

pub use self::class::VerdictClass;
pub use self::overall::{Conclusion, Obstacle, conclude};
pub use self::pair::{Assessment, Reason, judge};
