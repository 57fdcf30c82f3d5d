//! Old checkpoints that stay as single moments: by the calendar, and by pins.

use std::fs;
use std::path::Path;

use super::{OUTSIDE, Rounds, earliest, same};
use crate::support::Server;
use crate::support::shop::assert_says;

fn id_of(rounds: &Rounds, label: &str) -> String {
    let listed = rounds.backwhen.json_lines(&["list", "checkpoints"]);
    let found =
        listed.iter().find(|it| it["label"] == label).unwrap_or_else(|| panic!("{label}: {listed:#?}"));
    found["id"].as_str().unwrap().to_owned()
}

/// The position just after the position of a checkpoint.
fn just_after(checkpoint: &str) -> String {
    let position = checkpoint.split('-').nth(1).unwrap();
    let position = u64::from_str_radix(position, 16).unwrap() + 1;
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

/// The rows and definitions that a recovery of a single checkpoint writes. Its sequences are set to the values in use, as
/// no sample of them follows.
fn single_script(rounds: &Rounds, history: &Path, moment: &str) -> Vec<String> {
    let mut lines = rounds.script(history, moment);
    lines.retain(|line| !line.contains("pg_catalog.setval("));
    lines
}

#[test]
fn single_checkpoints_come_back_proved_and_no_moment_between_them_does() {
    let server = Server::shared(None);
    let rounds = Rounds::of(&server, 4);
    let (backwhen, history) = (&rounds.backwhen, rounds.backwhen.history());
    let ids: Vec<_> = (1..=4).map(|round| id_of(&rounds, &format!("round {round}"))).collect();
    let moments = [1, 2].map(|round| format!("checkpoint:{}", ids[round - 1]));
    let before =
        [single_script(&rounds, &history, &moments[0]), single_script(&rounds, &history, &moments[1])];

    backwhen.ok(&["pin", "round 1", "--reason", "before the audit"]);
    backwhen.ok(&["pin", &ids[1], "--reason", "yearly report"]);
    assert_says(
        &backwhen.fails(14, &["pin", "round 1", "--reason", "other"]),
        &["before the audit", "unpin"],
    );
    backwhen.ok(&["pin", "round 1", "--reason", "before the audit"]);
    assert_says(&backwhen.fails(OUTSIDE, &["pin", "round 9", "--reason", "x"]), &["list checkpoints"]);
    assert_says(&backwhen.fails(14, &["unpin", "round 4"]), &["is not pinned"]);

    // All of it is of one day: the newest checkpoint counts for it, and the oldest stays while counts are left.
    let expire = ["expire", "--keep-last", "1", "--keep-daily", "2", "--apply"];
    let done = backwhen.json(&expire);
    let fates: Vec<_> = done["checkpoints"].as_array().unwrap().iter().map(|it| &it["fate"]).collect();
    assert_eq!(fates, ["single", "single", "single", "goes", "every"], "{done:#}");
    assert_eq!(done["checkpoints"][0]["rules"], serde_json::json!(["daily"]));
    assert_eq!(done["checkpoints"][1]["rules"], serde_json::json!(["pinned"]));
    assert_eq!(done["checkpoints"][4]["rules"], serde_json::json!(["last", "daily", "newest"]));
    assert_eq!(backwhen.json(&expire)["applied"], false, "it is done");
    assert_eq!(earliest(backwhen, &history), rounds.end(4), "the window is where every moment is kept");
    backwhen.ok(&["verify", "--prove"]);

    for (moment, script) in moments.iter().zip(&before) {
        same(script, &single_script(&rounds, &history, moment));
    }
    let into = server.conninfo(&format!("single_{}", backwhen.database()));
    let recovered = backwhen.json(&["recover", "--to", &moments[0], "--create", "--into", &into]);
    assert_eq!((&recovered["proved"], &recovered["checkpoint"]), (&true.into(), &ids[0].as_str().into()));

    let listed = backwhen.json_lines(&["list", "checkpoints"]);
    let moments_of: Vec<_> = listed.iter().map(|it| it["moments"].as_str().unwrap()).collect();
    assert_eq!(moments_of, ["single", "single", "single", "every"]);
    assert_eq!(listed[1]["pinned"], "before the audit");
    let parts = backwhen.json_lines(&["list", "resolution"]);
    let parts: Vec<_> = parts.iter().map(|it| (&it["moments"], &it["checkpoints"])).collect();
    assert_eq!(parts, [(&"hourly".into(), &3.into()), (&"every".into(), &1.into())]);
    let status = backwhen.ok(&["status"]);
    assert!(status.contains("every moment since") && status.contains("hourly before"), "{status}");

    // Between two of them, and between the last one and the window.
    let between = backwhen.fails(OUTSIDE, &["recover", "--to", &just_after(&ids[0]), "--dry-run"]);
    assert_says(&between, &[&format!("checkpoint:{}", ids[0]), &format!("checkpoint:{}", ids[1]), "expired"]);
    let between = backwhen.fails(OUTSIDE, &["recover", "--to", &just_after(&ids[1]), "--dry-run"]);
    assert_says(&between, &[&format!("checkpoint:{}", ids[1]), "every moment is kept"]);
    backwhen.fails(OUTSIDE, &["recover", "--to", rounds.end(3), "--dry-run"]);
    backwhen.ok(&["recover", "--to", rounds.end(1), "--dry-run"]);
    let time = listed[1]["time"].as_str().unwrap();
    assert_says(&backwhen.ok(&["recover", "--to", time, "--dry-run"]), &[&ids[0]]);

    // The changes since a single checkpoint are not known, so no question about them gets half an answer.
    for question in [
        &["log", "--since", &moments[0]][..],
        &["log", "--until", &moments[0]],
        &["bisect", "--good", &moments[0], "--bad", "latest", "--check", "SELECT true"],
    ] {
        let refused = backwhen.fails(OUTSIDE, question);
        assert!(refused.contains("was expired"), "{question:?}: {refused}");
    }
    // The rows at both ends are known, and every order was changed.
    let difference = backwhen.json(&["diff", &moments[0], "latest"]);
    let tables = difference["tables"].as_array().unwrap();
    let orders = tables.iter().find(|it| it["table"].as_str().unwrap().ends_with("orders")).unwrap();
    assert_eq!((&orders["added"], &orders["changed"]), (&0.into(), &3000.into()), "{difference:#}");
    let counted = ["query", "--at", &moments[1], "SELECT count(*) FROM orders", "--format", "csv"];
    assert!(backwhen.ok(&counted).contains("3000"));
}

#[test]
fn a_copy_has_the_single_checkpoints_and_a_lost_one_is_missed_and_healed() {
    let rounds = Rounds::of(&Server::shared(None), 3);
    let (backwhen, history) = (&rounds.backwhen, rounds.backwhen.history());
    let pinned = id_of(&rounds, "round 1");
    backwhen.ok(&["pin", &pinned, "--reason", "kept"]);
    backwhen.ok(&["expire", "--keep-last", "1", "--apply"]);
    let script = single_script(&rounds, &history, &format!("checkpoint:{pinned}"));
    let copy = rounds.copy("copy");
    backwhen.ok(&["verify", "--history", copy.to_str().unwrap(), "--prove"]);
    same(&script, &single_script(&rounds, &copy, &format!("checkpoint:{pinned}")));

    fs::remove_file(history.join(format!("checkpoints/{pinned}.json"))).unwrap();
    let verified = backwhen.run(&["verify"]);
    assert_eq!(verified.status.code(), Some(12));
    assert_says(&format!("{}{}", verified.stdout, verified.stderr), &[&pinned, "is missing"]);
    let healed = backwhen.json(&["repair", "--from", copy.to_str().unwrap()]);
    assert!(healed["healed"].as_array().unwrap().iter().any(|it| it.as_str().unwrap().contains(&pinned)));
    same(&script, &single_script(&rounds, &history, &format!("checkpoint:{pinned}")));

    // A pin that cannot be read might keep any checkpoint.
    let pin = history.join(format!("pins/{pinned}.json"));
    fs::write(&pin, "spoilt").unwrap();
    backwhen.fails(12, &["expire", "--keep-last", "1", "--apply"]);
    backwhen.ok(&["repair", "--from", copy.to_str().unwrap()]);

    backwhen.ok(&["unpin", "round 1"]);
    assert_eq!(backwhen.json(&["expire", "--keep-last", "1", "--apply"])["applied"], true);
    assert_eq!(backwhen.json_lines(&["list", "checkpoints"]).len(), 1);
    let refused = backwhen.fails(OUTSIDE, &["recover", "--to", &format!("checkpoint:{pinned}"), "--dry-run"]);
    assert_says(&refused, &["was expired at"]);
    backwhen.ok(&["verify", "--prove"]);
    // The pin that only the copy has does not come back.
    backwhen.ok(&["repair", "--from", copy.to_str().unwrap()]);
    assert!(!pin.exists());
}
