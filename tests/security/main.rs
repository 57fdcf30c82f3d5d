//! Attacks, each with its variations: what was tried, and that nothing was gained.

mod replay;
#[path = "../support/mod.rs"]
mod support;
