//! The program as its users run it, and the house it lives in.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod cli;
mod folders;
mod modules;
mod pipes;
mod snapshots;
