//! `backwhen::testing`

use backwhen::testing::{HowReset, Options, TestDatabase};

use super::{DROPPED, MADE, ROWS, SEEDED, assert_no_trace, assert_reset};
use crate::support::{Dump, Server, on_oldest_and_newest};

fn protect(server: &Server, database: &str) -> TestDatabase {
    let options = server.bin().map_or_else(Options::new, |bin| Options::new().programs(bin));
    options.protect(&server.conninfo(database)).unwrap()
}

#[test]
fn what_a_test_did_is_taken_back_whatever_it_was() {
    on_oldest_and_newest(|server| {
        let database = server.fresh_database("testing");
        let psql = |sql: &str| server.psql(&database, sql);
        psql(SEEDED);
        let mut test = protect(server, &database);
        test.mark("seeded").unwrap();
        let seeded = Dump::of(server, &database);

        assert_eq!(test.reset().unwrap().rows, 0, "nothing has changed");
        for round in 0..3 {
            psql(ROWS);
            let reset = test.reset().unwrap();
            assert_eq!(reset.how, HowReset::InPlace, "round {round}");
            assert!(reset.rows > 0 && reset.not_reset.is_empty(), "{reset:?}");
            assert_reset(&seeded, server, &database);
        }
        psql("TRUNCATE customers, orders, log RESTART IDENTITY; SELECT setval('customers_id_seq', 500)");
        assert_eq!(test.reset().unwrap().how, HowReset::InPlace);
        assert_reset(&seeded, server, &database);

        psql(MADE);
        psql(ROWS);
        assert_eq!(test.reset().unwrap().how, HowReset::Dropped);
        assert_reset(&seeded, server, &database);

        // The second time, the database begins as a copy of the template that the first time has kept.
        let templates = format!(
            "SELECT oid FROM pg_database WHERE starts_with(datname, '{database}.backwhen-template-')"
        );
        let mut kept = Vec::new();
        for _ in 0..2 {
            psql(DROPPED);
            assert_eq!(test.reset().unwrap().how, HowReset::Anew);
            assert_reset(&seeded, server, &database);
            kept.push(psql(&templates));
        }
        assert_eq!((kept[0].lines().count(), &kept[1]), (1, &kept[0]));
        psql(ROWS);
        assert_eq!(test.reset().unwrap().how, HowReset::InPlace);
        assert_reset(&seeded, server, &database);

        test.stop().unwrap();
        assert_no_trace(server, &database);
        assert_eq!(psql("SELECT count(*) FROM pg_database WHERE datname LIKE '%backwhen_%'"), "0");
        assert_eq!(psql(&templates), "");
    });
}

/// A table that was dropped and made again alike has the definitions of the mark, and other rows.
#[test]
fn a_table_or_a_column_that_was_made_again_under_its_name_is_not_taken_for_the_old_one() {
    let server = Server::shared(None);
    let database = server.fresh_database("testing");
    let psql = |sql: &str| server.psql(&database, sql);
    psql(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 5) g",
    );
    let mut test = protect(&server, &database);
    test.mark("seeded").unwrap();
    let seeded = Dump::of(&server, &database);
    for sql in [
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int)",
        "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v int",
    ] {
        psql(sql);
        assert_eq!(test.reset().unwrap().how, HowReset::Anew, "{sql}");
        assert_reset(&seeded, &server, &database);
    }
}

#[test]
fn what_no_reset_puts_back_is_named() {
    let server = Server::shared(None);
    let database = server.fresh_database("testing");
    let mut test = protect(&server, &database);
    server.psql(
        &database,
        "CREATE TABLE t (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int);
         CREATE MATERIALIZED VIEW m AS SELECT 1 AS one; SELECT lo_create(0)",
    );
    let unmarked = test.reset().unwrap_err();
    assert!(unmarked.to_string().contains("call mark"), "{unmarked}");
    test.mark("seeded").unwrap();
    assert!(test.mark("seeded").is_err(), "a name is given once");
    let named = test.reset().unwrap().not_reset.join("; ");
    for part in ["rows of public.u", "materialised view public.m", "large objects"] {
        assert!(named.contains(part), "{part} is missing in {named}");
    }
    drop(test);
    assert_no_trace(&server, &database);
}

/// Async code may hold such a database, and drop it.
#[test]
fn a_server_of_its_own_is_started_and_ended() {
    let Some(bin) = Server::shared(None).bin().map(std::path::Path::to_owned) else { return };
    let mut test = Options::new().programs(bin).start().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let source = backwhen::connect::Conninfo::parse(test.connection()).unwrap();
    runtime.block_on(async {
        let session = backwhen::connect::Session::connect_utf8(&source, "test").await.unwrap();
        let run = async |sql: &str| session.batch_execute(sql).await.unwrap();
        run("CREATE TABLE public.t (id serial PRIMARY KEY, v text); INSERT INTO public.t (v) VALUES ('a')")
            .await;
        test.mark("seeded").unwrap();
        run("INSERT INTO public.t (v) VALUES ('b'); UPDATE public.t SET v = 'c'").await;
        assert_eq!(test.reset().unwrap().rows, 2);
        let row = session
            .query_one("SELECT string_agg(v, ''), nextval('public.t_id_seq') FROM public.t", &[])
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), ("a", 2_i64));
        drop(test);
        assert!(backwhen::connect::Session::connect_utf8(&source, "test").await.is_err());
    });
}
