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

// What tests and benches alone use is looked for as dead code in their build, where it is used.
#![cfg_attr(not(feature = "_internals"), allow(dead_code, unused_imports))]

pub mod report;

#[cfg(not(feature = "_internals"))]
mod anatomy;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod anatomy;
#[cfg(not(feature = "_internals"))]
mod assemble;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod assemble;
#[cfg(not(feature = "_internals"))]
mod bytes;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod bytes;
#[cfg(not(feature = "_internals"))]
mod cache;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod cache;
#[cfg(not(feature = "_internals"))]
mod catalog;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod catalog;
#[cfg(not(feature = "_internals"))]
mod checkpoint;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod checkpoint;
#[cfg(not(feature = "_internals"))]
mod error;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod error;
#[cfg(not(feature = "_internals"))]
mod evidence;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod evidence;
#[cfg(not(feature = "_internals"))]
mod finding;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod finding;
#[cfg(not(feature = "_internals"))]
mod fingerprint;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod fingerprint;
#[cfg(not(feature = "_internals"))]
mod format;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod format;
#[cfg(not(feature = "_internals"))]
mod front;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod front;
#[cfg(not(feature = "_internals"))]
mod limits;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod limits;
#[cfg(not(feature = "_internals"))]
mod math;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod math;
#[cfg(not(feature = "_internals"))]
mod model;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod model;
#[cfg(not(feature = "_internals"))]
mod published;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod published;
#[cfg(not(feature = "_internals"))]
mod scanner;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod scanner;
#[cfg(not(feature = "_internals"))]
mod tensor;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod tensor;
#[cfg(not(feature = "_internals"))]
mod text;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod text;
#[cfg(not(feature = "_internals"))]
mod verdict;
#[cfg(feature = "_internals")]
#[doc(hidden)]
pub mod verdict;

// The command line writes files as the library does.
#[doc(hidden)]
pub use self::bytes::write_whole;
pub use self::error::{Error, ErrorKind, Result};
pub use self::front::{Catalog, Event, Fingerprint, Input, Scanner};
pub use self::math::linalg::{Device, choose as choose_device, device};
