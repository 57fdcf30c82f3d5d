//! What a database is, apart from what it holds.

use serde::{Deserialize, Serialize};

/// The properties that a database is created with and keeps for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// The server's major version.
    pub server_major: u32,
    /// As `pg_encoding_to_char` names it: `UTF8`, `LATIN1`, `SQL_ASCII`.
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// `pg_database.datlocprovider`: `c` for libc, `i` for ICU, `b` for builtin.
    pub provider: String,
    /// The locale of ICU or builtin; libc's is in `collate` and `ctype`.
    pub locale: Option<String>,
    pub icu_rules: Option<String>,
}
