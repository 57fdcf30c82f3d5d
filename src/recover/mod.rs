//! The read half: from the history back to a database. Never asks the source.

pub mod archive;
mod base;
pub mod definitions;
mod doubt;
pub mod execute;
pub mod known;
mod load;
pub mod plan;
pub mod resolve;
mod roles;
pub mod schema;
mod sequences;
pub mod sink;
