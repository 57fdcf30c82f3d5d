//! The read half: brings a database back from its history, without ever asking the source.

pub mod amend;
#[expect(
    clippy::disallowed_methods,
    reason = "it works on archives that are taken apart in a temporary folder"
)]
pub mod archive;
mod changes;
pub mod chosen_template;
mod compare;
#[expect(
    clippy::disallowed_methods,
    reason = "it works on archives that are taken apart in a temporary folder"
)]
pub mod definitions;
pub mod entries;
pub mod execute;
mod fill;
pub mod gate;
mod lexer;
mod load;
mod objects;
pub mod on_demand;
pub mod part;
pub mod past_server;
pub mod plan;
mod recovery;
pub mod refused;
mod report;
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
pub mod template;
