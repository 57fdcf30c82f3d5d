//! The script for continuous integration, as docs/testing.md shows it.

use std::process::{Command, Stdio};

use super::{DROPPED, MADE, ROWS, SEEDED, assert_no_trace, assert_reset};
use crate::support::{Backwhen, Dump, Server};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/ci/test-database.sh");

#[test]
fn the_script_for_ci_begins_resets_and_ends() {
    let server = Server::shared(None);
    let database = server.fresh_database("testing");
    let psql = |sql: &str| server.psql(&database, sql);
    psql(SEEDED);
    let backwhen = Backwhen::new(&server, &database).with_env("BACKWHEN_SOURCE", &server.conninfo(&database));
    let backwhen = backwhen.with_env("BACKWHEN", env!("CARGO_BIN_EXE_backwhen"));
    let run = |order: &str| {
        let like = backwhen.command(&[]);
        let mut script = Command::new("sh");
        script
            .args([SCRIPT, order])
            .env_clear()
            .envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = script.current_dir(backwhen.folder()).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{order}: {}{said}", String::from_utf8_lossy(&output.stdout));
        said
    };
    run("begin");
    let seeded = Dump::of(&server, &database);
    for test in [ROWS, MADE, DROPPED, ROWS] {
        psql(test);
        let said = run("reset");
        assert_eq!(said.contains("recovered anew"), test == DROPPED, "{said}");
        assert_reset(&seeded, &server, &database);
    }
    run("end");
    assert_no_trace(&server, &database);
}
