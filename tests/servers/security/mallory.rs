//! A protected database, and a role that wants more than it has.

pub use crate::support::on_oldest_and_newest;
use crate::support::{Backwhen, Dump, Server, assert_same};

/// A database with a table of orders, and the login role `mallory`.
pub struct Scene {
    pub server: Server,
    pub backwhen: Backwhen,
}

impl Scene {
    /// `rights`: what mallory has besides CONNECT.
    pub fn new(server: &Server, rights: &str) -> Scene {
        let database = server.fresh_database("attacked");
        let scene = Scene { server: server.clone(), backwhen: Backwhen::new(server, &database) };
        scene.run(
            "DO $$BEGIN CREATE ROLE mallory LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END$$;
             REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             CREATE TABLE orders (id int PRIMARY KEY, note text);
             INSERT INTO orders SELECT g, 'n' || g FROM generate_series(1, 100) g",
        );
        if !rights.is_empty() {
            scene.run(&rights.replace("DATABASE app", &format!("DATABASE {database}")));
        }
        scene
    }

    pub fn protected(server: &Server, rights: &str) -> Scene {
        let scene = Scene::new(server, rights);
        scene.backwhen.init();
        scene
    }

    /// As the superuser.
    pub fn run(&self, sql: &str) -> String {
        self.server.psql(self.backwhen.database(), sql)
    }

    pub fn as_mallory(&self, sql: &str) -> Result<String, String> {
        self.server.try_psql(self.backwhen.database(), &format!("\\connect - mallory\n{sql}"))
    }

    pub fn slot(&self) -> String {
        self.run("SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND NOT temporary")
    }

    pub fn lsn(&self) -> String {
        self.run("SELECT pg_current_wal_insert_lsn()")
    }

    pub fn capture(&self) {
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    /// Recovers that moment, and returns the database and what was said.
    pub fn recover(&self, to: &str) -> (String, serde_json::Value) {
        let target = self.server.fresh_database("recovered");
        let into = self.server.conninfo(&target);
        let said = self.backwhen.json_recovered(&["recover", "--to", to, "--into", &into]);
        (target, said)
    }

    /// Recovers a moment of which the server lacks a role.
    pub fn recover_without_role(&self, to: &str) -> (String, serde_json::Value) {
        let target = self.server.fresh_database("recovered");
        let into = self.server.conninfo(&target);
        (target, self.backwhen.json_incomplete(&["recover", "--to", to, "--into", &into]))
    }

    /// The latest moment is what the source is now, and is proved.
    pub fn assert_exact(&self) {
        self.capture();
        let (target, said) = self.recover("latest");
        assert_eq!(said["proved"], true, "{said}");
        assert_same(&Dump::of(&self.server, self.backwhen.database()), &Dump::of(&self.server, &target));
    }

    /// No role that an attack would have made is on the server.
    pub fn assert_nothing_gained(&self) {
        let gained =
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'pwned%' OR rolname = 'mallory' AND rolsuper";
        assert_eq!(self.run(gained), "");
    }
}
