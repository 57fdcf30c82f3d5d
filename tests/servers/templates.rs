//! Templates: later recoveries copy a database that an earlier one kept on the target, and change only the rows that differ.

use serde_json::{Value, json};

use crate::support::shop::assert_says;
use crate::support::{Backwhen, Dump, Server, Stop, assert_same, on_oldest_and_newest, versions};

/// The points at which a recovery that copies a template, or keeps one, can die.
pub const TEMPLATE: &[&str] = &["recover.cloned", "recover.valid", "recover.validated"];
pub const KEEP: &[&str] = &["recover.copied"];

const SHOP: &str = "
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 > 0; END $$;
CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, tags text[], mood mood DEFAULT 'glad', code text UNIQUE);
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE,
    amount numeric(10, 2) CHECK (is_fine(amount::int)), double numeric GENERATED ALWAYS AS (amount * 2) STORED);
CREATE INDEX ON orders ((is_fine(amount::int)));
CREATE TABLE bag (v text, n float8); ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE parts (region int, id int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
CREATE TABLE quiet (id int PRIMARY KEY, v text);
CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log (what) VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR DELETE OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE customers ENABLE ALWAYS TRIGGER note;
INSERT INTO customers (name, tags, code) SELECT 'c' || g, ARRAY['a', 'b' || g], 'k' || g FROM generate_series(1, 20) g;
INSERT INTO orders (customer, amount) SELECT 1 + g % 20, g FROM generate_series(1, 100) g;
INSERT INTO bag VALUES ('a', 1), ('a', 1), ('b', 'infinity'); INSERT INTO parts SELECT 1 + g % 2, g FROM generate_series(1, 8) g;
CREATE TABLE pairs (id int PRIMARY KEY, code text UNIQUE); INSERT INTO pairs SELECT g, 'k' || g FROM generate_series(1, 5) g;
INSERT INTO quiet SELECT g, 'q' || g FROM generate_series(1, 50) g;
CREATE MATERIALIZED VIEW sums AS SELECT customer, sum(amount) FROM orders GROUP BY 1";

/// Every kind of change: keys that change places, rows without keys, rows that move between partitions, cascades.
const CHANGES: &str = "
UPDATE pairs SET code = NULL WHERE id < 3; UPDATE pairs SET code = 'k' || 3 - id WHERE id < 3; DELETE FROM customers WHERE id = 9;
UPDATE customers SET name = E'tab\\there', tags = NULL WHERE id = 5; INSERT INTO customers (name) VALUES ('new');
UPDATE orders SET amount = amount + 1 WHERE id % 10 = 0; INSERT INTO orders (customer, amount) VALUES (1, 7);
DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag WHERE v = 'a'); INSERT INTO bag VALUES ('c', 'NaN'), ('a', 2);
UPDATE parts SET region = 2 WHERE id = 2; DELETE FROM parts WHERE id = 3; UPDATE parts SET id = 100 WHERE id = 4";

struct Kept {
    backwhen: Backwhen,
}

impl Kept {
    fn new(server: &Server, sql: &str) -> Kept {
        let database = server.fresh_database("template");
        server.psql(&database, sql);
        Kept::of(server, database)
    }

    fn of(server: &Server, database: String) -> Kept {
        let backwhen = Backwhen::new(server, &database);
        backwhen.init();
        let kept = Kept { backwhen };
        kept.drain();
        kept
    }

    fn server(&self) -> &Server {
        self.backwhen.server()
    }

    fn psql(&self, sql: &str) -> String {
        self.server().psql(self.backwhen.database(), sql)
    }

    fn drain(&self) {
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    /// Changes the source, and captures that.
    fn change(&self, sql: &str) {
        self.psql(sql);
        self.drain();
    }

    fn target(&self, name: &str) -> String {
        format!("{}_{name}", self.backwhen.database())
    }

    fn arguments<'a>(to: &'a str, into: &'a str) -> Vec<&'a str> {
        vec!["recover", "--to", to, "--create", "--keep-template", "--into", into]
    }

    /// Recovers into a new database; returns its name and the report.
    fn recover(&self, to: &str, name: &str) -> (String, Value) {
        let target = self.target(name);
        let into = self.server().conninfo(&target);
        let report = self.backwhen.json(&Kept::arguments(to, &into));
        assert_eq!((&report["proved"], &report["left_out"]), (&json!(true), &json!([])), "{report}");
        (target, report)
    }

    /// Recovers the latest moment, and compares the database with the source.
    fn recover_latest(&self, name: &str) -> Value {
        let (target, report) = self.recover("latest", name);
        assert_same(&Dump::of(self.server(), self.backwhen.database()), &Dump::of(self.server(), &target));
        report
    }

    /// The names of the databases of this test that are not finished, or templates.
    fn databases(&self, like: &str) -> Vec<String> {
        let sql = format!(
            "SELECT datname FROM pg_database WHERE starts_with(datname, '{}') AND datname LIKE '%{like}%' ORDER BY 1",
            self.backwhen.database()
        );
        self.server().psql("postgres", &sql).lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_verification_begins_with_a_template_too_and_reads_all_rows_back() {
    // The newest servers have checksums, and refuse to copy what was changed on the disk.
    let server = Server::start(Some(versions()[0]));
    let kept = Kept::new(&server, &format!("{SHOP}; INSERT INTO quiet VALUES (1000, 'planted by the test')"));
    let verify = || {
        let into = server.conninfo("postgres");
        kept.backwhen.json(&["verify", "--restore", "--keep-template", "--into", &into])["restored"].clone()
    };
    let first = verify();
    assert!(!used(&first), "{first}");
    kept.change(CHANGES);
    let second = verify();
    assert!(used(&second), "{second}");
    assert_eq!(second["rows"], kept.recover_latest("whole")["rows"]);
    // A row that is another one on the server's disk is not in the difference; a recovery with the template brings it back.
    change_on_disk(&server, second["template"]["name"].as_str().unwrap(), b"planted by");
    let (wrong, report) = kept.recover("latest", "wrong");
    assert!(used(&report), "{report}");
    assert_eq!(server.psql(&wrong, "SELECT v FROM quiet WHERE id = 1000"), "Planted by the test");
    let third = verify();
    assert!(!used(&third), "{third}");
}

/// Makes the first letter of a text in a database a capital, in the server's files.
fn change_on_disk(server: &Server, database: &str, text: &[u8]) {
    let folder =
        "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = ";
    let folder = server.psql("postgres", &format!("{folder}'{database}'"));
    server.stop(Stop::Fast);
    let mut changed = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        let Some(at) = bytes.windows(text.len()).position(|window| window == text) else { continue };
        bytes[at].make_ascii_uppercase();
        std::fs::write(&file, bytes).unwrap();
        changed += 1;
    }
    assert_eq!(changed, 1);
    server.start_again();
}

fn used(report: &Value) -> bool {
    report["template"]["used"].as_bool().unwrap_or_else(|| panic!("no template: {report}"))
}

#[test]
fn moments_on_both_sides_are_reached_from_a_template() {
    on_oldest_and_newest(|server| {
        let kept = Kept::new(server, SHOP);
        kept.backwhen.ok(&["mark", "first"]);
        kept.change(CHANGES);
        let first = kept.recover_latest("one");
        assert!(!used(&first));
        assert!(first["template"]["lsn"].is_string(), "{first}");
        kept.change("UPDATE orders SET amount = 50 WHERE id = 2; INSERT INTO bag VALUES ('z', 3); DELETE FROM customers WHERE id = 3");
        let later = kept.recover_latest("later");
        assert!(used(&later), "{later}");
        assert_eq!(later["template"]["name"], first["template"]["name"]);
        assert_eq!(later["rows"].as_u64(), Some(rows(server, &kept.target("later"))));
        // Nothing differs any more.
        assert!(used(&kept.recover_latest("again")));
        let (earlier, report) = kept.recover("mark:first", "earlier");
        assert!(used(&report), "{report}");
        let whole = kept.target("whole");
        let into = server.conninfo(&whole);
        kept.backwhen.ok(&["recover", "--to", "mark:first", "--create", "--into", &into]);
        assert_same(&Dump::of(server, &whole), &Dump::of(server, &earlier));
        // The recovered database works: its triggers fire, its checks hold, its functions are its own.
        server.psql(&earlier, "INSERT INTO customers (name) VALUES ('x')");
        assert_eq!(
            server.psql(&earlier, "SELECT count(*) FROM pg_proc WHERE prosecdef AND oid > 16384"),
            "0"
        );
        assert!(server.try_psql(&earlier, "INSERT INTO orders (customer, amount) VALUES (1, -5)").is_err());
        assert_eq!(kept.databases("backwhen-template").len(), 1);
    });
}

/// All rows of all tables of the shop.
fn rows(server: &Server, database: &str) -> u64 {
    let tables = ["customers", "orders", "bag", "parts", "quiet", "log", "pairs"];
    let counts: Vec<_> = tables.iter().map(|table| format!("(SELECT count(*) FROM {table})")).collect();
    server.psql(database, &format!("SELECT {}", counts.join(" + "))).parse().unwrap()
}

/// More rows than are sent as literals: of an updated row, only the columns are sent that some row changes.
#[test]
fn many_rows_are_changed_and_read_back() {
    let kept = Kept::new(
        &Server::shared(None),
        "CREATE TABLE t (a int, b text, v text, w int, PRIMARY KEY (a, b));
         INSERT INTO t SELECT g, 'b' || g, 'v', g FROM generate_series(1, 6000) g;",
    );
    assert!(!used(&kept.recover_latest("one")));
    kept.change("UPDATE t SET v = NULL WHERE a <= 2500; DELETE FROM t WHERE a > 5900; INSERT INTO t SELECT g, 'n', 'v', 1 FROM generate_series(1, 50) g");
    assert!(used(&kept.recover_latest("two")));
    kept.change("UPDATE t SET b = b || 'x' WHERE a > 5000");
    assert!(used(&kept.recover_latest("three")));
}

#[test]
fn an_ordinary_user_keeps_a_template_and_uses_it() {
    let server = Server::shared(None);
    let database = server.fresh_database("template");
    let role = format!("{database}_user");
    server.psql(
        &database,
        &format!("CREATE ROLE {role} LOGIN CREATEDB; ALTER DATABASE {database} OWNER TO {role}"),
    );
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 30) g;
                  CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t); INSERT INTO c SELECT g, g FROM generate_series(1, 9) g";
    server.psql(&database, &format!("SET ROLE {role}; {tables}"));
    let kept = Kept::of(&server, database);
    let recover = |name: &str| {
        let into = format!("{} user={role}", server.conninfo(&kept.target(name)));
        kept.backwhen.json(&Kept::arguments("latest", &into))
    };
    assert!(!used(&recover("one")));
    kept.change("UPDATE t SET v = 'w' WHERE id < 4; DELETE FROM c WHERE id = 9; DELETE FROM t WHERE id = 9; INSERT INTO c VALUES (20, 1)");
    assert!(used(&recover("two")));
    assert_same(&Dump::of(&server, kept.backwhen.database()), &Dump::of(&server, &kept.target("two")));
}

#[test]
fn a_template_that_is_not_what_the_history_says_is_not_used() {
    // The test drops templates that no other test may use.
    let server = Server::start(None);
    let kept = Kept::new(&server, SHOP);
    let other = Kept::new(&server, SHOP);
    let name = |report: &Value| report["template"]["name"].as_str().unwrap().to_owned();
    let first = name(&kept.recover_latest("one"));
    // Another history does not take it.
    let others = other.recover_latest("one");
    assert!(!used(&others), "{others}");

    // A row is changed in a table that no transaction touches, and the database is closed again.
    let allow =
        |is: bool| server.psql("postgres", &format!("ALTER DATABASE \"{first}\" ALLOW_CONNECTIONS {is}"));
    allow(true);
    server.psql(&first, "UPDATE quiet SET v = 'tampered' WHERE id = 7");
    allow(false);
    kept.change(CHANGES);
    let report = kept.recover_latest("two");
    assert!(!used(&report), "{report}");
    assert_says(&report["notes"].to_string(), &[&first, "changed since it was kept", "expire --target"]);

    // A label that was written by somebody else is not believed.
    let second = name(&report);
    let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = ";
    let label = server.psql("postgres", &format!("{comment}'{second}'"));
    let forged = label.replacen("\"epoch\":1", "\"epoch\":1 ", 1).replacen("[50,\"", "[50,\"0", 1);
    server.psql("postgres", &format!("COMMENT ON DATABASE \"{second}\" IS '{forged}'"));
    assert!(!used(&kept.recover_latest("three")));

    let target = server.conninfo("postgres");
    let shown = kept.backwhen.json(&["expire", "--target", &target]);
    let stale = |shown: &Value| {
        let all = shown["templates"].as_array().unwrap().clone();
        all.into_iter().filter(|it| !it["stale"].is_null()).map(|it| it["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(shown["templates"].as_array().unwrap().len(), 3, "{shown}");
    let mut expected = vec![json!(first), json!(second)];
    expected.sort_by_key(|it| it.to_string());
    assert_eq!(stale(&shown), expected, "{shown}");
    assert_eq!(shown["templates"][0]["dropped"], json!(false));
    assert!(shown["templates"][0]["lsn"].is_string(), "{shown}");
    assert_eq!(kept.databases("backwhen-template").len(), 3, "nothing goes without --apply");
    kept.backwhen.ok(&["expire", "--target", &target, "--apply"]);
    assert_eq!(kept.databases("backwhen-template").len(), 1);
    assert_eq!(other.databases("backwhen-template"), [name(&others)]);
    assert!(used(&kept.recover_latest("four")));
}

#[test]
fn other_definitions_are_recovered_as_a_whole() {
    let server = Server::shared(None);
    let kept =
        Kept::new(&server, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')");
    let first = kept.recover_latest("one");
    kept.change("ALTER TABLE t ADD COLUMN n int; UPDATE t SET n = 1");
    let report = kept.recover_latest("two");
    assert!(!used(&report));
    assert_says(&report["notes"].to_string(), &[first["template"]["name"].as_str().unwrap(), "definitions"]);
    // Each moment has its template from now on.
    kept.change("UPDATE t SET n = 2");
    let report = kept.recover_latest("three");
    assert!(used(&report));
    assert_ne!(report["template"]["name"], first["template"]["name"]);
    // The rows that a TRUNCATE took away are in no change of the journal.
    kept.change("TRUNCATE t; INSERT INTO t VALUES (5, 'e', 5)");
    kept.recover_latest("four");
}

#[test]
fn a_recovery_with_a_template_that_dies_at_any_step_leaves_no_database() {
    let server = Server::start(None);
    let kept = Kept::new(&server, SHOP);
    for point in KEEP {
        let target = kept.target(&format!("kept_{}", point.replace('.', "_")));
        kept.backwhen.dies(point, &Kept::arguments("latest", &server.conninfo(&target)));
        assert_eq!(kept.databases("backwhen-template").len(), 1, "it has no label");
        assert!(!used(&kept.recover_latest("whole")), "a database without a label is no template");
        kept.backwhen.ok(&["expire", "--target", &server.conninfo("postgres"), "--apply"]);
        assert_eq!(kept.databases("backwhen-template").len(), 1, "the one with the label stays");
    }
    kept.change(CHANGES);
    for point in TEMPLATE {
        let target = kept.target("dies");
        let into = server.conninfo(&target);
        kept.backwhen.dies(point, &Kept::arguments("latest", &into));
        let is_done = *point == "recover.validated";
        assert_eq!(server.try_psql(&target, "SELECT 1").is_ok(), is_done, "{point}");
        if is_done {
            server.psql("postgres", &format!("DROP DATABASE \"{target}\""));
        }
        let (target, report) = kept.recover("latest", "dies");
        assert!(used(&report), "{point}: {report}");
        assert_same(&Dump::of(&server, kept.backwhen.database()), &Dump::of(&server, &target));
        assert_eq!(kept.databases("dies.backwhen-unfinished"), Vec::<String>::new(), "{point}");
        server.psql("postgres", &format!("DROP DATABASE \"{target}\""));
    }
}

#[test]
fn what_no_template_can_hold_is_said() {
    let server = Server::shared(None);
    let kept = Kept::new(&server, "CREATE TABLE t (id int PRIMARY KEY); SELECT lo_from_bytea(0, 'x')");
    let (_, report) = kept.recover("latest", "one");
    assert_eq!(report["template"], json!(null));
    assert_says(&report["notes"].to_string(), &["no template is used or kept", "large objects"]);
    let empty = kept.target("empty");
    server.create_database(&empty);
    let into = server.conninfo(&empty);
    let report = kept.backwhen.json(&["recover", "--to", "latest", "--keep-template", "--into", &into]);
    assert_says(&report["notes"].to_string(), &["--create"]);
}
