//! Whose architecture it is: by names, by shapes, beside towers.

#[path = "../support/mod.rs"]
mod support;

mod anatomy;
mod beside;
mod headers;
mod towers;
mod yi;
