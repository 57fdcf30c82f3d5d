//! Objects that need something which the target's server does not have: tablespaces, roles, collations, extensions.

use super::{protected, recover};
use crate::support::{Dump, Server, assert_same};

/// A server with a tablespace and a role that no other has.
fn richer() -> Server {
    let server = Server::start(None);
    let statements =
        ["SET allow_in_place_tablespaces = on; CREATE TABLESPACE fast LOCATION ''", "CREATE ROLE keeper"];
    for statement in statements.iter().flat_map(|text| text.split("; ")) {
        let both = format!("SET allow_in_place_tablespaces = on;\n{statement}");
        server.psql("postgres", &both);
    }
    server
}

#[test]
fn a_tablespace_that_the_target_lacks() {
    let (server, target) = (richer(), Server::shared(None));
    let backwhen = protected(
        &server,
        "spaces",
        "CREATE TABLE ft (id int PRIMARY KEY, v text DEFAULT 'q') TABLESPACE fast; INSERT INTO ft VALUES (1);
         CREATE TABLE plain (v text); CREATE INDEX fi ON plain (v) TABLESPACE fast",
    );
    // Made since, so that it is replayed.
    server.psql(
        backwhen.database(),
        "CREATE TABLE since (id int PRIMARY KEY, v text NOT NULL) TABLESPACE fast",
    );
    server.psql(backwhen.database(), "INSERT INTO since VALUES (1, 'x')");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let done = recover(&backwhen, &target, &["latest"]);
    done.names(&[
        "tablespace of TABLE public.ft",
        "tablespace of TABLE public.since",
        "tablespace of INDEX public.fi",
    ]);
    done.why("the target has no tablespace fast");
    assert!(done.sql.contains("ALTER TABLE public.ft SET TABLESPACE \"fast\";"), "{}", done.sql);
    assert_eq!(target.psql(&done.database, "SELECT count(*) FROM ft JOIN since USING (id)"), "1");
    assert_eq!(done.report["schema"]["known"], "exactly", "{}", done.report);
    done.names_each_once();
}

#[test]
fn roles_that_the_target_lacks() {
    let (server, target) = (richer(), Server::shared(None));
    let backwhen = protected(
        &server,
        "owned",
        "CREATE TABLE kept (id int PRIMARY KEY); ALTER TABLE kept OWNER TO keeper; INSERT INTO kept VALUES (1);
         CREATE POLICY mine ON kept TO keeper USING (true)",
    );
    let into = target.conninfo("foreseen");
    let plan = backwhen.json(&["recover", "--to", "latest", "--dry-run", "--create", "--into", &into]);
    let done = recover(&backwhen, &target, &["latest"]);
    assert_eq!(plan["left_out"], done.report["left_out"], "it is foreseen");
    done.names(&["ROLE keeper", "POLICY public.kept mine"]);
    done.why("no role keeper");
    assert!(done.sql.contains("CREATE POLICY mine"), "{}", done.sql);
    assert_eq!(target.psql(&done.database, "SELECT count(*) FROM kept"), "1");
}

/// Other roles own and are granted the same as on the source, and the file gives the missing role all that was its own.
#[test]
fn a_missing_role_costs_only_what_was_its_own() {
    let (server, target) = (richer(), Server::start(None));
    server.psql("postgres", "CREATE ROLE app");
    target.psql("postgres", "CREATE ROLE app");
    let backwhen = protected(
        &server,
        "mixed",
        "CREATE TABLE kept (id serial PRIMARY KEY); INSERT INTO kept DEFAULT VALUES; CREATE TABLE used (id int PRIMARY KEY);
         CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'; CREATE INDEX by_twice ON kept (twice(id));
         CREATE SCHEMA box; CREATE TABLE box.inner_one (id int PRIMARY KEY); CREATE TYPE mood AS ENUM ('glad');
         CREATE MATERIALIZED VIEW seen AS SELECT twice(id) AS n FROM kept;
         GRANT SELECT ON kept TO app; GRANT SELECT ON used TO keeper, app; GRANT INSERT ON used TO app WITH GRANT OPTION;
         ALTER TABLE kept OWNER TO keeper; ALTER FUNCTION twice OWNER TO keeper; ALTER SCHEMA box OWNER TO keeper;
         ALTER TABLE box.inner_one OWNER TO keeper; ALTER TYPE mood OWNER TO keeper; ALTER MATERIALIZED VIEW seen OWNER TO keeper;
         ALTER TABLE used OWNER TO app; ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO keeper;
         ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON SEQUENCES TO app",
    );
    let into = target.conninfo("foreseen");
    let plan = backwhen.json(&["recover", "--to", "latest", "--dry-run", "--create", "--into", &into]);
    let done = recover(&backwhen, &target, &["latest"]);
    done.names(&["ROLE keeper"]);
    assert_eq!(plan["left_out"], done.report["left_out"], "it is foreseen");
    done.why("--create-roles");
    let owners =
        "SELECT string_agg(relname || ' ' || relowner::regrole::text, ', ' ORDER BY relname) FROM pg_class
                  WHERE relname IN ('kept', 'used')";
    let stand_in = format!("backwhen_owner_of_{}", done.database);
    assert_eq!(target.psql(&done.database, owners), format!("kept {stand_in}, used app"));
    target.psql("postgres", "CREATE ROLE keeper");
    target.psql(&done.database, &done.sql);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&target, &done.database));
}

/// A collation that is not on the target, as after a change of the operating system, and a library.
#[test]
fn collations_and_libraries_that_the_target_lacks() {
    let server = Server::shared(None);
    let backwhen = protected(
        &server,
        "lacking",
        "CREATE COLLATION odd (provider = libc, locale = 'C'); CREATE TABLE words (id int PRIMARY KEY, w text COLLATE odd NOT NULL);
         INSERT INTO words VALUES (1, 'a'), (2, 'b'); CREATE VIEW shown AS SELECT id FROM words; CREATE TABLE fine (id int PRIMARY KEY);
         UPDATE pg_collation SET collcollate = 'xx_XX', collctype = 'xx_XX' WHERE collname = 'odd';
         CREATE FUNCTION linked() RETURNS trigger LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
         CREATE TABLE watched (id int PRIMARY KEY); INSERT INTO watched VALUES (1);
         CREATE TRIGGER t BEFORE DELETE ON watched FOR EACH ROW EXECUTE FUNCTION linked();
         UPDATE pg_proc SET probin = '$libdir/nowhere' WHERE proname = 'linked'",
    );
    let done = recover(&backwhen, &server, &["latest"]);
    done.names(&[
        "COLLATION public.odd",
        "FUNCTION public.linked()",
        "TABLE public.words",
        "TRIGGER public.watched t",
    ]);
    done.differs_in(&[
        "COLLATION public.odd",
        "FUNCTION public.linked()",
        "TABLE public.words",
        "TRIGGER public.watched t",
    ]);
    assert_eq!(server.psql(&done.database, "SELECT string_agg(w, '' ORDER BY id) FROM words"), "ab");
    done.names_each_once();
}

/// An extension that only a superuser may make; one that somebody has made before does not count.
#[test]
fn extensions_that_the_recovering_role_may_not_make() {
    let server = Server::start(None);
    let backwhen = protected(
        &server,
        "extended",
        "CREATE EXTENSION file_fdw; CREATE EXTENSION citext; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE TABLE names (id int PRIMARY KEY, n citext, v text); INSERT INTO names VALUES (1, 'A', 'b');
         CREATE TABLE plain (id int PRIMARY KEY)",
    );
    server.psql("postgres", "CREATE ROLE humble LOGIN CREATEDB");
    server.psql("postgres", "CREATE DATABASE bare OWNER humble TEMPLATE template0");
    let as_humble = |name: &str| server.conninfo(name).replace("user=postgres", "user=humble");
    let output =
        backwhen.run(&["recover", "--to", "latest", "--into", &as_humble("bare"), "--output", "json"]);
    assert_eq!(output.status.code(), Some(15), "{}", output.stderr);
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let left_out = report["left_out"].to_string();
    for what in ["EXTENSION file_fdw", "SERVER files"] {
        assert!(left_out.contains(&format!("\"{what}\"")), "{left_out}");
    }
    assert_eq!(server.psql("bare", "SELECT n = 'a', v FROM names"), "t|b");

    // A table that needs nothing of it is whole.
    let into = as_humble("one");
    server.psql("postgres", "GRANT postgres TO humble; ALTER ROLE humble NOINHERIT");
    let arguments = ["recover", "--to", "latest", "--table", "names", "--create", "--into", &into];
    assert_eq!(backwhen.json(&arguments)["left_out"], serde_json::json!([]));

    server.psql("postgres", "CREATE DATABASE ready TEMPLATE template0");
    server.psql("ready", "CREATE EXTENSION file_fdw; CREATE EXTENSION citext");
    backwhen.ok(&["recover", "--to", "latest", "--into", &server.conninfo("ready")]);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, "ready"));
}

/// The server that replays statements lacks the extension; the target has it. From version 18 on, a setting of one server
/// says where extensions are.
#[test]
fn an_extension_that_only_the_replay_lacks_costs_no_row() {
    let folder = crate::support::scratch_folder("backwhen-extension-");
    let extensions = folder.path().join("extension");
    std::fs::create_dir(&extensions).unwrap();
    for (name, text) in [
        ("moody.control", "default_version = '1'\nrelocatable = true\n"),
        ("moody--1.sql", "CREATE TYPE mood AS ENUM ('glad', 'sad');"),
    ] {
        std::fs::write(extensions.join(name), text).unwrap();
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    if Server::shared(None).major() < 18 {
        return;
    }
    let path = format!("$system:{}", folder.path().display());
    let server = Server::builder().setting("extension_control_path", &path).start();
    let backwhen = protected(
        &server,
        "moods",
        "CREATE EXTENSION moody; CREATE TABLE felt (id int PRIMARY KEY, m mood NOT NULL); INSERT INTO felt VALUES (1, 'glad');
         CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1); CREATE INDEX by_mood ON felt (m)",
    );
    server.psql(
        backwhen.database(),
        "ALTER TABLE plain ADD v text DEFAULT 'x'; ALTER TABLE felt ADD n int; INSERT INTO felt VALUES (2, 'sad', 7)",
    );
    let moment = server.psql("postgres", "SELECT pg_current_wal_insert_lsn()");
    // No archive has the definitions of the moment.
    server.psql(backwhen.database(), "CREATE TABLE later (); DROP TABLE later");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let done = recover(&backwhen, &server, &[&moment]);
    done.names(&["columns of TABLE public.felt", "public.felt"]);
    done.differs_in(&[]);
    let notes = done.report["notes"].to_string();
    assert!(notes.contains("EXTENSION moody could not be made where definitions are replayed"), "{notes}");
    let into = server.conninfo("only_plain");
    let only = ["recover", "--to", &moment, "--table", "plain", "--create", "--into", &into];
    assert_eq!(backwhen.json(&only)["left_out"], serde_json::json!([]));
}

/// Settings for a role that is not there, and defaults that only the source can compute.
#[test]
fn settings_that_the_target_or_the_replay_lacks() {
    let (server, target) = (richer(), Server::shared(None));
    let backwhen = protected(
        &server,
        "settings",
        "CREATE TABLE conf (k text PRIMARY KEY, v text); INSERT INTO conf VALUES ('currency', 'EUR');
         CREATE FUNCTION conf_get(text) RETURNS text STABLE LANGUAGE plpgsql AS
            $$ DECLARE r text; BEGIN SELECT v INTO STRICT r FROM public.conf WHERE k = $1; RETURN r; END $$;
         CREATE TABLE bill (id int PRIMARY KEY); INSERT INTO bill VALUES (1);
         DO $$ BEGIN EXECUTE format('ALTER ROLE keeper IN DATABASE %I SET work_mem = ''5MB''', current_database()); END $$",

    );
    let database = backwhen.database();
    server.psql(database, "ALTER TABLE bill ADD COLUMN cur text NOT NULL DEFAULT conf_get('currency')");
    server.psql(
        database,
        "SET app.tenant = '7'; ALTER TABLE bill ADD COLUMN tenant int NOT NULL DEFAULT current_setting('app.tenant')::int",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let done = recover(&backwhen, &target, &["latest"]);
    done.names(&[&format!("property of DATABASE {}", done.database)]);
    done.differs_in(&[]);
    assert!(done.sql.contains("ALTER ROLE keeper IN DATABASE"), "{}", done.sql);
}
