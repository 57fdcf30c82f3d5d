//! The way back: from the history to a database. Never talks to the source.

pub mod archive;
pub mod sink;
