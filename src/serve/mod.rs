//! Lets people and programs ask the past: one statement on the command line, or any client of PostgreSQL.

mod ask;
mod foreign;
mod listen;

pub use ask::{Answer, EXAMPLE, EXAMPLE_OF_TWO, ResultColumn, ValueKind, ask};
pub use foreign::{ForeignPast, foreign_tables};
pub use listen::{Address, Listener, SOCKET_PORT};
