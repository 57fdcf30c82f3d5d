//! The attacks of a review, run against the built program: none of them gains anything.

#[path = "../support/mod.rs"]
mod support;

mod forgery;
mod keyed;
