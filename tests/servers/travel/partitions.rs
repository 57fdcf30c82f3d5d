//! Partitioned tables can be asked for by their own names, however their partitions and their names change.

use serde_json::Value;

use super::{Scene, on_oldest_and_newest};
use crate::support::Backwhen;

const MEASURES: &str = r#"
CREATE SCHEMA "Od d";
CREATE TABLE "Od d"."me.as" (site int, id int, v text, PRIMARY KEY (site, id)) PARTITION BY LIST (site);
CREATE TABLE one PARTITION OF "Od d"."me.as" FOR VALUES IN (1);
CREATE TABLE two PARTITION OF "Od d"."me.as" FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE two_a PARTITION OF two FOR VALUES FROM (0) TO (100);
CREATE TABLE two_b PARTITION OF two FOR VALUES FROM (100) TO (1000);
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO "Od d"."me.as" SELECT 1 + n % 2, n, 'v' || n FROM generate_series(1, 150) n;
"#;

/// Selects the names of the tables that a recovery has made.
const TABLES: &str = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class \
    WHERE relkind = 'r' AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'Od d', 'n.s'))";

fn recovered(scene: &Scene, moment: &str, table: &str, name: &str) -> String {
    let into = format!("{name}_of_{}", scene.backwhen.database());
    let target = scene.backwhen.server().conninfo(&into);
    scene.backwhen.ok(&["recover", "--to", moment, "--table", table, "--create", "--into", &target]);
    into
}

#[test]
fn a_partitioned_table_stands_for_its_partitions_at_the_moment() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, MEASURES);
        let root = r#""Od d"."me.as""#;
        let changed = scene.transaction(&format!("UPDATE {root} SET v = 'x' WHERE id IN (2, 101)"));
        let moved = scene.transaction(&format!("UPDATE {root} SET site = 2 WHERE id = 2"));
        scene.transaction("INSERT INTO other VALUES (1)");
        // Partitions that no checkpoint knows.
        let made = scene.transaction(&format!(
            "CREATE TABLE three PARTITION OF {root} FOR VALUES IN (3); INSERT INTO {root} VALUES (3, 1, 'new')"
        ));
        scene.psql("CREATE TABLE loose (site int NOT NULL, id int NOT NULL, v text, PRIMARY KEY (site, id))");
        scene.transaction("INSERT INTO loose VALUES (4, 1, 'loose')");
        scene.psql(&format!("ALTER TABLE {root} ATTACH PARTITION loose FOR VALUES IN (4)"));
        scene.psql(&format!("ALTER TABLE {root} DETACH PARTITION one"));
        scene.psql("ALTER TABLE two DETACH PARTITION two_b");
        scene.backwhen.ok(&["mark", "detached"]);
        let apart = scene.transaction("UPDATE one SET v = 'apart'");
        scene.drain();

        assert_eq!(scene.listed(&["--table", root, "--op", "update", "--until", "mark:detached"]), [changed]);
        let listed = scene.listed(&["--table", root]);
        assert!(listed.contains(&made) && listed.contains(&moved), "{listed:?}");
        let one = scene.lines(&["row", root, "site=1,id=2"]);
        assert_eq!(one, [] as [Value; 0], "one is no partition any more");
        let two = scene.lines(&["row", root, "site=2,id=2"]);
        assert_eq!(
            (two.len(), &two[0]["table"], &two[0]["op"]),
            (1, &"public.two_a".into(), &"insert".into())
        );

        let into = recovered(&scene, "latest", root, "root");
        assert_eq!(server.psql(&into, TABLES), "loose three two_a");
        let rows = format!("SELECT count(*), md5(string_agg(m::text, ',' ORDER BY site, id)) FROM {root} m");
        assert_eq!(server.psql(&into, &rows), scene.psql(&rows));
        assert_eq!(server.psql(&recovered(&scene, "latest", "two", "two"), TABLES), "two_a");

        // Before any later checkpoint, only the statements tell which partitions there are.
        let first = &scene.lines(&["list", "checkpoints"])[0]["id"];
        let plan = scene.backwhen.json(&["recover", "--to", "mark:detached", "--table", root, "--dry-run"]);
        assert_eq!(&plan["checkpoint"], first, "{plan}");
        assert_eq!(
            server.psql(&recovered(&scene, "mark:detached", root, "told"), TABLES),
            "loose three two_a"
        );
        let one = scene.lines(&["row", root, "site=1,id=2", "--until", "mark:detached"]);
        assert_eq!(one, [] as [Value; 0]);

        let since = ["--since", "mark:detached", "--until", &apart];
        for question in [&["--table", "one"][..], &["--table", "one", "--where", "id > 0"]] {
            assert_eq!(scene.listed(&[&since, question].concat()), std::slice::from_ref(&apart));
        }
        for question in [&["--table", root][..], &["--table", root, "--where", "id > 0"]] {
            assert_eq!(scene.listed(&[&since, question].concat()), [] as [String; 0]);
        }

        // The names of everything above change.
        scene.psql(&format!(
            r#"ALTER TABLE {root} RENAME TO "Me"; ALTER SCHEMA "Od d" RENAME TO "n.s"; ALTER TABLE two SET SCHEMA "n.s""#
        ));
        let last = scene.transaction(r#"UPDATE "n.s"."Me" SET v = 'y' WHERE id = 1"#);
        scene.drain();
        assert_eq!(scene.listed(&["--table", r#""n.s".Me"#, "--op", "update"]).last(), Some(&last));
        let into = recovered(&scene, "latest", r#""n.s"."Me""#, "renamed");
        assert_eq!(server.psql(&into, TABLES), "loose three two_a");
        assert_eq!(
            server.psql(&recovered(&scene, "latest", r#""n.s".*"#, "all"), TABLES),
            "loose three two_a"
        );
    });
}

#[test]
fn protection_is_chosen_by_partitioned_tables_too() {
    on_oldest_and_newest(|server| {
        let database = server.fresh_database("chosen");
        server.psql(&database, MEASURES);
        let backwhen = Backwhen::new(server, &database);
        let root = r#""Od d"."me.as""#;
        backwhen.ok(&["init", "--source", &backwhen.source(), "--include", root, "--exclude", "two"]);
        server.psql(
            &database,
            &format!(
                "CREATE TABLE three PARTITION OF {root} FOR VALUES IN (3); \
                 CREATE TABLE two_c PARTITION OF two FOR VALUES FROM (1000) TO (2000); \
                 CREATE TABLE more (id int PRIMARY KEY); \
                 INSERT INTO {root} VALUES (3, 1, 'new'), (2, 1001, 'left out'), (1, 1000, 'one'); \
                 INSERT INTO more VALUES (1); INSERT INTO other VALUES (1)"
            ),
        );
        backwhen.ok(&["capture", "--until", "caught-up"]);
        let into = format!("recovered_{database}");
        let target = server.conninfo(&into);
        let report = backwhen.json(&["recover", "--to", "latest", "--create", "--into", &target]);
        let rows = |database: &str| {
            server
                .psql(database, "SELECT m::text FROM one m UNION ALL SELECT m::text FROM three m ORDER BY 1")
        };
        assert_eq!(rows(&into), rows(&database));
        let held = "SELECT string_agg(DISTINCT tableoid::regclass::text, ' ' ORDER BY tableoid::regclass::text) FROM";
        assert_eq!(server.psql(&into, &format!("{held} {root}")), "one three", "{report}");
        let empty = "SELECT (SELECT count(*) FROM other) + (SELECT count(*) FROM more)";
        assert_eq!(server.psql(&into, empty), "0");
    });
}
