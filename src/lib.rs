//! backwhen brings a PostgreSQL database back to when it was right.
//!
//! Changes come in (`source`), are kept (`history`), come back (`recover`). See
//! `docs/ARCHITECTURE.md`.

pub mod codec;
pub mod connect;
pub mod error;
pub mod history;
pub mod model;
pub mod pgtools;
pub mod recover;
