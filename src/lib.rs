//! backwhen brings a PostgreSQL database back to the state of an earlier moment.
//!
//! Changes come in (`source`), are kept (`history`), come back (`recover`). `docs/ARCHITECTURE.md` is the way in.

// `println!` and the like panic if the reader is gone or the disk is full; `cli::ui` writes all output instead.
#![deny(clippy::print_stdout, clippy::print_stderr)]
// Tests spoil files and wait for clocks by themselves.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

#[expect(
    clippy::disallowed_methods,
    reason = "it is the door for the clock, for randomness and for temporary files"
)]
pub mod ambient;
pub mod bisect;
pub mod capture;
pub mod cli;
pub mod codec;
pub mod connect;
pub mod error;
pub mod fold;
pub mod follow;
pub mod history;
#[cfg(test)]
mod hostile;
pub mod model;
pub mod past;
#[expect(
    clippy::disallowed_methods,
    reason = "it looks for programs, and runs servers on folders of their own"
)]
pub mod pgtools;
pub mod progress;
pub mod protect;
pub mod prove;
pub mod recover;
pub mod rewind;
pub mod serve;
pub mod signal;
pub mod source;
#[expect(clippy::disallowed_methods, reason = "it is the door for files")]
pub mod store;
pub mod testing;
pub mod travel;
