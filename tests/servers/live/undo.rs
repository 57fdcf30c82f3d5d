//! Single transactions are taken back, and what came later stays.

use serde_json::{Value, json};

use super::{Scene, on_oldest_and_newest, while_captured};
use crate::support::Server;

const ACCOUNTS: &str = "
CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance int, note text, code text UNIQUE);
CREATE TABLE entries (id int PRIMARY KEY, account int REFERENCES accounts, amount int);
INSERT INTO accounts SELECT g, 'o' || g, 100, 'n', 'c' || g FROM generate_series(1, 10) g;
INSERT INTO entries SELECT g, 1 + g % 10, g FROM generate_series(1, 20) g";

fn xids(report: &Value) -> Vec<u64> {
    report["dependents"].as_array().unwrap().iter().map(|it| it["xid"].as_u64().unwrap()).collect()
}

#[test]
fn only_the_columns_that_the_transaction_changed_go_back() {
    on_oldest_and_newest(|server| {
        while_captured(server, ACCOUNTS, |scene| {
            let wrong = scene.transaction(
                "UPDATE accounts SET balance = 0, note = 'step'; UPDATE accounts SET note = 'n'; DELETE FROM entries WHERE id < 5;
                 INSERT INTO accounts VALUES (11, 'wrong', 1, 'n'); UPDATE accounts SET id = 12 WHERE id = 11",
            );
            scene.psql("UPDATE accounts SET owner = 'colleague', note = 'later' WHERE id < 4; INSERT INTO entries VALUES (100, 3, 7)");
            let plan = scene.amend(0, &["undo", &format!("xid:{wrong}")]);
            assert_eq!(
                plan["tables"][0],
                json!({"table": "public.accounts", "inserted": 0, "deleted": 1, "updated": 10})
            );
            let report = scene.undo(&format!("xid:{wrong}"), &[]);
            assert_eq!(scene.psql("SELECT count(*), sum(balance), count(*) FILTER (WHERE owner = 'colleague' AND note = 'later') FROM accounts"), "10|1000|3");
            assert_eq!(scene.psql("SELECT count(*) FROM entries"), "21");
            scene.undo_report(&report);
            assert_eq!(scene.psql("SELECT count(*), sum(balance) FROM accounts"), "11|1");
        });
    });
}

#[test]
fn several_transactions_are_taken_back_the_last_first() {
    let server = Server::shared(None);
    while_captured(&server, ACCOUNTS, |scene| {
        let first = scene.transaction("UPDATE accounts SET balance = 1 WHERE id = 1");
        scene.psql("UPDATE accounts SET owner = 'between' WHERE id = 1");
        let second = scene.transaction("UPDATE accounts SET balance = 2, note = 'x' WHERE id = 1");
        scene.undo(&format!("xid:{first},{second}"), &[]);
        assert_eq!(scene.psql("SELECT owner, balance, note FROM accounts WHERE id = 1"), "between|100|n");
    });
}

/// Each way in which later work can build on a transaction.
fn dependents(scene: &Scene) -> [(u32, u32, &'static str); 7] {
    let change = |first: &str, later: &str, why| (scene.transaction(first), scene.transaction(later), why);
    [
        change(
            "UPDATE accounts SET balance = 1 WHERE id = 1",
            "UPDATE accounts SET balance = 2 WHERE id = 1",
            "its columns were changed again",
        ),
        change(
            "UPDATE accounts SET note = 'd' WHERE id = 2",
            "DELETE FROM entries WHERE account = 2; DELETE FROM accounts WHERE id = 2",
            "it was deleted since",
        ),
        change(
            "INSERT INTO accounts VALUES (20, 'in', 1, 'n')",
            "UPDATE accounts SET note = 'built on' WHERE id = 20",
            "it was changed since it was inserted",
        ),
        change(
            "INSERT INTO accounts VALUES (21, 'in', 1, 'n')",
            "INSERT INTO entries VALUES (200, 21, 1)",
            "a row of public.entries refers to it (entries_account_fkey)",
        ),
        change(
            "DELETE FROM entries WHERE id = 12",
            "INSERT INTO entries VALUES (12, 5, 0)",
            "it was inserted again since",
        ),
        change(
            "UPDATE accounts SET code = NULL WHERE id = 7",
            "UPDATE accounts SET code = 'c7' WHERE id = 8",
            "another row took its unique value (accounts_code_key)",
        ),
        change(
            "DELETE FROM entries WHERE account = 4",
            "DELETE FROM accounts WHERE id = 4",
            "the row of public.accounts that it refers to is gone (entries_account_fkey)",
        ),
    ]
}

#[test]
fn what_was_built_on_a_transaction_is_found_and_said() {
    on_oldest_and_newest(|server| {
        while_captured(server, ACCOUNTS, |scene| {
            let cases = dependents(scene);
            let before = scene.dump();
            for (first, later, why) in cases {
                let report = scene.amend(14, &["undo", &format!("xid:{first}"), "--apply"]);
                assert_eq!(report["dependents"], json!([{"xid": later, "why": why}]), "{report}");
            }
            super::assert_rows(&before, &scene.dump());
            // The transactions in the way can be taken back too, the last cases first.
            for (first, later, _) in cases {
                let report = scene.undo(&format!("xid:{first}"), &["--conflicts", "cascade"]);
                assert_eq!(xids(&report), [u64::from(later)]);
            }
            let sums = "SELECT (SELECT count(*) FROM accounts), (SELECT sum(balance) FROM accounts), (SELECT sum(amount) FROM entries)";
            assert_eq!(scene.psql(sums), "10|1000|210");
        });
    });
}

#[test]
fn rows_that_others_built_on_can_be_left_alone() {
    let server = Server::shared(None);
    while_captured(&server, ACCOUNTS, |scene| {
        let wrong = scene.transaction("UPDATE accounts SET balance = 0");
        scene.psql("UPDATE accounts SET balance = 50 WHERE id <= 3");
        let report = scene.undo(&format!("xid:{wrong}"), &["--conflicts", "skip"]);
        assert_eq!(report["conflicts"].as_array().unwrap().len(), 3);
        assert_eq!(scene.psql("SELECT sum(balance) FROM accounts"), "850");
    });
}

/// The transaction that gave the row another key changed what refers to it, too. With both taken back, that refers to a row which
/// nobody has made.
#[test]
fn what_refers_to_a_row_that_goes_with_a_later_change_of_its_key_is_taken_back_too() {
    let tables = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON UPDATE CASCADE)";
    on_oldest_and_newest(|server| {
        while_captured(server, tables, |scene| {
            let made = scene.transaction("INSERT INTO p VALUES (12)");
            let referring = scene.transaction("INSERT INTO c VALUES (5, 12)");
            let renaming = scene.transaction("UPDATE p SET id = 8 WHERE id = 12");
            let report = scene.undo(&format!("xid:{made}"), &["--conflicts", "cascade"]);
            let xids = xids(&report);
            assert!([referring, renaming].iter().all(|xid| xids.contains(&u64::from(*xid))), "{report}");
            assert_eq!(scene.psql("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c)"), "0|0");
        });
    });
}

/// Cascades and triggers' effects are ordinary changes of the transaction.
#[test]
fn cascades_and_truncates_are_taken_back_too() {
    let tables = "CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE);
        CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log (what) VALUES (TG_OP); RETURN NULL; END $$;
        CREATE TRIGGER note AFTER INSERT OR DELETE ON p FOR EACH ROW EXECUTE FUNCTION note();
        INSERT INTO p SELECT g, 'v' FROM generate_series(1, 9) g; INSERT INTO c SELECT g, 1 + g % 9 FROM generate_series(1, 90) g";
    on_oldest_and_newest(|server| {
        while_captured(server, tables, |scene| {
            let before = scene.rows();
            let deleted = scene.transaction("DELETE FROM p WHERE id < 4");
            let emptied = scene.transaction("TRUNCATE p, c, log");
            scene.undo(&format!("xid:{emptied}"), &[]);
            assert_eq!(
                scene.psql(
                    "SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM c), (SELECT count(*) FROM log)"
                ),
                "6|60|12"
            );
            scene.undo(&format!("xid:{deleted}"), &[]);
            assert_eq!(scene.rows(), before);
        });
    });
}

/// An undo names the changes that it cannot take back.
#[test]
fn schema_changes_and_dropped_tables_are_named() {
    let server = Server::shared(None);
    while_captured(&server, ACCOUNTS, |scene| {
        let wrong = scene.transaction(
            "UPDATE accounts SET note = 'x'; UPDATE entries SET amount = 0; ALTER TABLE accounts ADD COLUMN more int",
        );
        scene.psql("DROP TABLE entries");
        let report = scene.undo(&format!("xid:{wrong}"), &[]);
        let expected = [
            "public.entries: the table was dropped since".to_owned(),
            format!("xid:{wrong}: its ALTER TABLE is not taken back"),
        ];
        assert_eq!(report["without_place"], json!(expected));
        assert_eq!(scene.psql("SELECT DISTINCT note FROM accounts"), "n");
    });
}
