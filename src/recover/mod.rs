//! The read half: brings a database back from its history, without ever asking the source.

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
