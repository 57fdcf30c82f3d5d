//! Only as many tables stand behind gates as the server has room for, and only the largest.

use super::{Opened, gates};
use crate::demand::psql;
use crate::support::shop::assert_says;
use crate::support::{Backwhen, Server};

#[test]
fn the_largest_tables_get_the_gates_for_which_there_is_room() {
    let server = Server::builder().setting("max_connections", "20").start();
    let database = server.fresh_database("demand");
    let tables: String = (1..=12)
        .map(|n| {
            format!("CREATE TABLE t{n:02} AS SELECT g, md5(g::text) FROM generate_series(1, {n} * 40) g;")
        })
        .collect();
    server.psql(&database, &format!("{tables} CREATE FUNCTION f() RETURNS int LANGUAGE sql STABLE AS 'SELECT count(*)::int FROM public.t12';
        CREATE MATERIALIZED VIEW opaque AS SELECT f(); CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM t12"));
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let into = server.conninfo(&format!("{database}_few"));
    let opened = Opened::begin(&backwhen, &into, false, &["--jobs", "2"]);
    let closed = gates(&backwhen, &into);
    assert!((1..6).contains(&closed.len()) && closed.contains(&"public.t12 closed".to_owned()), "{closed:?}");
    assert_eq!(psql(&server, &into, "SELECT count(*) FROM t01"), "40");
    // A view stands behind the gate of its table, so that it is of the same moment.
    assert_eq!(
        psql(&server, &into, "DELETE FROM t12; SELECT count FROM seen; SELECT count(*) FROM t12"),
        "480\n0"
    );
    assert_says(&psql(&server, &into, "SELECT f FROM opaque"), &["has not been populated"]);
    for table in closed.iter().filter_map(|gate| gate.split(' ').next()) {
        psql(&server, &into, &format!("SELECT count(*) FROM {table}"));
    }
    let output = opened.end();
    assert_eq!(output.status.code(), Some(15), "{}", output.stderr);
    assert_says(
        &output.stdout,
        &[
            "was loaded before the database was open",
            "rows of MATERIALIZED VIEW public.opaque",
            "REFRESH MATERIALIZED VIEW",
        ],
    );
}
