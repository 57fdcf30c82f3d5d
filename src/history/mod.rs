//! What is kept: one protected database's store, a folder complete in itself.

pub mod files;
pub mod image;
