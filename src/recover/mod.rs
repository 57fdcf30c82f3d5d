//! The read half: from the history back to a database. Never asks the source.

pub mod archive;
pub mod definitions;
pub mod execute;
mod load;
mod objects;
pub mod plan;
mod roles;
pub mod schema;
mod sequences;
pub mod sink;
