//! Roles and databases that a failed or killed recovery leaves on the target's server.

use std::process::Stdio;

use crate::security::mallory::{Scene, on_oldest_and_newest};

/// A history whose objects belonged to a role that is gone, so that the recovery makes one.
fn orphaned(server: &crate::support::Server) -> Scene {
    let scene = Scene::new(server, "");
    let owner = format!("gone_{}", scene.backwhen.database());
    scene.run(&format!(
        "CREATE ROLE {owner}; GRANT CREATE ON SCHEMA public TO {owner}; SET ROLE {owner};
         CREATE TABLE kept (a int PRIMARY KEY); INSERT INTO kept VALUES (1)"
    ));
    scene.backwhen.init();
    scene.capture();
    scene.run(&format!("REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}"));
    scene
}

fn fail_at(scene: &Scene, point: &str, recover: &[&str]) {
    let mut command = scene.backwhen.command(recover);
    command.env("BACKWHEN_TEST_POINT", format!("{point}=error")).stdin(Stdio::null());
    let output = command.output().expect("backwhen runs");
    assert!(!output.status.success(), "it went on beyond {point}");
}

#[test]
fn the_role_that_a_recovery_made_goes_with_what_it_made() {
    on_oldest_and_newest(|server| {
        let scene = orphaned(server);
        let target = format!("left_{}", scene.backwhen.database());
        let into = server.conninfo(&target);
        let recover = ["recover", "--to", "checkpoint:0001", "--create", "--into", &into];
        let role = || {
            let query = "SELECT rolbypassrls FROM pg_roles WHERE rolname = 'backwhen_owner_of_";
            scene.run(&format!("{query}{target}'"))
        };
        for point in ["recover.opened", "recover.loaded", "recover.valid"] {
            fail_at(&scene, point, &recover);
            assert_eq!(role(), "", "abandoned at {point}");
        }
        scene.backwhen.dies("recover.loaded", &recover);
        assert_eq!(role(), "t", "nobody was there to take it away");
        fail_at(&scene, "recover.opened", &recover);
        assert_eq!(role(), "", "killed, and then cleared");

        scene.backwhen.dies("recover.indexed", &recover);
        // Somebody has found a use for it, in another database.
        scene.run(&format!("CREATE TABLE used (); ALTER TABLE used OWNER TO backwhen_owner_of_{target}"));
        fail_at(&scene, "recover.opened", &recover);
        assert_eq!(role(), "f", "it owns something else");
        scene.run("DROP TABLE used");

        scene.backwhen.json_incomplete(&recover);
        assert_eq!(role(), "f", "it owns what was recovered");
        let kept = format!(
            "SELECT count(*) FROM kept WHERE 'backwhen_owner_of_{target}' = (SELECT relowner::regrole::text FROM pg_class WHERE relname = 'kept')"
        );
        assert_eq!(server.psql(&target, &kept), "1");
    });
}

/// A role of that name which may do something is somebody's.
#[test]
fn a_role_with_rights_is_not_taken_for_ours() {
    on_oldest_and_newest(|server| {
        let scene = orphaned(server);
        let target = format!("taken_{}", scene.backwhen.database());
        scene.run(&format!("CREATE ROLE backwhen_owner_of_{target} LOGIN BYPASSRLS"));
        let into = server.conninfo(&target);
        let said =
            scene.backwhen.fails(14, &["recover", "--to", "checkpoint:0001", "--create", "--into", &into]);
        assert!(said.contains("RENAME TO"), "{said}");
        let query = "SELECT rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = 'backwhen_owner_of_";
        assert_eq!(scene.run(&format!("{query}{target}'")), "t|t");
    });
}
