//! The house itself: modules depend one way, and what documents say of the code is true.

mod modules;
