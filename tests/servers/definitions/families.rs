//! Statements of every command tag that event triggers know, in every form in which an application may send them: after
//! any of them the recovered database is what the source was, or what differs is named.
//!
//! `BACKWHEN_DDL_STATEMENTS` says how many, `BACKWHEN_TEST_SEED` which, `BACKWHEN_TEST_PG` on which version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::support::untold::{OFF, ON};
use crate::support::{Backwhen, Difference, Dump, Part, Server, compare, number_from, wait_at_most};
use backwhen::model::Lsn;

const FAMILIES: &str = include_str!("families.sql");
const STATEMENTS: u64 = 45;
const SEED: u64 = 7;
/// A moment is remembered after so many statements.
const EACH: usize = 3;
/// On a busy machine digests take long, and they may take a fiftieth of the time.
const DIGESTED: Duration = Duration::from_secs(600);
/// Objects of so many families are there at once.
const AT_ONCE: usize = 12;

/// Tags for which no statement can be run here: they need another server, a provider of labels, or a session that logs in.
const NOT_HERE: &[&str] = &["IMPORT FOREIGN SCHEMA", "SECURITY LABEL", "LOGIN"];

/// Tags that the server lists although its grammar has no such statement.
const NO_STATEMENT: &[&str] = &[
    "ALTER ACCESS METHOD",
    "ALTER CAST",
    "ALTER CONSTRAINT",
    "ALTER TRANSFORM",
    "CREATE CONSTRAINT",
    "CREATE ROUTINE",
    "DROP CONSTRAINT",
];

struct Family {
    name: String,
    make: String,
    alter: Vec<String>,
    drop: Vec<String>,
}

/// Returns the statement of a line, and the first version that knows it.
fn since(line: &str) -> (&str, u32) {
    let marked = line.split_once(": ").and_then(|(since, rest)| Some((rest, since.parse().ok()?)));
    marked.unwrap_or((line, 0))
}

/// The families, with the statements that the version knows.
fn families(major: u32) -> Vec<Family> {
    let family = |text: &str| {
        let (name, lines) = text.split_once('\n').expect("a name");
        let known =
            lines.lines().map(since).filter(|(_, since)| *since <= major).map(|(line, _)| line.to_owned());
        let (drop, others): (Vec<_>, Vec<_>) = known.partition(|it| it.starts_with("drop: "));
        let drop = drop.iter().map(|it| it["drop: ".len()..].to_owned()).collect();
        Family { name: name.to_owned(), make: others[0].clone(), alter: others[1..].to_vec(), drop }
    };
    FAMILIES.split("-- family: ").skip(1).map(family).collect()
}

/// Makes one statement after the other.
struct Generator {
    random: StdRng,
    families: Vec<Family>,
    /// The objects that are there: family and number.
    objects: Vec<(usize, usize)>,
    /// Objects that a statement changed of which nothing tells. They stay as they are until the definitions have been
    /// digested: if such a change is undone before, nothing can know of it.
    quiet: BTreeSet<(usize, usize)>,
    number: usize,
    database: String,
    major: u32,
}

impl Generator {
    fn next(&mut self) -> String {
        let chance = self.random.random_range(0..10);
        let loud: Vec<usize> =
            (0..self.objects.len()).filter(|at| !self.quiet.contains(&self.objects[*at])).collect();
        let (family, object, template) = if loud.len() < AT_ONCE || chance == 0 {
            self.number += 1;
            let family = self.random.random_range(0..self.families.len());
            self.objects.push((family, self.number));
            (family, self.number, self.families[family].make.clone())
        } else {
            let at = *loud.choose(&mut self.random).expect("an object");
            let (family, object) = self.objects[at];
            let it = &self.families[family];
            let alters = chance < 8 && !it.alter.is_empty();
            let choice = if alters { &it.alter } else { &it.drop };
            let template = choice.choose(&mut self.random).expect("a statement").clone();
            if !alters {
                self.objects.swap_remove(at);
            }
            (family, object, template)
        };
        self.number += 1;
        let name = format!("{}_{object}", self.families[family].name);
        let signs = format!("{object:b}").replace('1', "#").replace('0', "@");
        let sql = template
            .replace("{x}", &name)
            .replace("{y}", &format!("temporary_{}", self.number))
            .replace("{p}", &signs)
            .replace("{i}", &object.to_string())
            .replace("{n}", &self.number.to_string())
            .replace("{db}", &self.database);
        let dressed = self.dressed(&sql);
        let untold = [
            "event_triggers",
            "EVENT TRIGGER %I DISABLE",
            "EXPLAIN ANALYZE CREATE",
            "REASSIGN",
            "DATABASE",
            "lo_",
            "LARGE OBJECT",
        ];
        if untold.iter().any(|it| dressed.contains(it)) {
            self.quiet.insert((family, object));
            self.quiet.extend(self.objects.iter().filter(|it| it.0 == family));
        }
        dressed
    }

    /// In a block, in a function, beside others, with event triggers off, or as it is.
    fn dressed(&mut self, sql: &str) -> String {
        let is_alone = ["CONCURRENTLY", "SUBSCRIPTION", "CLUSTER"].iter().any(|it| sql.contains(it));
        let selects = sql.starts_with("SELECT ") || sql.starts_with("EXPLAIN");
        let number = self.number;
        match self.random.random_range(0..15) {
            _ if is_alone => sql.to_owned(),
            0 if !selects => format!("DO $do$ BEGIN {sql}; END $do$"),
            1 if !selects => format!("DO $do$ BEGIN EXECUTE $sql${sql}$sql$; END $do$"),
            2 if !selects => format!(
                "CREATE FUNCTION pg_temp.run_{number}() RETURNS void LANGUAGE plpgsql AS $do$ BEGIN {sql}; END $do$; \
                 SELECT pg_temp.run_{number}()"
            ),
            3 if !selects => format!(
                "CREATE FUNCTION pg_temp.run_{number}() RETURNS void LANGUAGE sql AS $do$ {sql} $do$; SELECT pg_temp.run_{number}()"
            ),
            4 => format!("CREATE TABLE beside_{number} (id int PRIMARY KEY); {sql}"),
            5 => format!("BEGIN; SAVEPOINT s; {sql}; ROLLBACK TO s; {sql}; COMMIT"),
            6 if self.major >= 17 => format!("SET event_triggers = off; {sql}; SET event_triggers = on"),
            7 if self.major >= 17 => format!(
                "SET event_triggers = off; {sql}; SET event_triggers = on; CREATE TABLE beside_{number} (id int PRIMARY KEY)"
            ),
            // Before, a superuser disables them one by one.
            6 | 7 => format!("BEGIN; {OFF} {sql}; {ON} COMMIT"),
            8 => format!("SET session_replication_role = replica; {sql}"),
            9 if !selects => format!(
                "CREATE FUNCTION pg_temp.run_{number}() RETURNS int LANGUAGE plpgsql AS $do$ BEGIN {sql}; RETURN 1; END $do$; \
                 EXPLAIN (ANALYZE) SELECT pg_temp.run_{number}()"
            ),
            _ => sql.to_owned(),
        }
    }
}

struct Moment {
    after: Vec<String>,
    lsn: String,
    truth: Dump,
}

/// Runs the statements under a capture; some of them fail, as those of applications do.
fn run(backwhen: &Backwhen, generator: &mut Generator, statements: usize) -> Vec<Moment> {
    let (server, database) = (backwhen.server(), backwhen.database());
    let capture = backwhen.spawn_capture_in_trouble();
    let (mut moments, mut after, mut failed) = (Vec::new(), Vec::new(), 0);
    for number in 1..=statements {
        let sql = generator.next();
        let output = server.client("psql", database, &["-qX", "-v", "ON_ERROR_STOP=1"], &sql);
        if !output.status.success() {
            failed += 1;
            after.push(format!("(failed: {})", String::from_utf8_lossy(&output.stderr).trim()));
        }
        after.push(sql);
        if number % EACH == 0 || number == statements {
            let lsn = server.psql(database, "SELECT pg_current_wal_insert_lsn()");
            moments.push(Moment {
                after: std::mem::take(&mut after),
                lsn,
                truth: Dump::of(server, database),
            });
            if generator.random.random_bool(0.3) {
                rest(backwhen);
                generator.quiet.clear();
            }
        }
    }
    capture.stop();
    backwhen.ok(&["capture", "--until", "caught-up"]);
    eprintln!("{statements} statements, {failed} of them failed");
    assert!(failed * 3 < statements, "{failed} statements failed");
    moments
}

/// Returns once the history has digests of the definitions as they are now.
fn rest(backwhen: &Backwhen) {
    let (server, database) = (backwhen.server(), backwhen.database());
    // A look that is under way may have read the definitions before the first table. The second one is read by a later look.
    for _ in 1..=2 {
        let after = server.psql(
            database,
            // A position before the commit: digests may be of the commit itself.
            "BEGIN; DROP TABLE IF EXISTS rest; CREATE TABLE rest (); SELECT pg_current_wal_insert_lsn(); COMMIT",
        );
        let after: Lsn = after.parse().expect("a position");
        wait_at_most(DIGESTED, "the history has digests of the definitions", || {
            let digested = backwhen.json(&["status"])["schema_digested"]["lsn"].clone();
            digested.as_str().and_then(|lsn| lsn.parse::<Lsn>().ok()).is_some_and(|lsn| lsn > after)
        });
    }
}

/// Whether a report says something of the object that differs.
fn is_named(difference: &Difference, said: &str) -> bool {
    let is_name = |word: &&str| {
        word.split_once('_').is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let words = difference.object.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: BTreeSet<_> = words.filter(is_name).collect();
    match &difference.object {
        _ if names.iter().any(|name| said.contains(name)) => true,
        object if object.starts_with("DEFAULT ACL") => said.contains("default acl"),
        object if object.contains("EXTENSION") => said.contains("extension "),
        object if object.contains("DATABASE") || object.contains(".-") => {
            said.contains("\"what\":\"database")
        }
        object if object.contains("OPERATOR") => said.contains("operator "),
        object if object.contains("BLOB") || object.contains("LARGE OBJECT") => said.contains("large object"),
        object => object.contains("ACL") && said.contains("privileges"),
    }
}

/// Recovers each moment; returns those that differ in silence, and how many are exact and how many named.
fn silent(backwhen: &Backwhen, moments: &[Moment]) -> (Vec<String>, usize, usize) {
    let server = backwhen.server();
    let (mut faults, mut exact, mut named) = (Vec::new(), 0, 0);
    for moment in moments {
        let into = server.fresh_database("families");
        server.psql("postgres", &format!("DROP DATABASE {into}"));
        let output = backwhen.run(&[
            "recover",
            "--create",
            "--into",
            &server.conninfo(&into),
            "--to",
            &moment.lsn,
            "--output",
            "json",
        ]);
        let statements = moment.after.join(";\n    ");
        if !matches!(output.status.code(), Some(0 | 15)) {
            faults.push(format!("at {} after\n    {statements}\n  {}", moment.lsn, output.stderr));
            continue;
        }
        let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        let said = format!("{}{}{}", report["inexact"], report["left_out"], report["notes"]);
        let mut differences = compare(&moment.truth, &Dump::of(server, &into));
        differences.retain(|it| it.part != Part::Sequence);
        if differences.is_empty() {
            exact += 1;
        } else {
            named += 1;
        }
        differences.retain(|it| !is_named(it, &said));
        for it in differences {
            let known = &report["schema"];
            faults.push(format!(
                "at {} after\n    {statements}\n  {it}\n  {known} {} {said}",
                moment.lsn, report["schema_proof"]
            ));
        }
        let subscriptions = "SELECT format('ALTER SUBSCRIPTION %I SET (slot_name = NONE); DROP SUBSCRIPTION %I', subname, subname)
            FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()";
        server.psql(&into, &server.psql(&into, subscriptions));
        server.psql("postgres", &format!("DROP DATABASE {into}"));
    }
    (faults, exact, named)
}

#[test]
fn statements_of_every_tag_come_back_or_are_named() {
    let statements = number_from("BACKWHEN_DDL_STATEMENTS").unwrap_or(STATEMENTS) as usize;
    let seed = number_from("BACKWHEN_TEST_SEED").unwrap_or(SEED);
    let server = Server::shared(None);
    eprintln!(
        "PostgreSQL {}; again with: BACKWHEN_TEST_SEED={seed} BACKWHEN_DDL_STATEMENTS={statements}",
        server.major()
    );
    let database = server.fresh_database("families");
    for role in ["ddl_a", "ddl_b", "ddl_c", "ddl_d"] {
        let _ = server.try_psql("postgres", &format!("CREATE ROLE {role}"));
    }
    server.psql(
        &database,
        "GRANT CREATE ON SCHEMA public TO ddl_a, ddl_b; CREATE TABLE other_1 (id int PRIMARY KEY)",
    );
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_HEARTBEAT", "300ms");
    backwhen.init();
    let mut generator = Generator {
        random: StdRng::seed_from_u64(seed),
        families: families(server.major()),
        objects: Vec::new(),
        quiet: BTreeSet::new(),
        number: 100,
        database: database.clone(),
        major: server.major(),
    };
    let moments = run(&backwhen, &mut generator, statements);
    let (faults, exact, named) = silent(&backwhen, &moments);
    eprintln!("{} moments: {exact} exact, {named} with named differences", moments.len());
    let subscriptions = "SELECT string_agg(format('DROP SUBSCRIPTION %I', subname), '; ')
        FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()";
    server.psql(&database, &server.psql(&database, subscriptions));
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// The server's own list: the texts of its program that it takes as a tag.
fn tags(server: &Server) -> BTreeSet<String> {
    let program = server.bin().map_or("postgres".into(), |bin| bin.join("postgres"));
    let Ok(bytes) = std::fs::read(program) else { return BTreeSet::new() };
    let is_tag = |text: &&[u8]| {
        (4..40).contains(&text.len()) && text.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b' ')
    };
    let texts: BTreeSet<_> = bytes
        .split(|byte| *byte == 0)
        .filter(is_tag)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let texts: Vec<_> = texts.iter().map(|text| format!("'{text}'")).collect();
    let sql = format!(
        "CREATE FUNCTION pg_temp.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         DO $$DECLARE tag text; BEGIN FOREACH tag IN ARRAY ARRAY[{}] LOOP BEGIN
             EXECUTE format('CREATE EVENT TRIGGER probe ON ddl_command_end WHEN TAG IN (%L) EXECUTE FUNCTION pg_temp.e()', tag);
             DROP EVENT TRIGGER probe; INSERT INTO pg_temp.found VALUES (tag);
         EXCEPTION WHEN OTHERS THEN END; END LOOP; END$$;
         SELECT tag FROM pg_temp.found",
        texts.join(", ")
    );
    let database = server.fresh_database("tags");
    let found = server.psql(&database, &format!("CREATE TEMP TABLE found (tag text); {sql}"));
    found.lines().map(str::to_owned).collect()
}

#[test]
fn the_families_have_a_statement_of_every_tag() {
    let server = Server::shared(None);
    let tags = tags(&server);
    assert!(tags.len() > 90, "the server's list of tags was not found: {tags:?}");
    let mut ours: BTreeMap<String, usize> = BTreeMap::new();
    for statement in FAMILIES.split(['\n', ';']) {
        for sql in backwhen::recover::schema::split(since(statement).0.trim_start_matches("drop: "), true) {
            *ours.entry(sql.tag).or_default() += 1;
        }
    }
    let lacking: Vec<_> = tags
        .iter()
        .filter(|tag| !ours.contains_key(*tag) && !NOT_HERE.iter().chain(NO_STATEMENT).any(|it| it == tag))
        .collect();
    assert!(lacking.is_empty(), "no family has a statement of {lacking:?}");
}
