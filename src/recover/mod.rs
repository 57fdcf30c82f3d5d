//! The read half: brings a database back from its history, without ever asking the source.

#[expect(
    clippy::disallowed_methods,
    reason = "it works on archives that are taken apart in a temporary folder"
)]
pub mod archive;
mod compare;
#[expect(
    clippy::disallowed_methods,
    reason = "it works on archives that are taken apart in a temporary folder"
)]
pub mod definitions;
pub mod execute;
mod lexer;
mod load;
mod objects;
pub mod plan;
pub mod refused;
mod roles;
#[expect(
    clippy::disallowed_methods,
    reason = "it works on archives that are taken apart in a temporary folder"
)]
pub mod schema;
mod sequences;
#[expect(clippy::disallowed_methods, reason = "it writes the files that a recovery was asked for")]
pub mod sink;
pub mod structure;
