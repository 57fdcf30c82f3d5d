//! All transactions but some: the recovered database has what later ones made, by the rules of an undo.

use serde_json::{Value, json};

use super::protected;
use crate::support::{Backwhen, Dump, Server, on_oldest_and_newest};

const ACCOUNTS: &str = "
CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance int, note text, code text UNIQUE);
CREATE TABLE entries (id int PRIMARY KEY, account int REFERENCES accounts, amount int);
CREATE TABLE bag (v text); ALTER TABLE bag REPLICA IDENTITY FULL;
CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
CREATE TABLE parts (region int, id int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log (what) VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT OR DELETE OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO accounts SELECT g, 'o' || g, 100, 'n', 'c' || g FROM generate_series(1, 10) g;
INSERT INTO entries SELECT g, 1 + g % 10, g FROM generate_series(1, 20) g;
INSERT INTO bag VALUES ('a'), ('a'), ('b'); INSERT INTO parts SELECT 1 + g % 2, g FROM generate_series(1, 6) g;
CREATE MATERIALIZED VIEW sums AS SELECT sum(balance) FROM accounts";

struct Books {
    backwhen: Backwhen,
}

impl Books {
    fn new(server: &Server) -> Books {
        Books { backwhen: protected(server, ACCOUNTS, "SELECT 1") }
    }

    fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    /// Runs statements in one transaction; returns its number as an argument.
    fn transaction(&self, sql: &str) -> String {
        let text = self.psql(&format!("BEGIN; SELECT pg_current_xact_id(); {sql}; COMMIT"));
        format!("xid:{}", text.lines().next().expect("a number comes first"))
    }

    fn drain(&self) {
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    /// Recovers without transactions; returns the new database and the report, or the plan.
    fn without(&self, transactions: &str, further: &[&str]) -> (String, Value) {
        let database = format!("{}_new", self.backwhen.server().fresh_database("part"));
        let into = self.backwhen.server().conninfo(&database);
        let first = ["recover", "--to", "latest", "--create", "--into", &into, "--except", transactions];
        (database, self.backwhen.json(&[&first[..], further].concat()))
    }

    fn refuses(&self, code: i32, further: &[&str]) -> String {
        let name = format!("{}_refused", self.backwhen.server().fresh_database("part"));
        let into = self.backwhen.server().conninfo(&name);
        let first = ["recover", "--create", "--into", &into, "--to"];
        let error = self.backwhen.fails(code, &[&first[..], further].concat());
        assert_eq!(self.psql(&format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{name}%'")), "0");
        error
    }
}

#[test]
fn later_work_stays_and_the_transaction_is_not_there() {
    on_oldest_and_newest(|server| {
        let books = Books::new(server);
        let wrong = books.transaction(
            "UPDATE accounts SET balance = 0, note = 'step'; UPDATE accounts SET note = 'n'; DELETE FROM entries WHERE id < 5;
             INSERT INTO accounts VALUES (11, 'wrong', 1, 'n'); UPDATE accounts SET id = 12 WHERE id = 11;
             DELETE FROM bag WHERE ctid IN (SELECT min(ctid) FROM bag WHERE v = 'a'); INSERT INTO bag VALUES ('c');
             UPDATE parts SET region = 2 WHERE id = 2; UPDATE accounts SET code = NULL WHERE id < 3;
             UPDATE accounts SET code = 'c' || 3 - id WHERE id < 3",
        );
        books.psql("UPDATE accounts SET owner = 'colleague', note = 'later' WHERE id < 4; INSERT INTO entries VALUES (100, 3, 7)");
        books.psql("CREATE INDEX ON entries (account)");
        books.drain();
        let before = Dump::of(server, books.backwhen.database());
        let (database, report) = books.without(&wrong, &[]);
        assert_eq!((&report["proved"], &report["left_out"]), (&json!(true), &json!([])));
        assert_eq!(
            report["except"]["tables"][0],
            json!({"table": "public.accounts", "inserted": 0, "deleted": 1, "updated": 10})
        );
        let asked = |sql: &str| server.psql(&database, sql);
        assert_eq!(
            asked(
                "SELECT count(*), sum(balance), count(*) FILTER (WHERE owner = 'colleague' AND note = 'later'), string_agg(code, ',' ORDER BY id) FROM accounts"
            ),
            "10|1000|3|c1,c2,c3,c4,c5,c6,c7,c8,c9,c10"
        );
        assert_eq!(
            asked(
                "SELECT (SELECT count(*) FROM entries), (SELECT string_agg(v, '' ORDER BY v) FROM bag), (SELECT sum FROM sums)"
            ),
            "21|aab|1000"
        );
        assert_eq!(
            asked("SELECT string_agg(region || ':' || id, ' ' ORDER BY id) FROM parts"),
            "2:1 1:2 2:3 1:4 2:5 1:6"
        );
        // The recovery itself fired no trigger; those of the transaction went with it, and those of later ones stay.
        assert_eq!(asked("SELECT count(*) FROM log"), "13");
        let schema = |of: &str| Dump::of(server, of).schema;
        assert_eq!(schema(&database), before.schema);
        server.psql(&database, "INSERT INTO accounts VALUES (50)");
        assert_eq!(asked("SELECT count(*) FROM log"), "14");
        assert_eq!(Dump::of(server, books.backwhen.database()), before, "the source is not touched");
    });
}

#[test]
fn several_transactions_and_only_some_tables() {
    let server = Server::shared(None);
    let books = Books::new(&server);
    let first = books.transaction("UPDATE accounts SET balance = 1 WHERE id = 1");
    books.psql("UPDATE accounts SET owner = 'between' WHERE id = 1");
    let second =
        books.transaction("UPDATE accounts SET balance = 2, note = 'x' WHERE id = 1; DELETE FROM entries");
    books.drain();
    let both = format!("{first},{}", second.trim_start_matches("xid:"));
    let (database, report) = books.without(&both, &["--table", "accounts"]);
    assert_eq!(
        server.psql(&database, "SELECT owner, balance, note FROM accounts WHERE id = 1"),
        "between|100|n"
    );
    assert_eq!(report["except"]["tables"].as_array().unwrap().len(), 1, "{report}");
    let schema = format!("{}_into", server.fresh_database("part"));
    let source = books.backwhen.source();
    let beside =
        ["recover", "--to", "latest", "--into", &source, "--into-schema", &schema, "--except", &both];
    books.backwhen.ok(&[&beside[..], &["--table", "entries"]].concat());
    assert_eq!(
        books.psql(&format!("SELECT (SELECT count(*) FROM {schema}.entries), count(*) FROM entries")),
        "20|0"
    );
}

/// Column conflicts are known before anything is built, those by constraints when the database is there.
#[test]
fn what_was_built_on_it_is_in_the_way() {
    on_oldest_and_newest(|server| {
        let books = Books::new(server);
        let balance = books.transaction("UPDATE accounts SET balance = 1 WHERE id = 1");
        let later = books.transaction("UPDATE accounts SET balance = 2 WHERE id = 1");
        let insert = books.transaction("INSERT INTO accounts VALUES (21, 'in', 1, 'n')");
        let child = books.transaction("INSERT INTO entries VALUES (200, 21, 1)");
        let code = books.transaction("UPDATE accounts SET code = NULL WHERE id = 7");
        books.psql("UPDATE accounts SET code = 'c7' WHERE id = 8");
        books.drain();
        let error = books.refuses(14, &["latest", "--except", &balance]);
        assert!(
            error.contains(&format!("public.accounts (id=1): its columns were changed again {later}")),
            "{error}"
        );
        let error = books.refuses(14, &["latest", "--except", &insert]);
        assert!(error.contains("a row of public.entries refers to it (entries_account_fkey)"), "{error}");
        assert!(
            books.refuses(14, &["latest", "--except", &code]).contains("another row took its unique value")
        );
        let plan = books.without(&balance, &["--dry-run"]).1;
        let xid: u64 = later.trim_start_matches("xid:").parse().unwrap();
        assert_eq!(
            plan["except"]["dependents"],
            json!([{"xid": xid, "why": "its columns were changed again"}])
        );

        // Rows of tables that are not wanted are in nobody's way.
        let (database, report) = books.without(&balance, &["--table", "entries"]);
        assert_eq!((&report["except"]["conflicts"], &report["except"]["tables"]), (&json!([]), &json!([])));
        assert_eq!(server.psql(&database, "SELECT count(*) FROM entries"), "21");

        let (database, report) = books.without(&insert, &["--conflicts", "cascade"]);
        assert_eq!(
            report["except"]["dependents"][0]["xid"],
            json!(child.trim_start_matches("xid:").parse::<u64>().unwrap())
        );
        assert_eq!(server.psql(&database, "SELECT count(*) FROM entries WHERE id = 200"), "0");
        let all = format!("{balance},{}", code.trim_start_matches("xid:"));
        let (database, report) = books.without(&all, &["--conflicts", "skip"]);
        assert_eq!(report["except"]["conflicts"].as_array().unwrap().len(), 2);
        assert_eq!(server.psql(&database, "SELECT balance FROM accounts WHERE id = 1"), "2");
    });
}

#[test]
fn what_cannot_be_left_out_is_said() {
    let server = Server::shared(None);
    let books = Books::new(&server);
    let wrong = books.transaction("UPDATE accounts SET balance = 0; ALTER TABLE bag ADD COLUMN w int");
    books.psql("DROP TABLE log CASCADE; DROP TRIGGER note ON accounts");
    books.drain();
    let at = format!("{wrong} --before");
    let arguments: Vec<&str> = at.split(' ').chain(["--except", &wrong]).collect();
    assert!(books.refuses(2, &arguments).contains("is later than the moment"));
    assert!(books.refuses(2, &["latest", "--except", "last"]).contains("is no transaction"));
    books.refuses(11, &["latest", "--except", "xid:3"]);
    let (database, report) = books.without(&wrong, &[]);
    let expected = [
        "public.log: the table was dropped since".to_owned(),
        format!("{wrong}: its ALTER TABLE is not taken back"),
    ];
    assert_eq!(report["except"]["without_place"], json!(expected));
    assert_eq!(server.psql(&database, "SELECT sum(balance) FROM accounts"), "1000");
}
