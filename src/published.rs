//! What is published of known models whose weights are not here: digests of their files, norms of embedding rows.

pub mod digests;
pub mod norms;
