//! Rows that take each other's unique values while foreign keys keep them from being deleted, and rows that moved between
//! partitions.

use super::{Scene, on_oldest_and_newest, while_captured};
use crate::support::Server;

/// In each table rows exchange values of a column that takes no NULL. A row cannot be deleted and inserted again, since
/// that would take the rows along that refer to it.
const TABLES: &str = "
CREATE TABLE ranks (id int PRIMARY KEY, pos smallint NOT NULL UNIQUE CHECK (pos > 0));
CREATE TABLE names (id int PRIMARY KEY, part int NOT NULL, name text NOT NULL, UNIQUE (part, name));
CREATE TABLE tokens (id int PRIMARY KEY, token uuid NOT NULL UNIQUE);
CREATE TABLE holders (id int PRIMARY KEY, rank int REFERENCES ranks ON DELETE CASCADE,
    name int REFERENCES names ON DELETE CASCADE, token int REFERENCES tokens ON DELETE CASCADE);
INSERT INTO ranks SELECT g, g FROM generate_series(1, 9) g;
INSERT INTO names SELECT g, g % 2, 'n' || g FROM generate_series(1, 9) g;
INSERT INTO tokens SELECT g, md5(g::text)::uuid FROM generate_series(1, 9) g;
INSERT INTO holders SELECT g, g, g, g FROM generate_series(1, 9) g";

const EXCHANGES: &str = "
UPDATE ranks SET pos = pos + 100; UPDATE ranks SET pos = 110 - pos; DELETE FROM holders WHERE id = 9; DELETE FROM ranks WHERE id = 9;
UPDATE names SET name = name || '+'; UPDATE names SET name = 'n' || (10 - id), part = (10 - id) % 2;
UPDATE tokens SET token = md5('-' || id)::uuid; UPDATE tokens SET token = md5((10 - id)::text)::uuid";

#[test]
fn rows_that_exchange_values_without_null_go_back() {
    on_oldest_and_newest(|server| {
        while_captured(server, TABLES, |scene| {
            scene.mark("good");
            let good = scene.rows();
            scene.psql(EXCHANGES);
            let bad = scene.rows();
            let report = scene.rewind(&["--to", "mark:good"]);
            assert_eq!(scene.rows(), good);
            scene.undo_report(&report);
            assert_eq!(scene.rows(), bad);
        });
    });
}

#[test]
fn values_that_have_no_place_to_wait_are_refused_by_name() {
    let tables = "CREATE TABLE days (id int PRIMARY KEY, day date NOT NULL UNIQUE);
        CREATE TABLE codes (id int PRIMARY KEY, code int NOT NULL UNIQUE);
        CREATE TABLE notes (id int PRIMARY KEY, day int REFERENCES days ON DELETE CASCADE,
            code int REFERENCES codes (code) ON UPDATE CASCADE ON DELETE CASCADE);
        INSERT INTO days SELECT g, date '2026-01-01' + g FROM generate_series(1, 2) g;
        INSERT INTO codes VALUES (1, 1), (2, 2); INSERT INTO notes VALUES (1, 1, 1)";
    let server = Server::shared(None);
    while_captured(&server, tables, |scene| {
        scene.mark("good");
        scene.psql(
            "UPDATE days SET day = day + 100; UPDATE days SET day = date '2026-01-04' - id;
             UPDATE codes SET code = code + 10; UPDATE codes SET code = 13 - code",
        );
        let bad = scene.rows();
        for table in ["days", "codes"] {
            let error = scene.amend(14, &["rewind", "--to", "mark:good", "--table", table, "--apply"]);
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains(&format!("public.{table} take each other's unique values")),
                "{message}"
            );
        }
        assert_eq!(scene.rows(), bad);
    });
}

/// The stream tells a move between partitions as a delete and an insert. If one of the two must stay, so must the other.
#[test]
fn a_row_that_moved_is_left_alone_as_a_whole() {
    let tables = "CREATE TABLE parts (region text, id int, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
        CREATE TABLE parts_n PARTITION OF parts FOR VALUES IN ('n'); CREATE TABLE parts_s PARTITION OF parts FOR VALUES IN ('s');
        CREATE TABLE plain (id int PRIMARY KEY, v text); INSERT INTO plain VALUES (1, 'v');
        INSERT INTO parts SELECT 'n', g, 'v' FROM generate_series(1, 5) g";
    on_oldest_and_newest(|server| {
        while_captured(server, tables, |scene: &Scene| {
            let wrong = scene.transaction(
                "UPDATE parts SET region = 's' WHERE id <= 2; UPDATE parts SET v = 'w' WHERE id = 4; UPDATE plain SET v = 'w'",
            );
            scene.psql("UPDATE parts SET v = 'built on it' WHERE id = 1");
            scene.undo(&format!("xid:{wrong}"), &["--conflicts", "skip"]);
            let found = scene
                .psql("SELECT string_agg(region || id || ' ' || v, ', ' ORDER BY id, region) FROM parts");
            assert_eq!(found, "s1 built on it, s2 v, n3 v, n4 v, n5 v");
            assert_eq!(scene.psql("SELECT v FROM plain"), "v");
        });
    });
}
