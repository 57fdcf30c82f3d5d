//! The built program, as a user runs it.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use backwhen::history::{History, HistoryPlace};
use backwhen::store::sealed::{IdentitySource, NewCopy, Secrecy};
use backwhen::store::{LocalFolder, layout};
use tempfile::TempDir;

use super::capture::Capture;
use super::programs::clear_settings;
use super::scratch::scratch_folder;
use super::seeds::number_from;
use super::server::Server;

/// No command of a test takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// `backwhen` with a history folder of its own (not yet made) for one source database.
pub struct Backwhen {
    folder: TempDir,
    server: Server,
    database: String,
    environment: Vec<(String, String)>,
}

pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Backwhen {
    pub fn new(server: &Server, database: &str) -> Backwhen {
        let folder = scratch_folder("backwhen-test-");
        let (server, database) = (server.clone(), database.to_owned());
        let backwhen = Backwhen { folder, server, database, environment: Vec::new() };
        // Any subject runs on encrypted histories, if a person asks for it.
        if std::env::var_os("TEST_ENCRYPTED").is_some() { backwhen.encrypted() } else { backwhen }
    }

    /// The same with an encrypted history, and an identity that every command has.
    pub fn encrypted(self) -> Backwhen {
        let identity = self.folder.path().join("identity");
        let identity = identity.to_str().expect("a plain path").to_owned();
        self.with_env("BACKWHEN_IDENTITY_FILE", &identity).with_env("BACKWHEN_ENCRYPT", "true")
    }

    /// An environment variable for every command from now on.
    pub fn with_env(mut self, name: &str, value: &str) -> Backwhen {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn history(&self) -> PathBuf {
        let named = self.environment.iter().rev().find(|(name, _)| name == "BACKWHEN_HISTORY");
        named.map_or_else(|| self.folder.path().join("history"), |(_, path)| path.into())
    }

    /// The folder of the history, opened with the identity if it is encrypted.
    pub fn local(&self) -> LocalFolder {
        self.place_at(&self.history()).local_folder().expect("the identity opens it")
    }

    /// Opens this history or a copy of it in another folder, as a process does that comes fresh to it.
    pub fn history_at(&self, root: &Path) -> History {
        self.place_at(root).history(None).expect("the history can be opened")
    }

    fn place_at(&self, root: &Path) -> HistoryPlace {
        let root = root.to_owned();
        if !root.join("keys").exists() {
            return HistoryPlace::Folder { root, secrecy: None };
        }
        let identity = IdentitySource::File(self.folder.path().join("identity"));
        let secrecy = Secrecy::new(Some(identity), NewCopy::default(), Vec::new());
        if layout::grows_in_place(&root).unwrap() {
            return HistoryPlace::Folder { root, secrecy: Some(secrecy) };
        }
        HistoryPlace::SealedFolder { root, cache: self.folder.path().join("cache-of-copies"), secrecy }
    }

    /// A folder of this test, removed with it; for files to recover into.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn source(&self) -> String {
        self.server.conninfo(&self.database)
    }

    /// `init --source` with the source database; returns its standard output.
    pub fn init(&self) -> String {
        self.ok(&["init", "--source", &self.source()])
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        finish(child.expect("backwhen starts"), &arguments.join(" "))
    }

    /// Runs a command that must succeed; returns its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", output.describe(arguments));
        output.stdout
    }

    /// Runs a command with `--output json`; returns the one object it prints.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let lines = self.json_lines(arguments);
        assert_eq!(lines.len(), 1, "backwhen {}: not one JSON object: {lines:?}", arguments.join(" "));
        lines.into_iter().next().expect("there is one")
    }

    /// Runs a recovery that must leave something out; returns its report.
    pub fn json_incomplete(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert_eq!(output.status.code(), Some(15), "{}", output.describe(arguments));
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e} in {}", output.stdout))
    }

    /// Runs a recovery, whose exit code must tell whether it left something out; returns its report.
    pub fn json_recovered(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--output", "json"]].concat());
        assert!(matches!(output.status.code(), Some(0 | 15)), "{}", output.describe(arguments));
        let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON object");
        let is_whole = report["left_out"] == serde_json::json!([]);
        assert_eq!(output.status.success(), is_whole, "{}", output.describe(arguments));
        report
    }

    /// Runs a command, and returns the bytes of the journal's blocks that it read. The command must log what the module of
    /// the journal traces. Each block counts once, also if the command follows the journal twice.
    #[track_caller]
    pub fn bytes_read(&self, arguments: &[&str]) -> u64 {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", output.stdout, output.stderr);
        let read =
            output.stderr.lines().filter_map(|line| line.split_once(" reading ")?.1.split_once(" of "));
        let distinct: std::collections::BTreeMap<_, _> = read.map(|(bytes, place)| (place, bytes)).collect();
        distinct.values().map(|bytes| bytes.parse::<u64>().expect("a number of bytes")).sum()
    }

    /// Returns the bytes of all sealed segments.
    pub fn journal_bytes(&self) -> u64 {
        let segments = self.json_lines(&["list", "segments"]);
        segments.iter().map(|segment| segment["bytes"].as_u64().expect("bytes")).sum()
    }

    /// Runs a command with `--output json`; returns the objects it prints, such as those of `list`.
    pub fn json_lines(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        let values = serde_json::Deserializer::from_str(&text).into_iter();
        values.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("backwhen {arguments:?}: {e} in {text}"))
    }

    /// Runs a command that must exit with `code`; returns its standard error.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", output.describe(arguments));
        output.stderr
    }

    /// Starts `backwhen capture` beside the test.
    pub fn spawn_capture(&self) -> Capture<'_> {
        self.spawn_capture_with(&[])
    }

    /// The same, while other captures are killed and definitions change.
    pub fn spawn_capture_in_trouble(&self) -> Capture<'_> {
        let mut capture = self.spawn_capture();
        // The server may not have noticed yet that the one before was killed.
        capture.allow("trying again").allow("the heartbeat failed and is tried again");
        capture
    }

    pub fn spawn_capture_with(&self, arguments: &[&str]) -> Capture<'_> {
        Capture::start(self, self.command(&[&["capture"], arguments].concat()))
    }

    /// Starts a capture with one more environment variable than the other commands have.
    pub fn spawn_capture_where(&self, name: &str, value: &str) -> Capture<'_> {
        let mut command = self.command(&["capture"]);
        command.env(name, value);
        Capture::start(self, command)
    }

    /// Runs a command that dies at a failpoint (see `ambient::POINTS`).
    pub fn dies(&self, point: &str, arguments: &[&str]) {
        let mut command = self.command(arguments);
        command.env("BACKWHEN_TEST_POINT", format!("{point}=kill"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let output = finish(child.expect("backwhen starts"), &arguments.join(" "));
        let died = output.status.signal().is_some();
        assert!(died, "it went on beyond {point}: {}", output.describe(arguments));
    }

    /// The command, with the history, the server's own client programs and nothing of the caller's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backwhen"));
        clear_settings(&mut command);
        command.env("BACKWHEN_HISTORY", self.history()).env("HOME", self.folder.path());
        command.env("PATH", search_path(self.server.bin()));
        // What it keeps for the next run is the same for all tests.
        command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }
}

impl Output {
    fn describe(&self, arguments: &[&str]) -> String {
        format!("backwhen {}: {}\n{}{}", arguments.join(" "), self.status, self.stdout, self.stderr)
    }
}

fn search_path(first: Option<&Path>) -> OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let folders = first.map(Path::to_owned).into_iter().chain(std::env::split_paths(&rest));
    std::env::join_paths(folders).expect("no folder holds a colon")
}

/// A long storm leaves much to catch up with and to replay.
fn limit() -> Duration {
    LIMIT + 10 * Duration::from_secs(number_from("BACKWHEN_STORM_SECONDS").unwrap_or_default())
}

/// Waits for a command's end, with a limit; `what` says which one.
pub fn finish(mut child: Child, what: &str) -> Output {
    let stdout = read_all(child.stdout.take().expect("stdout is piped"));
    let stderr = read_all(child.stderr.take().expect("stderr is piped"));
    let status = wait(&mut child, limit());
    let text = |reader: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap()).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    let Some(status) = status else {
        panic!("backwhen {what}: not done after {:?} and killed\n{stdout}{stderr}", limit());
    };
    Output { status, stdout, stderr }
}

/// Waits for the child's end; kills it after `limit` and then returns `None`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        // The interval of the question.
        sleep(Duration::from_millis(5));
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}
