//! Statements on a database that is being loaded end as on a conventional recovery, and so does the database.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed, `BACKWHEN_TEST_CASES` sets the number of scripts, and
//! `BACKWHEN_TEST_ALL=1` tries all versions of PostgreSQL.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Opened, gates};
use crate::demand::random::{TRUTH, copy_of, recovered, script};
use crate::demand::{protected, psql};
use crate::support::{Dump, Server, assert_same, for_each_version, number_from, on_oldest_and_newest, seed};

/// Statements that touch what the script may have left alone, so that all gates open.
const ASK_ALL: &str =
    "TABLE customers; TABLE sales.orders; TABLE log; TABLE untouched; TABLE visits; TABLE totals";

#[test]
fn statements_end_as_on_a_conventional_recovery_and_so_does_the_database() {
    let all = number_from("BACKWHEN_TEST_ALL").is_some();
    let test = |server: &Server| {
        let backwhen = protected(server);
        let recovered = recovered(&backwhen, server);
        let (first, cases) = (seed(), number_from("BACKWHEN_TEST_CASES").unwrap_or(1));
        for seed in first..first + cases {
            let script = script(&mut StdRng::seed_from_u64(seed));
            let copy = copy_of(server, &recovered);
            let target = format!("{copy}_demand");
            let into = server.conninfo(&target);
            let opened = Opened::begin(&backwhen, &into, false, &[]);
            let compare = |sql: &str| {
                let expected = psql(server, &server.conninfo(&copy), sql);
                let found = psql(server, &into, sql);
                let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
                let what =
                    format!("BACKWHEN_TEST_SEED={seed} on {}: {differs:?} in\n{script}", server.major());
                assert!(found == expected, "{what}");
            };
            compare(&script);
            psql(server, &into, ASK_ALL);
            let report = opened.report();
            compare(TRUTH);
            assert_eq!(report["proved"], true);
            let gates = report["gates"].as_array().expect("gates");
            assert!(gates.iter().all(|gate| gate["state"] == "loaded"), "{gates:?}");
            assert!(gates.iter().any(|gate| gate["wanted"] == true), "{gates:?}");
            assert_same(&Dump::of(server, &copy), &Dump::of(server, &target));
        }
    };
    if all { for_each_version(test) } else { on_oldest_and_newest(test) }
}

#[test]
fn the_report_and_the_database_are_those_of_any_recovery() {
    on_oldest_and_newest(|server| {
        let backwhen = protected(server);
        server.psql(backwhen.database(), &format!("COMMENT ON DATABASE {} IS 'a shop'", backwhen.database()));
        backwhen.ok(&["checkpoint", "--from-source"]);
        server.psql(backwhen.database(), "INSERT INTO log VALUES ('last', 1)");
        backwhen.ok(&["capture", "--until", "caught-up"]);
        let target = format!("{}_whole", backwhen.database());
        let into = server.conninfo(&target);
        let opened = Opened::begin(&backwhen, &into, false, &["--first", "log", "--first", "sales.*"]);
        let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()";
        assert!(server.psql(&target, comment).starts_with("backwhen: not all tables"), "it says what it is");
        let closed = gates(&backwhen, &into);
        // In the order of --first, and then the smallest.
        assert_eq!(&closed[..2], ["public.log closed", "sales.orders closed"], "{closed:?}");
        psql(server, &into, ASK_ALL);
        let report = opened.report();
        let documented =
            include_str!("../../../../docs/JSON.md").split("\n## recover --on-demand\n").nth(1).unwrap();
        for field in report["gates"][0].as_object().expect("a gate").keys() {
            assert!(documented.contains(&format!("`gates[].{field}`")), "{field} is not in docs/JSON.md");
        }
        let conventional = recovered(&backwhen, server);
        let again = format!("{target}_2");
        let plain =
            backwhen.json(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&again)]);
        for field in ["moment", "checkpoint", "rows", "tables", "proved", "inexact", "left_out", "schema"] {
            assert_eq!(report[field], plain[field], "{field}");
        }
        assert_same(&Dump::of(server, &conventional), &Dump::of(server, &target));
        assert_same(&Dump::of(server, backwhen.database()), &Dump::of(server, &target));
        assert_eq!(server.psql(&target, comment), "a shop");
        let gone = backwhen.fails(14, &["status", "--target", &into]);
        assert!(gone.contains("no recovery on demand that is unfinished"), "{gone}");
    });
}
