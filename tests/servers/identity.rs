//! `init --full-identity`: tables without a usable key are protected whole, new ones too, and get back what they had.

use crate::ddl_triggers::Source;
use crate::support::shop::{OpenSession, assert_says, assert_source_clean};
use crate::support::{Backwhen, Dump, Server, assert_same, for_each_version, versions};

/// Every kind of table without a usable key, beside some that have one.
const SCHEMA: &str = "
CREATE TABLE keyed (id int PRIMARY KEY, v text);
CREATE TABLE plain (a int, b text);
CREATE TABLE silent (id int PRIMARY KEY, v text); ALTER TABLE silent REPLICA IDENTITY NOTHING;
CREATE TABLE lost (id int NOT NULL, v text); CREATE UNIQUE INDEX lost_id ON lost (id);
ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_id; DROP INDEX lost_id;
CREATE TABLE computed (a int NOT NULL, b int NOT NULL GENERATED ALWAYS AS (a * 2) STORED);
CREATE UNIQUE INDEX computed_b ON computed (b); ALTER TABLE computed REPLICA IDENTITY USING INDEX computed_b;
CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, v text);
CREATE TABLE parts (a int, b text) PARTITION BY RANGE (a);
CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parent (a int, b text); CREATE TABLE child () INHERITS (parent);
CREATE UNLOGGED TABLE fleeting (a int);
INSERT INTO plain VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, NULL), (2, NULL);
INSERT INTO silent VALUES (1, 'x'); INSERT INTO lost VALUES (1, 'x'); INSERT INTO computed VALUES (1), (2);
INSERT INTO late VALUES (1, 'x'), (2, 'y'); INSERT INTO parts VALUES (1, 'x'), (1, 'x'); INSERT INTO child VALUES (1, 'x'), (1, 'x')";

/// The replica identity of each table, as its letter.
fn identities(backwhen: &Backwhen) -> String {
    let sql = "SELECT string_agg(relname || '=' || relreplident, ' ' ORDER BY relname) FROM pg_class \
               WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    backwhen.server().psql(backwhen.database(), sql)
}

fn sql(backwhen: &Backwhen, statements: &str) {
    backwhen.server().psql(backwhen.database(), statements);
}

fn database(server: &Server, schema: &str) -> Backwhen {
    let name = server.fresh_database("identity");
    server.psql(&name, schema);
    Backwhen::new(server, &name).with_env("BACKWHEN_HEARTBEAT", "200ms")
}

fn init(backwhen: &Backwhen) -> serde_json::Value {
    backwhen.json(&["init", "--full-identity", "--source", &backwhen.source()])
}

/// The moment comes back as the source was then, replica identities and all, and everything in it is exact.
#[track_caller]
fn assert_exact(backwhen: &Backwhen, moment: &str, truth: &Dump) {
    let server = backwhen.server();
    let database = server.fresh_database("recovered");
    let report = backwhen.json(&["recover", "--to", moment, "--into", &server.conninfo(&database)]);
    assert_same(truth, &Dump::of(server, &database));
    let unlogged = |it: &&serde_json::Value| it["what"] != "public.fleeting";
    let inexact: Vec<_> = report["inexact"].as_array().unwrap().iter().filter(unlogged).collect();
    assert!(inexact.is_empty(), "{inexact:#?}");
    assert_eq!(report["schema"]["known"], "exactly", "{report}");
    server.psql("postgres", &format!("DROP DATABASE {database}"));
}

/// Changes rows that are equal to others, in old tables and new ones, and keys that come and go.
const STEPS: [&str; 5] = [
    "UPDATE plain SET b = 'y' WHERE ctid = (SELECT min(ctid) FROM plain WHERE a = 1);
     DELETE FROM plain WHERE ctid = (SELECT min(ctid) FROM plain WHERE a = 2);
     UPDATE silent SET v = 'y'; UPDATE lost SET v = 'y'; UPDATE computed SET a = a + 10; DELETE FROM late WHERE id = 1;
     UPDATE parts SET b = 'y' WHERE ctid = (SELECT min(ctid) FROM parts); UPDATE child SET b = 'y'",
    "BEGIN; CREATE TABLE fresh (a int, b text); INSERT INTO fresh VALUES (1, 'x'), (1, 'x');
     DELETE FROM fresh WHERE ctid = (SELECT min(ctid) FROM fresh); COMMIT;
     CREATE TABLE copied AS SELECT * FROM plain; UPDATE copied SET b = 'z';
     CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (10) TO (20); INSERT INTO parts VALUES (11, 'x'), (11, 'x');
     UPDATE parts SET a = 12 WHERE ctid = (SELECT min(ctid) FROM parts_high) AND a = 11;
     ALTER TABLE fleeting SET LOGGED; INSERT INTO fleeting VALUES (1); UPDATE fleeting SET a = 2;
     CREATE TABLE made (id int PRIMARY KEY)",
    "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey; INSERT INTO keyed VALUES (1, 'x'), (1, 'x'); UPDATE keyed SET v = 'y';
     ALTER TABLE fresh ADD PRIMARY KEY (a); UPDATE fresh SET b = 'y';
     ALTER TABLE made DROP CONSTRAINT made_pkey; INSERT INTO made VALUES (1); UPDATE made SET id = 2",
    "ALTER TABLE parts ADD PRIMARY KEY (a, b); UPDATE parts SET a = a + 1 WHERE a < 5;
     ALTER TABLE made ADD PRIMARY KEY (id); DELETE FROM made",
    "ALTER TABLE parts DROP CONSTRAINT parts_pkey; UPDATE parts SET b = 'z'; ALTER TABLE child NO INHERIT parent;
     UPDATE child SET b = 'z'; ALTER TABLE plain RENAME TO renamed; UPDATE renamed SET b = 'r'",
];

#[test]
fn rows_without_a_key_are_exact_and_tables_get_back_what_they_had() {
    for_each_version(|server| {
        let backwhen = database(server, SCHEMA);
        let before =
            "child=d computed=i fleeting=d keyed=d late=d lost=i parent=d parts_low=d plain=d silent=n";
        assert_eq!(identities(&backwhen), before);
        let begun = init(&backwhen);
        assert_eq!(begun["insert_only"], 0, "{begun}");
        let during =
            "child=f computed=f fleeting=d keyed=d late=f lost=f parent=f parts_low=f plain=f silent=f";
        assert_eq!(identities(&backwhen), during);
        let mut moments = Vec::new();
        for step in STEPS {
            sql(&backwhen, step);
            let moment = server.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
            moments.push((moment, identities(&backwhen), Dump::of(server, backwhen.database())));
        }
        assert_says(&moments[1].1, &["fresh=f", "copied=f", "parts_high=f", "fleeting=f", "made=d"]);
        assert_says(&moments[2].1, &["keyed=f", "fresh=d", "made=f"]);
        assert_says(&moments[3].1, &["parts_low=d", "parts_high=d", "made=d"]);
        assert_says(&moments[4].1, &["parts_low=f", "parts_high=f", "renamed=f"]);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        for (moment, _, truth) in &moments {
            assert_exact(&backwhen, moment, truth);
        }
        // The owner has other wishes by now.
        sql(&backwhen, "ALTER TABLE late REPLICA IDENTITY NOTHING; DROP TABLE copied");
        backwhen.ok(&["drop"]);
        let after = "child=d computed=i fleeting=d fresh=d keyed=d late=n lost=n made=d parent=d parts_high=d parts_low=d \
                     renamed=d silent=n";
        assert_eq!(identities(&backwhen), after);
        assert_source_clean(server, backwhen.database());
    });
}
