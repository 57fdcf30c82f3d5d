//! Connections against real servers: every way to log in, TLS, encodings, and the stream.
//! The support here is its own, so that it stands alone.

mod encodings;
mod hostile;
mod logins;
mod server;
mod streams;
mod tls;
