//! The database that a killed, interrupted or failed recovery on demand leaves is never taken for a finished one, and
//! `--resume` goes on with it.

use super::{DEMAND, GATES_HELD, Opened, gates, resume, run_unlocked};
use crate::demand::{damaged, protected, psql};
use crate::support::shop::assert_says;
use crate::support::{Dump, Server, assert_same, wait_for};

const EXISTS: &str = "SELECT count(*) FROM pg_database WHERE datname = ";

#[test]
fn a_recovery_that_dies_at_any_step_is_gone_on_with() {
    let server = Server::shared(None);
    let backwhen = protected(&server).with_env("BACKWHEN_TEST_GATE_ABOVE", "0");
    let target = format!("{}_killed", backwhen.database());
    let into = server.conninfo(&target);
    let begin = ["recover", "--to", "latest", "--on-demand", "--create", "--into", &into];
    for point in DEMAND {
        backwhen.dies(point, &begin);
        let is_open = server.psql("postgres", &format!("{EXISTS}'{target}'")) == "1";
        assert_eq!(is_open, ["demand.loaded", "demand.close"].contains(point), "{point}");
        if is_open {
            resume(&backwhen, &into);
        } else {
            let output = run_unlocked(&backwhen, &begin);
            assert!(output.status.success(), "{point}: {}", output.stderr);
        }
        assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &target));
        server.psql("postgres", &format!("DROP DATABASE {target} WITH (FORCE)"));
    }
}

#[test]
fn nobody_reads_an_empty_table_after_a_kill_and_resume_goes_on() {
    crate::support::on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        let (database, role) = (backwhen.database(), format!("{}_app", backwhen.database()));
        // Privileges on tables, columns, partitions and sequences, and an owner who is no superuser.
        server.psql(
            database,
            &format!(
                "CREATE ROLE {role} LOGIN; CREATE ROLE {role}_reader LOGIN;
                 CREATE ROLE {role}_all LOGIN; GRANT pg_read_all_data TO {role}_all; GRANT USAGE ON SCHEMA sales TO {role}, {role}_reader;
                 ALTER TABLE log OWNER TO {role}; GRANT ALL ON customers, visits, sales.orders TO {role} WITH GRANT OPTION;
                 GRANT SELECT (id) ON customers TO {role}_reader; GRANT SELECT ON visits_1, log TO {role}_reader;
                 GRANT USAGE ON SEQUENCE sales.orders_id_seq TO {role}"
            ),
        );
        backwhen.ok(&["capture", "--until", "caught-up"]);
        let target = format!("{database}_privileges");
        let into = server.conninfo(&target);
        let opened = Opened::begin(&backwhen, &into, false, &[]);
        let of = |role: &str| into.replace("user=postgres", &format!("user={role}"));
        let (app, reader) = (of(&role), of(&format!("{role}_reader")));
        // While it is loading, everybody waits for rows and gets them.
        let logged = server.psql(database, "SELECT count(*) FROM log");
        assert_eq!(psql(server, &app, "SELECT count(*) FROM log"), logged);
        opened.kill();
        let ask = |connection: &str, sql: &str| psql(server, connection, sql);
        wait_for("the gates are gone", || server.psql(&target, GATES_HELD) == "0");
        assert_eq!(ask(&app, "SELECT count(*) FROM log"), logged);
        for sql in [
            "SELECT count(*) FROM customers",
            "SELECT count(*) FROM visits",
            "SELECT count(*) FROM visits_1",
            "INSERT INTO sales.orders (customer, total) VALUES (1, 1)",
            "SELECT nextval('sales.orders_id_seq')",
        ] {
            assert_says(&ask(&app, sql), &["permission denied"]);
        }
        assert_says(&ask(&reader, "SELECT id FROM customers"), &["permission denied"]);
        assert_says(&ask(&into, "SELECT * FROM totals"), &["has not been populated"]);
        // Whom no privilege holds back.
        for connection in [&into, &of(&format!("{role}_all"))] {
            for sql in
                ["SELECT count(*) FROM customers", "SELECT * FROM visits", "COPY (TABLE visits_1) TO STDOUT"]
            {
                assert_says(&ask(connection, sql), &["has not been populated"]);
            }
        }
        let unloaded = gates(&backwhen, &into);
        assert!(unloaded.contains(&"public.log loaded".to_owned()), "{unloaded:?}");
        assert!(unloaded.contains(&"public.customers closed".to_owned()), "{unloaded:?}");
        // A truncation of that time counts.
        assert_says(&ask(&app, "TRUNCATE customers CASCADE"), &["truncate cascades to table \"orders\""]);
        // What somebody with such rights writes is not thrown away. The report after it still says all that is not exact.
        server.psql(
            &target,
            "BEGIN; ALTER TABLE untouched DISABLE TRIGGER always; INSERT INTO untouched VALUES (-1, 'written');
             ALTER TABLE untouched ENABLE ALWAYS TRIGGER always; COMMIT",
        );
        let stopped = run_unlocked(&backwhen, &["recover", "--resume", "--into", &into]);
        assert_eq!(stopped.status.code(), Some(14), "{}", stopped.stderr);
        assert_says(&stopped.stderr, &["has written into public.untouched", "TRUNCATE"]);
        assert_eq!(server.psql(&target, "COPY untouched TO STDOUT"), "-1\twritten");
        server.psql(&target, "TRUNCATE untouched CASCADE");
        let resumed = resume(&backwhen, &into);
        assert_eq!(server.psql(&target, "SELECT count(*) FROM untouched"), "0");
        assert_eq!(ask(&app, "SELECT count(*) FROM visits"), "1000");
        assert_eq!(ask(&app, "SELECT count(*) FROM customers"), "0");
        let inexact = resumed["inexact"].to_string();
        assert_says(
            &inexact,
            &[
                "public.customers",
                "public.untouched",
                "sales.orders",
                "somebody has truncated",
                "public.totals",
                "of what its tables hold now",
            ],
        );
        assert_eq!(
            server.psql(&target, "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND NOT relispopulated"),
            "0"
        );
        let privileges = "SELECT relname, relacl FROM pg_class WHERE relname IN ('customers', 'visits', 'visits_1', 'log', 'orders',
            'orders_id_seq', 'totals') ORDER BY 1; SELECT attname, attacl FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid > 16383";
        assert_eq!(server.psql(&target, privileges), server.psql(database, privileges));
    });
}

#[test]
fn an_interrupted_recovery_says_what_it_leaves() {
    let server = Server::shared(None);
    let backwhen = protected(&server);
    let target = format!("{}_stopped", backwhen.database());
    let into = server.conninfo(&target);
    let opened = Opened::begin(&backwhen, &into, false, &[]);
    // Another one keeps away from it.
    let second = backwhen.fails(13, &["recover", "--resume", "--into", &into]);
    assert_says(&second, &["another recovery into database"]);
    let process = rustix::process::Pid::from_child(&opened.child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let output = opened.end();
    assert_eq!(output.status.code(), Some(130), "{}", output.stderr);
    assert_says(&output.stderr, &["stays unfinished", "recover --resume"]);
    let status = backwhen.ok(&["status", "--target", &into]);
    assert_says(&status, &["nothing loads it", "public.customers: not loaded"]);
    for create in [&["--create"][..], &[]] {
        let again = [&["recover", "--to", "latest", "--into", &into], create].concat();
        let refused = run_unlocked(&backwhen, &again);
        assert_eq!(refused.status.code(), Some(14), "{}", refused.stderr);
        assert_says(&refused.stderr, &["is not finished", "recover --resume"]);
    }
    resume(&backwhen, &into);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &target));
}

/// A damaged block costs its own table, which is named. Once it is mended, the rest follows.
#[test]
fn a_damaged_block_costs_its_own_table_only() {
    let server = Server::shared(None);
    let (backwhen, pack, whole) = damaged(&server);
    let into = server.conninfo(&format!("{}_damaged", backwhen.database()));
    let opened = Opened::begin(&backwhen, &into, false, &[]);
    assert_says(&psql(&server, &into, "SELECT count(*) FROM large"), &["canceling statement"]);
    assert_eq!(psql(&server, &into, "SELECT count(*) FROM small"), "2");
    let output = opened.end();
    assert_eq!(output.status.code(), Some(12), "{}", output.stderr);
    assert_says(&output.stderr, &["public.large cannot be loaded", "damaged", "recover --resume"]);
    assert_eq!(gates(&backwhen, &into), ["public.small loaded", "public.large closed"]);
    std::fs::write(&pack, whole).unwrap();
    resume(&backwhen, &into);
    assert_eq!(psql(&server, &into, "SELECT count(*) FROM large"), "3000");
}
