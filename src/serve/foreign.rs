//! The statements that make tables of the past foreign tables of the live database.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::model::Table;
use crate::model::schema::{quote_ident, quote_literal};

/// A moment as foreign tables.
pub struct ForeignPast<'a> {
    pub address: SocketAddr,
    pub database: &'a str,
    pub user: &'a str,
    pub password: &'a str,
    /// The name of the foreign server, and the beginning of the names of its schemas.
    pub name: &'a str,
    pub tables: &'a [Table],
}

/// Returns a script. Tables of `public` get into the schema of the foreign server's name, those of `sales` into one whose
/// name ends in `_sales`.
pub fn foreign_tables(past: &ForeignPast<'_>) -> String {
    let ForeignPast { address, database, user, password, name, tables } = *past;
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
    let server = quote_ident(name);
    let mut sql = format!(
        "CREATE EXTENSION IF NOT EXISTS postgres_fdw;\n\
         CREATE SERVER {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host {}, port '{}', dbname {});\n\
         CREATE USER MAPPING FOR CURRENT_USER SERVER {server} OPTIONS (user {}, password {});\n",
        quote_literal(&host),
        address.port(),
        quote_literal(database),
        quote_literal(user),
        quote_literal(password)
    );
    let schemas: BTreeSet<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    for schema in schemas {
        let into = if schema == "public" { name.to_owned() } else { format!("{name}_{schema}") };
        let (schema, into) = (quote_ident(schema), quote_ident(&into));
        sql += &format!(
            "CREATE SCHEMA {into};\nIMPORT FOREIGN SCHEMA {schema} FROM SERVER {server} INTO {into};\n"
        );
    }
    sql
}
