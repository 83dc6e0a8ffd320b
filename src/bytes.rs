//! Where bytes come from and where they are put: files on this machine, temporary files, and files that appear whole.
//!
//! Nothing here knows what the bytes mean. The crate's only `unsafe` is in [`local`].

pub mod local;
pub(crate) mod spool;
mod whole;

pub use self::spool::Numbers;
pub use self::whole::write_whole;
