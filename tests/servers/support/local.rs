//! A server of this machine in a folder of its own, which nothing outlives.
//!
//! A small shell stands between the test and the server. It takes orders from a pipe; when the pipe
//! closes, be it by `Drop`, by the test binary's exit or by its `kill -9`, it stops the server at once
//! and removes the folder. So even a server kept in a `static` leaves nothing behind.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;

use super::engine::{Stop, Wish};
use super::programs::Installation;
use super::scratch::scratch_folder;
use super::waiting::wait_for;

/// The primary's slot that keeps what its standby needs.
pub const STANDBY_SLOT: &str = "standby";

/// Orders, one a line: `start`, `INT` or `QUIT` (stop by that signal), `alive`. Each is answered by a line.
const KEEPER: &str = r#"
folder=$1; shift
server=
stop() { if [ -n "$server" ]; then kill -"$1" "$server" 2>/dev/null; wait "$server"; server=; fi; }
while read -r order; do
    case $order in
    start) "$@" >>"$folder/log" 2>&1 </dev/null & server=$!; echo started ;;
    alive) if kill -0 "$server" 2>/dev/null; then echo yes; else echo no; fi ;;
    *) stop "$order"; echo stopped ;;
    esac
done
stop QUIT
rm -rf "$folder"
"#;

pub struct Local {
    installation: Installation,
    folder: PathBuf,
    port: u16,
    keeper: Mutex<Keeper>,
}

struct Keeper {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Local {
    pub fn start(installation: Installation, wish: &Wish) -> Local {
        let account = Account::for_servers();
        let folder = server_folder(account);
        initialise(&installation, &folder, account, wish);
        // Between finding a port and the server's taking it another process can be faster.
        for attempt in 1.. {
            let port = free_port();
            let keeper = Keeper::start(&installation, &folder, port, wish, account);
            let local = Local { installation: installation.clone(), folder: folder.clone(), port, keeper };
            match local.wait_until_ready() {
                Ok(()) => return local,
                Err(log) if attempt < 5 && log.contains("Address already in use") => local.abandon(),
                Err(log) => panic!("PostgreSQL {} does not start:\n{log}", installation.major),
            }
        }
        unreachable!("the loop above returns or panics")
    }

    /// Lets go of the server's shell without the removal of the folder that a fresh attempt needs.
    fn abandon(mut self) {
        let keeper = self.keeper.get_mut().unwrap();
        keeper.process.kill().unwrap();
        keeper.process.wait().unwrap();
        std::fs::write(self.folder.join("log"), "").unwrap();
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    pub fn socket_folder(&self) -> String {
        self.folder.display().to_string()
    }

    pub fn keep_data(&self) {
        self.copy("data", "kept");
    }

    pub fn bring_back_data(&self) {
        self.copy("kept", "data");
    }

    fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.folder.join(from), self.folder.join(to));
        let _ = std::fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").arg(&from).arg(&to).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
    }

    pub fn on_data(&self, program: &str, arguments: &[&str]) {
        let mut command = self.installation.command(program);
        command.arg("-D").arg(self.folder.join("data")).args(arguments).current_dir(&self.folder);
        let output = run(as_account(&mut command, Account::for_servers()), "");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    pub fn client(&self, program: &str, database: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = self.installation.command(program);
        command.arg("-h").arg(&self.folder).args(["-p", &self.port.to_string(), "-U", "postgres"]);
        run(command.args(["-d", database]).args(arguments), input)
    }

    pub fn stop(&self, how: Stop) {
        let signal = match how {
            Stop::Fast => "INT",
            Stop::Crash => "QUIT",
        };
        assert_eq!(self.keeper.lock().unwrap().order(signal), "stopped");
    }

    pub fn start_again(&self) {
        assert_eq!(self.keeper.lock().unwrap().order("start"), "started");
        if let Err(log) = self.wait_until_ready() {
            panic!("PostgreSQL does not start again:\n{log}");
        }
    }

    /// The server's log as the error.
    fn wait_until_ready(&self) -> Result<(), String> {
        let mut is_ready = false;
        wait_for(format_args!("PostgreSQL is ready or has ended:\n{}", self.log()), || {
            is_ready = self.client("psql", "postgres", &["-Xqc", "SELECT 1"], "").status.success();
            is_ready || self.keeper.lock().unwrap().order("alive") == "no"
        });
        if is_ready { Ok(()) } else { Err(self.log()) }
    }
}

impl Keeper {
    fn start(
        installation: &Installation,
        folder: &Path,
        port: u16,
        wish: &Wish,
        account: Option<Account>,
    ) -> Mutex<Keeper> {
        let postgres = installation.command("postgres");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "backwhen-test-server"]).arg(folder).arg(postgres.get_program());
        inherit_environment(&mut command, &postgres);
        command.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string()]);
        command.arg("-k").arg(folder).args(["-h", "127.0.0.1"]);
        command.envs(wish.environment.iter().map(|(name, value)| (name, value)));
        for (name, value) in &wish.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // A group of its own: Ctrl-C at the terminal reaches the tests, and through them the shell.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(folder);
        let mut process = as_account(&mut command, account).spawn().expect("/bin/sh starts");
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut keeper = Keeper { process, orders, answers };
        assert_eq!(keeper.order("start"), "started");
        Mutex::new(keeper)
    }

    fn order(&mut self, order: &str) -> String {
        let orders = self.orders.as_mut().expect("the shell takes orders until drop");
        writeln!(orders, "{order}").expect("the server's shell lives");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the server's shell answers");
        answer.trim().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders.take();
        let _ = self.process.wait();
    }
}

/// The user and group a server runs as when the tests run as root, which PostgreSQL refuses.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn for_servers() -> Option<Account> {
        let own = String::from_utf8(Command::new("id").arg("-u").output().expect("id runs").stdout);
        if own.is_ok_and(|uid| uid.trim() != "0") {
            return None;
        }
        let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let account = ["postgres", "nobody"].iter().find_map(|name| Account::named(name, &users));
        Some(account.expect("the tests run as root and need a user postgres or nobody for the servers"))
    }

    fn named(name: &str, users: &str) -> Option<Account> {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<&str> = line.split(':').collect();
        Some(Account { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    }
}

/// Lets a command run as the user of the tests' servers.
pub fn as_somebody(command: &mut Command) -> &mut Command {
    as_account(command, Account::for_servers())
}

fn as_account(command: &mut Command, account: Option<Account>) -> &mut Command {
    match account {
        Some(Account { uid, gid }) => command.uid(uid).gid(gid),
        None => command,
    }
}

/// A new folder that belongs to the server's user.
fn server_folder(account: Option<Account>) -> PathBuf {
    let folder = scratch_folder("backwhen-pg-").keep();
    if let Some(Account { uid, gid }) = account {
        std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
    }
    folder
}

fn initialise(installation: &Installation, folder: &Path, account: Option<Account>, wish: &Wish) {
    let mut command = match &wish.primary {
        None => {
            let mut command = installation.command("initdb");
            command.args(["-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", &wish.encoding]);
            command
        }
        Some((host, port)) => {
            let mut command = installation.command("pg_basebackup");
            command.args(["-h", host, "-p", &port.to_string(), "-U", "postgres"]);
            command.args(["-R", "-C", "-S", STANDBY_SLOT, "-X", "stream", "-c", "fast", "--no-sync"]);
            command
        }
    };
    command.arg("-D").arg(folder.join("data")).current_dir(folder);
    let output = run(as_account(&mut command, account), "");
    if !output.status.success() {
        let _ = std::fs::remove_dir_all(folder);
        panic!("PostgreSQL {}: no data: {}", installation.major, String::from_utf8_lossy(&output.stderr));
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn inherit_environment(command: &mut Command, from: &Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

/// Runs a command to its end with `input` on its standard input.
fn run(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    std::thread::scope(|scope| {
        // A program that stops reading early says why on its standard error.
        scope.spawn(move || stdin.write_all(input.as_bytes()).ok());
        child.wait_with_output().expect("the program's output can be read")
    })
}
