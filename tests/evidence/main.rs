//! What the tests say of kin, strangers and disguises.

#[path = "../support/mod.rs"]
mod support;

mod coverage;
mod disguise;
mod disguised;
mod embedding;
mod heads;
mod kinship;
mod linalg;
mod published_norms;
mod stages;
