//! Tells several of the stories in `stories.sql` at once, under a capture that is killed now and then,
//! and remembers what the database was like after some of their steps.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::support::{Backwhen, Capture, Dump, Server};

const STORIES: &str = include_str!("stories.sql");
/// Stories that are told at once.
const AT_ONCE: usize = 4;

/// What the database held after a step.
pub struct Remembered {
    pub after: String,
    pub lsn: String,
    /// A mark was set there, with a sample of the sequences.
    pub marked: bool,
    pub truth: Dump,
}

pub struct Telling {
    pub backwhen: Backwhen,
    pub remembered: Vec<Remembered>,
}

struct Step {
    name: String,
    sql: String,
    fails: bool,
}

impl Telling {
    pub fn tell(seed: u64, steps: usize) -> Telling {
        let server = Server::shared(None);
        let database = server.fresh_database("definitions");
        server.psql(
            &database,
            "DO $$ BEGIN CREATE ROLE definer; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$; \
             GRANT CREATE ON SCHEMA public TO definer",
        );
        let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "1s");
        let mut random = StdRng::seed_from_u64(seed);
        let mut plot = Plot::new(&mut random);
        for _ in 0..5 {
            run(&backwhen, &plot.next(&mut random), &mut random);
        }
        backwhen.init();
        let remembered = live(&backwhen, &mut random, &mut plot, steps);
        Telling { backwhen, remembered }
    }

    /// Recovers into a database of its own; returns the report and what the database then held.
    pub fn recover(&self, to: &str) -> (serde_json::Value, Dump) {
        let server = self.backwhen.server();
        let database = server.fresh_database("recovered");
        server.psql("postgres", &format!("DROP DATABASE {database}"));
        let target = server.conninfo(&database);
        let report = self.backwhen.json(&["recover", "--create", "--into", &target, "--to", to]);
        let dump = Dump::of(server, &database);
        server.psql("postgres", &format!("DROP DATABASE {database}"));
        (report, dump)
    }
}

fn live(backwhen: &Backwhen, random: &mut StdRng, plot: &mut Plot, steps: usize) -> Vec<Remembered> {
    let mut remembered = Vec::new();
    let mut capture = Some(backwhen.spawn_capture_in_trouble());
    for number in 0..steps {
        let step = plot.next(random);
        run(backwhen, &step, random);
        if random.random_bool(0.25) || number + 1 == steps {
            remembered.push(remember(backwhen, step.name, random.random_bool(0.5)));
        }
        torment(backwhen, &mut capture, random);
    }
    if let Some(mut capture) = capture {
        capture.wait_streaming();
        capture.stop();
    }
    backwhen.ok(&["capture", "--until", "caught-up"]);
    remembered
}

/// Half of the steps come in one message, half a statement at a time, as clients do either.
fn run(backwhen: &Backwhen, step: &Step, random: &mut StdRng) {
    let (server, database) = (backwhen.server(), backwhen.database());
    let output = if random.random_bool(0.5) {
        server.client("psql", database, &["-qX", "-v", "ON_ERROR_STOP=1", "-c", &step.sql], "")
    } else {
        server.client("psql", database, &["-qX", "-v", "ON_ERROR_STOP=1"], &step.sql)
    };
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), !step.fails, "{}: {complaint}", step.name);
}

fn torment<'a>(backwhen: &'a Backwhen, capture: &mut Option<Capture<'a>>, random: &mut StdRng) {
    match random.random_range(0..20) {
        0 | 1 => drop(capture.take().map(|capture| capture.kill())),
        2 => {
            if let Some(mut capture) = capture.take() {
                capture.wait_streaming();
                capture.stop();
            }
        }
        3 => checkpoint(backwhen),
        // The next deed comes at any instant of capture's work.
        4..7 => std::thread::sleep(Duration::from_millis(random.random_range(50..1500))),
        7..13 if capture.is_none() => *capture = Some(backwhen.spawn_capture_in_trouble()),
        _ => {}
    }
}

/// Capture may be taking one itself.
fn checkpoint(backwhen: &Backwhen) {
    let output = backwhen.run(&["checkpoint"]);
    assert!(matches!(output.status.code(), Some(0 | 13)), "{}", output.stderr);
}

/// Nothing writes to the database now, so that its dump is the truth of this instant.
fn remember(backwhen: &Backwhen, after: String, marked: bool) -> Remembered {
    let (server, database) = (backwhen.server(), backwhen.database());
    let lsn = server.psql(database, "SELECT pg_current_wal_insert_lsn()");
    let truth = Dump::of(server, database);
    if marked {
        backwhen.ok(&["mark", &format!("after {lsn}")]);
    }
    Remembered { after, lsn, marked, truth }
}

/// The stories that are under way, and what comes next.
struct Plot {
    stories: Vec<(String, Vec<(String, bool)>)>,
    /// Story, number and next step of each.
    told: Vec<(usize, usize, usize)>,
    begun: usize,
}

impl Plot {
    fn new(random: &mut StdRng) -> Plot {
        let stories = STORIES.split("-- story: ").skip(1).map(|story| {
            let (name, steps) = story.split_once('\n').expect("a name");
            let mut fails = false;
            let mut all = Vec::new();
            let mut step = String::new();
            for line in steps.lines().chain(["-- then"]) {
                if let Some(how) = line.strip_prefix("-- then") {
                    all.push((std::mem::take(&mut step), fails));
                    fails = how == " fails";
                } else {
                    step += line;
                    step.push('\n');
                }
            }
            (name.to_owned(), all)
        });
        let mut plot = Plot { stories: stories.collect(), told: Vec::new(), begun: 0 };
        (0..AT_ONCE).for_each(|_| plot.begin(random));
        plot
    }

    fn begin(&mut self, random: &mut StdRng) {
        let all: Vec<_> = (0..self.stories.len()).collect();
        let story = *all.choose(random).expect("there are stories");
        self.begun += 1;
        self.told.push((story, self.begun, 0));
    }

    fn next(&mut self, random: &mut StdRng) -> Step {
        let at = random.random_range(0..self.told.len());
        let (story, number, next) = self.told[at];
        let (name, steps) = &self.stories[story];
        let (sql, fails) = &steps[next];
        let signs = format!("{number:b}").replace('1', "#").replace('0', "@");
        let step = Step {
            name: format!("{name} {number}, step {}", next + 1),
            sql: sql.replace("{n}", &number.to_string()).replace("{p}", &signs),
            fails: *fails,
        };
        if next + 1 < steps.len() {
            self.told[at].2 += 1;
        } else {
            self.told.swap_remove(at);
            self.begin(random);
        }
        step
    }
}
