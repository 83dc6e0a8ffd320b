//! Tells whether a checkpoint is a wrapped copy of a known open model.
//!
//! Three questions are answered apart: whose architecture it is (from tensor shapes), whose weights (from the numbers,
//! against references), and whether that was declared (from the model card).
//!
//! ```
//! use weightprint::{Catalog, Scanner};
//!
//! let folder = tempfile::tempdir()?;
//! let mut catalog = Catalog::create(folder.path())?;
//! let scanner = Scanner::new();
//! catalog.add("zoo/base-a", scanner.fingerprint("fixtures/zoo/base-a")?)?;
//!
//! let report = scanner.with_catalog(&catalog)?.scan("fixtures/zoo/a-sft")?;
//! assert!(report.verdict.class.shares_weights());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Scanner`] is the way in; a [`Report`](report::Report) is what comes out. A [`Fingerprint`] stands for a checkpoint
//! whose weights are not at hand any more, a [`Catalog`] is a folder of them. Everything that fails gives an [`Error`] of
//! some [`ErrorKind`], with the file, tensor and byte concerned.
//!
//! Without default features the crate brings none of the command line's dependencies. The features `cuda` and `metal` have
//! large matrix products taken on a GPU, once [`choose_device`] names one. Modules other than [`report`] are private; what
//! a build with the feature `_internals` shows of them is for this crate's own tests and benches, and promises nothing.

mod anatomy;
mod assemble;
mod bytes;
mod cache;
mod catalog;
mod checkpoint;
mod error;
mod evidence;
mod finding;
mod fingerprint;
mod format;
mod front;
mod limits;
mod math;
mod model;
mod published;
pub mod report;
mod scanner;
mod tensor;
mod text;
mod unread;
mod verdict;

// The command line writes files as the library does.
#[doc(hidden)]
pub use self::bytes::write_whole;
pub use self::error::{Error, ErrorKind, Result};
pub use self::front::{Catalog, Event, Fingerprint, Input, Scanner};
pub use self::math::linalg::{Device, choose as choose_device, device};

/// The private modules, for this crate's own tests and benches.
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod internals {
    macro_rules! show {
        ($($module:ident)*) => {
            $(pub mod $module {
                pub use crate::$module::*;
            })*
        };
    }

    show!(
        anatomy assemble bytes cache catalog checkpoint evidence finding fingerprint math model published scanner tensor
        unread verdict
    );
}
