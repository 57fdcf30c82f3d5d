//! Migrations under a capture that is killed in their middle and started again, what the database was
//! like after each of them, and its recovery to some of these moments.

use std::path::Path;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use crate::support::{Backwhen, Dump, Part, Server, compare, number_from};

/// One seed by default, so that a change is judged by what it changed; `make soak` runs new ones.
const SEED: u64 = 234_703_573;
/// How many moments a history is recovered to, its end among them.
const MOMENTS: usize = 6;

/// A history of migrations for an empty database.
pub trait Migrations {
    fn names(&self) -> Vec<String>;

    /// Applies the one of that number; they come in their order.
    fn apply(&mut self, number: usize, backwhen: &Backwhen, random: &mut StdRng);
}

/// Migrations that are files of SQL.
pub struct Files {
    /// Name and text.
    all: Vec<(String, String)>,
    then: String,
}

impl Files {
    /// The files of a folder that end in `.sql`, in the order of their names.
    pub fn of(folder: &Path) -> Files {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == "sql")).collect();
        paths.sort();
        assert!(paths.len() > 10, "{}: only {} files", folder.display(), paths.len());
        let read = |path: &Path| std::fs::read_to_string(path).expect("it can be read");
        let name = |path: &Path| path.file_stem().expect("a file").to_string_lossy().into_owned();
        Files { all: paths.iter().map(|path| (name(path), read(path))).collect(), then: String::new() }
    }

    /// What an application does to its rows after each migration.
    pub fn then(&mut self, sql: &str) {
        self.then = sql.to_owned();
    }
}

impl Migrations for Files {
    fn names(&self) -> Vec<String> {
        self.all.iter().map(|(name, _)| name.clone()).collect()
    }

    /// A file is one message to the server or a message for each statement: tools do either.
    fn apply(&mut self, number: usize, backwhen: &Backwhen, random: &mut StdRng) {
        let (server, database) = (backwhen.server(), backwhen.database());
        let (name, sql) = &self.all[number];
        let whole = random.random_bool(0.5) && !sql.contains("CONCURRENTLY");
        let output = if whole {
            server.client("psql", database, &["-qX", "-v", "ON_ERROR_STOP=1", "-c", sql], "")
        } else {
            server.client("psql", database, &["-qX", "-v", "ON_ERROR_STOP=1"], sql)
        };
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        server.psql(database, &self.then);
    }
}

/// What the database held after a migration.
struct Remembered {
    after: String,
    lsn: String,
    /// A mark was set there, with a sample of the sequences.
    marked: bool,
    truth: Dump,
}

/// A history that was told, and what is remembered of it.
pub struct Story<'a> {
    backwhen: &'a Backwhen,
    random: StdRng,
    remembered: Vec<Remembered>,
}

/// An empty database and a history of it.
pub fn begin(server: &Server, name: &str) -> Backwhen {
    let database = server.fresh_database(name);
    let backwhen = Backwhen::new(server, &database).with_env("BACKWHEN_HEARTBEAT", "1s");
    backwhen.init();
    backwhen
}

impl<'a> Story<'a> {
    pub fn tell(backwhen: &'a Backwhen, mut migrations: impl Migrations) -> Story<'a> {
        let seed = number_from("BACKWHEN_TEST_SEED").unwrap_or(SEED);
        let major = backwhen.server().major();
        eprintln!("{} on PostgreSQL {major}; again with: BACKWHEN_TEST_SEED={seed}", backwhen.database());
        let mut story = Story { backwhen, random: StdRng::seed_from_u64(seed), remembered: Vec::new() };
        let names = migrations.names();
        let death = story.random.random_range(names.len() / 4..names.len() * 3 / 4);
        let life = death + story.random.random_range(1..4);
        let checkpoint = story.random.random_range(2..names.len());
        let mut capture = Some(backwhen.spawn_capture_in_trouble());
        for (number, name) in names.into_iter().enumerate() {
            if number == death {
                capture.take().expect("it runs until now").kill();
            } else if number == life {
                capture = Some(backwhen.spawn_capture_in_trouble());
            }
            if number == checkpoint {
                // Capture may be taking one itself.
                let code = backwhen.run(&["checkpoint"]).status.code();
                assert!(matches!(code, Some(0 | 13)), "checkpoint: {code:?}");
            }
            migrations.apply(number, backwhen, &mut story.random);
            story.remember(name);
        }
        let mut capture = capture.unwrap_or_else(|| backwhen.spawn_capture_in_trouble());
        capture.wait_caught_up();
        capture.stop();
        story
    }

    /// Nothing writes to the database now, so that its dump is the truth of this instant.
    fn remember(&mut self, after: String) {
        let (server, database) = (self.backwhen.server(), self.backwhen.database());
        let lsn = server.psql(database, "SELECT pg_current_wal_insert_lsn()");
        let truth = Dump::of(server, database);
        let marked = self.random.random_bool(0.3);
        if marked {
            self.backwhen.ok(&["mark", &format!("after {lsn}")]);
        }
        self.remembered.push(Remembered { after, lsn, marked, truth });
    }

    /// Recovers to the end and to some of the moments between; every object and row must be as it was.
    pub fn assert_comes_back(mut self) {
        let wanted = number_from("BACKWHEN_MIGRATION_MOMENTS").map_or(MOMENTS, |number| number as usize);
        let (end, between) = self.remembered.split_last().expect("there are migrations");
        let mut moments = between.iter().choose_multiple(&mut self.random, wanted - 1);
        moments.push(end);
        let moments = Mutex::new(moments);
        let failed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let next = moments.lock().unwrap().pop();
                        let Some(moment) = next else { return };
                        failed.lock().unwrap().extend(self.complaint(moment));
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        self.backwhen.ok(&["verify"]);
    }

    /// What is not as it was at a moment.
    fn complaint(&self, moment: &Remembered) -> Option<String> {
        let (report, recovered) = match self.recover(&moment.lsn) {
            Ok(recovered) => recovered,
            Err(message) => return Some(format!("after {} at {}: {message}", moment.after, moment.lsn)),
        };
        let mut differences = compare(&moment.truth, &recovered);
        // Only a sample at the moment itself tells where a sequence stood.
        differences.retain(|it| it.part != Part::Sequence || moment.marked);
        let inexact = inexact(&report);
        let fine = differences.is_empty() && inexact.is_empty() && report["proved"] == true;
        let differences: Vec<_> = differences.iter().map(|it| it.to_string()).collect();
        let text =
            format!("after {} at {}: {}\n{inexact:?}", moment.after, moment.lsn, differences.join("\n"));
        (!fine).then(|| format!("{text}\n{}", report["warnings"]))
    }

    /// Into a database of its own: the report, and what the database then held.
    fn recover(&self, to: &str) -> Result<(serde_json::Value, Dump), String> {
        let server = self.backwhen.server();
        let database = server.fresh_database("recovered");
        server.psql("postgres", &format!("DROP DATABASE {database}"));
        let target = server.conninfo(&database);
        let output =
            self.backwhen.run(&["recover", "--create", "--into", &target, "--to", to, "--output", "json"]);
        if !output.status.success() {
            return Err(output.stderr);
        }
        let report = serde_json::from_str(&output.stdout).expect("a report");
        let dump = Dump::of(server, &database);
        server.psql("postgres", &format!("DROP DATABASE {database}"));
        Ok((report, dump))
    }
}

/// What the report calls inexact, but for two things: of a table without a key the stream tells only
/// inserts, and the migrations only insert into such; and a sequence that a later migration drops has no
/// sample after the moment.
fn inexact(report: &serde_json::Value) -> Vec<&serde_json::Value> {
    let harmless = ["has no replica identity", "was set back or dropped after this moment"];
    let all = report["inexact"].as_array().expect("a list").iter();
    all.filter(|it| !harmless.iter().any(|why| it["why"].as_str().expect("a reason").starts_with(why)))
        .collect()
}
