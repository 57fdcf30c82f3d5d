//! Death at every failpoint.

use std::collections::BTreeSet;
use std::path::Path;

use backwhen::ambient::POINTS;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::crash::power::Power;
use crate::demand::target::DEMAND;
use crate::live::safety::REWIND;
use crate::part::beside::BESIDE;
use crate::stores::STORE;
use crate::support::bank::{
    assert_books_balance, assert_confirmed_is_held, bank, commits, trades, while_trading,
};
use crate::support::shop::{CHANGES, assert_source_clean, shop};
use crate::support::{Backwhen, Dump, Server, assert_same};
use crate::templates::{KEEP, TEMPLATE};

/// Where a capture can die.
pub const CAPTURE: &[&str] = &[
    "file.create",
    "file.write",
    "file.sync",
    "file.link",
    "file.linked",
    "folder.sync",
    "file.remove",
    "capture.opened",
    "capture.confirm",
    "journal.append",
    "journal.sync",
    "journal.synced",
    "journal.cut",
    "journal.roll",
    "journal.rolled",
    "seal.write",
    "seal.written",
    "catalog.update",
    "catalog.updated",
];
const RESYNC: &[&str] = &[
    "resync.lost",
    "resync.begin",
    "resync.folded",
    "init.publications",
    "init.slot",
    "resync.compared",
    "init.image",
    "init.epoch",
    "init.manifest",
];
const INIT: &[&str] =
    &["init.intent", "init.slot", "init.image", "init.epoch", "init.manifest", "init.found"];
const FROM_SOURCE: &[&str] = &["checkpoint.snapshot"];
const CHECKPOINT: &[&str] = &["checkpoint.image", "checkpoint.publish", "checkpoint.published"];
const RECOVER: &[&str] =
    &["recover.opened", "recover.loaded", "recover.indexed", "recover.valid", "recover.validated"];
const REPAIR: &[&str] = &["file.set-aside", "file.set-aside-done"];
const EXPIRE: &[&str] = &["expire.repacked", "expire.record", "expire.recorded", "expire.removed"];
const DROP: &[&str] = &["drop.slot", "drop.done"];

#[test]
fn every_point_is_in_the_table_and_met_by_a_test() {
    let table: BTreeSet<_> = POINTS.iter().copied().collect();
    assert_eq!(table.len(), POINTS.len(), "one is there twice");
    let tested = [
        CAPTURE,
        RESYNC,
        INIT,
        FROM_SOURCE,
        CHECKPOINT,
        RECOVER,
        DEMAND,
        REPAIR,
        EXPIRE,
        DROP,
        REWIND,
        BESIDE,
        TEMPLATE,
        KEEP,
        STORE,
    ]
    .concat();
    assert_eq!(table, tested.into_iter().collect(), "the table, and what is tested");
    let mut code = String::new();
    read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let named: BTreeSet<_> = ["point(\"", "pass(\""]
        .iter()
        .flat_map(|call| code.split(call).skip(1))
        .filter_map(|rest| rest.split('"').next())
        // A place is a part and a step; a checkpoint's id is none.
        .filter(|name| name.contains('.'))
        .collect();
    assert_eq!(table, named, "the table, and what the code passes");
}

fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|it| it == "rs") {
            *text += &std::fs::read_to_string(path).unwrap();
        }
    }
}

/// Under load, with the power cut each time.
#[test]
fn a_capture_that_dies_at_any_step_loses_and_doubles_nothing() {
    die_at_every_step(&|backwhen| backwhen);
}

#[test]
fn a_capture_of_an_encrypted_history_that_dies_at_any_step_loses_and_doubles_nothing() {
    die_at_every_step(&Backwhen::encrypted);
}

fn die_at_every_step(prepared: &dyn Fn(Backwhen) -> Backwhen) {
    let server = Server::shared(None);
    let database = bank(&server);
    let power = Power::new();
    let backwhen = prepared(Backwhen::new(&server, &database))
        .with_env("BACKWHEN_HEARTBEAT", "500ms")
        .with_env("BACKWHEN_TEST_ROLL_AT", "20000");
    backwhen.init();
    let mut random = StdRng::seed_from_u64(3);
    while_trading(&server, &database, || {
        for point in CAPTURE {
            let mut command = backwhen.command(&["capture"]);
            // These a capture passes once in its life.
            let once = ["journal.cut", "capture.opened", "catalog.update", "catalog.updated"].contains(point);
            let number = if once { 1 } else { random.random_range(1..=3) };
            command.env("BACKWHEN_TEST_POINT", format!("{point}=kill@{number}"));
            command.env("BACKWHEN_TEST_POWER", power.folder());
            dies(command, point);
            let cut = power.cut(&mut random);
            assert!(*point != "journal.sync" || cut.at_stake > 0, "nothing was at stake before a sync");
            assert_confirmed_is_held(&backwhen);
            commits(&backwhen);
        }
    });
    backwhen.ok(&["capture", "--until", "caught-up"]);
    commits(&backwhen);
    assert_eq!(assert_books_balance(&backwhen, "latest"), trades(&server, &database));
    backwhen.ok(&["verify"]);
}

fn dies(mut command: std::process::Command, point: &str) {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = crate::support::wait(&mut child, std::time::Duration::from_secs(30));
    assert!(status.is_some_and(|status| status.signal().is_some()), "{point} was never met: {status:?}");
}

#[test]
fn a_resync_that_dies_at_any_step_is_begun_again() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    backwhen.init();
    server.psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()";
    for point in RESYNC {
        server.psql(backwhen.database(), slot);
        backwhen.dies(point, &["capture", "--until", "caught-up"]);
        backwhen.ok(&["status"]);
    }
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/after')");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["verify"]);
    let gaps = backwhen.json_lines(&["list", "gaps"]);
    assert!(gaps.iter().all(|gap| gap["from"].is_object() && gap["to"].is_object()), "{gaps:#?}");
    let into = format!("resynced_{}", backwhen.database());
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(&server, backwhen.database()), &Dump::of(&server, &into));
}

#[test]
fn an_init_or_drop_that_dies_at_any_step_is_cleaned_up_after() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let source = backwhen.source();
    for point in INIT {
        backwhen.dies(point, &["init", "--source", &source]);
        if *point == "init.found" {
            // It is a history already, and a capture takes over.
            backwhen.ok(&["capture", "--until", "caught-up"]);
            continue;
        }
        backwhen.init();
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        assert_eq!(server.psql(backwhen.database(), slots), "1", "after a death at {point}");
        backwhen.ok(&["drop"]);
        std::fs::remove_dir_all(backwhen.history()).unwrap();
    }
    for point in DROP {
        backwhen.dies(point, &["drop"]);
        backwhen.ok(&["drop"]);
        assert_source_clean(&server, backwhen.database());
    }
}

/// The folder's parents did not exist either: a power cut takes none of them away.
#[test]
fn a_history_that_init_has_made_in_new_folders_survives_a_power_cut() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let history = backwhen.folder().join("backups/of/the/shop");
    let power = Power::new();
    let mut command = backwhen.command(&["init", "--source", &backwhen.source()]);
    command.args(["--history", history.to_str().unwrap()]).env("BACKWHEN_TEST_POWER", power.folder());
    assert!(command.output().unwrap().status.success());
    assert!(power.len() > 0, "nothing was written down");
    let cut = power.cut(&mut StdRng::seed_from_u64(7));
    assert_eq!((cut.at_stake, cut.taken), (0, 0), "not durable after init");
    backwhen.ok(&["verify", "--history", history.to_str().unwrap()]);
}

#[test]
fn a_checkpoint_recovery_or_repair_that_dies_at_any_step_is_done_by_the_next() {
    let server = Server::shared(None);
    let backwhen = crate::support::shop::captured_shop(&server);
    let truth = Dump::of(&server, backwhen.database());
    for point in FROM_SOURCE {
        backwhen.dies(point, &["checkpoint", "--from-source"]);
        backwhen.ok(&["checkpoint", "--from-source"]);
    }
    for point in CHECKPOINT {
        backwhen.dies(point, &["checkpoint", "--label", point]);
        backwhen.ok(&["checkpoint", "--label", "again"]);
    }
    let copy = backwhen.folder().join("copy");
    let copy = copy.to_str().unwrap();
    backwhen.ok(&["copy", "--to", copy]);
    for point in REPAIR {
        let mut epochs = std::fs::read_dir(backwhen.history().join("epochs")).unwrap();
        std::fs::write(epochs.next().unwrap().unwrap().path(), "spoilt").unwrap();
        backwhen.dies(point, &["repair", "--from", copy]);
        backwhen.ok(&["repair", "--from", copy]);
    }
    backwhen.ok(&["verify", "--prove"]);
    let into = server.conninfo(&format!("again_{}", backwhen.database()));
    for point in RECOVER {
        backwhen.dies(point, &["recover", "--to", "latest", "--create", "--into", &into]);
        let name = format!("again_{}", backwhen.database());
        let there = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
        // Valid with its last step, and not before.
        let valid = server.psql("postgres", &there) == "1";
        assert_eq!(valid, *point == "recover.validated", "{point}");
        if !valid {
            backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &into]);
        }
        assert_same(&truth, &Dump::of(&server, &name));
        server.psql("postgres", &format!("DROP DATABASE {name}"));
    }
}

/// With the power cut each time: after every step the history opens, verifies and recovers.
#[test]
fn an_expiry_that_dies_at_any_step_leaves_a_history_and_is_finished_by_the_next() {
    let server = Server::shared(None);
    let database = shop(&server).database().to_owned();
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_TEST_ROLL_AT", "20000");
    backwhen.init();
    // The first checkpoint stays as a single moment.
    let first = backwhen.json_lines(&["list", "checkpoints"]).remove(0);
    let first = first["id"].as_str().unwrap();
    backwhen.ok(&["pin", first, "--reason", "kept through each death"]);
    let power = Power::new();
    let mut random = StdRng::seed_from_u64(5);
    let expire = ["expire", "--keep-last", "2", "--apply"];
    // Manifests, segments, packs and the rest are removed one folder after the other.
    let removals = (1..=4).map(|number| format!("expire.removed=kill@{number}"));
    let files = [1, 2, 4].map(|number| format!("file.remove=kill@{number}"));
    let others = EXPIRE[..3].iter().map(|point| format!("{point}=kill"));
    server.psql(&database, "UPDATE orders SET note = md5(note || id)");
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint"]);
    for death in others.chain(removals).chain(files) {
        server.psql(&database, "UPDATE orders SET note = md5(note || id)");
        backwhen.ok(&["capture", "--until", "caught-up"]);
        backwhen.ok(&["checkpoint"]);
        let mut command = backwhen.command(&expire);
        command.env("BACKWHEN_TEST_POINT", &death).env("BACKWHEN_TEST_POWER", power.folder());
        dies(command, &death);
        power.cut(&mut random);
        backwhen.ok(&["verify"]);
        let held = backwhen.json_lines(&["list", "checkpoints"]);
        assert!(held.len() >= 3 && held[0]["id"] == first, "{death}: {held:?}");
        for old in &held[..2] {
            let old = format!("checkpoint:{}", old["id"].as_str().unwrap());
            backwhen.ok(&["recover", "--to", &old, "--into", "sql:-"]);
        }
        backwhen.ok(&expire);
        assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 3, "{death}");
        assert_eq!(backwhen.json(&expire)["applied"], false, "{death}: something was left");
    }
    backwhen.ok(&["verify", "--prove"]);
    let into = format!("expired_{database}");
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(&server, &database), &Dump::of(&server, &into));
}
