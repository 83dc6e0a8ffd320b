//! Checkpoints in every form: what is read is what another program wrote, and a copy in any form keeps its kinship.

#[path = "../support/mod.rs"]
mod support;

mod adapters;
mod blocks;
mod containers;
mod decode;
mod gains;
mod gguf;
mod inside;
mod inventory;
mod layouts;
mod meta;
mod onnx;
mod open;
mod packed;
mod partial;
mod store;
mod torch;
