//! Connections to PostgreSQL: connection strings, transport, login and sessions.

mod certificate;
pub(crate) mod choices;
pub mod conninfo;
mod curve;
mod fault;
pub(crate) mod guard;
#[expect(clippy::disallowed_methods, reason = "it looks for the server's socket")]
pub(crate) mod hosts;
mod keyword;
pub(crate) mod login;
#[expect(clippy::disallowed_methods, reason = "it reads libpq's files")]
mod passfile;
mod pinned;
pub(crate) mod require_auth;
#[expect(clippy::disallowed_methods, reason = "it reads libpq's files")]
mod service;
pub(crate) mod session;
mod settings;
mod tap;
#[expect(clippy::disallowed_methods, reason = "it reads libpq's files")]
mod tls;
pub(crate) mod transport;
mod uri;
mod verifier;

pub use conninfo::Conninfo;
pub use fault::{ServerFault, server_error, shortened};
pub use pinned::{NEWER_TIMERS, PINNED_SETTINGS, quoted, set_local_statements};
pub use session::{Session, connect};
pub use tap::CopyPart;
