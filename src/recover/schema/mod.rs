//! The schema at a moment.
mod lexer;
mod statements;
