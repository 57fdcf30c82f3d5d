//! Whatever happens to the triggers, the application's statement succeeds.

use crate::ddl_triggers::told::Source;
use crate::support::shop::OpenSession;
use crate::support::{Server, for_each_version, versions};

#[test]
fn a_hostile_search_path_changes_nothing() {
    for_each_version(|server| {
        let source = Source::new(server);
        source.run(
            "CREATE SCHEMA evil;
             CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END';
             CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END';
             CREATE FUNCTION evil.set_config(text, text, bool) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END';
             CREATE FUNCTION evil.concat(text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END';
             CREATE FUNCTION evil.same(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END';
             CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.concat);
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
             CREATE TABLE evil.pg_class (i int);",
        );
        let told = source.run("SET search_path = evil, pg_catalog, public; CREATE TABLE public.fine (i int PRIMARY KEY); DROP TABLE public.fine");
        told.assert_no_trouble();
        assert_eq!(told.tags(), ["CREATE TABLE", "DROP TABLE"]);
        assert!(told.table("fine").published);
    });
}

#[test]
fn a_role_without_rights_is_told_of_and_can_forge_nothing() {
    let source = Source::new(&Server::shared(None));
    source.psql("CREATE ROLE ddl_nobody; CREATE SCHEMA own AUTHORIZATION ddl_nobody");
    source.told();
    let slot = source.slot();
    let told = source.run(
        "SET ROLE ddl_nobody; CREATE TABLE own.t AS SELECT 1 AS i; ALTER TABLE own.t ADD PRIMARY KEY (i)",
    );
    told.assert_no_trouble();
    assert_eq!(told.signals[0].statement.role, "ddl_nobody");
    assert!(told.table("t").published && told.rows.len() == 1);
    let server = source.backwhen.server();
    let refused = |sql: &str| {
        let sql = format!("SET ROLE ddl_nobody; {sql}");
        server.try_psql(source.backwhen.database(), &sql).expect_err(&sql)
    };
    for call in [
        format!("SELECT inner_key FROM backwhen.{slot}_config"),
        format!("SELECT backwhen.{slot}_emit('backwhen.ddl', '')"),
        format!("SELECT backwhen.{slot}_signed('backwhen.ddl', '')"),
        format!("SELECT backwhen.{slot}_join('', '', '', false)"),
        format!("SELECT backwhen.{slot}_tell('DROP TABLE', 'postgres', '{{}}', '')"),
        format!("SELECT backwhen.{slot}_trouble('DROP TABLE', 'postgres', '{{}}', '', 'x', 'y')"),
        // While a statement runs, too.
        format!(
            "CREATE TABLE own.x AS SELECT backwhen.{slot}_tell('CREATE TABLE', 'postgres', '{{}}', '') AS told"
        ),
        format!(
            "CREATE TABLE own.x AS SELECT backwhen.{slot}_trouble('DROP TABLE', 'postgres', '{{}}', '', 'x', 'y')"
        ),
    ] {
        assert!(refused(&call).contains("permission denied for schema backwhen"), "{call}");
    }
    // Oids that somebody puts into our hands are not believed.
    let told = source.run(&format!(
        "SET ROLE ddl_nobody; BEGIN; SELECT set_config('backwhen.{slot}_dropped', '{{{{1259,' || 'own.t'::regclass::oid || ',0,table,!original,t}}}}', true);
         CREATE TABLE own.z (i int); COMMIT"
    ));
    assert!(told.signal().dropped.is_empty() && told.signal().dropped_names.is_empty());
}

#[test]
fn half_of_the_triggers_gone_is_no_reason_to_fail() {
    let source = Source::new(&Server::shared(None));
    let slot = source.slot();
    let ddl =
        "CREATE TABLE t AS SELECT 1 AS i; ALTER TABLE t ADD COLUMN r float8 DEFAULT random(); DROP TABLE t";
    for broken in [
        format!("DROP FUNCTION backwhen.{slot}_wants"),
        format!("DROP FUNCTION backwhen.{slot}_rows"),
        format!("DELETE FROM backwhen.{slot}_config"),
        format!("DROP TABLE backwhen.{slot}_config CASCADE"),
        format!("DROP FUNCTION backwhen.{slot}_trouble"),
        format!("DROP FUNCTION backwhen.{slot}_tell"),
    ] {
        source.psql(&broken);
        source.psql(ddl);
        let told = source.told();
        if broken.contains("_wants") {
            let trouble = told.signals[0].trouble.as_deref().unwrap_or_default();
            assert!(trouble.contains("42883"), "{trouble}");
        }
        if broken.contains("_rows") {
            assert!(told.signals.iter().any(|signal| signal.trouble.is_some()), "{told:?}");
        }
    }
    source.psql("REVOKE ALL ON SCHEMA backwhen FROM PUBLIC");
    source.psql(ddl);
}

/// Locks all publications of a history, from version 15 on.
pub fn lock_publications(slot: &str) -> String {
    format!(
        "DO $$DECLARE p text; BEGIN FOR p IN SELECT pubname FROM pg_publication WHERE pubname ~ '^{slot}' LOOP
             EXECUTE 'ALTER PUBLICATION ' || p || ' SET (publish_via_partition_root = false)'; END LOOP; END$$;"
    )
}

#[test]
fn publications_in_use_are_left_alone() {
    let server = Server::shared(None);
    let source = Source::new(&server);
    let slot = source.slot();
    let mut holder = OpenSession::new(&server, &source.backwhen.source());
    holder.run(&format!("BEGIN; {}", lock_publications(slot)));
    let began = std::time::Instant::now();
    let told =
        source.run("BEGIN; CREATE TABLE a (i int PRIMARY KEY); CREATE TABLE b (i int PRIMARY KEY); COMMIT");
    assert!(began.elapsed().as_secs() < 3);
    if server.major() < 15 {
        // There, who alters a publication is in nobody's way.
        told.assert_no_trouble();
        assert!(told.table("a").published && told.table("b").published);
        return;
    }
    for name in ["a", "b"] {
        assert!(!told.table(name).published);
    }
    assert!(told.signals[0].trouble.as_deref().unwrap_or_default().contains("public.a is not published"));
    holder.run("ROLLBACK;");
    assert!(source.run("CREATE TABLE c (i int PRIMARY KEY)").table("c").published);
}

#[test]
fn an_update_does_not_fail_for_want_of_an_identity() {
    let source = Source::new(&Server::shared(None));
    let told = source.run(
        "BEGIN; CREATE TABLE t (i int CONSTRAINT k PRIMARY KEY, j int NOT NULL); INSERT INTO t VALUES (1, 1);
         ALTER TABLE t DROP CONSTRAINT k; UPDATE t SET i = 2;
         CREATE UNIQUE INDEX u ON t (j); ALTER TABLE t REPLICA IDENTITY USING INDEX u; UPDATE t SET i = 3;
         DROP INDEX u; UPDATE t SET i = 4; ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET i = 5;
         ALTER TABLE t REPLICA IDENTITY NOTHING; UPDATE t SET i = 6; COMMIT",
    );
    told.assert_no_trouble();
    assert!(told.signals.iter().flat_map(|signal| &signal.tables).all(|table| table.published));
}

/// With a virtual column, the server refuses updates of a table that is published with REPLICA IDENTITY FULL.
#[test]
fn an_update_does_not_fail_for_a_virtual_column() {
    if versions().last().is_none_or(|newest| *newest < 18) {
        return;
    }
    let server = Server::shared(Some(18));
    let database = server.fresh_database("virtual");
    let columns = "(id int, a int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL)";
    server
        .psql(&database, &format!("CREATE TABLE before {columns}; ALTER TABLE before REPLICA IDENTITY FULL"));
    let source = Source::of(&server, &database, &[]);
    let told = source.run(&format!(
        "CREATE TABLE since {columns}; ALTER TABLE since REPLICA IDENTITY FULL;
         INSERT INTO before VALUES (1, 1); INSERT INTO since VALUES (1, 1);
         UPDATE before SET a = 2; UPDATE since SET a = 2; DELETE FROM before; DELETE FROM since;
         ALTER TABLE since DROP COLUMN g; UPDATE since SET a = 2;
         ALTER TABLE since ADD COLUMN g int GENERATED ALWAYS AS (a * 2) VIRTUAL; UPDATE since SET a = 3",
    ));
    told.assert_no_trouble();
    assert_eq!(told.table("since").facts.replica_identity, 'v');
    let checked = source.backwhen.ok(&["check", "--source", &source.backwhen.source()]);
    assert!(checked.contains("it has a virtual column"), "{checked}");
}

#[test]
fn as_a_replica_or_deferrable_nothing_is_different() {
    let source = Source::new(&Server::shared(None));
    let told = source.run("SET session_replication_role = replica; CREATE TABLE r (i int)");
    assert!(told.table("r").published);
    let told = source.run(
        "SET default_transaction_deferrable = on; SET default_transaction_isolation = serializable; CREATE TABLE d (i int)",
    );
    assert!(told.table("d").published);
}

#[test]
fn names_in_other_encodings_come_twice() {
    let server = Server::shared(None);
    for (encoding, name, raw) in [("LATIN1", "Größe", "4772f6df65"), ("SQL_ASCII", "Größe", "4772c3b6c39f65")]
    {
        let database = format!("ddl_{}", encoding.to_lowercase());
        server.psql(
            "postgres",
            &format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"),
        );
        let source = Source::of(&server, &database, &[]);
        let told = source.run(&format!(
            "SET client_encoding = '{}'; CREATE TABLE \"{name}\" AS SELECT '{name}'::text AS \"{name}\"",
            if encoding == "LATIN1" { "UTF8" } else { "SQL_ASCII" }
        ));
        told.assert_no_trouble();
        let table = told.table(name);
        assert_eq!(table.facts.raw_names.as_ref().unwrap().1, raw);
        assert_eq!(table.facts.columns[0].raw_name.as_deref(), Some(raw));
        let line: String = told.rows[&table.facts.oid].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(line, format!("{raw}0a"));
        if encoding == "SQL_ASCII" {
            let told = source.run("DO $$BEGIN EXECUTE 'CREATE TABLE ' || convert_from('\\xff66', 'SQL_ASCII') || ' (i int)'; END$$");
            assert_eq!(told.table("ÿf").facts.raw_names.as_ref().unwrap().1, "ff66");
        }
    }
}

/// A session may recurse until its statement still fits the stack, and what tells it does not.
#[test]
fn no_depth_hides_a_statement() {
    for_each_version(|server| {
        let source = Source::new(server);
        source.run("CREATE TYPE mood AS ENUM ('a')");
        let told = source.run(
            "CREATE FUNCTION deep() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
                 BEGIN PERFORM deep(); RETURN; EXCEPTION WHEN statement_too_complex THEN NULL; END;
                 EXECUTE 'ALTER TYPE mood RENAME VALUE ''a'' TO ''b'''; END $f$;
             SELECT deep()",
        );
        assert!(source.psql("SELECT enum_range(NULL::mood)").contains("{b}"));
        assert_eq!(told.tags(), ["CREATE FUNCTION", "ALTER TYPE"]);
    });
}
