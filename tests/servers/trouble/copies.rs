//! `copy` keeps a second history that is valid at every instant; `repair` heals the first one from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::shop::{assert_says, captured_shop, shop};
use crate::support::{Backwhen, Server};
use crate::trouble::exit;

fn clone_folder(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The files in one folder of a history whose names end like this, sorted.
fn objects(history: &Path, folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(history.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| text(path).ends_with(ending)).collect();
    found.sort();
    found
}

/// A script of the latest moment, as sorted lines, so that two can be compared.
fn latest(backwhen: &Backwhen, history: &Path) -> Result<Vec<String>, String> {
    let file = backwhen.folder().join("latest.sql");
    let into = format!("sql:{}", file.display());
    let output = backwhen.run(&["recover", "--history", &text(history), "--to", "latest", "--into", &into]);
    if !output.status.success() {
        return Err(output.stderr);
    }
    let script = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    // Newer pg_restores put in a random key.
    let mut lines: Vec<_> =
        script.lines().filter(|line| !line.contains("restrict")).map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// A history with a sealed and an open segment, a folded checkpoint, and evidence.
fn rich() -> Backwhen {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.init();
    let rows = "INSERT INTO visits (page) SELECT repeat(md5(n::text), 40) FROM generate_series(1, 14000) n";
    server.psql(backwhen.database(), rows);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint"]);
    for _ in 0..2 {
        server.psql(backwhen.database(), CHANGES_AGAIN);
        backwhen.ok(&["capture", "--until", "caught-up"]);
    }
    backwhen.ok(&["verify"]);
    assert!(!objects(&backwhen.history(), "journal", ".seg").is_empty(), "nothing is sealed");
    backwhen
}

const CHANGES_AGAIN: &str = "
    INSERT INTO visits (page) SELECT md5(n::text) FROM generate_series(1, 300) n;
    UPDATE orders SET note = note || '.' WHERE id <= 20";

#[test]
fn a_copy_is_brought_up_to_date_while_capture_runs_and_is_a_history_whenever_it_is_killed() {
    let server = Server::shared(None);
    let backwhen = shop(&server).with_env("BACKWHEN_TEST_ROLL_AT", "60000");
    backwhen.init();
    let copy = backwhen.folder().join("copy");
    let mut capture = backwhen.spawn_capture();
    let mut valid = 0;
    for point in ["file.linked", "file.linked", "file.link", "file.linked", "journal.synced"] {
        server.psql(backwhen.database(), CHANGES_AGAIN);
        capture.wait_caught_up();
        backwhen.ok(&["checkpoint"]);
        // Each life of it does one more thing, and dies.
        let mut lives = 0;
        while !copy_dies(&backwhen, &copy, point) {
            lives += 1;
            assert!(lives < 40, "it does not get further");
            if copy.join("history.json").exists() {
                backwhen.ok(&["verify", "--history", &text(&copy)]);
                valid += 1;
            }
            // Before a name is given nothing gets further; a segment grows in many steps.
            if point != "file.linked" && lives == 3 {
                break;
            }
        }
    }
    let copied = backwhen.json(&["copy", "--to", &text(&copy)]);
    assert_eq!(copied["ok"], true);
    capture.stop();
    backwhen.ok(&["copy", "--to", &text(&copy)]);
    assert!(valid > 5, "the copy was hardly ever a history, so this proves little: {valid}");
    assert!(!objects(&copy, "journal", ".seg").is_empty() && !objects(&copy, "journal", ".open").is_empty());
    assert_eq!(latest(&backwhen, &copy), latest(&backwhen, &backwhen.history()));
    let again = backwhen.json(&["copy", "--to", &text(&copy)]);
    assert_eq!((&again["objects"], &again["bytes"]), (&0.into(), &0.into()), "{again}");
    let ends = |history: &Path| {
        let status = backwhen.json(&["status", "--offline", "--history", &text(history)]);
        status["window"]["latest"]["lsn"].clone()
    };
    assert_eq!(ends(&copy), ends(&backwhen.history()));
}

/// Copies until the point is passed for the first time; true if it never is.
fn copy_dies(backwhen: &Backwhen, copy: &Path, point: &str) -> bool {
    let mut command = backwhen.command(&["copy", "--to", &text(copy)]);
    command.env("BACKWHEN_TEST_POINT", format!("{point}=kill"));
    let output = command.output().unwrap();
    let died = output.status.code().is_none();
    assert!(died || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    !died
}

#[test]
fn a_copy_goes_nowhere_where_something_else_lies() {
    let server = Server::shared(None);
    let (one, other) = (captured_shop(&server), captured_shop(&server));
    let copy = one.folder().join("copy");
    one.ok(&["copy", "--to", &text(&copy)]);
    assert_says(&other.fails(exit::REFUSED, &["copy", "--to", &text(&copy)]), &["another history"]);
    assert_says(&other.fails(exit::REFUSED, &["repair", "--from", &text(&copy)]), &["same history"]);
    let occupied = one.folder().join("occupied");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("diary.txt"), "mine").unwrap();
    one.fails(exit::REFUSED, &["copy", "--to", &text(&occupied)]);
    one.fails(exit::USAGE, &["copy", "--to", &text(&one.history())]);
    one.fails(exit::USAGE, &["repair", "--from", &text(&one.history())]);
    // What is damaged is not copied on.
    let pack = objects(&one.history(), "packs", ".pack").remove(0);
    spoil(&pack, Way::Flip);
    let fresh = one.folder().join("fresh");
    let output = one.run(&["copy", "--to", &text(&fresh)]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED), "{}", output.stdout);
    assert_says(&output.stdout, &[pack.file_name().unwrap().to_str().unwrap()]);
    assert!(objects(&fresh, "packs", ".pack").is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Flip,
    Cut,
    Remove,
    Swap,
}

fn spoil(path: &Path, way: Way) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    match way {
        Way::Flip => bytes[middle] ^= 0x10,
        Way::Cut => bytes.truncate(middle),
        Way::Remove => return std::fs::remove_file(path).unwrap(),
        Way::Swap => {
            let other = (middle + 1..bytes.len()).find(|&at| bytes[at] != bytes[middle]).unwrap();
            bytes.swap(middle, other);
        }
    }
    std::fs::write(path, bytes).unwrap();
}

/// The whole message of a `verify` that must find damage.
fn found(backwhen: &Backwhen, history: &Path) -> String {
    let output = backwhen.run(&["verify", "--history", &text(history)]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED), "{}{}", output.stdout, output.stderr);
    output.stdout + &output.stderr
}

#[test]
fn every_object_is_missed_or_found_damaged_by_name_and_healed() {
    let backwhen = captured_shop(&Server::shared(None));
    backwhen.ok(&["verify"]);
    each_way(
        &backwhen,
        &[
            ("packs", ".pack"),
            ("checkpoints", ".json"),
            ("schemas", ".dump"),
            ("schemas", ".sql"),
            ("epochs", ".json"),
            ("evidence", ".json"),
            ("", "history.json"),
        ],
    );
}

#[test]
fn every_segment_is_missed_or_found_damaged_by_name_and_healed() {
    each_way(&rich(), &[("journal", ".seg"), ("journal", ".open")]);
}

/// Spoils the first object of each kind in each way, in a fresh copy of the history each time.
fn each_way(backwhen: &Backwhen, kinds: &[(&str, &str)]) {
    let (copy, history) = (backwhen.folder().join("copy"), backwhen.folder().join("spoilt"));
    backwhen.ok(&["copy", "--to", &text(&copy)]);
    let truth = latest(backwhen, &backwhen.history()).unwrap();
    for (folder, ending) in kinds {
        for way in [Way::Flip, Way::Cut, Way::Remove, Way::Swap] {
            clone_folder(&backwhen.history(), &history);
            let object = objects(&history, folder, ending).remove(0);
            let name = object.file_name().unwrap().to_str().unwrap();
            spoil(&object, way);
            let gone = matches!(way, Way::Remove);
            // Evidence is a witness, not part of what is recovered: one that is gone is not missed.
            if !(*folder == "evidence" && gone) {
                let message = found(backwhen, &history);
                // A segment that is gone is named by its epoch and place.
                let told = message.contains(name) || (*folder == "journal" && message.contains("0001-"));
                assert!(told, "{way:?} of {name} is not named: {message}");
            }
            if *folder == "journal" || gone {
                match latest(backwhen, &history) {
                    Ok(rows) => assert!(rows == truth, "{way:?} of {name} gave other rows"),
                    Err(message) => assert_says(&message, &["backwhen"]),
                }
            }
            let healed = backwhen.json(&["repair", "--history", &text(&history), "--from", &text(&copy)]);
            assert_eq!(healed["ok"], true, "{way:?} of {name}: {healed}");
            assert!(healed["healed"].to_string().contains(name), "{way:?} of {name}: {healed}");
            let kept = history.join("damaged").join(name).exists();
            // The end that was cut off is put back behind what was left.
            let grown = name.ends_with(".open") && matches!(way, Way::Cut);
            assert_eq!(kept, !gone && !grown, "{way:?} of {name}");
        }
        assert!(latest(backwhen, &history).unwrap() == truth, "{folder}/*{ending} healed");
    }
}

#[test]
fn objects_that_are_exchanged_are_found() {
    let backwhen = rich();
    let copy = backwhen.folder().join("copy");
    backwhen.ok(&["copy", "--to", &text(&copy)]);
    for (folder, ending) in [("packs", ".pack"), ("checkpoints", ".json"), ("journal", "")] {
        let history = backwhen.folder().join("exchanged");
        clone_folder(&backwhen.history(), &history);
        let both = objects(&history, folder, ending);
        let (one, other) = (&both[0], &both[1]);
        let bytes = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
        std::fs::write(one, bytes.1).unwrap();
        std::fs::write(other, bytes.0).unwrap();
        let message = found(&backwhen, &history);
        for path in [one, other] {
            assert_says(&message, &[path.file_name().unwrap().to_str().unwrap()]);
        }
        let healed = backwhen.json(&["repair", "--history", &text(&history), "--from", &text(&copy)]);
        assert_eq!(healed["ok"], true, "{healed}");
    }
}

#[test]
fn an_older_checkpoint_serves_where_the_newest_is_damaged() {
    let backwhen = rich();
    let truth = latest(&backwhen, &backwhen.history()).unwrap();
    let history = backwhen.folder().join("spoilt");
    let newest = objects(&backwhen.history(), "checkpoints", ".json").pop().unwrap();
    let id = newest.file_stem().unwrap().to_str().unwrap().to_owned();
    // With a catalog that knows it, and with one that never did.
    for forget in [false, true] {
        clone_folder(&backwhen.history(), &history);
        spoil(&objects(&history, "checkpoints", ".json").pop().unwrap(), Way::Flip);
        if forget {
            std::fs::remove_file(history.join("catalog.sqlite")).unwrap();
        }
        assert!(latest(&backwhen, &history).unwrap() == truth, "other rows");
        let plan = backwhen.json(&["recover", "--history", &text(&history), "--to", "latest", "--dry-run"]);
        assert_ne!(plan["checkpoint"], id.as_str());
        assert_says(&plan["notes"].to_string(), &[&id, "cannot be used", "older one"]);
    }
    // A block of the newer image alone, which only shows while it is read.
    clone_folder(&backwhen.history(), &history);
    let first = first_packs(&backwhen);
    let newer = objects(&history, "packs", ".pack")
        .into_iter()
        .find(|pack| !first.contains(&pack.file_name().unwrap().to_str().unwrap().to_owned()));
    let newer = newer.expect("the fold wrote a pack of its own");
    let mut bytes = std::fs::read(&newer).unwrap();
    bytes[8 + 52 + 10] ^= 1;
    std::fs::write(&newer, bytes).unwrap();
    let into = format!("older_{}", backwhen.database());
    let report = backwhen.json(&[
        "recover",
        "--history",
        &text(&history),
        "--to",
        "latest",
        "--create",
        "--into",
        &backwhen.server().conninfo(&into),
    ]);
    assert_eq!(report["proved"], true);
    assert_ne!(report["checkpoint"], id.as_str());
    assert_says(&report["notes"].to_string(), &[&id, newer.file_name().unwrap().to_str().unwrap()]);
    assert!(latest(&backwhen, &history).unwrap() == truth, "other rows");
}

/// The packs that the first checkpoint of a like history would have: those older than the fold's.
fn first_packs(backwhen: &Backwhen) -> Vec<String> {
    let mut packs = objects(&backwhen.history(), "packs", ".pack");
    packs.sort_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap());
    packs.pop();
    packs.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}
