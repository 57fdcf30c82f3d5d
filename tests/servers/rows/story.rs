//! One history told from `init` to the last recovery, with the truth looked up at each stop.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Backwhen, Dump, Server, assert_same};

/// A file of SQL, `tests/servers/rows/NAME.sql`, in sections that are begun by a line `--- SECTION`:
///
/// - `image` runs before `init`;
/// - `first`, `second`, `third` run before the moment in the middle, between it and the folded
///   checkpoint, and after the checkpoint;
/// - `each` runs at the end of each of those three, with the psql variable `step` at 1, 2, 3.
///
/// Every theme has a schema of its own, made first in the search path, so that several can share a
/// database.
pub struct Theme {
    pub name: &'static str,
}

impl Theme {
    fn section(&self, wanted: &str) -> String {
        let path = format!("{}/tests/servers/rows/{}.sql", env!("CARGO_MANIFEST_DIR"), self.name);
        let sql = std::fs::read_to_string(path).unwrap();
        let mut sections = sql.split("\n--- ").skip(1);
        let text = sections.find_map(|section| section.strip_prefix(wanted)?.strip_prefix('\n'));
        text.unwrap_or_default().to_owned()
    }

    /// A section as a script of its own, whatever another theme's left behind in the session.
    fn script(&self, section: &str) -> String {
        let name = self.name;
        format!(
            "RESET ALL; SET search_path = {name}, public; SET client_encoding = 'UTF8';\n{}\n",
            self.section(section)
        )
    }
}

const STEPS: [&str; 3] = ["first", "second", "third"];

/// Tells the story of all `themes` in one database of the server.
pub fn tell(server: &Server, themes: &[&Theme]) {
    let database = server.fresh_database("rows");
    tell_in(server, &database, themes, &[]);
}

/// As [`tell`], in a database that is there; `dump` is given to `pg_dump` wherever truth is looked up.
pub fn tell_in(server: &Server, database: &str, themes: &[&Theme], dump: &[&str]) {
    let image: String = themes
        .iter()
        .map(|theme| format!("CREATE SCHEMA {};\n{}", theme.name, theme.script("image")))
        .collect();
    server.psql(database, &image);
    let story = Story { backwhen: Backwhen::new(server, database), dump };
    story.backwhen.init();
    story.step(themes, 0);
    let (middle, truth) = story.now();
    story.step(themes, 1);
    story.assert_recovers_exactly();
    story.assert_recovers(&middle, &truth);
    story.backwhen.ok(&["checkpoint"]);
    story.step(themes, 2);
    story.assert_recovers_exactly();
    story.assert_script_recovers_exactly();
    story.assert_source_proves_the_fold();
}

struct Story<'a> {
    backwhen: Backwhen,
    dump: &'a [&'a str],
}

impl Story<'_> {
    fn step(&self, themes: &[&Theme], step: usize) {
        let mut script = String::new();
        for theme in themes {
            script += &theme.script(STEPS[step]);
            script += &format!("\\set step {}\n{}", step + 1, theme.script("each"));
        }
        self.backwhen.server().psql(self.backwhen.database(), &script);
    }

    /// The position, and what the database is at it, while nobody writes.
    fn now(&self) -> (String, Dump) {
        let (server, database) = (self.backwhen.server(), self.backwhen.database());
        let position = server.psql(database, "SELECT pg_current_wal_insert_lsn()");
        (position, Dump::with(server, database, self.dump))
    }

    /// While nobody writes: everything committed so far comes back, sequences to the number.
    fn assert_recovers_exactly(&self) {
        let (_, truth) = self.now();
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
        let found = self.assert_recovers("latest", &truth);
        let known = |dump: &Dump| {
            let mut sequences = dump.sequences.clone();
            // Their columns were given larger values by hand, which recovery goes beyond.
            sequences.retain(|name, _| !name.contains("given"));
            sequences
        };
        assert_eq!(known(&truth), known(&found), "sequences stand elsewhere");
    }

    /// The same through a script that psql runs.
    fn assert_script_recovers_exactly(&self) {
        let (_, truth) = self.now();
        let (server, backwhen) = (self.backwhen.server(), &self.backwhen);
        let file = backwhen.folder().join("script.sql").display().to_string();
        backwhen.ok(&["recover", "--to", "latest", "--into", &format!("sql:{file}")]);
        let target = format!("{}_script", backwhen.database());
        let encoding = server.psql(backwhen.database(), "SHOW server_encoding");
        let create = format!("CREATE DATABASE {target} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        server.psql("postgres", &create);
        let output = server.client("psql", &target, &["-Xq", "-v", "ON_ERROR_STOP=1", "-f", &file], "");
        assert!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        assert_same(&truth, &Dump::with(server, &target, self.dump));
        server.psql("postgres", &format!("DROP DATABASE {target}"));
    }

    /// Every row as COPY gives it is, to the byte, the row that the fold made of the stream.
    fn assert_source_proves_the_fold(&self) {
        self.backwhen.ok(&["checkpoint", "--from-source"]);
        self.backwhen.ok(&["capture", "--until", "caught-up"]);
        self.backwhen.ok(&["verify", "--prove"]);
    }

    fn assert_recovers(&self, moment: &str, truth: &Dump) -> Dump {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let (server, backwhen) = (self.backwhen.server(), &self.backwhen);
        let target = format!("recovered_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let into = server.conninfo(&target);
        let report = backwhen.json(&["recover", "--to", moment, "--into", &into, "--create"]);
        for inexact in report["inexact"].as_array().unwrap() {
            // Said of every table of which only inserts and truncates are known, and of a sequence that a
            // later truncation restarted.
            let why = inexact["why"].as_str().unwrap();
            let expected = ["has no replica identity", "was set back or dropped after this moment"];
            assert!(expected.iter().any(|beginning| why.starts_with(beginning)), "at {moment}: {report:#}");
        }
        assert_eq!(report["proved"], true, "at {moment}: {report:#}");
        let found = Dump::with(server, &target, self.dump);
        eprintln!("at {moment}: {} rows, {} transactions", truth.row_count(), report["transactions_folded"]);
        assert_same(truth, &found);
        server.psql("postgres", &format!("DROP DATABASE {target}"));
        found
    }
}
