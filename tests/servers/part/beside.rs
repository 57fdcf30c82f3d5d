//! Into a schema beside the live tables: nothing outside of it is touched, and nothing of the application acts on it.

use serde_json::{Value, json};

use super::{assert_keys_hold, part_of, protected};
use crate::support::{Backwhen, Dump, Server, compare, on_oldest_and_newest};

/// Triggers, CHECKs, domains, computed columns, partitions, an enum, privileges: all that acts on rows or may be missing.
const SHOP: &str = "
CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION called() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the application ran'; END $$;
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, mood mood, email text UNIQUE);
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE,
    parent int REFERENCES orders, amount positive, twice int GENERATED ALWAYS AS (amount * 2) STORED, day date);
CREATE INDEX ON orders (customer); CREATE VIEW v AS SELECT * FROM orders;
CREATE TABLE parts (region int, id int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO customers SELECT g, 'c' || g, 'good', 'e' || g FROM generate_series(1, 9) g;
INSERT INTO orders (customer, parent, amount) SELECT 1 + g % 9, nullif(g - 1, 0), g FROM generate_series(1, 40) g;
INSERT INTO parts SELECT 1 + g % 2, g FROM generate_series(1, 6) g";

/// The live database goes on: rows are gone, and what is there would not let the old rows in.
const LATER: &str = "DELETE FROM orders; UPDATE customers SET mood = NULL;
ALTER TABLE customers ALTER mood TYPE text; DROP TYPE mood; CREATE TYPE mood AS ENUM ('none');
ALTER DOMAIN positive ADD CHECK (called() OR VALUE > 0); ALTER TABLE orders ADD CHECK (called());
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger ran'; END $$;
CREATE TRIGGER fire BEFORE INSERT OR DELETE OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION fire();
GRANT ALL ON orders TO PUBLIC";

/// The failpoints at which a recovery into a schema can be killed, besides those of every recovery.
pub const BESIDE: &[&str] = &["recover.loaded", "recover.beside"];

struct Shop {
    backwhen: Backwhen,
}

impl Shop {
    fn new(server: &Server) -> Shop {
        let backwhen = protected(server, SHOP, "SELECT 1");
        backwhen.ok(&["mark", "good"]);
        server.psql(backwhen.database(), LATER);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        Shop { backwhen }
    }

    fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    fn arguments<'a>(&self, source: &'a str, further: &[&'a str]) -> Vec<&'a str> {
        [&["recover", "--to", "mark:good", "--into", source, "--into-schema", "restored"][..], further]
            .concat()
    }

    fn recover(&self, further: &[&str]) -> Value {
        let source = self.backwhen.source();
        self.backwhen.json(&self.arguments(&source, further))
    }

    fn refuses(&self, code: i32, further: &[&str]) -> String {
        let source = self.backwhen.source();
        self.backwhen.fails(code, &self.arguments(&source, further))
    }

    /// The databases of the server that the recovery may have left.
    fn leftovers(&self) -> String {
        let name = self.backwhen.database();
        self.psql(&format!("SELECT string_agg(datname, ',') FROM pg_database WHERE datname LIKE '{name}.%'"))
    }

    fn outside(&self) -> Dump {
        Dump::with(self.backwhen.server(), self.backwhen.database(), &["--exclude-schema=restored"])
    }
}

#[test]
fn tables_land_in_their_schema_and_nowhere_else() {
    on_oldest_and_newest(|server| {
        let shop = Shop::new(server);
        let before = shop.outside();
        let wanted = ["--table", "orders", "--where", "id IN (3, 7)", "--with-references"];
        let report = shop.recover(&wanted);
        assert_eq!((&report["proved"], &report["into_schema"]), (&json!(true), &json!("restored")));
        assert_eq!(part_of(&report, "public.orders"), (7, 33));
        let rows = "SELECT string_agg(format('%s:%s:%s:%s', id, customer, amount, twice), ' ' ORDER BY id) FROM restored.orders";
        assert_eq!(shop.psql(rows), "1:2:1:2 2:3:2:4 3:4:3:6 4:5:4:8 5:6:5:10 6:7:6:12 7:8:7:14");
        assert_eq!(
            shop.psql("SELECT count(*), min(mood), pg_typeof(min(mood)) FROM restored.customers"),
            "7|good|text"
        );
        let constraints = "SELECT string_agg(contype::text, '' ORDER BY contype) FROM pg_constraint
            WHERE connamespace = 'restored'::regnamespace AND contype <> 'n'";
        assert_eq!(shop.psql(constraints), "ffppu");
        assert_keys_hold(server, shop.backwhen.database(), 4);
        let acting = "SELECT count(*) FILTER (WHERE relacl IS NOT NULL), count(*) FILTER (WHERE relrowsecurity),
                             (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'restored.orders'::regclass)
                        FROM pg_class WHERE relnamespace = 'restored'::regnamespace";
        assert_eq!(shop.psql(acting), "0|0|0");
        assert!(
            shop.psql("SELECT obj_description('restored'::regnamespace)")
                .starts_with("recovered by backwhen as of")
        );
        assert_eq!(compare(&before, &shop.outside()), []);
        assert_eq!(shop.leftovers(), "");
        // From here the rows can go back by a statement.
        shop.psql("ALTER TABLE orders DISABLE TRIGGER fire, DROP CONSTRAINT orders_check");
        shop.psql("ALTER DOMAIN positive DROP CONSTRAINT positive_check1");
        shop.psql("INSERT INTO orders (id, customer, parent, amount) OVERRIDING SYSTEM VALUE SELECT id, customer, parent, amount FROM restored.orders");
        // The schema is there now.
        assert!(shop.refuses(14, &wanted).contains("schema restored of database"));
        assert!(shop.refuses(14, &["--dry-run", "--table", "orders"]).contains("is not empty"));
    });
}

/// An empty schema keeps what it is. Without names all tables come, partitions in one table.
#[test]
fn an_empty_schema_is_filled() {
    let server = Server::shared(None);
    let shop = Shop::new(&server);
    shop.psql("CREATE SCHEMA restored; COMMENT ON SCHEMA restored IS 'ours'; GRANT USAGE ON SCHEMA restored TO PUBLIC");
    let plan = shop.recover(&["--dry-run"]);
    assert_eq!((&plan["into_schema"], &plan["tables"]), (&json!("restored"), &json!(4)));
    let report = shop.recover(&[]);
    assert_eq!((&report["rows"], &report["part"]), (&json!(55), &json!([])));
    assert_eq!(shop.psql("SELECT count(*), sum(id) FROM restored.parts"), "6|21");
    assert_eq!(shop.psql("SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'restored'::regnamespace"), "customers,orders,parts");
    assert_eq!(shop.psql("SELECT obj_description('restored'::regnamespace), has_schema_privilege('public', 'restored', 'USAGE')"), "ours|t");
}

#[test]
fn a_failed_recovery_leaves_the_live_database_as_it_was() {
    let server = Server::shared(None);
    let shop = Shop::new(&server);
    shop.psql("CREATE SCHEMA other; CREATE TABLE other.orders (id int PRIMARY KEY)");
    shop.backwhen.ok(&["capture", "--until", "caught-up"]);
    let source = shop.backwhen.source();
    let all = ["recover", "--to", "latest", "--into", &source, "--into-schema", "restored"];
    assert!(shop.backwhen.fails(14, &all).contains("several tables have the name orders"));
    assert!(shop.refuses(2, &["--table", "orders", "--where", "nothing = 1"]).contains("no chosen table"));
    assert!(
        shop.backwhen
            .fails(2, &["recover", "--to", "latest", "--into", "sql:-", "--into-schema", "x"])
            .contains("--into-schema needs")
    );
    for name in ["pg_mine", "backwhen", ""] {
        let error =
            shop.backwhen.fails(2, &["recover", "--to", "latest", "--into", &source, "--into-schema", name]);
        assert!(error.contains("choose another one"), "{error}");
    }
    for point in BESIDE {
        shop.backwhen.dies(point, &shop.arguments(&source, &["--table", "orders"]));
        let is_done = *point == "recover.beside";
        assert_eq!(shop.psql("SELECT to_regnamespace('restored') IS NOT NULL") == "t", is_done);
        assert_ne!(shop.leftovers(), "");
    }
    // The next one removes what the killed one left, also if the schema is there by now.
    assert_eq!(shop.psql("SELECT count(*) FROM restored.orders"), "40");
    assert!(shop.refuses(14, &["--table", "orders"]).contains("is not empty"));
    assert_eq!(shop.leftovers(), "");
}

/// The protected database follows its own restored tables: they are tables like any others.
#[test]
fn restored_tables_of_the_protected_database_are_in_the_history() {
    on_oldest_and_newest(|server| {
        let shop = Shop::new(server);
        let mut capture = shop.backwhen.spawn_capture();
        capture.wait_streaming();
        shop.recover(&["--table", "customers"]);
        shop.backwhen.ok(&["mark", "after"]);
        capture.stop();
        let database = format!("{}_new", server.fresh_database("part"));
        let into = server.conninfo(&database);
        let output = shop.backwhen.run(&[
            "recover",
            "--to",
            "mark:after",
            "--create",
            "--into",
            &into,
            "--table",
            "restored.*",
        ]);
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
        let rows = "SELECT string_agg(c::text, ',' ORDER BY id) FROM restored.customers c";
        assert_eq!(server.psql(&database, rows), shop.psql(rows));
    });
}
