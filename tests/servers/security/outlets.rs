//! Every command with hostile names in what it prints, and with outputs that are closed, full or gone: none
//! panics, prints a false line or commands a terminal.

use std::fs::File;
use std::process::{ExitStatus, Stdio};

use crate::security::shell;
use crate::support::shop::{CHANGES, assert_says, captured_shop, shop};
use crate::support::{Backwhen, Server};

/// What a false line would begin with.
const FALSE_LINE: &str = "backwhen: all is well";

/// Names with all that a terminal, a table or a line-wise reader could fall for.
const HOSTILE: &str = "
CREATE TABLE \"x\nbackwhen: all is well\n\u{1b}[2J\u{1b}]0;pwned\u{7}\" (\"id\r\n\" int PRIMARY KEY, \"b\u{9b}\u{202e}c\" text);
CREATE TABLE \"y\t\"\"quoted\"\"\u{202e}\u{2066}\u{2028}\nbackwhen: all is well\" (n int);
CREATE UNLOGGED TABLE \"z\nbackwhen: all is well\" (n int);
INSERT INTO \"y\t\"\"quoted\"\"\u{202e}\u{2066}\u{2028}\nbackwhen: all is well\" VALUES (1);
";

/// After `init`, so that event triggers tell of them.
const CHANGED: &str = "
CREATE ROLE \"r\u{1b}[2J\nbackwhen: all is well\";
CREATE VIEW \"v\nbackwhen: all is well\" AS SELECT 1 AS \"\u{1b}[2J\";
ALTER VIEW \"v\nbackwhen: all is well\" OWNER TO \"r\u{1b}[2J\nbackwhen: all is well\";
CREATE VIEW long AS SELECT 'LONG' AS a;
COMMENT ON TABLE \"x\nbackwhen: all is well\n\u{1b}[2J\u{1b}]0;pwned\u{7}\" IS E'\\x1b[2J\nbackwhen: all is well';
";

fn hostile_history() -> Backwhen {
    let server = Server::start(None);
    let backwhen = shop(&server);
    server.psql(backwhen.database(), HOSTILE);
    backwhen.init();
    backwhen.ok(&["mark", &"m".repeat(1024)]);
    server.psql(backwhen.database(), &CHANGED.replace("LONG", &"x".repeat(70_000)));
    server.psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint", "--label", &"ä".repeat(512)]);
    backwhen
}

/// Every command that leaves the history as it is, or can be run any number of times.
fn commands(backwhen: &Backwhen) -> Vec<Vec<String>> {
    let copy = backwhen.folder().join("copy").display().to_string();
    let lines = format!(
        "status\nstatus --offline\nstatus --nagios\nstatus --output prometheus\nlist checkpoints\nlist checkpoints --tables\n\
         list segments\nlist marks\nlist gaps\nlist schemas\nlist proofs\nshow schema --at latest\nverify\nverify --prove\n\
         recover --to latest --dry-run\nrecover --to mark:nope --dry-run\nrecover --to 0/1 --dry-run\n\
         recover --to latest --into sql:-\ncheckpoint\ncapture --until caught-up\nexpire --keep-last 1\n\
         check --against-source\ncopy --to {copy}\nrepair --from {copy}\nrecover --to\nnonsense\n--help\n--version"
    );
    let mut commands: Vec<Vec<String>> =
        lines.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
    commands.push(vec!["check".into(), "--source".into(), backwhen.source()]);
    commands.push(vec!["init".into(), "--source".into(), backwhen.source()]);
    commands.push(vec!["list".into(), "marks".into(), "--history".into(), "/no\n\u{1b}[2J/history".into()]);
    commands.push(vec!["mark".into(), "\u{1b}[2J".into()]);
    commands.push(vec!["mark".into(), "m".repeat(1025)]);
    commands
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// Ends by itself, and not by a fault of its own.
fn assert_no_panic(command: &[String], how: &str, status: ExitStatus) {
    let code = status.code().unwrap_or_else(|| panic!("{how}: {command:?}: {status}"));
    assert!(code != 101 && code != 70, "{how}: {command:?}: {code}");
}

#[test]
fn no_name_makes_a_false_line_or_commands_the_terminal() {
    let backwhen = hostile_history();
    for command in commands(&backwhen) {
        let output = backwhen.run(&words(&command));
        assert_no_panic(&command, "text", output.status);
        // A script is for psql: names and strings in it are what they are.
        let script = command.iter().any(|word| word == "schema" || word == "sql:-");
        let shown = if script { output.stderr } else { output.stdout + &output.stderr };
        let hazard = shown.chars().find(|c| *c != '\n' && backwhen::error::is_hazard(*c));
        assert_eq!(hazard, None, "{command:?}: {shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with(FALSE_LINE)), "{command:?}: {shown}");
        let longest = shown.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(longest < 5000, "{command:?}: a line of {longest} characters");
    }
}

#[test]
fn json_is_whole_whatever_the_names() {
    let backwhen = hostile_history();
    for command in commands(&backwhen) {
        let special = ["--help", "--version", "nonsense", "--nagios", "prometheus", "sql:-"];
        if command.iter().any(|word| special.contains(&word.as_str())) || command.last().unwrap() == "--to" {
            continue;
        }
        let output = backwhen.run(&[&words(&command)[..], &["--output", "json"]].concat());
        assert_no_panic(&command, "JSON", output.status);
        let parsed = serde_json::Deserializer::from_str(&output.stdout).into_iter::<serde_json::Value>();
        let parsed: Result<Vec<_>, _> = parsed.collect();
        assert!(parsed.is_ok(), "{command:?}: {parsed:?}");
        let shown = output.stdout + &output.stderr;
        assert!(!shown.replace('\n', "").contains(backwhen::error::is_hazard), "{command:?}: {shown:?}");
    }
    let tables = backwhen.json_lines(&["list", "checkpoints", "--tables"]);
    let name = "public.x\nbackwhen: all is well\n\u{1b}[2J\u{1b}]0;pwned\u{7}";
    assert!(tables.iter().any(|table| table["table"] == name), "the name is whole: {tables:?}");
    let marks = backwhen.json_lines(&["list", "marks"]);
    assert_eq!(marks[0]["name"], "m".repeat(1024));
}

/// A reader that goes away, such as `head`, is no fault; a disk that is full is one, and is said.
#[test]
fn no_reader_and_no_full_disk_makes_a_command_panic() {
    let backwhen = hostile_history();
    for command in commands(&backwhen) {
        let words = words(&command);
        let usual = backwhen.run(&words);
        let (code, prints) = (usual.status.code(), !usual.stdout.is_empty());
        let script = words.contains(&"sql:-");
        for how in ["stdout gone", "stderr gone", "both full"] {
            let status = run_with(&backwhen, &words, how);
            assert_no_panic(&command, how, status);
            let parser = ["--help", "--version"].contains(&words[0]);
            match how {
                "both full" if prints && !parser => {
                    assert_eq!(status.code(), Some(10), "{how}: {command:?}");
                }
                // Half a script is none, whoever cut it.
                "stdout gone" if script => assert_eq!(status.code(), Some(10), "{command:?}"),
                _ => assert_eq!(status.code(), code, "{how}: {command:?}"),
            }
        }
        let closed = shell::run(&backwhen, "exec \"$@\" >&- 2>&- <&-", &words);
        assert_no_panic(&command, "all closed", closed.status);
    }
}

/// Runs a command with an output that nobody reads, or that takes nothing.
fn run_with(backwhen: &Backwhen, words: &[&str], how: &str) -> ExitStatus {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let (stdout, stderr) = match how {
        "stdout gone" => (Stdio::piped(), Stdio::null()),
        "stderr gone" => (Stdio::null(), Stdio::piped()),
        _ => (full(), full()),
    };
    let mut command = backwhen.command(words);
    let mut child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    child.wait().unwrap()
}

#[test]
fn a_full_disk_under_standard_output_is_said() {
    let backwhen = captured_shop(&Server::shared(None));
    for arguments in [&["list", "segments"][..], &["status"], &["status", "--nagios"]] {
        let output = shell::run(&backwhen, "exec \"$@\" >/dev/full", arguments);
        assert_eq!(output.status.code(), Some(10));
        assert_says(&output.stderr, &["backwhen: cannot write to standard output", "No space left"]);
        let output = shell::run(&backwhen, "exec \"$@\" 2>/dev/full", arguments);
        assert_eq!(output.status.success(), !arguments.contains(&"--nagios"));
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_panic_asks_for_a_report_and_ends_with_its_own_code() {
    let backwhen =
        captured_shop(&Server::shared(None)).with_env("BACKWHEN_TEST_POINT", "catalog.update=panic");
    for command in [&["status"][..], &["list", "segments"], &["checkpoint"], &["verify"]] {
        let output = backwhen.run(command);
        assert_eq!(output.status.code(), Some(70), "{command:?}: {}", output.stderr);
        assert_says(&output.stderr, &["backwhen: internal error at src/", "please report"]);
        assert!(!output.stderr.contains("asked for"), "a panic's message may hold values: {}", output.stderr);
    }
}

#[test]
fn a_mark_and_a_label_have_a_bounded_printable_name() {
    let backwhen = captured_shop(&Server::shared(None));
    for name in ["", " ", "a\nb", "\u{1b}[2J", "\u{202e}x", &"m".repeat(1025), &"ä".repeat(513)] {
        backwhen.fails(2, &["mark", name]);
        backwhen.fails(2, &["checkpoint", "--label", name]);
    }
    backwhen.ok(&["mark", &"m".repeat(1024)]);
}
