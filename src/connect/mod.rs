//! Connections to PostgreSQL: where the server is, the way there, and the sessions.

mod choices;
pub mod conninfo;
mod hosts;
mod keyword;
mod passfile;
mod service;
mod settings;
mod uri;

pub use conninfo::Conninfo;
