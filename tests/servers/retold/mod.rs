//! Values that read otherwise although nobody wrote them: after a label of an enum was given another name, or a
//! composite type other attributes, while others write to the tables that use it.

mod attributes;
mod labels;
mod late;
mod named;
mod names;

use crate::support::shop::OpenSession;
use crate::support::{Backwhen, Dump, Part, Server, compare, versions};
use serde_json::{Value, json};
use std::sync::Mutex;

/// A database under protection, and what it held at some moments.
struct Scene {
    backwhen: Backwhen,
    moments: Vec<(String, Dump)>,
}

impl Scene {
    fn new(server: &Server, sql: &str) -> Scene {
        let database = server.fresh_database("retold");
        server.psql(&database, sql);
        let backwhen = Backwhen::new(server, &database);
        backwhen.init();
        Scene { backwhen, moments: Vec::new() }
    }

    fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    fn session(&self) -> OpenSession {
        OpenSession::new(self.backwhen.server(), &self.backwhen.source())
    }

    /// Remembers what the database holds now; nothing may be written meanwhile.
    fn remember(&mut self) {
        let lsn = self.psql("SELECT pg_current_wal_insert_lsn()");
        let truth = Dump::of(self.backwhen.server(), self.backwhen.database());
        self.moments.push((lsn, truth));
    }

    fn drain(&self) {
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
    }

    /// Takes in what there is and folds it into a checkpoint while a transaction is open. A capture that ends once it has
    /// caught up takes a checkpoint of its own, which waits a minute for that transaction.
    fn fold_beside_an_open_transaction(&self) {
        let mut capture = self.backwhen.spawn_capture();
        capture.wait_caught_up();
        capture.kill();
        self.backwhen.ok(&["checkpoint"]);
    }

    /// What a recovery says of its rows, and how they differ from the truth.
    fn recovered(&self, to: &str, truth: &Dump) -> (Value, Vec<String>) {
        let server = self.backwhen.server();
        let target = server.fresh_database("recovered");
        let report = self.backwhen.json(&["recover", "--to", to, "--into", &server.conninfo(&target)]);
        let differences = compare(truth, &Dump::of(server, &target));
        let differences = differences.into_iter().filter(|it| it.part != Part::Sequence);
        let differences = differences.map(|it| format!("{}: {}", it.object, it.how)).collect();
        server.psql("postgres", &format!("DROP DATABASE {target}"));
        let mut inexact = report["inexact"].as_array().expect("a list").clone();
        // Of a table without a key only inserts are in the stream.
        inexact
            .retain(|it| !it["why"].as_str().is_some_and(|why| why.starts_with("has no replica identity")));
        (inexact.into(), differences)
    }

    /// Every remembered moment comes back as it was, with nothing said against it.
    fn assert_exact(&self) {
        self.drain();
        for (number, (lsn, truth)) in self.moments.iter().enumerate() {
            let came_back = self.recovered(lsn, truth);
            assert_eq!(came_back, (json!([]), vec![]), "moment {number} at {lsn}");
        }
    }

    /// While `late` is open all is exact; once it has committed, the table is named, since its values mean two things.
    /// Returns what is then said.
    fn assert_said_once_it_comes(&mut self, mut late: OpenSession, table: &str) -> Value {
        self.remember();
        late.run("COMMIT;");
        self.remember();
        self.drain();
        let [(before, truth_before), (lsn, truth)] = &self.moments[..] else { panic!("two") };
        assert_eq!(self.recovered(before, truth_before), (json!([]), vec![]));
        let (inexact, differences) = self.recovered(lsn, truth);
        assert!(!differences.is_empty(), "if it is exact it need not be said");
        let why = inexact[0]["why"].as_str().expect("a text");
        assert!(inexact[0]["what"] == json!(table) && why.contains("read in two ways"), "{inexact:?}");
        inexact
    }

    /// Also from a checkpoint that was folded, which then has the new texts itself.
    fn assert_exact_and_proved(&mut self) {
        self.remember();
        self.assert_exact();
        self.backwhen.ok(&["checkpoint"]);
        self.backwhen.ok(&["verify", "--prove"]);
        let (lsn, truth) = self.moments.last().expect("there is one");
        assert_eq!(self.recovered(lsn, truth), (json!([]), vec![]), "from the folded checkpoint");
    }
}

/// On a server of the oldest and of the newest version, or of the one that `BACKWHEN_TEST_PG` names.
fn on_oldest_and_newest(test: impl Fn(&Server)) {
    if std::env::var("BACKWHEN_TEST_PG").is_ok_and(|text| !text.is_empty()) {
        return on_a_server_of_its_own(None, test);
    }
    let versions = versions();
    for version in [versions.first(), versions.last()].into_iter().flatten() {
        eprintln!("--- PostgreSQL {version:?}");
        on_a_server_of_its_own(Some(*version), &test);
    }
}

/// No two tests have a server at the same time, since `init` waits for the open transactions of all of a server's databases.
/// The next test has it after a test that passed.
fn on_a_server_of_its_own(version: Option<u32>, test: impl Fn(&Server)) {
    static IDLE: Mutex<Vec<(Option<u32>, Server)>> = Mutex::new(Vec::new());
    let found = {
        let mut idle = IDLE.lock().unwrap();
        let place = idle.iter().position(|(of, _)| *of == version);
        place.map(|place| idle.swap_remove(place).1)
    };
    let server = found.unwrap_or_else(|| Server::start(version));
    test(&server);
    IDLE.lock().unwrap().push((version, server));
}
