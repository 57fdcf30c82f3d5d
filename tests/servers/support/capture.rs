//! A running `backwhen capture`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use backwhen::ambient::now;
use backwhen::capture::live::{self, Live};
use backwhen::capture::state::State;
use backwhen::history::History;
use backwhen::history::catalog::Catalog;
use backwhen::history::timeline::Timeline;
use backwhen::model::{Lsn, PgTime};

use super::backwhen::{Backwhen, wait};
use super::waiting::wait_at_most;

const CATCH_UP_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(180);

/// Ends with the test. A line with WARN or ERROR that the test did not `allow` fails it.
pub struct Capture<'a> {
    backwhen: &'a Backwhen,
    child: Child,
    /// Steps of the live state that are older are another capture's.
    started: PgTime,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    allowed: Vec<String>,
    ended: bool,
}

impl<'a> Capture<'a> {
    pub fn start(backwhen: &'a Backwhen, mut command: Command) -> Capture<'a> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = PgTime::from_utc(now());
        let mut child = command.spawn().expect("backwhen starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let readers = vec![collect(stdout, lines.clone()), collect(stderr, lines.clone())];
        Capture { backwhen, child, started, lines, readers, allowed: Vec::new(), ended: false }
    }

    /// Lines that hold this text may be warnings or errors.
    pub fn allow(&mut self, text: &str) -> &mut Capture<'a> {
        self.allowed.push(text.to_owned());
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn printed(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// For lines that are what the test is about: where a state tells the same, wait for the state.
    pub fn wait_for_line(&mut self, text: &str) {
        self.wait_until(&format!("there is a line with {text:?}"), |capture| {
            capture.printed().contains(text)
        });
    }

    /// Returns the live state that this capture has written.
    fn live(&self) -> Option<Live> {
        live::read(&self.backwhen.local().live_state()).filter(|live| live.process == self.pid())
    }

    /// Returns once the live state is so.
    pub fn wait_for_live(&mut self, what: &str, is_so: impl Fn(&Live) -> bool) {
        self.wait_until(what, |capture| capture.live().is_some_and(|live| is_so(&live)));
    }

    pub fn wait_streaming(&mut self) {
        self.wait_for_live("it streams", |live| live.state == State::Streaming);
    }

    /// Returns once it has begun this epoch, and follows the source there.
    pub fn wait_for_epoch(&mut self, number: u32) {
        self.wait_for_live(&format!("epoch {number} has begun"), |live| live.epoch == number);
    }

    /// Returns once this capture has come into a state for a cause that holds this text, be it for a moment.
    pub fn wait_for_step(&mut self, to: State, cause: &str) {
        let started = self.started;
        self.wait_for_live(&format!("it came to be {to:?} for {cause:?}"), |live| {
            let steps = live.transitions.iter().filter(|step| step.at >= started && step.to == to);
            steps.map(|step| &step.cause).any(|text| text.contains(cause))
        });
    }

    /// Returns once an attempt has failed for a cause that holds this text, and is to be made again.
    pub fn wait_for_failure(&mut self, cause: &str) {
        self.wait_for_live(&format!("it failed for {cause:?}"), |live| {
            live.state == State::Blackout && live.cause.contains(cause)
        });
    }

    /// Returns once all that the source has committed by now is durable in the history.
    pub fn wait_caught_up(&mut self) {
        let sql = "SELECT pg_logical_emit_message(true, 'backwhen-test', 'caught up?')";
        let text = self.backwhen.server().psql(self.backwhen.database(), sql);
        let target: Lsn = text.parse().expect("the server returned a position");
        self.wait_until(&format!("the history reaches {target}"), |capture| capture.reached() > target);
    }

    /// The position the history can be recovered to; 0 while `status` cannot tell.
    fn reached(&self) -> Lsn {
        let output = self.backwhen.run(&["status", "--output", "json"]);
        let status: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let latest = status["window"]["latest"]["lsn"].as_str().unwrap_or_default();
        latest.parse().unwrap_or(Lsn::ZERO)
    }

    /// How many checkpoints the history has.
    pub fn checkpoints(&self) -> usize {
        self.timeline().map_or(0, |timeline| timeline.checkpoints().count())
    }

    /// Returns once the history has so many checkpoints: capture takes one itself when the schema has changed.
    pub fn wait_for_checkpoints(&mut self, count: usize) {
        let what = format!("the history has {count} checkpoints");
        self.wait_until(&what, |capture| capture.checkpoints() >= count);
    }

    /// Returns the position that `status` would read, without a process for each question.
    fn timeline(&self) -> Option<Timeline> {
        let history = History::open(&self.backwhen.local(), None).ok()?;
        Timeline::read(&history, &Catalog::open(&history).ok()?).ok()
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, done: impl Fn(&Capture<'a>) -> bool) {
        wait_at_most(CATCH_UP_LIMIT, what, || {
            let is_done = done(self);
            if let Some(status) = self.child.try_wait().unwrap().filter(|_| !is_done) {
                self.ended = true;
                panic!("capture ended ({status}) before {what}:\n{}", self.printed());
            }
            is_done
        });
    }

    /// A clean stop: SIGINT, exit 0.
    pub fn stop(mut self) {
        self.signal("INT");
        let status = self.end();
        assert!(status.success(), "capture after SIGINT: {status}\n{}", self.printed());
        self.assert_quiet();
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.end();
        self.assert_quiet();
    }

    /// Waits for an end that comes of itself, such as with `--until` or after an error.
    pub fn wait(mut self) -> ExitStatus {
        let status = self.end();
        self.assert_quiet();
        status
    }

    /// Sends a signal by name, such as `TERM` or `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}:\n{}", self.printed());
    }

    fn end(&mut self) -> ExitStatus {
        let status = wait(&mut self.child, STOP_LIMIT);
        self.ended = true;
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status.unwrap_or_else(|| panic!("capture does not end within {STOP_LIMIT:?}:\n{}", self.printed()))
    }

    fn assert_quiet(&self) {
        let lines = self.lines.lock().unwrap();
        let loud = |line: &&String| line.contains("WARN") || line.contains("ERROR");
        let allowed = |line: &String| self.allowed.iter().any(|text| line.contains(text.as_str()));
        let unexpected: Vec<&String> = lines.iter().filter(loud).filter(|line| !allowed(line)).collect();
        let all = lines.join("\n");
        assert!(
            unexpected.is_empty(),
            "capture warned of what the test did not allow: {unexpected:#?} in\n{all}"
        );
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- capture printed:\n{}", self.printed());
        }
    }
}

fn collect(stream: impl BufRead + Send + 'static, lines: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in stream.split(b'\n').map_while(Result::ok) {
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}
