//! A database's properties, apart from its contents.

use serde::{Deserialize, Serialize};

/// The properties with which a database is created, and which never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// The server's major version.
    pub server_major: u32,
    /// The encoding as `pg_encoding_to_char` names it: `UTF8`, `LATIN1`, `SQL_ASCII`.
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// `pg_database.datlocprovider`: `c` for libc, `i` for ICU, `b` for builtin.
    pub provider: String,
    /// The locale of ICU or builtin; the locale of libc is in `collate` and `ctype`.
    pub locale: Option<String>,
    pub icu_rules: Option<String>,
}
