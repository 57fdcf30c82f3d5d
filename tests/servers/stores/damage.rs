//! Objects of a bucket that are damaged, gone, or may not be removed.

use super::{CHANGES_AGAIN, Stored, exit, text};
use crate::support::shop::assert_says;

/// The name of the first object of a copy whose name begins and ends like this.
pub(super) fn first(stored: &Stored, folder: &str, ending: &str) -> String {
    let history = stored.backwhen.history();
    let files = std::fs::read_dir(history.join(folder)).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(ending));
    names.sort();
    format!("{folder}/{}", names.remove(0))
}

#[test]
fn a_damaged_or_missing_object_of_a_bucket_is_named_and_the_copy_heals_the_folder() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    stored.copy();
    let truth = stored.latest(&text(&backwhen.history()));
    backwhen.ok(&stored.remote(&url, &["verify"]));

    // The folder loses objects, and the copy has them.
    for name in [first(&stored, "packs", ".pack"), first(&stored, "journal", ".seg")] {
        let path = backwhen.history().join(&name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let healed = backwhen.json(&["repair", "--from", &url]);
        assert!(healed["ok"] == true && healed["healed"].to_string().contains(&name), "{healed}");
    }
    assert_eq!(stored.latest(&text(&backwhen.history())), truth);

    let open = first(&stored, "journal", ".open");
    let increment = open.replace(".open", "-0000000000000000.inc");
    for name in [
        first(&stored, "packs", ".pack"),
        first(&stored, "journal", ".seg"),
        "epochs/0001.json".into(),
        increment,
    ] {
        let key = format!("{}/{name}", stored.path);
        let whole =
            std::fs::read(backwhen.history().join(&name)).unwrap_or_else(|_| b"an increment".to_vec());
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        for bad in [&flipped[..], &whole[..whole.len() / 2]] {
            stored.server.overwrite(&key, bad);
            let found = backwhen.run(&stored.remote(&url, &["verify"]));
            assert_eq!(found.status.code(), Some(exit::DAMAGED), "{name}: {}{}", found.stdout, found.stderr);
            assert_says(&format!("{}{}", found.stdout, found.stderr), &[&name]);
        }
        stored.server.remove(&key);
        let found = backwhen.run(&stored.remote(&url, &["verify"]));
        let is_increment = name.ends_with(".inc");
        if !is_increment {
            assert_eq!(found.status.code(), Some(exit::DAMAGED), "{name}: {}{}", found.stdout, found.stderr);
        }
        // What is missing is copied again.
        assert_eq!(stored.copy()["objects"], 1, "{name}");
        backwhen.ok(&stored.remote(&url, &["verify"]));
    }
    stored.server.remove(&format!("{}/history.json", stored.path));
    let said = backwhen.fails(exit::REFUSED, &stored.remote(&url, &["status", "--offline"]));
    assert_says(&said, &["holds no history", "backwhen copy --to"]);
    assert_eq!(stored.copy()["ok"], true);
    assert_eq!(stored.latest(&url), truth);
}

#[test]
fn an_expiry_works_on_a_bucket_as_the_bucket_lets_it() {
    let Some(stored) = Stored::begin() else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    backwhen.ok(&["checkpoint"]);
    stored.copy();
    let expire = stored.remote(&url, &["expire", "--keep-last", "1", "--apply"]);
    // A role that may only read changes nothing, and reads all the same.
    let as_reader = |arguments: &[&str]| {
        let mut command = backwhen.command(arguments);
        command.envs(stored.server.variables("reader"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = as_reader(&expire);
    assert_eq!(code, Some(exit::REFUSED), "{said}");
    assert_says(&said, &["refuses", "leases/"]);
    assert_eq!(as_reader(&["copy", "--to", &url]).0, Some(exit::REFUSED));
    assert_eq!(as_reader(&stored.remote(&url, &["verify", "--prove"])).0, Some(0));

    let truth = stored.latest(&url);
    let before = backwhen.json_lines(&stored.remote(&url, &["list", "checkpoints"])).len();
    backwhen.ok(&expire);
    let after = backwhen.json_lines(&stored.remote(&url, &["list", "checkpoints"])).len();
    assert!(after == 1 && before > 1, "{before}, {after}");
    backwhen.ok(&stored.remote(&url, &["verify"]));
    assert_eq!(stored.latest(&url), truth);
}

#[test]
fn a_copy_goes_to_a_bucket_in_which_nothing_can_be_removed() {
    let Some(server) = crate::support::s3::S3Server::shared() else { return };
    server.make_locked_bucket("locked");
    let Some(stored) = Stored::begin_in("locked") else { return };
    let (backwhen, url) = (&stored.backwhen, stored.url());
    backwhen.ok(&["checkpoint"]);
    stored.copy();
    for _ in 0..3 {
        stored.change(CHANGES_AGAIN);
        assert_eq!(stored.copy()["ok"], true);
    }
    backwhen.ok(&stored.remote(&url, &["verify"]));
    assert_eq!(stored.latest(&url), stored.latest(&text(&backwhen.history())));
}
