//! By backwhen being installed, nobody gains rights on the source, and nobody tells statements in another's name.

use crate::security::mallory::{Scene, on_oldest_and_newest};

/// What mallory would have others run: a role of the superuser's making.
fn make_role(name: &str) -> String {
    format!(
        "IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) '{name}') THEN
            EXECUTE 'CREATE ROLE {name} SUPERUSER';
         END IF;"
    )
}

#[test]
fn event_triggers_of_others_never_run_as_our_owner() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(
            server,
            "CREATE SCHEMA evil AUTHORIZATION mallory; GRANT CREATE ON SCHEMA public TO mallory",
        );
        // As people write them: without a search path of their own, and with names that it decides.
        scene.run(
            "CREATE TABLE public.audit_log (tag text, who text);
             GRANT INSERT ON public.audit_log TO PUBLIC;
             CREATE FUNCTION public.audit() RETURNS event_trigger LANGUAGE plpgsql AS $f$
             BEGIN
                 IF tg_tag = 'DROP DATABASE' THEN RAISE NOTICE 'no'; END IF;
                 INSERT INTO audit_log VALUES (tg_tag, current_user);
             END $f$;
             CREATE EVENT TRIGGER audit_start ON ddl_command_start EXECUTE FUNCTION public.audit();
             CREATE EVENT TRIGGER audit_drop ON sql_drop EXECUTE FUNCTION public.audit();
             CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION public.audit()",
        );
        let role = make_role("pwned_audit");
        let done = scene.as_mallory(&format!(
            "CREATE FUNCTION evil.eq(text, text) RETURNS bool LANGUAGE plpgsql AS $f$
             BEGIN {role} RETURN $1 OPERATOR(pg_catalog.=) $2; END $f$;
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
             CREATE FUNCTION evil.fire() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {role} RETURN NEW; END $f$;
             CREATE TEMPORARY TABLE audit_log (tag text, who text);
             CREATE TRIGGER fire BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION evil.fire();
             SET search_path = evil, pg_catalog, public;
             CREATE TABLE evil.t (a int);
             ALTER TABLE evil.t ADD PRIMARY KEY (a);
             INSERT INTO evil.t VALUES (1);"
        ));
        done.unwrap();
        scene.assert_nothing_gained();
        let ours = "SELECT count(*) FROM public.audit_log WHERE who <> 'mallory'";
        assert_eq!(scene.run(ours), "0", "they fire for statements of the application only");
        // And the table is in the stream from its first row on.
        let moment = scene.lsn();
        scene.capture();
        let (target, said) = scene.recover(&moment);
        assert_eq!(scene.server.psql(&target, "SELECT count(*) FROM evil.t"), "1", "{said}");
    });
}

#[test]
fn where_others_cannot_be_silenced_the_table_is_left_to_capture_and_named() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "GRANT CREATE ON SCHEMA public TO mallory");
        let role = make_role("pwned_always");
        scene.run(
            "CREATE FUNCTION public.always() RETURNS event_trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM helper(); EXCEPTION WHEN undefined_function THEN NULL; END $f$;
             CREATE EVENT TRIGGER always ON ddl_command_end EXECUTE FUNCTION public.always();
             ALTER EVENT TRIGGER always ENABLE ALWAYS",
        );
        scene
            .as_mallory(&format!(
                "CREATE FUNCTION public.helper() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN {role} END $f$;
                 CREATE TABLE public.t (a int PRIMARY KEY); INSERT INTO t VALUES (1)"
            ))
            .unwrap();
        scene.assert_nothing_gained();
        let moment = scene.lsn();
        scene.capture();
        let (target, said) = scene.recover(&moment);
        let whole = scene.server.psql(&target, "SELECT count(*) FROM t") == "1";
        let named = said["inexact"].to_string().contains("public.t");
        assert!(whole != named, "{said}");
        scene.assert_exact();
    });
}

#[test]
fn a_schema_of_somebody_else_is_refused() {
    on_oldest_and_newest(|server| {
        for made in [
            "CREATE SCHEMA backwhen AUTHORIZATION mallory",
            "CREATE SCHEMA backwhen; GRANT CREATE ON SCHEMA backwhen TO mallory",
            "CREATE SCHEMA backwhen; GRANT ALL ON SCHEMA backwhen TO PUBLIC",
            "CREATE SCHEMA backwhen; CREATE FUNCTION backwhen.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION backwhen.f() OWNER TO mallory",
        ] {
            let scene = Scene::new(server, made);
            let said = scene.backwhen.fails(14, &["init", "--source", &scene.backwhen.source()]);
            assert!(said.contains("schema backwhen") && said.contains("ALTER SCHEMA"), "{said}");
            let left = "SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_publication)
                             + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())";
            assert_eq!(scene.run(left), "0", "{made}");
        }
    });
}

#[test]
fn capture_sees_a_schema_that_was_given_away_or_filled() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "");
        let slot = scene.slot();
        for (given, taken) in [
            ("ALTER SCHEMA backwhen OWNER TO mallory", "ALTER SCHEMA backwhen OWNER TO postgres"),
            ("GRANT ALL ON SCHEMA backwhen TO mallory", "REVOKE ALL ON SCHEMA backwhen FROM mallory"),
        ] {
            scene.run(given);
            scene.capture();
            let fault = scene.backwhen.json(&["status"])["event_triggers"]["fault"].to_string();
            assert!(fault.contains("mallory"), "{fault}");
            scene.run(taken);
            scene.capture();
            assert!(scene.backwhen.json(&["status"])["event_triggers"]["fault"].is_null());
        }
        // An overload that would fit a call better, and a body that was exchanged, are installed over.
        for other in [
            format!(
                "CREATE FUNCTION backwhen.{slot}_below(relations int[]) RETURNS oid[] LANGUAGE sql AS 'SELECT NULL::oid[]'"
            ),
            format!(
                "CREATE OR REPLACE FUNCTION backwhen.{slot}_below(relations oid[]) RETURNS oid[] LANGUAGE sql AS 'SELECT NULL::oid[]'"
            ),
        ] {
            scene.run(&other);
            scene.capture();
            let found = format!(
                "SELECT count(*) || prolang::regclass::text FROM pg_proc p JOIN pg_language l ON l.oid = prolang
                  WHERE proname = '{slot}_below' AND lanname = 'plpgsql' GROUP BY prolang"
            );
            assert!(scene.run(&found).starts_with('1'), "{other}");
        }
    });
}

#[test]
fn nothing_of_ours_can_be_called_by_others() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "GRANT CREATE ON SCHEMA public TO mallory");
        let functions =
            "SELECT format('SELECT %s(%s)', p.oid::regproc, (SELECT string_agg('NULL::' || t::regtype, ', ')
                                FROM unnest(p.proargtypes) t))
                           FROM pg_proc p WHERE pronamespace = 'backwhen'::regnamespace";
        let calls = scene.run(functions);
        assert!(calls.lines().count() > 20);
        let told = |scene: &Scene| {
            scene.capture();
            let listed = scene.backwhen.json_lines(&["list", "schemas"]);
            listed.iter().filter(|it| it["role"] != "mallory" && it["tag"] != "GRANT").count()
        };
        for call in calls.lines() {
            assert!(scene.as_mallory(call).is_err(), "{call}");
        }
        // A well-meant loop over all schemas gives them to everybody; still each runs with its caller's rights.
        scene.run("GRANT USAGE ON SCHEMA backwhen TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA backwhen TO PUBLIC");
        let definers =
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'backwhen'::regnamespace AND prosecdef
                           AND prorettype <> 'event_trigger'::regtype";
        assert_eq!(scene.run(definers), "0");
        for call in calls.lines() {
            // Within a statement of hers, too, and under a name that reads like a trigger's.
            let _ = scene.as_mallory(&format!("CREATE TABLE public.x AS {call}; DROP TABLE public.x"));
            let name = call.split('(').next().unwrap().trim_start_matches("SELECT backwhen.");
            let odd = format!("public.\"backwhen\"\".\"\"{name}\"\"() \"");
            let _ = scene.as_mallory(&format!(
                "CREATE FUNCTION {odd}() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN EXECUTE $c${call}$c$; RETURN 'x'; END $f$;
                 SELECT {odd}(); DROP FUNCTION {odd}()"
            ));
        }
        assert_eq!(told(&scene), 0);
        scene.assert_nothing_gained();
        scene.assert_exact();
    });
}

#[test]
fn names_that_look_like_ours_make_no_gap_and_hide_nothing_of_ours() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(
            server,
            "GRANT CREATE ON SCHEMA public TO mallory; GRANT CREATE ON DATABASE app TO mallory",
        );
        let slot = scene.slot();
        let counted = format!("SELECT taken_out FROM backwhen.{slot}_config");
        scene
            .as_mallory(&format!(
                "CREATE TABLE t (a int PRIMARY KEY);
                 CREATE PUBLICATION \"x in publication {slot}\" FOR TABLE t;
                 ALTER PUBLICATION \"x in publication {slot}\" DROP TABLE t;
                 CREATE PUBLICATION backwhen_0123456789ab FOR TABLE t;
                 ALTER PUBLICATION backwhen_0123456789ab DROP TABLE t;
                 CREATE TABLE \"x on pg_temp\" (a int PRIMARY KEY); DROP TABLE \"x on pg_temp\""
            ))
            .unwrap();
        assert_eq!(scene.run(&counted), "0");
        scene.capture();
        assert_eq!(scene.backwhen.json_lines(&["list", "gaps"]).len(), 0);
        let told = scene.backwhen.json_lines(&["list", "schemas"]);
        let tags: Vec<_> = told.iter().map(|it| it["tag"].as_str().unwrap()).collect();
        assert!(tags.contains(&"CREATE PUBLICATION") && tags.contains(&"DROP TABLE"), "{tags:?}");
        assert!(tags.contains(&"ALTER PUBLICATION"), "{tags:?}");
    });
}

#[test]
fn what_a_session_sets_decides_nothing() {
    on_oldest_and_newest(|server| {
        let scene = Scene::protected(server, "CREATE SCHEMA own AUTHORIZATION mallory");
        let (slot, database) = (scene.slot(), scene.backwhen.database().to_owned());
        let oid = scene.run("SELECT 'orders'::regclass::oid");
        scene.run(&format!("ALTER DATABASE {database} SET backwhen.own = 'install'"));
        let silence: String =
            ["own", &format!("{slot}_extension"), &format!("{slot}_joining"), &format!("{slot}_locked")]
                .iter()
                .map(|name| format!("SET backwhen.{name} = 'on'; "))
                .collect();
        scene
            .as_mallory(&format!(
                "{silence} SET backwhen.own = 'install'; SET backwhen.{slot}_role = 'postgres'; SET backwhen.{slot}_path = 'evil';
                 SET backwhen.{slot}_dropped = '{{{{1259,{oid},1,column,!original,x}}}}'; SET backwhen.{slot}_rewritten = '{oid}/4';
                 CREATE TABLE own.silent (a int PRIMARY KEY); INSERT INTO own.silent VALUES (1);
                 CREATE FUNCTION own.f() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
                     PERFORM set_config('backwhen.{slot}_role', 'postgres', false);
                     CREATE TABLE own.within (a int PRIMARY KEY); END $f$;
                 SELECT own.f()"
            ))
            .unwrap();
        scene.capture();
        let told = scene.backwhen.json_lines(&["list", "schemas"]);
        let told: Vec<_> =
            told.iter().map(|it| (it["tag"].as_str().unwrap(), it["role"].as_str().unwrap())).collect();
        let mine = "mallory";
        assert_eq!(told, [("CREATE TABLE", mine), ("CREATE FUNCTION", mine), ("CREATE TABLE", mine)]);
        scene.assert_exact();
    });
}

#[test]
fn who_keeps_the_publications_locked_is_named() {
    use crate::support::{Server, shop::OpenSession};
    let server = Server::shared(None);
    let scene = Scene::protected(&server, "GRANT CREATE ON SCHEMA public TO mallory");
    let slot = scene.slot();
    let mut holder = OpenSession::new(&server, &scene.backwhen.source());
    holder.run(&format!("BEGIN; {}", crate::ddl_triggers::lock_publications(&slot)));
    let pid = holder.process();
    scene.as_mallory("CREATE TABLE t (a int PRIMARY KEY)").unwrap();
    let mut capture = scene.backwhen.spawn_capture_with(&["--heartbeat", "200ms"]);
    capture.allow("is not protected").allow("the creation of the replication slot waits");
    capture.wait_until("the session is named", |_| {
        let status = scene.backwhen.json(&["status"]).to_string();
        status.contains(&format!("process {pid} of role postgres"))
    });
    holder.run("ROLLBACK;");
    capture.wait_until("the table is protected", |_| {
        scene.backwhen.json(&["status"])["unprotected"].as_array().is_none_or(Vec::is_empty)
    });
    capture.stop();
    scene.assert_exact();
}

#[test]
fn our_table_is_in_no_publication_and_comes_back_after_a_crash() {
    use crate::support::Server;
    let server = Server::builder().setting("wal_level", "logical").start();
    let scene = Scene::new(&server, "CREATE PUBLICATION everything FOR ALL TABLES");
    scene.backwhen.init();
    assert_eq!(scene.run("SELECT count(*) FROM pg_publication_tables WHERE schemaname = 'backwhen'"), "0");
    // Installed anew, taken out and put back, all beside that publication.
    let slot = scene.slot();
    scene.run(&format!("DROP FUNCTION backwhen.{slot}_wants"));
    scene.capture();
    scene.run("CREATE TABLE one (a int PRIMARY KEY); INSERT INTO one VALUES (1)");
    server.crash();
    server.start_again();
    let config = format!("SELECT count(*) FROM backwhen.{slot}_config");
    assert_eq!(scene.run(&config), "0", "it is lost in a crash");
    scene.run("CREATE TABLE unseen (a int PRIMARY KEY); INSERT INTO unseen VALUES (2)");
    scene.capture();
    assert_eq!(scene.run(&config), "1");
    scene.run("CREATE TABLE two (a int PRIMARY KEY); INSERT INTO two VALUES (3)");
    let told = || scene.backwhen.json_lines(&["list", "schemas"]).len();
    let before = told();
    scene.assert_exact();
    assert_eq!(told(), before + 1);
    scene.backwhen.ok(&["drop"]);
}

/// A table that is named in a text is taken out only for somebody who could lock it anyway.
#[test]
fn nobody_else_takes_a_table_out() {
    use crate::support::{Server, shop::OpenSession};
    let server = Server::shared(None);
    let scene = Scene::protected(
        &server,
        "CREATE TABLE victim (id int PRIMARY KEY); GRANT CREATE ON SCHEMA public TO mallory",
    );
    let mut mallory =
        OpenSession::new(&server, &scene.backwhen.source().replace("user=postgres", "user=mallory"));
    mallory.run("CREATE TABLE mine (id int PRIMARY KEY); BEGIN; ALTER TABLE mine /* victim */ SET UNLOGGED;");
    let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'victim'::regclass";
    assert_eq!(scene.run(locks), "0");
    mallory.run("COMMIT;");
    assert_eq!(scene.run("SELECT count(*) FROM pg_publication_tables WHERE tablename = 'victim'"), "1");
}
