//! The read half: from the history back to a database. Never asks the source.

pub mod archive;
mod base;
pub mod execute;
pub mod plan;
pub mod resolve;
pub mod sink;
