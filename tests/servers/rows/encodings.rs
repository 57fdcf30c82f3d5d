//! Databases that are not UTF-8: the bytes come back as they were, names too.

use crate::rows::story::{Theme, tell_in};
use crate::support::Server;

fn tell(encoding: &str, theme: &Theme, dump: &[&str]) {
    let server = Server::shared(None);
    let database = format!("rows_{}", encoding.to_lowercase());
    let create = format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
    server.psql("postgres", &create);
    tell_in(&server, &database, &[theme], dump);
}

#[test]
fn latin1() {
    let theme = Theme { name: "latin1" };
    tell("LATIN1", &theme, &["--encoding=UTF8"]);
}

#[test]
fn euc_jp() {
    let theme = Theme { name: "euc_jp" };
    tell("EUC_JP", &theme, &["--encoding=UTF8"]);
}

/// Bytes without a meaning, which nothing may convert.
#[test]
fn sql_ascii() {
    let theme = Theme { name: "sql_ascii" };
    tell("SQL_ASCII", &theme, &[]);
}
