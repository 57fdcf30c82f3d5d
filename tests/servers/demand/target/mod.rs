//! Recovery on demand into a target: open at once, and in the end as after any recovery.

mod bounds;
mod crashes;
mod kills;
mod oracle;
mod rights;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Backwhen, Output, wait, wait_for};

/// The places at which a recovery on demand can die.
pub const DEMAND: &[&str] =
    &["demand.structure", "demand.ledger", "demand.gates", "demand.loaded", "demand.close"];

/// Selects how many gates are held in a database.
const GATES_HELD: &str = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' \
                          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// A running `backwhen recover --on-demand` or `--resume`, whose database is open.
struct Opened {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Opened {
    /// Begins a recovery in which every table with rows stands behind a gate. Without `background`, a table is loaded only
    /// when somebody asks for it.
    fn begin(backwhen: &Backwhen, into: &str, background: bool, further: &[&str]) -> Opened {
        let arguments = ["recover", "--to", "latest", "--on-demand", "--create", "--into", into];
        let mut opened = Opened::start(backwhen, background, &[&arguments, further].concat());
        opened.await_open();
        opened
    }

    fn start(backwhen: &Backwhen, background: bool, arguments: &[&str]) -> Opened {
        let mut command = backwhen.command(&[arguments, &["--output", "json"]].concat());
        command.env("BACKWHEN_TEST_GATE_ABOVE", "0");
        if !background {
            command.env("BACKWHEN_TEST_UNASKED", "0");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("backwhen starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Opened { child, stdout }
    }

    /// Waits for the line that says that the database can be used.
    fn await_open(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("stdout can be read");
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if event["event"] != "open" || !event["seconds"].is_number() {
            let mut said = String::new();
            let _ = self.child.stderr.take().expect("stderr is piped").read_to_string(&mut said);
            panic!("not open: {line}{said}");
        }
    }

    /// Waits for its end.
    fn end(mut self) -> Output {
        let mut output = Output { status: Default::default(), stdout: String::new(), stderr: String::new() };
        self.child.stderr.take().expect("stderr is piped").read_to_string(&mut output.stderr).unwrap();
        self.stdout.read_to_string(&mut output.stdout).unwrap();
        output.status = wait(&mut self.child, Duration::from_secs(60)).expect("it ends");
        output
    }

    /// Waits for its end, which must be a good one; returns the report.
    fn report(self) -> Value {
        let output = self.end();
        assert!(output.status.success(), "{}: {}{}", output.status, output.stdout, output.stderr);
        serde_json::from_str(&output.stdout).expect("one object follows the first")
    }

    /// Kills it, as a machine that fails does.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command into a database whose loader has just ended: the server may not have noticed yet.
fn run_unlocked(backwhen: &Backwhen, arguments: &[&str]) -> Output {
    let mut output = None;
    wait_for("the server has noticed that the loader is gone", || {
        output = Some(backwhen.run(arguments)).filter(|output| output.status.code() != Some(13));
        output.is_some()
    });
    output.expect("the command ran")
}

/// Goes on with a recovery on demand, which must succeed.
fn resume(backwhen: &Backwhen, into: &str) -> Value {
    let output = run_unlocked(backwhen, &["recover", "--resume", "--into", into, "--output", "json"]);
    assert!(output.status.success(), "{}: {}", output.status, output.stderr);
    serde_json::from_str(&output.stdout).expect("one object")
}

/// The gates by `status --target`, as `TABLE STATE`.
fn gates(backwhen: &Backwhen, into: &str) -> Vec<String> {
    let status = backwhen.json(&["status", "--target", into]);
    let gates = status["gates"].as_array().expect("gates").iter();
    gates
        .map(|gate| format!("{} {}", gate["table"].as_str().unwrap(), gate["state"].as_str().unwrap()))
        .collect()
}
