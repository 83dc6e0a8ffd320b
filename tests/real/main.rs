//! Real models, where they were fetched; a test that lacks one says so.

#[path = "../support/mod.rs"]
mod support;

mod models;
mod smollm2;
