//! Traps that other tools for undoing fell into; docs/architecture/travel.md lists them all with their tests.

use serde_json::json;

use super::{on_oldest_and_newest, while_captured};
use crate::part::assert_keys_hold;
use crate::support::Server;

/// The keys that are in force now decide, not those of the moment; and they are in force afterwards.
#[test]
fn foreign_keys_of_today_decide_and_stay_in_force() {
    let tables = "CREATE SCHEMA a; CREATE SCHEMA b;
        CREATE TABLE a.parents (x int, y int, PRIMARY KEY (x, y)); INSERT INTO a.parents SELECT g, 1 FROM generate_series(1, 5) g;
        CREATE TABLE b.children (x int, y int, n int, PRIMARY KEY (x, y, n), FOREIGN KEY (x, y) REFERENCES a.parents ON UPDATE CASCADE);
        INSERT INTO b.children SELECT g, 1, n FROM generate_series(1, 5) g, generate_series(1, 3) n;
        CREATE TABLE free (id int PRIMARY KEY); CREATE TABLE freed (id int PRIMARY KEY, p int CONSTRAINT old REFERENCES free);
        CREATE TABLE bound (id int PRIMARY KEY, p int); INSERT INTO free VALUES (1); INSERT INTO freed VALUES (1, 1);
        INSERT INTO bound VALUES (1, 99)";
    on_oldest_and_newest(|server| {
        while_captured(server, tables, |scene| {
            scene.mark("good");
            // Keys of two columns, in another schema, which are a part of the child's own key.
            scene.psql("UPDATE a.parents SET x = x + 100 WHERE x < 3; DELETE FROM b.children WHERE n = 3");
            scene.psql("ALTER TABLE freed DROP CONSTRAINT old; DELETE FROM free; DELETE FROM freed");
            scene.psql(
                "DELETE FROM bound; ALTER TABLE bound ADD CONSTRAINT new FOREIGN KEY (p) REFERENCES free",
            );
            let report = scene.amend(14, &["rewind", "--to", "mark:good", "--table", "b.*", "--apply"]);
            let why = "the row of a.parents that it refers to is gone (children_x_y_fkey)";
            assert!(report["conflicts"].as_array().unwrap().iter().all(|it| it["why"] == why), "{report}");
            assert_eq!(scene.psql("SELECT count(*), max(x) FROM b.children"), "10|102");
            scene.rewind(&["--to", "mark:good", "--table", "b.*", "--conflicts", "cascade"]);
            assert_eq!(
                scene.psql("SELECT (SELECT max(x) FROM a.parents), count(*), max(x) FROM b.children"),
                "5|15|5"
            );
            scene.rewind(&["--to", "mark:good", "--table", "freed"]);
            assert_eq!(scene.psql("SELECT count(*) FROM freed"), "1");
            let error = scene.amend(14, &["rewind", "--to", "mark:good", "--table", "bound", "--apply"]);
            assert!(error["error"].as_str().unwrap().contains("\"new\""), "{error}");
            assert_eq!(scene.psql("SELECT count(*) FROM bound"), "0");
            assert_keys_hold(server, scene.backwhen.database(), 2);
        });
    });
}

/// A filter by row security is an error, names resolve to the server's own, and numbers are not handed out again.
#[test]
fn row_security_search_paths_and_sequences_are_no_matter() {
    let server = Server::shared(None);
    let tables = "CREATE TABLE public.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); INSERT INTO public.t (v) VALUES ('a'), ('b');
        DROP ROLE IF EXISTS filtered; CREATE ROLE filtered LOGIN; ALTER TABLE public.t OWNER TO filtered;
        CREATE SCHEMA evil; CREATE TABLE evil.t (id int, v text);
        CREATE FUNCTION evil.raise(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the wrong operator'; END $$;
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.raise)";
    while_captured(&server, tables, |scene| {
        scene.mark("good");
        let wrong = scene
            .transaction("UPDATE public.t SET v = 'x' WHERE id = 1; INSERT INTO public.t (v) VALUES ('new')");
        scene.psql(&format!(
            "ALTER DATABASE {} SET search_path = evil, pg_catalog",
            scene.backwhen.database()
        ));
        scene.psql("ALTER TABLE public.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON public.t USING (v = 'x')");
        let source = scene.backwhen.source().replace("user=postgres", "user=filtered");
        let error = scene.amend(14, &["rewind", "--to", "mark:good", "--apply", "--source", &source]);
        assert!(error["error"].as_str().unwrap().contains("row-level security"), "{error}");
        assert_eq!(scene.psql("SELECT count(*) FROM public.t"), "3");
        let report = scene.undo(&format!("xid:{wrong}"), &[]);
        assert_eq!(
            report["tables"],
            json!([{"table": "public.t", "inserted": 0, "deleted": 1, "updated": 1}])
        );
        let number = "INSERT INTO public.t (v) VALUES ('next') RETURNING id";
        assert_eq!(scene.psql(number), "4");
        scene.rewind(&["--to", "mark:good"]);
        assert_eq!(scene.psql(number), "5");
        scene.psql("REASSIGN OWNED BY filtered TO postgres; DROP OWNED BY filtered; DROP ROLE filtered");
    });
}

/// A row that has another key by now is the same row; one that is another row under the old key is not touched.
#[test]
fn a_row_that_moved_on_is_followed() {
    let server = Server::shared(None);
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text, w text); INSERT INTO t VALUES (1, 'a', 'w'), (2, 'b', 'w')";
    while_captured(&server, tables, |scene| {
        let wrong = scene.transaction("UPDATE t SET v = 'x' WHERE id = 1");
        scene
            .psql("UPDATE t SET id = 10, w = 'later' WHERE id = 1; INSERT INTO t VALUES (1, 'x', 'another')");
        let report = scene.undo(&format!("xid:{wrong}"), &[]);
        assert_eq!(report["tables"][0]["updated"], 1, "{report}");
        assert_eq!(
            scene.psql("SELECT string_agg(id || v || w, ' ' ORDER BY id) FROM t"),
            "1xanother 2bw 10alater"
        );
    });
}
