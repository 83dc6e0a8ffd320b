//! Where bytes come from and where they are put: objects of a store, such as the files of a folder; temporary files; and
//! files that appear whole.
//!
//! Nothing here knows what the bytes mean. The crate's only `unsafe` is in [`local`].

mod folder;
mod hub_cache;
pub mod local;
pub(crate) mod spool;
pub(crate) mod store;
mod whole;

pub use self::folder::{Access, Folder};
pub use self::spool::Numbers;
#[cfg(feature = "_internals")]
pub use self::store::Origin;
pub use self::store::{Entry, EntryKind, Object, Store};
pub use self::whole::write_whole;
