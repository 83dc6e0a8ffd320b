//! Files that lie: refused or read in time, never a panic, never a clean bill.

#[path = "../support/mod.rs"]
mod support;

mod files;
mod gguf;
mod onnx;
mod pickles;
mod readings;
