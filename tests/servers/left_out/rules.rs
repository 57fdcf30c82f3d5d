//! Rules that the rows do not fulfil, or that cannot be asked.

use super::{INCOMPLETE, member, protected, recover, recover_as};
use crate::support::{Dump, Server, assert_same};

/// A function of the usual kind: it names another one without its schema.
const UNQUALIFIED: &str =
    "CREATE FUNCTION inner_one(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
    CREATE FUNCTION norm(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN inner_one($1); END';";

const ORPHANS: &str =
    "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p_id int REFERENCES p);
    INSERT INTO p VALUES (1); INSERT INTO c VALUES (1, 1); ALTER TABLE c DISABLE TRIGGER ALL;
    INSERT INTO c VALUES (2, 99); ALTER TABLE c ENABLE TRIGGER ALL";

#[test]
fn a_foreign_key_with_orphans_is_not_valid() {
    let server = Server::shared(None);
    let backwhen = protected(&server, "orphans", ORPHANS);
    let done = recover_as(&member(&server), &backwhen, &server, &["latest"]);
    done.names(&["FK CONSTRAINT public.c c_p_id_fkey"]);
    done.differs_in(&["FK CONSTRAINT public.c c_p_id_fkey"]);
    done.why("SQLSTATE 23503");
    let told = done.report["left_out"].to_string();
    assert!(!told.contains("99"), "a row's value is told: {told}");
    // Mended, the statement of the file makes it what it was.
    server.psql(&done.database, "INSERT INTO p VALUES (99)");
    server.psql(&done.database, &done.sql);
    assert_eq!(server.psql(&done.database, "SELECT bool_and(convalidated) FROM pg_constraint"), "t");
}

#[test]
fn checks_that_are_false_by_now_or_cannot_be_asked_are_not_valid() {
    let server = Server::shared(None);
    let schema = format!(
        "{UNQUALIFIED} CREATE TABLE past (id int PRIMARY KEY, n int, CONSTRAINT small CHECK (n < 3));
         CREATE TABLE asks (id int PRIMARY KEY, v text CHECK (norm(v) = v)); INSERT INTO asks VALUES (1, 'a');
         CREATE DOMAIN narrow AS int CONSTRAINT few CHECK (VALUE < 3); CREATE TABLE of_domain (id int PRIMARY KEY, n narrow);
         CREATE TABLE parent (id int PRIMARY KEY, n int, CONSTRAINT heirs CHECK (n < 3));
         CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
         INSERT INTO past VALUES (1, 1); INSERT INTO of_domain VALUES (1, 1); INSERT INTO child VALUES (1, 1);
         CREATE FUNCTION limit_of() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 3';
         ALTER TABLE past ADD CONSTRAINT moved CHECK (n < limit_of());
         ALTER DOMAIN narrow ADD CONSTRAINT moved CHECK (VALUE < limit_of());
         ALTER TABLE parent ADD CONSTRAINT moved CHECK (n < limit_of());
         CREATE OR REPLACE FUNCTION limit_of() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0'"
    );
    let backwhen = protected(&server, "checks", &schema);
    let done = recover_as(&member(&server), &backwhen, &server, &["latest"]);
    let expected = [
        "CHECK asks_v_check of TABLE public.asks",
        "CHECK moved of DOMAIN public.narrow",
        "CHECK moved of TABLE public.parent",
        "CHECK moved of TABLE public.past",
    ];
    let left_out = done.report["left_out"].as_array().unwrap().iter();
    let mut found: Vec<_> = left_out.map(|it| it["what"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    done.why("it is NOT VALID");
    let kept = "SELECT string_agg(conname || convalidated, ' ' ORDER BY conname) FROM pg_constraint WHERE contype = 'c'
                AND conname IN ('small', 'few', 'heirs', 'moved') AND (conislocal OR contypid <> 0)";
    assert_eq!(
        server.psql(&done.database, kept),
        "fewtrue heirstrue movedfalse movedfalse movedfalse smalltrue"
    );
    assert!(done.differences.iter().all(|it| !it.contains('(')), "rows differ: {:?}", done.differences);
}

/// Constraints that rows break were valid on the source all the same. A superuser makes them so again, whoever owns their
/// tables.
#[test]
fn constraints_that_rows_break_are_valid_as_on_the_source_for_a_superuser() {
    let server = Server::shared(None);
    let schema = format!(
        "{ORPHANS}; {UNQUALIFIED} CREATE TABLE asks (id int PRIMARY KEY, v text CHECK (norm(v) = v)); INSERT INTO asks VALUES (1, 'a');
         CREATE FUNCTION bounded(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE DOMAIN narrow AS int CONSTRAINT few CHECK (bounded(VALUE)); CREATE TABLE of_domain (id int PRIMARY KEY, n narrow[]);
         CREATE TABLE parent (id int PRIMARY KEY, n int CONSTRAINT heirs CHECK (bounded(n)));
         CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent); INSERT INTO child VALUES (1, 1);
         INSERT INTO of_domain VALUES (1, '{{1}}'); ALTER TABLE parent ADD CONSTRAINT open CHECK (n > 5) NOT VALID;
         CREATE OR REPLACE FUNCTION bounded(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT false'"
    );
    let backwhen = protected(&server, "broken", &schema);
    let database = server.fresh_database("broken_again");
    let report = backwhen.json(&["recover", "--to", "latest", "--into", &server.conninfo(&database)]);
    assert_eq!((&report["left_out"], &report["proved"]), (&serde_json::json!([]), &true.into()), "{report}");
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &database));
    let notes = report["notes"].to_string();
    for constraint in ["public.c c_p_id_fkey", "asks_v_check", "few of DOMAIN public.narrow", "heirs"] {
        let told = notes.contains(constraint);
        assert!(told, "no {constraint:?} in {notes}");
    }
    assert!(!notes.contains("99"), "a row's value is told: {notes}");
}

/// Whichever table is loaded first, the rows of the other are not there yet.
#[test]
fn a_check_that_looks_at_another_table_comes_back_valid() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "elsewhere",
        "CREATE TABLE words (id int PRIMARY KEY, val text); INSERT INTO words VALUES (1, 'a');
         CREATE FUNCTION known(text) RETURNS bool STABLE LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.words WHERE val = $1)';
         CREATE TABLE uses (id int PRIMARY KEY, val text CHECK (known(val)), filler text);
         INSERT INTO uses SELECT g, 'a', repeat('x', 100) FROM generate_series(1, 2000) g",
    );
    let database = server.fresh_database("elsewhere_again");
    let into = server.conninfo(&database);
    backwhen.ok(&["recover", "--to", "latest", "--into", &into, "--jobs", "1"]);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &database));
}

#[test]
fn indexes_and_computed_columns_whose_function_fails_are_left_out() {
    let server = Server::shared(None);
    let schema = format!(
        "{UNQUALIFIED} CREATE TABLE indexed (id int PRIMARY KEY, v text); CREATE INDEX by_norm ON indexed (norm(v));
         CREATE INDEX plain ON indexed (v); INSERT INTO indexed VALUES (1, 'A');
         CREATE TABLE computed (id int PRIMARY KEY, v text, n text GENERATED ALWAYS AS (norm(v)) STORED);
         INSERT INTO computed VALUES (1, 'A')"
    );
    let backwhen = protected(&server, "computed", &schema);
    let done = recover(&backwhen, &server, &["latest"]);
    done.names(&["expression of COLUMN public.computed.n", "INDEX public.by_norm"]);
    let of_rows = ["public.computed (id, v)", "public.computed (id, v, n)"];
    done.differs_in(&["INDEX public.by_norm", "TABLE public.computed", of_rows[0], of_rows[1]]);
    assert!(done.sql.contains("CREATE INDEX by_norm ON public.indexed"), "{}", done.sql);
    assert_eq!(server.psql(&done.database, "SELECT v, n IS NULL FROM computed"), "A|t");
}

#[test]
fn a_materialised_view_that_fails_stays_empty() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "views",
        "CREATE TABLE m (id int PRIMARY KEY, v int); INSERT INTO m VALUES (1, 5);
         CREATE MATERIALIZED VIEW ratio AS SELECT id, 100 / v AS r FROM m; CREATE MATERIALIZED VIEW fine AS SELECT id FROM m;
         INSERT INTO m VALUES (2, 0)",
    );
    let done = recover(&backwhen, &server, &["latest"]);
    done.names(&["rows of MATERIALIZED VIEW public.ratio"]);
    done.differs_in(&["MATERIALIZED VIEW DATA public.ratio"]);
    assert_eq!(server.psql(&done.database, "SELECT count(*) FROM fine"), "2");
}

/// pg_restore repeats whatever a function says: that does not decide what is said to be left out.
#[test]
fn words_of_a_function_name_no_other_object() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "words",
        "CREATE FUNCTION says(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1); CREATE INDEX liar ON t (says(n));
         CREATE INDEX honest ON t (n); CREATE VIEW v AS SELECT id FROM t;
         CREATE OR REPLACE FUNCTION says(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
            RAISE '%', (SELECT string_agg(E'\\npg_restore: from TOC entry ' || g || '; 1259 1 TABLE t postgres', '')
                          FROM generate_series(1, 5000) g); END $$",
    );
    let done = recover(&backwhen, &server, &["latest"]);
    done.names(&["INDEX public.liar"]);
    done.differs_in(&["INDEX public.liar"]);
}

#[test]
fn strictly_nothing_is_left_out() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "strict",
        "CREATE TABLE m (id int PRIMARY KEY, v int); INSERT INTO m VALUES (1, 5);
         CREATE MATERIALIZED VIEW ratio AS SELECT id, 100 / v AS r FROM m; UPDATE m SET v = 0",
    );
    let into = format!("{}_strict", backwhen.database());
    let conninfo = server.conninfo(&into);
    let recover = ["recover", "--to", "latest", "--create", "--into", &conninfo];
    let message = backwhen.fails(14, &[&recover[..], &["--strict"]].concat());
    assert!(message.contains("public.ratio") && message.contains("leaving --strict away"), "{message}");
    let left = format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{into}%'");
    assert_eq!(server.psql("postgres", &left), "0");
    backwhen.fails(INCOMPLETE, &recover);
}
