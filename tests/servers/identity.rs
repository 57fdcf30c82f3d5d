//! `init --full-identity`: tables without a usable key are protected whole, new ones too, and get back what they had.

use crate::ddl_triggers::Source;
use crate::support::shop::{OpenSession, assert_says, assert_source_clean};
use crate::support::{Backwhen, Dump, Server, assert_same, for_each_version};

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
    let sql = "SELECT string_agg(relname || '=' || relreplident::text, ' ' ORDER BY relname) FROM pg_class \
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

/// A role like the main one of a managed service may make no event trigger; capture treats new tables then.
#[test]
fn without_event_triggers_capture_treats_new_tables() {
    let server = Server::shared(None);
    let backwhen = database(&server, "CREATE TABLE plain (a int); INSERT INTO plain VALUES (1), (1)");
    let owner = format!("{}_owner", backwhen.database());
    let owned = format!(
        "CREATE ROLE {owner} LOGIN REPLICATION; ALTER TABLE plain OWNER TO {owner};
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO {owner}', current_database()); END $$"
    );
    sql(&backwhen, &owned);
    let source = backwhen.source().replace("user=postgres", &format!("user={owner}"));
    backwhen.ok(&["init", "--full-identity", "--source", &source]);
    assert_eq!(identities(&backwhen), "plain=f");
    let mut capture = backwhen.spawn_capture();
    capture.wait_caught_up();
    sql(&backwhen, &format!("SET ROLE {owner}; CREATE TABLE late (a int); INSERT INTO late VALUES (1), (1)"));
    server.wait_until(backwhen.database(), "SELECT relreplident = 'f' FROM pg_class WHERE relname = 'late'");
    capture.wait_for_checkpoints(2);
    for table in ["plain", "late"] {
        sql(&backwhen, &format!("UPDATE {table} SET a = 2 WHERE ctid = (SELECT min(ctid) FROM {table})"));
    }
    capture.wait_caught_up();
    capture.stop();
    assert_exact(&backwhen, "latest", &Dump::of(&server, backwhen.database()));
    backwhen.ok(&["drop"]);
    assert_eq!(identities(&backwhen), "late=d plain=d");
    assert_source_clean(&server, backwhen.database());
}

/// Every command that names insert-only tables names the one command that mends them, also for a history that exists.
#[test]
fn one_command_mends_a_history_that_exists() {
    let server = Server::shared(None);
    let backwhen = database(&server, "CREATE TABLE plain (a int); CREATE TABLE keyed (a int PRIMARY KEY)");
    sql(&backwhen, "INSERT INTO plain VALUES (1), (1)");
    let command = "backwhen init --full-identity";
    assert_says(&backwhen.ok(&["check", "--source", &backwhen.source()]), &["public.plain", command]);
    let begun = backwhen.run(&["init", "--source", &backwhen.source()]);
    assert_says(&begun.stderr, &["1 table is insert-only", command]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_says(&backwhen.ok(&["status"]), &["1 table is insert-only", command]);
    assert_eq!(backwhen.json(&["status"])["insert_only"], 1);
    let into = server.conninfo(&server.fresh_database("recovered"));
    assert_says(&backwhen.run(&["recover", "--to", "latest", "--into", &into]).stderr, &[command]);

    // A session that reads the table is in the way, and is waited for in vain.
    let mut reader = OpenSession::new(&server, &backwhen.source());
    reader.run("BEGIN; SELECT * FROM plain;");
    let waiting = backwhen.run(&["init", "--full-identity"]);
    assert!(waiting.status.success(), "{}", waiting.stderr);
    assert_says(&waiting.stderr, &["not yet: public.plain", "pg_locks", "capture tries again"]);
    drop(reader);
    let report = backwhen.json(&["init", "--full-identity"]);
    assert_eq!((&report["changed"], &report["refused"]), (&1.into(), &serde_json::json!([])), "{report}");
    assert_eq!(backwhen.json(&["init", "--full-identity"])["changed"], 0);
    sql(&backwhen, "UPDATE plain SET a = 2 WHERE ctid = (SELECT min(ctid) FROM plain)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_exact(&backwhen, "latest", &Dump::of(&server, backwhen.database()));
    assert_eq!(backwhen.json(&["status"])["insert_only"], 0);

    let mut reader = OpenSession::new(&server, &backwhen.source());
    reader.run("BEGIN; SELECT * FROM plain;");
    assert_says(&backwhen.fails(13, &["drop"]), &["public.plain on the source still has", "pg_locks"]);
    drop(reader);
    backwhen.ok(&["drop"]);
    assert_eq!(identities(&backwhen), "keyed=d plain=d");
    assert_source_clean(&server, backwhen.database());
}

/// An owner's choice that came after ours stands, until somebody gives the command again.
#[test]
fn what_an_owner_has_chosen_since_is_left_alone() {
    let server = Server::shared(None);
    let backwhen = database(&server, "CREATE TABLE plain (a int)");
    init(&backwhen);
    sql(&backwhen, "ALTER TABLE plain REPLICA IDENTITY NOTHING; ALTER TABLE plain ADD b int");
    assert_eq!(identities(&backwhen), "plain=n");
    // As after a crash of the server, which empties the event triggers' table.
    let emptied = "DO $$ BEGIN EXECUTE (SELECT format('DELETE FROM backwhen.%I', relname) FROM pg_class
        WHERE relnamespace = 'backwhen'::regnamespace AND relkind = 'r'); END $$";
    sql(&backwhen, emptied);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    sql(&backwhen, "CREATE TABLE late (a int)");
    assert_eq!(identities(&backwhen), "late=f plain=n");
    assert_eq!(backwhen.json(&["init", "--full-identity"])["changed"], 1);
    backwhen.ok(&["drop"]);
    assert_eq!(identities(&backwhen), "late=d plain=n");
}

#[test]
fn a_killed_init_is_taken_back_by_the_next_command() {
    let server = Server::shared(None);
    let backwhen = database(&server, "CREATE TABLE plain (a int)");
    let source = backwhen.source();
    for point in ["init.publications", "init.manifest"] {
        backwhen.dies(point, &["init", "--full-identity", "--source", &source]);
        assert_eq!(identities(&backwhen), "plain=f");
        backwhen.ok(&["init", "--source", &source]);
        assert_eq!(identities(&backwhen), "plain=d");
        backwhen.ok(&["drop"]);
        assert_source_clean(&server, backwhen.database());
        std::fs::remove_dir_all(backwhen.history()).unwrap();
    }
    // The history is gone, and only the source knows what the table had.
    init(&backwhen);
    std::fs::remove_dir_all(backwhen.history()).unwrap();
    let slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()";
    let slot = server.psql(backwhen.database(), slots);
    backwhen.ok(&["drop", "--force", "--slot", &slot, "--source", &source]);
    assert_eq!(identities(&backwhen), "plain=d");
    assert_source_clean(&server, backwhen.database());
}

/// Two histories of one database: the one that is dropped takes nothing from the other.
#[test]
fn another_history_keeps_what_it_needs() {
    let server = Server::shared(None);
    let first = database(&server, "CREATE TABLE plain (a int); INSERT INTO plain VALUES (1), (1)");
    let second = Backwhen::new(&server, first.database());
    init(&first);
    init(&second);
    sql(&first, "CREATE TABLE pair (a int)");
    first.ok(&["drop"]);
    assert_eq!(identities(&second), "pair=f plain=f");
    sql(
        &second,
        "UPDATE plain SET a = 2 WHERE ctid = (SELECT min(ctid) FROM plain); INSERT INTO pair VALUES (1)",
    );
    second.ok(&["capture", "--until", "caught-up"]);
    assert_exact(&second, "latest", &Dump::of(&server, second.database()));
    second.ok(&["drop"]);
    assert_eq!(identities(&second), "pair=d plain=d");
}

/// With a virtual column, a published table with REPLICA IDENTITY FULL refuses each update.
#[test]
fn a_table_with_a_virtual_column_goes_on_taking_updates() {
    let server = Server::shared(None);
    if server.major() < 18 {
        return;
    }
    let virtual_column = "v int GENERATED ALWAYS AS (a * 2) VIRTUAL";
    let backwhen =
        database(&server, &format!("CREATE TABLE old (a int, {virtual_column}); CREATE TABLE plain (a int)"));
    sql(&backwhen, "INSERT INTO old VALUES (1); INSERT INTO plain VALUES (1)");
    init(&backwhen);
    sql(
        &backwhen,
        &format!("ALTER TABLE plain ADD {virtual_column}; CREATE TABLE late (a int, {virtual_column})"),
    );
    sql(&backwhen, "UPDATE old SET a = 2; UPDATE plain SET a = 2; UPDATE late SET a = 2");
    assert_eq!(identities(&backwhen), "late=d old=d plain=d");
    sql(&backwhen, "ALTER TABLE plain DROP v; UPDATE plain SET a = 3");
    assert_eq!(identities(&backwhen), "late=d old=d plain=f");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    assert_eq!(backwhen.json(&["status"])["insert_only"], 2);
}

/// The application's event triggers do not see our statements, and nothing is told of them but the tables' state.
#[test]
fn within_a_statement_nobody_notices() {
    for_each_version(|server| {
        let name = server.fresh_database("noticed");
        let backwhen = Source::of(server, &name, &["--full-identity"]);
        server.psql("postgres", &format!("DROP ROLE IF EXISTS app_{name}; CREATE ROLE app_{name}"));
        backwhen.run(&format!(
            "CREATE TABLE seen (tag text, who text); ALTER TABLE seen REPLICA IDENTITY NOTHING;
             GRANT INSERT ON seen TO PUBLIC; GRANT ALL ON SCHEMA public TO app_{name};
             CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS $$
                 BEGIN INSERT INTO public.seen VALUES (tg_tag, current_user); END $$;
             CREATE EVENT TRIGGER watch_start ON ddl_command_start EXECUTE FUNCTION see();
             CREATE EVENT TRIGGER watch_end ON ddl_command_end EXECUTE FUNCTION see()"
        ));
        backwhen.psql("DELETE FROM seen");
        let told = backwhen.run(&format!(
            "SET ROLE app_{name}; CREATE TABLE t (a int); ALTER TABLE t ADD PRIMARY KEY (a); ALTER TABLE t DROP CONSTRAINT t_pkey"
        ));
        told.assert_no_trouble();
        assert_eq!(told.tags(), ["CREATE TABLE", "ALTER TABLE", "ALTER TABLE"]);
        let told_as: Vec<_> = told.signals.iter().map(|it| it.tables[0].facts.replica_identity).collect();
        assert_eq!(told_as, ['f', 'd', 'f']);
        assert!(
            told.signals.iter().all(|it| it.statement.role == format!("app_{name}")),
            "{:?}",
            told.signals
        );
        let seen = "SELECT string_agg(DISTINCT tag || ' ' || who, ', ' ORDER BY tag || ' ' || who) FROM seen";
        let expected = format!("ALTER TABLE app_{name}, CREATE TABLE app_{name}");
        assert_eq!(backwhen.psql(seen), expected);
    });
}
