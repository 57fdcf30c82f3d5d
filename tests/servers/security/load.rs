//! While rows are loaded and indexes built, the application's code runs with no more rights than its authors had.

use crate::security::mallory::{Scene, on_oldest_and_newest};

/// Where the server calls functions by itself.
const PLACES: [&str; 9] = ["chk", "gen", "dom", "part", "idx", "mv", "def", "stat", "oper"];

/// A function for each place, which makes a role if it may.
fn functions() -> String {
    let one = |place: &&str| {
        format!(
            "CREATE FUNCTION public.make_{place}() RETURNS int LANGUAGE plpgsql VOLATILE AS $f$
             DECLARE who text; BEGIN
                 IF pg_catalog.current_database() LIKE 'attacked%' THEN RETURN 1; END IF;
                 FOREACH who IN ARRAY ARRAY['', 'RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET ROLE postgres'] LOOP
                     BEGIN
                         IF who <> '' THEN EXECUTE who; END IF;
                         IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pwned_{place}') THEN
                             EXECUTE 'CREATE ROLE pwned_{place} SUPERUSER';
                         END IF;
                     EXCEPTION WHEN OTHERS THEN NULL; END;
                 END LOOP;
                 RETURN 1;
             END $f$;
             CREATE FUNCTION public.f_{place}(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                 $f$ BEGIN PERFORM public.make_{place}(); RETURN x; END $f$;"
        )
    };
    PLACES.iter().map(one).collect()
}

const TABLES: &str = "
    CREATE TABLE chk (a int PRIMARY KEY CHECK (public.f_chk(a) = a)); INSERT INTO chk VALUES (1);
    CREATE TABLE gen (a int PRIMARY KEY, b int GENERATED ALWAYS AS (public.f_gen(a) + public.f_gen(7)) STORED);
    INSERT INTO gen VALUES (1);
    CREATE DOMAIN d AS int CHECK (public.f_dom(value) = value); CREATE TABLE dom (a int PRIMARY KEY, b d, c d[]);
    INSERT INTO dom VALUES (1, 1, '{1}');
    CREATE TABLE part (a int) PARTITION BY RANGE (public.f_part(a)); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
    INSERT INTO part VALUES (1);
    CREATE TABLE idx (a int PRIMARY KEY); INSERT INTO idx VALUES (1); CREATE INDEX ON idx (public.f_idx(a)) WHERE public.f_idx(3) = 3;
    CREATE MATERIALIZED VIEW mv AS SELECT public.f_mv(1) AS a;
    CREATE TABLE def (a int PRIMARY KEY, b int DEFAULT public.f_def(1)); INSERT INTO def (a) VALUES (1);
    CREATE TABLE stat (a int PRIMARY KEY); INSERT INTO stat VALUES (1); CREATE STATISTICS st ON (public.f_stat(a)), a FROM stat;
    CREATE FUNCTION public.same(int, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
        $f$ BEGIN PERFORM public.make_oper(); RETURN $1 = $2; END $f$;
    CREATE OPERATOR public.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = public.same);
    CREATE TABLE oper (a int PRIMARY KEY CHECK (a OPERATOR(public.===) a)); INSERT INTO oper VALUES (1);
    CREATE FUNCTION public.hers() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
    CREATE PROCEDURE public.p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
    CREATE AGGREGATE public.agg(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');";

const KINDS: &str =
    "SELECT string_agg(concat_ws(' ', proname, prosecdef, proowner::regrole), E'\\n' ORDER BY proname) FROM pg_proc
                      WHERE pronamespace = 'public'::regnamespace";

#[test]
fn code_of_the_application_runs_as_its_owner() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        scene.as_mallory(&format!("{}{TABLES}", functions())).unwrap();
        scene.backwhen.init();
        scene.assert_exact();
        scene.assert_nothing_gained();
        let (target, _) = scene.recover("latest");
        assert_eq!(scene.server.psql(&target, KINDS), scene.run(KINDS), "each is what it was");
        let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'backwhen%'";
        assert_eq!(scene.server.psql(&target, left), "0");
    });
}

#[test]
fn where_the_owner_is_missing_a_role_without_rights_owns_it() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "");
        let owner = format!("gone_{}", scene.backwhen.database());
        scene.run(&format!(
            "CREATE ROLE {owner}; GRANT CREATE ON SCHEMA public TO {owner}; SET ROLE {owner}; {}{TABLES}",
            functions()
        ));
        scene.backwhen.init();
        scene.capture();
        scene
            .run(&format!("REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}"));
        scene.assert_nothing_gained();
        let (target, said) = scene.recover_without_role("checkpoint:0001");
        assert_eq!(said["proved"], true, "{said}");
        scene.assert_nothing_gained();
        let role = format!("backwhen_owner_of_{target}");
        assert!(said["notes"].to_string().contains(&role), "{said}");
        let others = format!(
            "SELECT string_agg(relname || ' of ' || relowner::regrole, ' ' ORDER BY relname) FROM pg_class
              WHERE relnamespace = 'public'::regnamespace AND relowner <> '{role}'::regrole"
        );
        // The owner of this table is there.
        assert_eq!(scene.server.psql(&target, &others), "orders of postgres orders_pkey of postgres");
        let powers = format!(
            "SELECT rolsuper OR rolcanlogin OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_roles WHERE rolname = '{role}'"
        );
        assert_eq!(scene.run(&powers), "f");
        // And what was not SECURITY DEFINER is not.
        assert_eq!(scene.server.psql(&target, "SELECT string_agg(proname, ' ') FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"), "hers");
    });
}

#[test]
fn a_role_that_may_create_databases_is_enough() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        scene.as_mallory(&format!("{}{TABLES}", functions())).unwrap();
        scene.backwhen.init();
        scene.capture();
        scene.run("DO $$BEGIN CREATE ROLE recovering LOGIN CREATEDB; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END$$");
        let target = format!("by_{}", scene.backwhen.database());
        let into = scene.server.conninfo(&target).replace("user=postgres", "user=recovering");
        // Owners and privileges are what such a role cannot give.
        let recover = ["recover", "--to", "latest", "--create", "--into", &into];
        let said = scene.backwhen.json_incomplete(&recover);
        assert_eq!(said["proved"], true, "{said}");
        let left_out = said["left_out"].as_array().unwrap();
        assert!(left_out.iter().all(|it| it["what"].as_str().unwrap().starts_with("ROLE ")), "{said}");
        scene.assert_nothing_gained();
        assert_eq!(scene.server.psql(&target, "SELECT sum(a) FROM chk"), "1");
    });
}

#[test]
fn functions_of_the_server_in_checks_do_nothing_while_a_superuser_loads() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        let file = std::env::temp_dir().join(format!("backwhen-{}-pwned", scene.backwhen.database()));
        // On the source it is her, and nothing happens.
        let call = format!(
            "pg_catalog.query_to_xml(CASE WHEN current_user = 'mallory' THEN 'SELECT 1'
                 ELSE $x$SELECT pg_catalog.lo_export(pg_catalog.lo_from_bytea(0, 'x'), '{}')$x$ END, true, false, '') IS NOT NULL",
            file.display()
        );
        scene
            .as_mallory(&format!(
                "CREATE TABLE q (a int PRIMARY KEY, r float8 DEFAULT 0 CHECK (r <= 1 + random()), CONSTRAINT sly CHECK ({call}));
                 INSERT INTO q VALUES (1, 0);
                 CREATE DOMAIN e AS int CONSTRAINT sly_too CHECK ({call}); CREATE TABLE p (a int PRIMARY KEY, b e);
                 INSERT INTO p VALUES (1, 2)"
            ))
            .unwrap();
        scene.backwhen.init();
        scene.capture();
        let (target, said) = scene.recover("latest");
        assert!(!file.exists(), "a file was written as the server's user");
        assert_eq!(said["proved"], true, "{said}");
        let named = said["inexact"].to_string();
        assert!(
            named.contains("sly of table public.q") && named.contains("sly_too of domain public.e"),
            "{said}"
        );
        let checks =
            "SELECT string_agg(conname || ' ' || convalidated, ',' ORDER BY conname) FROM pg_constraint
                       WHERE contype = 'c' AND oid >= 16384";
        assert_eq!(scene.server.psql(&target, checks), "q_r_check true,sly false,sly_too false");
    });
}

/// What a function does as its owner reaches its owner's other functions.
#[test]
fn no_function_takes_the_guard_off_another() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        let loosen = ["FUNCTION f_loose(int)", "ROUTINE f_loose(int)", "FUNCTION make_loose()"];
        let loosen = loosen.map(|what| {
            format!("BEGIN EXECUTE 'ALTER {} SECURITY INVOKER'; EXCEPTION WHEN OTHERS THEN NULL; END;", what)
        });
        let loosen =
            loosen.concat().replace("f_loose", "public.f_chk").replace("make_loose", "public.make_chk");
        scene
            .as_mallory(&format!(
                "{}
                 CREATE FUNCTION public.loosen(x int) RETURNS int LANGUAGE plpgsql AS $f$
                 BEGIN IF current_database() NOT LIKE 'attacked%' THEN {loosen} END IF; RETURN x; END $f$;
                 CREATE TABLE loosened (a int PRIMARY KEY CHECK (public.loosen(a) = a), CHECK (public.f_chk(a) = a));
                 INSERT INTO loosened VALUES (1), (2);
                 CREATE TABLE chk (a int PRIMARY KEY CHECK (public.f_chk(a) = a)); INSERT INTO chk VALUES (1);",
                functions()
            ))
            .unwrap();
        scene.backwhen.init();
        scene.assert_exact();
        scene.assert_nothing_gained();
    });
}

/// Names of ours are anybody's to take.
#[test]
fn a_schema_with_a_name_like_ours_is_like_any_other() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "");
        let owner = format!("gone_{}", scene.backwhen.database());
        scene.run(&format!(
            "CREATE ROLE {owner}; CREATE SCHEMA backwhen_guard AUTHORIZATION {owner};
             CREATE SCHEMA backwhen_other AUTHORIZATION {owner}; SET ROLE {owner};
             CREATE TABLE backwhen_guard.invokers (function oid PRIMARY KEY);
             CREATE MATERIALIZED VIEW backwhen_other.view AS SELECT current_user::text AS who"
        ));
        scene.backwhen.init();
        scene.capture();
        scene
            .run(&format!("REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}"));
        let (target, said) = scene.recover_without_role("checkpoint:0001");
        assert_eq!(said["proved"], true, "{said}");
        assert_eq!(said["left_out"][0]["what"], format!("ROLE {owner}"), "{said}");
        let who = scene.server.psql(&target, "SELECT who FROM backwhen_other.view");
        assert_eq!(who, format!("backwhen_owner_of_{target}"));
        let owners =
            "SELECT string_agg(nspname, ' ' ORDER BY nspname), string_agg(DISTINCT nspowner::regrole::text, ' ')
                        FROM pg_namespace WHERE nspname LIKE 'backwhen%'";
        assert_eq!(
            scene.server.psql(&target, owners),
            format!("backwhen_guard backwhen_other|backwhen_owner_of_{target}")
        );
    });
}

/// A superuser's helper runs what it is given, as whoever calls it.
#[test]
fn a_superusers_function_lends_nobody_a_superusers_rights() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        scene.run(
            "CREATE FUNCTION public.exec(command text) RETURNS int LANGUAGE plpgsql AS
                 $f$ BEGIN EXECUTE command; RETURN 1; END $f$;
             CREATE TABLE public.dba (a int PRIMARY KEY CHECK (public.exec('SELECT 1') = a)); INSERT INTO dba VALUES (1)",
        );
        let call = |name: &str| {
            format!("(current_user = 'mallory' OR public.exec('CREATE ROLE pwned_{name} SUPERUSER') = 1)")
        };
        scene
            .as_mallory(&format!(
                "CREATE FUNCTION public.through(x int) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN
                     IF current_database() NOT LIKE 'attacked%' THEN
                         BEGIN PERFORM public.exec('CREATE ROLE pwned_through SUPERUSER'); EXCEPTION WHEN OTHERS THEN NULL; END;
                         BEGIN EXECUTE 'ALTER TABLE public.late ADD CHECK (public.exec(''CREATE ROLE pwned_late SUPERUSER'') = 1)';
                         EXCEPTION WHEN OTHERS THEN NULL; END;
                     END IF; RETURN x; END $f$;
                 CREATE TABLE late (a int PRIMARY KEY); INSERT INTO late VALUES (1);
                 CREATE TABLE hers (a int PRIMARY KEY, CONSTRAINT sly CHECK {}, CHECK (public.through(a) = a));
                 INSERT INTO hers SELECT generate_series(1, 200);
                 CREATE DOMAIN d AS int CHECK {}; CREATE TABLE of_domain (a int PRIMARY KEY, b d[] DEFAULT '{{1}}');
                 INSERT INTO of_domain VALUES (1)",
                call("check"),
                call("domain")
            ))
            .unwrap();
        scene.backwhen.init();
        scene.capture();
        let (target, said) = scene.recover("latest");
        scene.assert_nothing_gained();
        assert_eq!(said["proved"], true, "{said}");
        assert!(said["inexact"].to_string().contains("sly of table public.hers"), "{said}");
        let kinds = "SELECT string_agg(proname || ' ' || prosecdef, ',' ORDER BY proname) FROM pg_proc
                      WHERE pronamespace = 'public'::regnamespace";
        assert_eq!(scene.server.psql(&target, kinds), "exec false,through false");
        let own = "SELECT convalidated FROM pg_constraint WHERE conrelid = 'dba'::regclass AND contype = 'c'";
        assert_eq!(scene.server.psql(&target, own), "t", "the DBA's own table is as it was");
    });
}
