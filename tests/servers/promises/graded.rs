//! 6, where no event trigger may be made: how well the definitions of a moment are known is said, as
//! "schema known exactly" or "schema known within [a, b]".

use serde_json::Value;

use crate::promises::{head, now};
use crate::support::{Backwhen, Dump, Server, assert_same};

/// A role like the main one of many managed services: it owns the database and may replicate, and is
/// no superuser.
struct Owner {
    server: Server,
    backwhen: Backwhen,
    database: String,
    source: String,
}

impl Owner {
    fn new(schema: &str) -> Owner {
        let server = Server::shared(None);
        let database = server.fresh_database("graded");
        let owner = format!("{database}_owner");
        server.psql(
            "postgres",
            &format!(
                "CREATE ROLE {owner} LOGIN REPLICATION NOSUPERUSER; ALTER DATABASE {database} OWNER TO {owner}"
            ),
        );
        let source = server.conninfo(&database).replace("user=postgres", &format!("user={owner}"));
        let backwhen = Backwhen::new(&server, &database);
        let it = Owner { server, backwhen, database, source };
        it.run(schema);
        it
    }

    /// As the role itself.
    fn run(&self, sql: &str) {
        self.server.psql(&self.database, &format!("SET ROLE {}_owner; {sql}", self.database));
    }

    fn capture(&self) {
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    fn plan(&self, to: &str) -> Value {
        self.backwhen.json(&["recover", "--dry-run", "--to", to])
    }

    /// What plan, report and `show schema` say, which must agree.
    fn grade(&self, to: &str) -> Value {
        let planned = self.plan(to)["schema"].clone();
        let into = self.server.fresh_database("graded_target");
        let report = self.backwhen.json(&["recover", "--to", to, "--into", &self.server.conninfo(&into)]);
        let shown = self.backwhen.json(&["show", "schema", "--at", to]);
        assert_eq!((&planned, &planned), (&report["schema"], &shown["schema"]), "{to}");
        let said = |it: &Value| it["inexact"].as_array().unwrap().iter().any(|it| it["what"] == "schema");
        let within = planned["known"] == "within";
        assert_eq!((said(&report), said(&shown)), (within, within), "{to}: {report}");
        planned
    }
}

fn lsn(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("no LSN: {value}"));
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) + u64::from_str_radix(low, 16).unwrap()
}

/// It is known within two positions, the first at or after `from`, the other after `after` and not after `to`.
#[track_caller]
fn assert_within(grade: &Value, from: &str, after: &str, to: &str) {
    let position = |text: &str| lsn(&Value::from(text));
    assert_eq!(grade["known"], "within", "{grade}");
    let (a, b) = (lsn(&grade["from"]["lsn"]), lsn(&grade["to"]["lsn"]));
    assert!(position(from) <= a && a <= position(after), "{from} <= a <= {after}: {grade}");
    assert!(position(after) < b && b <= position(to), "{after} < b <= {to}: {grade}");
    assert!(grade["from"]["time"].is_string() && grade["to"]["time"].is_string(), "{grade}");
}

#[test]
fn a_role_without_the_right_is_told_what_it_means_and_each_moment_is_graded() {
    let it = Owner::new("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let check = it.backwhen.ok(&["check", "--source", &it.source]);
    assert!(check.contains("no event triggers can be made"), "{check}");
    let output = it.backwhen.run(&["init", "--source", &it.source, "--output", "json"]);
    assert!(output.status.success(), "{}", output.stderr);
    assert!(output.stderr.contains("no event triggers: permission denied"), "{}", output.stderr);
    assert!(output.stderr.contains("schema known within [a, b]"), "{}", output.stderr);
    assert!(output.stdout.contains(r#""event_triggers":false"#), "{}", output.stdout);

    it.run("INSERT INTO t VALUES (2)");
    it.backwhen.ok(&["mark", "before"]);
    let before = head(&it.server);
    it.run("ALTER TABLE t ADD extra text");
    let altered = head(&it.server);
    let altered_at = now(&it.server);
    it.run("INSERT INTO t VALUES (3, 'x')");
    let filled = head(&it.server);
    it.capture();
    it.run("CREATE VIEW v AS SELECT id FROM t");
    let viewed = head(&it.server);
    it.capture();
    let truth = Dump::of(&it.server, &it.database);

    assert_eq!(it.grade("mark:before")["known"], "exactly", "a mark looks at the definitions");
    // The stream describes the table otherwise before its next row: sooner than any heartbeat.
    let position = |to: &str| it.plan(to)["moment"]["lsn"].as_str().unwrap().to_owned();
    let (marked, first_row) = (position("mark:before"), position(&filled));
    for moment in [&altered, &altered_at, &filled] {
        assert_within(&it.grade(moment), &marked, &before, &first_row);
    }
    // No row tells of a view, but the next heartbeat does.
    let unknown = it.grade(&viewed);
    assert_within(&unknown, &filled, &viewed, &head(&it.server));
    let text = it.backwhen.run(&["recover", "--dry-run", "--to", &viewed]).stderr;
    let (from, to) = (&unknown["from"], &unknown["to"]);
    let words =
        |edge: &Value| format!("{} ({})", edge["lsn"].as_str().unwrap(), edge["time"].as_str().unwrap());
    let words = format!("schema known within [{}, {}]", words(from), words(to));
    assert!(text.contains(&words), "{words} is not in {text}");

    assert_eq!(it.grade("latest")["known"], "exactly");
    let into = it.server.fresh_database("graded_target");
    it.backwhen.ok(&["recover", "--to", "latest", "--into", &it.server.conninfo(&into)]);
    assert_same(&truth, &Dump::of(&it.server, &into));
}

#[test]
fn status_grades_the_end_of_what_is_held() {
    let it = Owner::new("CREATE TABLE t (id int PRIMARY KEY)");
    it.backwhen.ok(&["init", "--source", &it.source]);
    it.capture();
    let known = |it: &Owner| it.backwhen.json(&["status"])["schema"].clone();
    assert_eq!(known(&it)["known"], "exactly");
    assert!(it.backwhen.ok(&["status"]).contains("schema       known exactly"));
    let before = head(&it.server);
    it.run("ALTER TABLE t ADD extra text");
    let altered = head(&it.server);
    // Nothing that knows the change comes into being.
    let mut capture = it.backwhen.command(&["capture", "--until", "caught-up"]);
    let captured = capture.env("BACKWHEN_TEST_POINT", "checkpoint.publish=error").output().unwrap();
    assert!(captured.status.success(), "{captured:?}");
    let grade = known(&it);
    assert_eq!(grade["known"], "within", "{grade}");
    assert!(lsn(&grade["from"]["lsn"]) <= lsn(&Value::from(before)), "{grade}");
    assert!(lsn(&grade["to"]["lsn"]) > lsn(&Value::from(altered)), "{grade}");
    let text = it.backwhen.ok(&["status"]);
    assert!(text.contains("schema       known within ["), "{text}");
}
