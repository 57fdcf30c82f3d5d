//! Recovery into a script for psql: what is a row stays a row, also after an error.

use crate::support::{Backwhen, Server, for_each_version};

/// Data and names that psql would obey if it ever read them as its input.
const HOSTILE: &str = r#"
CREATE TABLE m (t text PRIMARY KEY);
INSERT INTO m VALUES ('ROLLBACK; CREATE ROLE pwned_by_a_row SUPERUSER;'), (E'\\.\n\\! touch MARKER'),
    (E'\\set ON_ERROR_STOP off');
CREATE TABLE "x
\! touch MARKER
\set ON_ERROR_STOP off
--" (a text PRIMARY KEY, "b
\! touch MARKER" int);
INSERT INTO "x
\! touch MARKER
\set ON_ERROR_STOP off
--" VALUES (E'\\.', 1), (E'\\! touch MARKER', 2);
COMMENT ON TABLE m IS E'a\n\\! touch MARKER\n\\set ON_ERROR_STOP off\n';
ALTER TABLE m OWNER TO absent;
"#;

/// Applies the script by psql without a setting of its own, and returns its exit code.
fn apply(target: &Server, database: &str, script: &std::path::Path) -> Option<i32> {
    let output = target.client("psql", database, &["-Xq", "-f", script.to_str().unwrap()], "");
    output.status.code()
}

fn roles_of_rows(target: &Server) -> String {
    target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'pwned%'")
}

#[test]
fn no_row_of_a_script_is_ever_run_also_without_psqls_own_setting() {
    for_each_version(|source| {
        let target = Server::start(Some(source.major()));
        let role = "DO $$ BEGIN CREATE ROLE absent; EXCEPTION WHEN duplicate_object THEN END $$";
        source.psql("postgres", role);
        let database = source.fresh_database("script");
        let backwhen = Backwhen::new(source, &database);
        let marker = backwhen.folder().join("marker");
        source.psql(&database, &HOSTILE.replace("MARKER", marker.to_str().unwrap()));
        assert!(!marker.exists(), "the source was filled without psql's obeying it");
        backwhen.init();
        let script = backwhen.folder().join("script.sql");
        backwhen.ok(&["recover", "--to", "latest", "--into", &format!("sql:{}", script.display())]);
        // So that psql as another user can read it.
        let text = std::fs::read_to_string(&script).unwrap();
        let setting = text.lines().position(|line| line == "\\set ON_ERROR_STOP on");
        assert_eq!(setting, Some(1), "before all that can fail");

        target.create_database("fails");
        assert_eq!(apply(&target, "fails", &script), Some(3), "the owner is missing");
        assert_eq!((roles_of_rows(&target).as_str(), marker.exists()), ("0", false));
        let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        assert_eq!(target.psql("fails", tables), "0", "all of it is one transaction");

        target.psql("postgres", role);
        target.create_database("succeeds");
        assert_eq!(apply(&target, "succeeds", &script), Some(0));
        assert_eq!((roles_of_rows(&target).as_str(), marker.exists()), ("0", false));
        let rows = "SELECT string_agg(t, '|' ORDER BY t COLLATE \"C\") FROM m";
        assert_eq!(target.psql("succeeds", rows), source.psql(&database, rows));
    });
}
