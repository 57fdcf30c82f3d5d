//! The example in the help of each command does what it is an example of.

use std::process::{Command, Stdio};

use crate::support::{Backwhen, Server};

const SHOP: &str = "CREATE TABLE orders (id int PRIMARY KEY, total int);
    INSERT INTO orders SELECT g, g FROM generate_series(1, 100) g;
    CREATE SCHEMA shop CREATE TABLE items (id int PRIMARY KEY, name text);
    INSERT INTO shop.items SELECT g, 'item ' || g FROM generate_series(1, 20) g";

/// The example of a command: a line of its help, and those on which a quoted word goes on.
fn example(backwhen: &Backwhen, command: &str) -> String {
    let help = backwhen.ok(&[command, "--help"]);
    let mut lines = help.lines().skip_while(|line| !line.starts_with("Example"));
    let first = lines.next().unwrap_or_else(|| panic!("the help of {command} has no example"));
    let mut text = first.trim_start_matches("Examples: ").trim_start_matches("Example: ").to_owned();
    while text.matches('\'').count() % 2 == 1 {
        text = format!("{text} {}", lines.next().expect("the quoted word ends"));
    }
    text
}

/// Runs an example as a person would who pastes it, with the names of this test in place of those that it uses.
fn paste(backwhen: &Backwhen, command: &str, replaced: &[(&str, &str)]) {
    let mut text = example(backwhen, command);
    replaced.iter().for_each(|(name, here)| text = text.replace(name, here));
    let like = backwhen.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &text.replacen("backwhen", env!("CARGO_BIN_EXE_backwhen"), 1)]).env_clear();
    shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.current_dir(backwhen.folder()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{text}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}

#[test]
fn each_example_works_when_it_is_pasted() {
    let server = Server::shared(None);
    let database = server.fresh_database("examples");
    let psql = |sql: &str| server.psql(&database, sql);
    psql(SHOP);
    let backwhen = Backwhen::new(&server, &database);
    let (source, rescued) = (backwhen.source(), server.conninfo("examples_rescued"));
    let copy = backwhen.folder().join("copy").display().to_string();
    let names = [
        ("host=db.example.com user=postgres dbname=shop", source.as_str()),
        ("dbname=rescued", &format!("'{rescued}'")),
        ("'10 minutes ago'", "latest"),
        ("/srv/history.copy", &copy),
    ];
    let begin = [
        "check",
        "init",
        "mark",
        "capture",
        "checkpoint",
        "list",
        "recover",
        "verify",
        "copy",
        "repair",
        "expire",
    ];
    begin.iter().for_each(|command| paste(&backwhen, command, &names));
    server.psql("postgres", "DROP DATABASE IF EXISTS examples_rescued");

    let mut capture = backwhen.spawn_capture();
    capture.wait_streaming();
    backwhen.ok(&["mark", "before-deploy"]);
    psql("UPDATE shop.items SET name = 'x'; DELETE FROM orders WHERE id = 42");
    let number = psql(
        "WITH bad AS (UPDATE orders SET total = -1 WHERE id = 3 RETURNING 1) SELECT pg_current_xact_id() FROM bad",
    );
    let xid = format!("xid:{number}");
    capture.wait_caught_up();
    // A history that is younger than an hour or two.
    let times = [("xid:771", &*xid), ("xid:4711", &*xid), ("'2 hours ago'", "mark:before-deploy")];
    ["status", "log", "show", "row", "diff", "bisect", "rewind", "undo", "resync"]
        .iter()
        .for_each(|command| paste(&backwhen, command, &times));
    assert_eq!(psql("SELECT count(*) FROM shop.items WHERE name = 'x'"), "0", "the rewind was applied");
    assert_eq!(psql("SELECT total FROM orders WHERE id = 3"), "3", "the transaction was taken back");
    capture.stop();
    paste(&backwhen, "drop", &[]);
}
