//! Attacks on the source, the history and the recovering machine: each is run, and nothing may be gained by it.

#[path = "../support/mod.rs"]
mod support;

mod images;
mod load;
mod mallory;
mod messages;
mod source;
