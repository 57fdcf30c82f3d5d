//! An ordinary role's objects call functions of others, with arguments that the role chose: while a superuser recovers, such a
//! function has no more rights than the role that calls it.

use crate::security::mallory::{Scene, on_oldest_and_newest};
use crate::support::{Dump, assert_same};

/// A superuser's helpers, which run what they are given, as any caller of theirs.
const HELPERS: &str = "
    CREATE FUNCTION public.run(command text) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN EXECUTE command; RETURN 1; END $f$;
    CREATE FUNCTION public.exec(command text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $f$ BEGIN PERFORM public.run(command); RETURN 1; END $f$;
    CREATE FUNCTION public.exec_sql(command text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT public.exec(command)';
    CREATE FUNCTION public.exec_any(command anyelement) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $f$ BEGIN PERFORM public.run(to_jsonb(command) ->> 'command'); RETURN 1; END $f$;
    CREATE DOMAIN public.runs AS text CHECK (public.exec(VALUE) = 1);
    CREATE DOMAIN public.runs_more AS public.runs;
    CREATE FUNCTION public.is_positive(a int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
        $f$ BEGIN RETURN a > (SELECT min(zero) FROM public.zeros); END $f$;
    CREATE TABLE public.zeros (zero int PRIMARY KEY); INSERT INTO public.zeros VALUES (0);
    CREATE TABLE public.of_superuser (a int PRIMARY KEY CHECK (public.is_positive(a)));
    INSERT INTO public.of_superuser VALUES (1);";

/// Makes a role of that name if it may, whatever it takes; on the source it is mallory and does not try.
fn command(place: &str) -> String {
    format!(
        "DO $d$ DECLARE step text; BEGIN
             IF pg_catalog.current_database() LIKE 'attacked%' THEN RETURN; END IF;
             FOREACH step IN ARRAY ARRAY['SELECT 1', 'RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET ROLE postgres',
                 'ALTER FUNCTION public.exec(text) SECURITY INVOKER', 'UPDATE pg_catalog.pg_authid SET rolsuper = true'] LOOP
                 BEGIN
                     EXECUTE step;
                     IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pwned_{place}') THEN
                         EXECUTE 'CREATE ROLE pwned_{place} SUPERUSER';
                     END IF;
                 EXCEPTION WHEN OTHERS THEN NULL; END;
             END LOOP; END $d$"
    )
}

/// The objects that mallory makes, each with a call to a superuser's function.
fn attacks() -> Vec<String> {
    [
        ("gen", "CREATE TABLE gen (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a + public.exec($c$COMMAND$c$)) STORED);
             INSERT INTO gen VALUES (1)"),
        ("sql", "CREATE TABLE sql (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a + public.exec_sql($c$COMMAND$c$)) STORED);
             INSERT INTO sql VALUES (1)"),
        ("row", "CREATE TABLE of_row (a text PRIMARY KEY, b int GENERATED ALWAYS AS (public.exec(a)) STORED);
             INSERT INTO of_row VALUES ($c$COMMAND$c$)"),
        ("part", "CREATE TABLE part (a int) PARTITION BY RANGE ((a * public.exec(left($c$COMMAND$c$, 9999 + a))));
             CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10); INSERT INTO part VALUES (1)"),
        ("dom", "CREATE TABLE dom (a int PRIMARY KEY, b public.runs, c public.runs_more[], d public.runs DEFAULT $c$COMMAND$c$);
             INSERT INTO dom VALUES (1, $c$COMMAND$c$, ARRAY[$c$COMMAND$c$::public.runs_more])"),
        ("rows", "CREATE TYPE two AS (a int, b public.runs_more); CREATE TABLE of_type (a int PRIMARY KEY, b two[]);
             INSERT INTO of_type VALUES (1, ARRAY[ROW(1, $c$COMMAND$c$)::two])"),
        ("odef", "CREATE DOMAIN ones AS int DEFAULT public.exec($c$COMMAND$c$); CREATE TABLE odef (a int PRIMARY KEY, b ones);
             INSERT INTO odef (a) VALUES (1)"),
        ("idx", "CREATE TABLE idx (a serial PRIMARY KEY, b text, r regclass); INSERT INTO idx (b, r) VALUES ($c$COMMAND$c$, 'pg_class');
             CREATE INDEX ON idx (public.exec(b), (a + public.exec($c$COMMAND$c$))) WHERE public.exec($c$COMMAND$c$) = 1;
             CREATE TABLE refers (a int PRIMARY KEY REFERENCES idx); INSERT INTO refers VALUES (1);
             CREATE STATISTICS st ON (a + public.exec($c$COMMAND$c$)), a FROM idx"),
        ("oper", "CREATE OPERATOR public.!!! (RIGHTARG = text, FUNCTION = public.exec);
             CREATE TABLE oper (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a + (OPERATOR(public.!!!) $c$COMMAND$c$)) STORED);
             INSERT INTO oper VALUES (1)"),
        ("cast", "CREATE TYPE boxed AS (command text); CREATE CAST (boxed AS int) WITH FUNCTION public.exec_any(anyelement);
             CREATE TABLE casts (a boxed PRIMARY KEY, b int GENERATED ALWAYS AS (a::int) STORED); INSERT INTO casts VALUES (ROW($c$COMMAND$c$))"),
        ("arg", "CREATE FUNCTION with_default(a int, b int DEFAULT public.exec($c$COMMAND$c$)) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
             CREATE TABLE arg (a int PRIMARY KEY, b int GENERATED ALWAYS AS (public.with_default(a)) STORED); INSERT INTO arg VALUES (1)"),
        ("body", "CREATE FUNCTION atomic(a int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a + public.exec($c$COMMAND$c$); END;
             CREATE TABLE body (a int PRIMARY KEY, b int GENERATED ALWAYS AS (public.atomic(a)) STORED); INSERT INTO body VALUES (1)"),
        ("chk", "CREATE TABLE chk (a int PRIMARY KEY CHECK (public.atomic(a) = a + 1 AND a < public.with_default(a))); INSERT INTO chk VALUES (1)"),
    ]
    .iter()
    .map(|(place, sql)| sql.replace("COMMAND", &command(place)))
    .collect()
}

#[test]
fn a_superusers_function_has_no_more_rights_than_the_objects_that_call_it() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        scene.run(HELPERS);
        for attack in attacks() {
            scene.as_mallory(&attack).unwrap();
        }
        scene.backwhen.init();
        // Rows that come by the stream, too.
        scene.as_mallory("INSERT INTO gen VALUES (2); INSERT INTO part VALUES (2)").unwrap();
        scene.assert_exact();
        scene.assert_nothing_gained();
    });
}

/// Two ordinary roles call it: then it has the rights of neither.
#[test]
fn a_function_that_two_roles_call_has_the_rights_of_neither() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        let alice = format!("alice_{}", scene.backwhen.database());
        scene.run(&format!(
            "{HELPERS} CREATE ROLE {alice}; GRANT CREATE ON SCHEMA public TO {alice};
             CREATE FUNCTION public.told(query text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
                 $f$ DECLARE t text; BEGIN EXECUTE query INTO t; RETURN t; EXCEPTION WHEN OTHERS THEN RETURN 'nothing'; END $f$;
             SET ROLE {alice};
             CREATE FUNCTION public.tell(query text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
                 $f$ DECLARE t text; BEGIN EXECUTE query INTO t; RETURN t; EXCEPTION WHEN OTHERS THEN RETURN 'nothing'; END $f$;
             CREATE FUNCTION public.whisper(query text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
                 $f$ DECLARE t text; BEGIN EXECUTE query INTO t; RETURN t; EXCEPTION WHEN OTHERS THEN RETURN 'nothing'; END $f$;
             CREATE TABLE public.a_secret (s text PRIMARY KEY); INSERT INTO public.a_secret VALUES ('4711');
             CREATE TABLE public.hers (a text PRIMARY KEY, b text GENERATED ALWAYS AS (public.told(a)) STORED,
                 c text GENERATED ALWAYS AS (public.tell(a)) STORED);
             INSERT INTO public.hers VALUES ('SELECT 1');
             CREATE FUNCTION public.plus(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + 1';
             CREATE TABLE public.pluses (a int PRIMARY KEY, b int GENERATED ALWAYS AS (public.plus(a)) STORED)",
        ));
        let ask = "'SELECT s FROM public.a_secret'";
        scene
            .as_mallory(&format!(
                "CREATE FUNCTION asks(a int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN
                     RETURN public.told({ask}) || public.tell({ask}) || public.whisper({ask});
                     EXCEPTION WHEN OTHERS THEN RETURN 'nothingnothingnothing'; END $f$;
                 CREATE TABLE z_mine (a int PRIMARY KEY, told text GENERATED ALWAYS AS (public.told({ask})) STORED,
                     tell text GENERATED ALWAYS AS (public.tell({ask})) STORED, asks text GENERATED ALWAYS AS (asks(a)) STORED);
                 INSERT INTO z_mine VALUES (1); CREATE INDEX ON z_mine (public.plus(a))"
            ))
            .unwrap();
        scene.backwhen.init();
        scene.capture();
        let (target, said) = scene.recover("latest");
        assert_eq!(said["proved"], true, "{said}");
        let gained = scene.server.psql(&target, "SELECT told, tell, asks FROM z_mine");
        assert_eq!(gained, "nothing|nothing|nothingnothingnothing");
        assert_same(&Dump::of(&scene.server, scene.backwhen.database()), &Dump::of(&scene.server, &target));
        let left = format!("SELECT count(*) FROM pg_roles WHERE rolname = 'backwhen_owner_of_{target}'");
        assert_eq!(scene.run(&left), "0", "the role without rights is gone");
    });
}

/// The rights of the role whose objects call it are enough, as they are on the source.
#[test]
fn a_function_may_do_what_its_callers_may() {
    on_oldest_and_newest(|server| {
        let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
        scene.run(
            "CREATE FUNCTION public.rate(currency text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                 $f$ BEGIN RETURN (SELECT r FROM public.a_rates WHERE c = currency); END $f$;
             REVOKE ALL ON FUNCTION public.rate FROM PUBLIC; GRANT EXECUTE ON FUNCTION public.rate TO mallory WITH GRANT OPTION",
        );
        scene
            .as_mallory(
                "CREATE TABLE a_rates (c text PRIMARY KEY, r int); INSERT INTO a_rates VALUES ('EUR', 2);
                 CREATE FUNCTION twice(c text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN 2 * public.rate(c); END $f$;
                 CREATE TABLE z_prices (c text PRIMARY KEY); INSERT INTO z_prices VALUES ('EUR');
                 CREATE INDEX ON z_prices (public.rate(c), twice(c)) WHERE public.rate('EUR') = 2;
                 CREATE MATERIALIZED VIEW priced AS SELECT c, public.rate(c) AS r, public.twice(c) AS t FROM z_prices;
                 CREATE INDEX ON priced (public.rate(c))",
            )
            .unwrap();
        scene.backwhen.init();
        scene.assert_exact();
    });
}

/// The caller evaluates the defaults of a function's arguments, and the server's own functions can run SQL, too.
#[test]
fn a_default_that_could_misuse_a_superusers_rights_is_not_evaluated() {
    on_oldest_and_newest(|server| {
        for (place, table) in [
            ("gen", "CREATE TABLE t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (sly(a)) STORED)"),
            ("chk", "CREATE TABLE t (a int PRIMARY KEY, CONSTRAINT sly CHECK (sly(a) = a))"),
        ] {
            let scene = Scene::new(server, "GRANT CREATE ON SCHEMA public TO mallory");
            let file = std::env::temp_dir().join(format!("backwhen-{}-default", scene.backwhen.database()));
            let define = |default: &str| {
                format!(
                    "CREATE OR REPLACE FUNCTION sly(a int, x xml DEFAULT {default}) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a';"
                )
            };
            let call = format!(
                "pg_catalog.query_to_xml(CASE WHEN current_user = 'mallory' THEN 'SELECT 1'
                     ELSE $x$SELECT pg_catalog.lo_export(pg_catalog.lo_from_bytea(0, 'x'), '{}')$x$ END, true, false, '')",
                file.display()
            );
            scene
                .as_mallory(&format!(
                    "{} {table}; {} INSERT INTO t VALUES (1)",
                    define("NULL"),
                    define(&call)
                ))
                .unwrap();
            scene.backwhen.init();
            scene.capture();
            let into = format!("default_{}", scene.backwhen.database());
            let recover = ["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)];
            if place == "gen" {
                // The server does not take it from a dump.
                let done = scene.backwhen.run(&recover);
                assert_eq!(done.status.code(), Some(15), "{}", done.stderr);
                let refused = done.stdout;
                assert!(refused.contains("generation expression is not immutable"), "{refused}");
            } else {
                let said = scene.backwhen.json(&recover);
                assert!(said["inexact"].to_string().contains("sly of table public.t"), "{said}");
            }
            assert!(!file.exists(), "{place}: a file was written as the server's user");
        }
    });
}
