//! Retention: what a rule keeps comes back as ever, what none keeps is gone and refused by name.

mod calendar;
mod outlook;
mod years;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::shop::{assert_says, captured_shop, shop};
use crate::support::{Backwhen, Dump, Server, assert_same};

const OUTSIDE: i32 = 11;

/// Every order is another, so that no block of the images is shared, and segments fill up.
const ROUND: &str = "UPDATE orders SET note = md5(note || id); \
                     INSERT INTO visits (page) SELECT md5(n::text) FROM generate_series(1, 100) n;";

/// A history with a labelled checkpoint after each round, and the end of each as a moment.
struct Rounds {
    backwhen: Backwhen,
    ends: Vec<String>,
}

impl Rounds {
    fn of(server: &Server, count: usize) -> Rounds {
        let database = shop(server).database().to_owned();
        let backwhen = Backwhen::new(server, &database).with_env("BACKWHEN_TEST_ROLL_AT", "100000");
        backwhen.init();
        let mut rounds = Rounds { backwhen, ends: Vec::new() };
        (0..count).for_each(|_| rounds.more());
        rounds
    }

    fn more(&mut self) {
        let backwhen = &self.backwhen;
        backwhen.server().psql(backwhen.database(), ROUND);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        backwhen.ok(&["checkpoint", "--label", &format!("round {}", self.ends.len() + 1)]);
        let latest = &backwhen.json(&["status"])["window"]["latest"]["lsn"];
        self.ends.push(latest.as_str().unwrap().to_owned());
    }

    /// The end of a round, counted from one.
    fn end(&self, round: usize) -> &str {
        &self.ends[round - 1]
    }

    /// A recovered moment, as the lines of a script; pg_dump puts tokens of chance around what it writes.
    fn script(&self, history: &Path, moment: &str) -> Vec<String> {
        let file = self.backwhen.folder().join("recovered.sql");
        let _ = fs::remove_file(&file);
        let (history, into) = (history.to_str().unwrap(), format!("sql:{}", file.display()));
        self.backwhen.ok(&["recover", "--history", history, "--to", moment, "--jobs", "1", "--into", &into]);
        let lines = fs::read_to_string(file).unwrap();
        let lines = lines.lines().filter(|line| !line.contains("restrict "));
        // The largest table comes first, and which that is the fold only estimates.
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.backwhen.folder().join(name);
        self.backwhen.ok(&["copy", "--to", copy.to_str().unwrap()]);
        copy
    }
}

fn same(before: &[String], now: &[String]) {
    let differs = before.iter().zip(now).find(|(before, now)| before != now);
    assert_eq!(differs, None);
    assert_eq!(before.len(), now.len());
}

/// Bytes of all objects.
fn size(history: &Path) -> u64 {
    let folders = ["checkpoints", "journal", "packs", "schemas"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(history.join(folder)).unwrap());
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// The last time that is decided.
fn latest(backwhen: &Backwhen) -> String {
    backwhen.json(&["status"])["window"]["latest"]["time"].as_str().unwrap().to_owned()
}

fn earliest(backwhen: &Backwhen, history: &Path) -> String {
    let status = backwhen.json(&["status", "--history", history.to_str().unwrap()]);
    status["window"]["earliest"]["lsn"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_kept_comes_back_byte_for_byte_and_the_rest_is_refused() {
    let server = Server::shared(None);
    let mut rounds = Rounds::of(&server, 4);
    let backwhen = &rounds.backwhen;
    let history = backwhen.history();
    let (before, first) = (size(&history), earliest(backwhen, &history));
    let kept: Vec<_> = (2..=4).map(|round| rounds.script(&history, rounds.end(round))).collect();

    assert_says(&backwhen.fails(2, &["expire", "--apply"]), &["--keep-within", "--keep-last"]);
    let shown = backwhen.json(&["expire", "--keep-last", "3"]);
    assert_eq!((shown["applied"].as_bool(), size(&history)), (Some(false), before), "shown, not done");
    assert_eq!(earliest(backwhen, &history), first);

    let done = backwhen.json(&["expire", "--keep-last", "3", "--apply"]);
    assert_eq!(done["applied"], true);
    assert_eq!(done["bytes_freed"], shown["bytes_freed"], "done as shown");
    assert_eq!(before - size(&history), done["bytes_freed"].as_u64().unwrap());
    for kind in done["objects"].as_array().unwrap().iter().filter(|it| it["kind"] != "evidence") {
        let may_go = kind["kind"] != "schemas";
        assert!(kind["stay"].as_u64() > Some(0) && (kind["go"].as_u64() > Some(0) || !may_go), "{kind}");
    }
    // The blocks of the table that never changed lie in the first pack, of which nothing else is needed.
    assert!(done["repacked"]["packs"].as_u64() > Some(0), "{done:#}");
    assert!(size(&history) < before * 3 / 4, "{before} bytes became {}", size(&history));

    for (round, script) in (2..).zip(&kept) {
        same(script, &rounds.script(&history, rounds.end(round)));
    }
    for moment in [rounds.end(1), &first, "checkpoint:round 1"] {
        let refused = backwhen.fails(OUTSIDE, &["recover", "--to", moment, "--dry-run"]);
        assert_says(&refused, &["what can be recovered is", "was expired at"]);
    }
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 3);
    assert!(backwhen.json_lines(&["list", "gaps"]).is_empty(), "what is before the window is no gap");
    backwhen.ok(&["verify", "--prove"]);
    assert_eq!(backwhen.json(&["expire", "--keep-last", "3", "--apply"])["applied"], false, "it is done");

    rounds.more();
    let backwhen = &rounds.backwhen;
    backwhen.ok(&["expire", "--keep-within", "1s", "--keep-last", "1", "--apply"]);
    backwhen.ok(&["verify", "--prove"]);
    let into = format!("kept_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &into));
}

#[test]
fn marks_that_no_checkpoint_leads_to_are_marked_so() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    for name in ["before", "after"] {
        backwhen.ok(&["mark", name]);
        backwhen.ok(&["capture", "--until", "caught-up"]);
        backwhen.ok(&["checkpoint", "--label", name]);
    }
    backwhen.ok(&["mark", "last"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["expire", "--keep-last", "1", "--apply"]);
    for mark in backwhen.json_lines(&["list", "marks"]) {
        let held = mark["recoverable"] == true;
        // The second checkpoint may be the very moment of its mark.
        assert!(mark["name"] == "after" || held == (mark["name"] == "last"), "{mark}");
        let to = format!("mark:{}", mark["name"].as_str().unwrap());
        assert_eq!(backwhen.run(&["recover", "--to", &to, "--dry-run"]).status.success(), held, "{mark}");
        let line =
            backwhen.ok(&["list", "marks"]).lines().find(|it| it.starts_with(&to[5..])).unwrap().to_owned();
        assert_eq!(line.contains("cannot be recovered"), !held, "{line}");
    }
}

#[test]
fn a_window_of_time_keeps_every_moment_in_it() {
    let server = Server::shared(None);
    let mut rounds = Rounds::of(&server, 1);
    // The window is named in whole seconds, so two rounds must differ by one.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    rounds.more();
    let begins = latest(&rounds.backwhen);
    rounds.more();
    let (backwhen, history) = (&rounds.backwhen, rounds.backwhen.history());
    let latest = latest(backwhen);
    let moments = [&*begins, rounds.end(2), rounds.end(3)];
    let kept = moments.map(|moment| rounds.script(&history, moment));
    backwhen.ok(&["expire", "--keep-within", "90m", "--apply"]);
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 4, "all of it is younger");

    let time = |text: &str| chrono::DateTime::parse_from_rfc3339(text).unwrap();
    let within = format!("{}s", (time(&latest) - time(&begins)).num_seconds() + 1);
    backwhen.ok(&["expire", "--keep-within", &within, "--apply"]);
    // That of the first round, from which all of the window is reached.
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 3);
    for (moment, script) in moments.into_iter().zip(&kept) {
        same(script, &rounds.script(&history, moment));
    }
    backwhen.ok(&["verify", "--prove"]);
}

#[test]
fn a_copy_with_rules_of_its_own_does_not_get_again_what_it_let_go() {
    let server = Server::shared(None);
    let mut rounds = Rounds::of(&server, 4);
    let folder = rounds.backwhen.folder().join("short");
    let to = folder.to_str().unwrap().to_owned();
    let copy = ["copy", "--to", &to, "--expire", "--keep-last", "1"];
    assert_says(&rounds.backwhen.fails(2, &["copy", "--to", &to, "--expire"]), &["--keep-within"]);
    assert!(!folder.exists(), "it was refused before it began");
    let first = rounds.backwhen.json(&copy);
    assert!(first["expired"]["bytes_freed"].as_u64() > Some(0), "{first:#}");
    assert_eq!(earliest(&rounds.backwhen, &folder), rounds.end(4));
    rounds.backwhen.ok(&["verify", "--history", &to, "--prove"]);

    // Nothing is new, so nothing is copied, however often; the evidence of the verification above is the copy's own.
    let again = rounds.backwhen.json(&copy);
    assert_eq!((&again["objects"], &again["expired"]["bytes_freed"]), (&0.into(), &0.into()), "{again:#}");
    let plain = rounds.backwhen.json(&["copy", "--to", &to]);
    assert_eq!(plain["objects"], 0, "{plain:#}");

    // A round brings a segment or two, a checkpoint and its packs, and not what lies before.
    rounds.more();
    let before = rounds.backwhen.json_lines(&["list", "checkpoints", "--history", &to]).len();
    let newer = rounds.backwhen.json(&["copy", "--to", &to]);
    assert!(newer["objects"].as_u64().is_some_and(|count| (1..=12).contains(&count)), "{newer:#}");
    assert_eq!(rounds.backwhen.json_lines(&["list", "checkpoints", "--history", &to]).len(), before + 1);
    rounds.backwhen.ok(&["verify", "--history", &to, "--prove"]);
    same(&rounds.script(&rounds.backwhen.history(), rounds.end(5)), &rounds.script(&folder, rounds.end(5)));

    // Rows as they once were need blocks that the copy has let go.
    let backwhen = &rounds.backwhen;
    backwhen.ok(&copy);
    let sql = backwhen.folder().join("back.sql");
    backwhen.ok(&["diff", "latest", rounds.end(1), "--sql", sql.to_str().unwrap()]);
    server.psql(backwhen.database(), &fs::read_to_string(&sql).unwrap());
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint"]);
    backwhen.ok(&["copy", "--to", &to]);
    backwhen.ok(&["verify", "--history", &to, "--prove"]);
    same(&rounds.script(&backwhen.history(), "latest"), &rounds.script(&folder, "latest"));
}

#[test]
fn a_copy_keeps_what_the_original_let_go_and_repair_does_not_bring_it_back() {
    let server = Server::shared(None);
    let mut rounds = Rounds::of(&server, 3);
    let history = rounds.backwhen.history();
    let old = rounds.script(&history, rounds.end(1));
    let copy = rounds.copy("copy");
    rounds.backwhen.ok(&["expire", "--keep-last", "1", "--apply"]);
    let size_then = size(&history);
    rounds.more();

    // Additions only: the copy is the longer memory.
    rounds.copy("copy");
    same(&old, &rounds.script(&copy, rounds.end(1)));
    let (copied, backwhen) = (copy.to_str().unwrap(), &rounds.backwhen);
    backwhen.ok(&["verify", "--history", copied, "--prove"]);
    assert_eq!(backwhen.json_lines(&["list", "checkpoints", "--history", copied]).len(), 5);

    // One that is made now has what there is.
    let fresh = rounds.copy("fresh");
    backwhen.ok(&["verify", "--history", fresh.to_str().unwrap(), "--prove"]);
    assert_eq!(earliest(backwhen, &fresh), earliest(backwhen, &history));

    // Healing takes what is damaged, and nothing that was let go.
    let before = size(&history);
    assert!(before > size_then);
    let newest = backwhen.json_lines(&["list", "checkpoints"]).pop().unwrap();
    let manifest = history.join(format!("checkpoints/{}.json", newest["id"].as_str().unwrap()));
    let pack = fs::read_dir(history.join("packs")).unwrap().next().unwrap().unwrap().path();
    fs::write(&manifest, "spoilt").unwrap();
    fs::remove_file(pack).unwrap();
    let repaired = backwhen.json(&["repair", "--from", copied]);
    // What the copy's own verify found is news.
    let healed = repaired["healed"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
    assert_eq!(healed.filter(|name| !name.starts_with("evidence/")).count(), 2, "{repaired}");
    assert_eq!(size(&history), before);
    backwhen.ok(&["verify", "--prove"]);

    // Of a damaged history nothing goes.
    fs::write(&manifest, "spoilt").unwrap();
    assert_says(&backwhen.fails(12, &["expire", "--keep-last", "1", "--apply"]), &["damaged", "repair"]);

    backwhen.ok(&["expire", "--history", copied, "--keep-last", "2", "--apply"]);
    backwhen.ok(&["verify", "--history", copied, "--prove"]);
    let refused =
        backwhen.fails(OUTSIDE, &["recover", "--history", copied, "--to", rounds.end(1), "--dry-run"]);
    assert_says(&refused, &["was expired at"]);
}

#[test]
fn whole_epochs_go_with_the_gaps_between_them() {
    let server = Server::shared(None);
    let mut rounds = Rounds::of(&server, 2);
    let backwhen = &rounds.backwhen;
    let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    server.psql(backwhen.database(), slot);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    rounds.more();
    let backwhen = &rounds.backwhen;
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 1);
    let script = rounds.script(&backwhen.history(), rounds.end(3));
    backwhen.ok(&["expire", "--keep-last", "1", "--apply"]);
    assert!(backwhen.json_lines(&["list", "gaps"]).is_empty());
    let segments = backwhen.json_lines(&["list", "segments"]);
    assert!(!segments.is_empty() && segments.iter().all(|it| it["epoch"] == 2), "{segments:#?}");
    same(&script, &rounds.script(&backwhen.history(), rounds.end(3)));
    backwhen.fails(OUTSIDE, &["recover", "--to", rounds.end(1), "--dry-run"]);
    backwhen.ok(&["verify", "--prove"]);
    rounds.more();
    rounds.backwhen.ok(&["verify", "--prove"]);
}

#[test]
fn what_killed_writers_left_under_temporary_names_goes_too() {
    let rounds = Rounds::of(&Server::shared(None), 1);
    let history = rounds.backwhen.history();
    let leftovers = ["packs/pack.0123456789abcdef-0.tmp", "packs/pack-0.1.tmp", "schemas/dump.00ff-1.tmp"];
    let leftovers = leftovers.map(|name| history.join(name));
    leftovers.iter().for_each(|path| fs::write(path, "half").unwrap());
    rounds.backwhen.ok(&["expire", "--keep-last", "9"]);
    assert!(leftovers.iter().all(|path| path.exists()), "it was only to say what it would do");
    rounds.backwhen.ok(&["expire", "--keep-last", "9", "--apply"]);
    assert!(leftovers.iter().all(|path| !path.exists()));
    rounds.backwhen.ok(&["verify", "--prove"]);
}
