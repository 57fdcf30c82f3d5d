//! What ordinary roles of the source wrote is replayed with no more rights than they had there, on no server but
//! our own, and whatever it does, the rest is recovered.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::Value;

use crate::support::{Backwhen, Dump, Server, assert_same, compare, versions};

/// A history of a database where `mallory`, who may make tables and nothing else, is at work.
struct Rig {
    source: Server,
    target: Server,
    backwhen: Backwhen,
    mallory: String,
    marker: tempfile::TempDir,
}

impl Rig {
    /// Whose target is the source's own server, where all roles are.
    fn new(version: Option<u32>, before: &str) -> Rig {
        let source = Server::shared(version);
        let database = source.fresh_database("attacked");
        let mallory = format!("mallory_of_{database}");
        let setup = format!(
            "CREATE ROLE {mallory} LOGIN; GRANT CREATE ON SCHEMA public TO {mallory};
             CREATE TABLE public.orders (id int PRIMARY KEY, note text);
             INSERT INTO public.orders SELECT g, 'n' || g FROM generate_series(1, 100) g;"
        );
        source.psql(&database, &setup);
        source.psql(&database, &before.replace("{mallory}", &mallory).replace("{source}", &database));
        let backwhen =
            Backwhen::new(&source, &database).with_env("BACKWHEN_SOURCE", &source.conninfo(&database));
        let backwhen = backwhen.with_env("BACKWHEN_SOMETHING_SECRET", "TOPSECRET");
        backwhen.init();
        let marker = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(marker.path(), Permissions::from_mode(0o777)).unwrap();
        Rig { target: source.clone(), source, backwhen, mallory, marker }
    }

    fn run_as(&self, user: &str, sql: &str) {
        let options = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-", "-U", user];
        let output = self.source.client("psql", self.backwhen.database(), &options, &self.filled(sql));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn run(&self, sql: &str) {
        self.run_as(&self.mallory, sql);
    }

    fn filled(&self, sql: &str) -> String {
        let marker = self.marker.path().join("reached");
        let sql = sql.replace("{mallory}", &self.mallory).replace("{source}", self.backwhen.database());
        sql.replace("{marker}", &marker.display().to_string())
    }

    /// The end of the log, up to which all is captured; no archive has the definitions that it has there.
    fn captured(&self) -> String {
        let head = super::head_before_others(&self.source, self.backwhen.database());
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
        head
    }

    /// Recovers with further arguments into a new database.
    fn recover(&self, to: &str, arguments: &[&str]) -> (Value, Dump) {
        let into = self.target.fresh_database("recovered");
        let target = self.target.conninfo(&into);
        let arguments = [&["recover", "--to", to, "--into", &target], arguments].concat();
        let report = self.backwhen.json_recovered(&arguments);
        (report, Dump::of(&self.target, &into))
    }

    fn truth(&self) -> Dump {
        Dump::of(&self.source, self.backwhen.database())
    }

    /// The schema of now is shown as the source has it, and showing it gave nobody anything.
    fn assert_shown_exactly_and_nothing_gained(&self) {
        let shown = self.backwhen.json(&["show", "schema", "--at", &self.captured()]);
        self.assert_nothing_gained();
        assert_eq!(shown["inexact"], serde_json::json!([]), "{shown}");
        let truth = Dump::with(&self.source, self.backwhen.database(), &["--schema-only"]);
        assert_same(&truth, &Dump::parse(shown["sql"].as_str().unwrap().as_bytes()));
    }

    /// No role, no file: neither here nor there.
    fn assert_nothing_gained(&self) {
        let markers = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'pwned%' \
                       UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE 'mallory%' AND rolsuper";
        for server in [&self.source, &self.target] {
            assert_eq!(server.psql("postgres", markers), "");
        }
        let reached: Vec<_> = std::fs::read_dir(self.marker.path()).unwrap().collect();
        assert!(reached.is_empty(), "{reached:?}");
    }
}

/// On the oldest and on the newest version, or on the one that is chosen.
fn on_both_ends(test: impl Fn(Option<u32>)) {
    let chosen = std::env::var("BACKWHEN_TEST_PG").is_ok_and(|text| !text.is_empty());
    let all = versions();
    let ends = if chosen { vec![None] } else { vec![all.first().copied(), all.last().copied()] };
    for version in ends {
        eprintln!("--- PostgreSQL {version:?}");
        test(version);
    }
}

/// What a session does that wants to be somebody else, and then what only a superuser may. It is quiet on the
/// source, and swallows what fails. The comment would show in what is recovered.
const GAIN: &str = r#"
CREATE FUNCTION public.gain() RETURNS int LANGUAGE plpgsql AS $f$
DECLARE way text; deed text;
BEGIN
  IF current_database() = '{source}' THEN RETURN 1; END IF;
  FOREACH way IN ARRAY ARRAY['SELECT', 'RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT',
      'SET SESSION AUTHORIZATION postgres', 'SET SESSION AUTHORIZATION backwhen_replay', 'SET ROLE postgres',
      'SET ROLE backwhen_replay', 'SET ROLE pg_execute_server_program', 'SET ROLE pg_database_owner',
      'SET session_replication_role = origin', 'ALTER ROLE {mallory} SUPERUSER', 'GRANT postgres TO {mallory}',
      'GRANT pg_execute_server_program TO {mallory}', 'CREATE EXTENSION dblink'] LOOP
    FOREACH deed IN ARRAY ARRAY['CREATE ROLE pwned SUPERUSER', 'COMMENT ON TABLE public.orders IS ''pwned''',
        'COPY (SELECT 1) TO PROGRAM ''echo x > {marker}''', 'COPY (SELECT 1) TO ''{marker}''',
        'ALTER TABLE public.orders OWNER TO {mallory}', 'CREATE SCHEMA pwned', 'ALTER SYSTEM SET work_mem = ''1MB'''] LOOP
      BEGIN
        EXECUTE way;
        EXECUTE deed;
      EXCEPTION WHEN OTHERS THEN NULL;
      END;
    END LOOP;
  END LOOP;
  RETURN 1;
END $f$;
CREATE FUNCTION public.gain_stable() RETURNS int LANGUAGE plpgsql STABLE AS $f$
  BEGIN RETURN (SELECT public.gain()); END $f$;
CREATE FUNCTION public.gain_immutable() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$
  BEGIN RETURN (SELECT public.gain()); END $f$;
"#;

/// What evaluates it when it is replayed, and not when an archive is restored.
const CARRIERS: &str = r#"
CREATE TABLE public.bound (a int PRIMARY KEY) PARTITION BY RANGE (a);
CREATE TABLE public.bound_1 PARTITION OF public.bound FOR VALUES FROM (public.gain()) TO (100);
CREATE TABLE public.listed (a int PRIMARY KEY) PARTITION BY LIST (a);
CREATE TABLE public.listed_1 PARTITION OF public.listed FOR VALUES IN (public.gain());
CREATE TABLE public.added (a int PRIMARY KEY);
ALTER TABLE public.added ADD COLUMN b int DEFAULT public.gain_stable();
ALTER TABLE public.added ADD COLUMN c int DEFAULT public.gain_immutable() + 1;
ALTER TABLE public.added ALTER c TYPE text USING public.gain_immutable()::text;
ALTER TABLE public.added ALTER c SET DEFAULT public.gain_stable();
CREATE TABLE public.copied AS SELECT public.gain() AS a;
ALTER TABLE public.copied ADD PRIMARY KEY (a);
DO $$ BEGIN EXECUTE 'CREATE TABLE public.inner_one PARTITION OF public.bound FOR VALUES FROM (99 + public.gain()) TO (101)'; END $$;
"#;

/// What evaluates it whenever it is made.
const OTHER_CARRIERS: &str = r#"
CREATE TABLE public.computed (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a + public.gain_immutable()) STORED);
ALTER TABLE public.added ADD CONSTRAINT folded CHECK (public.gain_immutable() = 1);
CREATE INDEX ON public.added (a) WHERE public.gain_immutable() = 1;
CREATE INDEX ON public.added ((a + public.gain_immutable()));
CREATE DOMAIN public.checked AS int CHECK (public.gain() = 1);
CREATE TABLE public.of_domain (a public.checked[] DEFAULT '{1}', b public.checked DEFAULT 1);
ALTER TABLE public.of_domain ADD COLUMN c public.checked DEFAULT 1;
CREATE TYPE public.pair AS (a public.checked);
CREATE VIEW public.seen AS SELECT '(1)'::public.pair AS p;
CREATE MATERIALIZED VIEW public.filled AS SELECT public.gain() AS a;
"#;

#[test]
fn what_a_role_wrote_gains_nothing_and_comes_back_exactly() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run(GAIN);
        rig.run(CARRIERS);
        let (report, recovered) = rig.recover(&rig.captured(), &[]);
        rig.assert_nothing_gained();
        assert_eq!(report["inexact"], serde_json::json!([]), "{report}");
        assert_same(&rig.truth(), &recovered);
    });
}

#[test]
fn nor_where_the_target_has_no_such_role() {
    on_both_ends(|version| {
        let mut rig = Rig::new(version, "");
        rig.target = Server::start(version);
        rig.run(GAIN);
        rig.run(CARRIERS);
        let head = rig.captured();
        let into = rig.target.conninfo(&rig.target.fresh_database("recovered"));
        let report =
            rig.backwhen.json_incomplete(&["recover", "--to", &head, "--into", &into, "--schema-only"]);
        rig.assert_nothing_gained();
        let roles = |it: &Value| it["what"].as_str().unwrap().starts_with("ROLE ");
        assert!(report["inexact"].as_array().unwrap().iter().all(roles), "{report}");
    });
}

#[test]
fn whatever_evaluates_it_nothing_is_gained_on_the_server_of_our_own() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run(GAIN);
        rig.run(CARRIERS);
        rig.run(OTHER_CARRIERS);
        rig.assert_shown_exactly_and_nothing_gained();
    });
}

/// There is no second try as somebody else.
#[test]
fn a_refusal_that_a_role_makes_up_is_left_out_and_named() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run(
            r#"CREATE FUNCTION public.refuse() RETURNS int LANGUAGE plpgsql AS $f$
               BEGIN
                 IF current_database() = '{source}' THEN RETURN 1; END IF;
                 IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                   RAISE insufficient_privilege;
                 END IF;
                 EXECUTE 'CREATE ROLE pwned SUPERUSER';
                 RETURN 1;
               END $f$;
               CREATE TABLE public.p (a int) PARTITION BY RANGE (a);
               CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (public.refuse()) TO (100);
               CREATE TABLE public.honest (id int PRIMARY KEY); INSERT INTO public.honest VALUES (1)"#,
        );
        let (report, recovered) = rig.recover(&rig.captured(), &[]);
        rig.assert_nothing_gained();
        assert_named(&report, "public.p_1", "failed on the scratch server");
        assert_eq!(report["proved"], true);
        let differences = compare(&rig.truth(), &recovered);
        assert!(differences.iter().all(|it| format!("{it:?}").contains("p_1")), "{differences:?}");
    });
}

/// A statement that fails gives its tables their columns by our own hand: that must not run what the role wrote.
#[test]
fn mending_a_table_runs_nothing_as_anybody_else() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run(GAIN);
        rig.run(
            r#"CREATE FUNCTION public.fail() RETURNS text LANGUAGE plpgsql AS $f$
               BEGIN IF current_database() <> '{source}' THEN RAISE 'no'; END IF; RETURN 'x'; END $f$;
               CREATE TABLE public.mended (a int, CHECK (public.gain_immutable() = 1 AND a IS NOT NULL));
               ALTER TABLE public.mended ALTER a TYPE text USING public.fail()"#,
        );
        // Nothing of the table's makes the statement fail but the replay itself.
        rig.run(
            r#"CREATE FUNCTION public.fail_again() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$
               BEGIN RETURN public.fail(); END $f$;
               CREATE TABLE public.mended_too (a int, CHECK (public.gain_immutable() = 1 AND a IS NOT NULL));
               BEGIN; ALTER TABLE public.mended_too ADD b text DEFAULT public.fail_again(), ALTER a TYPE text; COMMIT"#,
        );
        let (report, recovered) = rig.recover(&rig.captured(), &["--schema-only"]);
        rig.assert_nothing_gained();
        assert_named(&report, "public.mended_too", "failed on the scratch server");
        let orders = |dump: &Dump| {
            dump.schema
                .iter()
                .find(|(name, _)| name.as_str() == "TABLE public.orders")
                .map(|it| format!("{it:?}"))
        };
        assert_eq!(orders(&rig.truth()), orders(&recovered));
        assert!(!format!("{:?}", recovered.schema).contains("pwned"));
    });
}

#[test]
fn what_does_not_end_or_breaks_off_is_left_out_and_the_rest_comes_back() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        let bounds = [
            ("slept", "PERFORM pg_sleep(1000)"),
            // It does not let itself be cancelled.
            (
                "looped",
                "SET statement_timeout = 0; LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP",
            ),
            ("left", "PERFORM pg_terminate_backend(pg_backend_pid())"),
            ("blamed", "RAISE 'the disk is full' USING ERRCODE = '53100'"),
            ("broken", "RAISE 'connection lost' USING ERRCODE = '08006'"),
            ("cancelled", "RAISE query_canceled"),
        ];
        for (name, how) in bounds {
            rig.run(&format!(
                "CREATE FUNCTION public.{name}() RETURNS int LANGUAGE plpgsql AS $f$
                 BEGIN IF current_database() <> '{{source}}' THEN {how}; END IF; RETURN 1; END $f$;
                 CREATE TABLE public.p_{name} (a int) PARTITION BY RANGE (a);
                 CREATE TABLE public.p_{name}_1 PARTITION OF public.p_{name} FOR VALUES FROM (public.{name}()) TO (9)"
            ));
        }
        rig.run("CREATE TABLE public.honest (id int PRIMARY KEY); INSERT INTO public.honest VALUES (1)");
        let (report, recovered) = rig.recover(&rig.captured(), &["--replay-timeout", "1"]);
        for (name, _) in bounds {
            assert_named(&report, &format!("public.p_{name}_1"), "failed on the scratch server");
        }
        assert_named(&report, "public.p_slept_1", "was stopped after 1.0 s");
        assert_eq!(
            (&report["proved"], &report["schema"]["statements"]),
            (&true.into(), &bounds.len().into())
        );
        let differences = compare(&rig.truth(), &recovered);
        assert!(differences.iter().all(|it| format!("{it:?}").contains("_1")), "{differences:?}");
    });
}

#[test]
fn honest_statements_of_roles_come_back_exactly() {
    on_both_ends(|version| {
        let rig = Rig::new(
            version,
            "CREATE ROLE {mallory}_team; GRANT {mallory}_team TO {mallory}; CREATE ROLE {mallory}_owner LOGIN;
             CREATE SCHEMA shared AUTHORIZATION {mallory}_team; CREATE TABLE shared.old (id int PRIMARY KEY);
             ALTER TABLE shared.old OWNER TO {mallory}_team; ALTER DATABASE {source} OWNER TO {mallory}_owner",
        );
        // Nothing tells of it.
        rig.run_as("postgres", "GRANT CREATE ON DATABASE {source} TO {mallory}");
        rig.run(
            "CREATE SCHEMA own CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT upper('x'));
             CREATE TABLE shared.new (id serial PRIMARY KEY, at timestamptz DEFAULT now()); ALTER TABLE shared.old ADD v text;
             ALTER TABLE shared.new OWNER TO {mallory}_team; CREATE VIEW own.w AS SELECT id FROM own.t;
             CREATE TABLE own.like_it (LIKE shared.new INCLUDING ALL);
             ALTER SCHEMA own RENAME TO mine; GRANT USAGE ON SCHEMA mine TO {mallory}_owner;
             SET ROLE {mallory}_team; CREATE FUNCTION shared.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET ROLE;
             CREATE PUBLICATION own_pub FOR TABLE mine.t; INSERT INTO mine.t VALUES (1)",
        );
        rig.run_as(&format!("{}_owner", rig.mallory), "CREATE SCHEMA of_owner");
        rig.run_as(
            "postgres",
            "CREATE FUNCTION public.internal(int) RETURNS int LANGUAGE internal AS 'int4abs'; CREATE TABLE public.dba (a int PRIMARY KEY);
             ALTER TABLE public.dba OWNER TO {mallory}_owner; CREATE CAST (int AS point) WITH INOUT",
        );
        let (report, recovered) = rig.recover(&rig.captured(), &[]);
        // No event trigger tells of the GRANT, and a recovery gives the database the privileges of the archive.
        let inexact = report["inexact"].as_array().unwrap();
        assert_eq!(inexact.len(), 1, "{report}");
        assert_named(&report, "database", "privileges not as in the source");
        assert_same(&rig.truth(), &recovered);
    });
}

/// What a superuser of the source ran is replayed as a superuser of a server that is shut in, and sees no secret.
#[test]
fn even_a_superuser_of_the_source_reaches_nothing_here() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run_as(
            "postgres",
            r#"CREATE TABLE public.told (a int);
               CREATE FUNCTION public.tell() RETURNS int LANGUAGE plpgsql AS $f$
               BEGIN
                 IF current_database() = '{source}' THEN RETURN 1; END IF;
                 CREATE TEMP TABLE lines (line text);
                 COPY lines FROM PROGRAM
                   '(echo uid $(id -u); env; cat /etc/passwd; echo x > {marker}; ls -a /; ps ax) 2>&1 | tr -d "\\\\"; true';
                 EXECUTE format('COMMENT ON TABLE public.told IS %L', (SELECT string_agg(line, E'\n') FROM lines));
                 RETURN 1;
               END $f$;
               CREATE TABLE public.p (a int) PARTITION BY RANGE (a);
               CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (public.tell()) TO (100)"#,
        );
        let shown = rig.backwhen.json(&["show", "schema", "--at", &rig.captured()]);
        let (sql, notes) = (shown["sql"].as_str().unwrap(), shown["notes"].to_string());
        assert!(sql.contains("COMMENT ON TABLE public.told IS 'uid "), "programs were tried: {sql} {shown}");
        for secret in ["TOPSECRET", "BACKWHEN_", "user=postgres"] {
            assert!(!sql.contains(secret), "{secret} in {sql}");
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        let uid = sql.split("IS 'uid ").nth(1).unwrap().lines().next().unwrap();
        if rig.marker.path().metadata().unwrap().uid() == 0 {
            let named = users.lines().any(|line| line.split(':').nth(2) == Some(uid));
            assert!(!named && uid != "0", "uid {uid} is somebody's");
        }
        if !notes.contains("Landlock") {
            assert!(!sql.contains("root:x:0"), "{sql}");
            rig.assert_nothing_gained();
        }
    });
}

fn assert_named(report: &Value, what: &str, why: &str) {
    let named = |it: &&Value| it["what"] == what && it["why"].as_str().is_some_and(|said| said.contains(why));
    let inexact = report["inexact"].as_array().expect("a list");
    assert!(inexact.iter().any(|it| named(&it)), "{what}: {why} is not in {report}");
}

/// What a role made before the checkpoint is evaluated when its archive is restored.
#[test]
fn what_is_in_the_archive_gains_nothing_on_the_server_of_our_own() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run(GAIN);
        rig.run(CARRIERS);
        rig.run(OTHER_CARRIERS);
        rig.run(
            "CREATE FUNCTION public.atomic(a int) RETURNS int BEGIN ATOMIC SELECT public.gain() + a; END;
             CREATE FUNCTION public.of_set(OUT a int, OUT b text) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1, NULL::text';
             CREATE PROCEDURE public.act(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x + 1; END $$;
             CREATE FUNCTION public.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER fired BEFORE INSERT ON public.added FOR EACH ROW EXECUTE FUNCTION public.fired();
             CREATE AGGREGATE public.total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
        );
        rig.run_as(
            "postgres",
            "CREATE FUNCTION public.dba_only() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$",
        );
        rig.backwhen.ok(&["capture", "--until", "caught-up"]);
        rig.backwhen.ok(&["checkpoint", "--from-source"]);
        rig.run("CREATE TABLE public.afterwards (id int PRIMARY KEY)");
        rig.assert_shown_exactly_and_nothing_gained();
    });
}

/// What a superuser made for everybody runs whatever is given to it.
#[test]
fn a_helper_of_a_superuser_runs_nothing_for_others_while_the_archive_is_restored() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "");
        rig.run_as(
            "postgres",
            "CREATE FUNCTION public.run(what text) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN EXECUTE what; RETURN 1; END $f$",
        );
        let planted = "CREATE OR REPLACE FUNCTION public.planted() RETURNS text LANGUAGE sql SECURITY DEFINER AS ''SELECT current_user::text''";
        rig.run(&format!(
            "CREATE DOMAIN public.plants AS int CHECK (current_database() = '{{source}}' OR public.run('{planted}') = 1);
             CREATE TABLE public.planting (id int PRIMARY KEY, a public.plants[] DEFAULT '{{1}}')"
        ));
        rig.backwhen.ok(&["capture", "--until", "caught-up"]);
        rig.backwhen.ok(&["checkpoint", "--from-source"]);
        rig.run("CREATE TABLE public.afterwards (id int PRIMARY KEY)");
        let shown = rig.backwhen.json(&["show", "schema", "--at", &rig.captured()]);
        let truth = Dump::with(&rig.source, rig.backwhen.database(), &["--schema-only"]);
        assert_same(&truth, &Dump::parse(shown["sql"].as_str().unwrap().as_bytes()));
    });
}

/// The server names a function in SQL without its schema.
#[test]
fn another_roles_function_of_the_same_name_is_not_what_ran() {
    on_both_ends(|version| {
        let rig = Rig::new(version, "GRANT CREATE ON DATABASE {source} TO {mallory}");
        rig.run_as(
            "postgres",
            "CREATE FUNCTION public.make_index() RETURNS void LANGUAGE sql AS 'CREATE INDEX ON public.orders (note)'",
        );
        rig.run(
            "CREATE SCHEMA hers;
             CREATE FUNCTION hers.mine(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN $1; END $f$;
             CREATE FUNCTION hers.make_index() RETURNS void LANGUAGE sql AS
                 'CREATE INDEX orders_note_idx ON public.orders (hers.mine(note))'",
        );
        rig.backwhen.ok(&["capture", "--until", "caught-up"]);
        rig.backwhen.ok(&["checkpoint", "--from-source"]);
        rig.run_as("postgres", "SELECT public.make_index()");
        let shown = rig.backwhen.json(&["show", "schema", "--at", &rig.captured()]);
        let truth = Dump::with(&rig.source, rig.backwhen.database(), &["--schema-only"]);
        assert_same(&truth, &Dump::parse(shown["sql"].as_str().unwrap().as_bytes()));
    });
}

/// Nor need what a role wrote end.
#[test]
fn a_checkpoint_that_cannot_be_restored_does_not_hang() {
    let rig = Rig::new(None, "");
    rig.run_as(
        "postgres",
        "CREATE DOMAIN public.waits AS int CHECK (current_database() = '{source}' OR pg_sleep(1000)::text = '');
         CREATE TABLE public.waiting (id int PRIMARY KEY, a public.waits[] DEFAULT '{1}')",
    );
    rig.captured();
    rig.backwhen.ok(&["checkpoint", "--from-source"]);
    rig.run("CREATE TABLE public.honest (id int PRIMARY KEY)");
    let message =
        rig.backwhen.fails(10, &["show", "schema", "--at", &rig.captured(), "--replay-timeout", "1"]);
    assert!(message.contains("pg_restore failed"), "{message}");
}

/// Never on the target's server, whatever is missing here.
#[test]
fn without_server_programs_nothing_is_replayed_and_what_to_install_is_said() {
    let rig = Rig::new(None, "");
    let Some(bin) = rig.source.bin() else { return };
    rig.run("CREATE TABLE public.later (id int PRIMARY KEY)");
    let head = rig.captured();
    let folder = rig.backwhen.folder().join("clients");
    std::fs::create_dir(&folder).unwrap();
    for name in ["pg_dump", "pg_restore", "pg_dumpall"] {
        let script = format!("#!/bin/sh\nexec '{}' \"$@\"\n", bin.join(name).display());
        std::fs::write(folder.join(name), script).unwrap();
        std::fs::set_permissions(folder.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let (clients, into) = (folder.to_str().unwrap(), rig.target.conninfo("never_made"));
    let arguments = ["recover", "--to", &head, "--create", "--into", &into, "--pg-bin", clients];
    let message = rig.backwhen.fails(14, &arguments);
    for piece in ["apt-get install postgresql-", "--scratch CONN"] {
        assert!(message.contains(piece), "no {piece} in: {message}");
    }
    let made = "SELECT count(*) FROM pg_database WHERE datname LIKE 'never_made%'";
    assert_eq!(rig.target.psql("postgres", made), "0");
}
