//! Tells whether a checkpoint is a wrapped copy of a known open model.
//!
//! Three questions are answered apart: whose architecture it is (from tensor shapes), whose weights (from the numbers,
//! against references), and whether that was declared (from the model card).
//!
//! ```no_run
//! use std::path::Path;
//! use weightprint::checkpoint::OpenOptions;
//! use weightprint::scanner::{self, Input};
//!
//! let reference = Input::read(Path::new("reference"), OpenOptions::default(), &[], &|_bytes| ())?;
//! let anchors = reference.fingerprint().anchors().cloned();
//! let suspect = Input::read(Path::new("suspect"), OpenOptions::default(), &Vec::from_iter(anchors), &|_bytes| ())?;
//! let report = scanner::compare(&suspect, &reference);
//! assert!(!report.verdict.class.shares_weights(), "{}", report.verdict.summary);
//! # Ok::<(), weightprint::Error>(())
//! ```
//!
//! Data flows one way: [`checkpoint`] opens, [`anatomy`] finds roles, [`fingerprint`] reads the values once, [`evidence`]
//! tests, [`verdict`] judges, [`report`] renders. [`scanner`] is that way from end to end.

pub mod anatomy;
pub mod assemble;
pub mod bytes;
pub mod cache;
pub mod catalog;
pub mod checkpoint;
pub mod error;
pub mod evidence;
pub mod finding;
pub mod fingerprint;
pub mod format;
pub mod limits;
pub mod math;
pub mod model;
pub mod published;
pub mod report;
pub mod scanner;
pub mod tensor;
mod text;
pub mod verdict;

pub use error::{Error, Result};
