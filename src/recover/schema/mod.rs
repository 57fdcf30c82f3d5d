//! The schema at a moment.
mod lexer;
mod statements;

pub use statements::{Sql, split};
