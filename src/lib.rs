//! backwhen brings a PostgreSQL database back to when it was right.
//!
//! Changes come in (`source`), are kept (`history`), come back (`recover`). See
//! `docs/ARCHITECTURE.md`.

pub mod ambient;
pub mod capture;
pub mod cli;
pub mod codec;
pub mod connect;
pub mod error;
pub mod fold;
pub mod history;
#[cfg(test)]
mod hostile;
pub mod model;
pub mod pgtools;
pub mod progress;
pub mod protect;
pub mod prove;
pub mod recover;
pub mod source;
