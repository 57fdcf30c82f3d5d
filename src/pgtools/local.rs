//! A server of our own for a short while, in a temporary folder and on a socket there.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::account::{Account, shared_folder};
use super::child::Child;
use super::install::Installation;
use crate::ambient;
use crate::connect::{Conninfo, Session};
use crate::error::{Context, Error, Kind, Result};

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The most bytes of a folder's path that leave room for a socket's name.
const FOLDER_LIMIT: usize = 85;

/// Runs the server until its standard input ends, be it that we let go or that we were killed; then
/// takes the server and the folder away. So nothing stays behind.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >"$folder/log" 2>&1 </dev/null &
server=$!
read -r end
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf "$folder"
"#;

/// What the server need not do, since nothing in it is to last.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "shared_buffers=32MB",
    "max_locks_per_transaction=256",
    "max_logical_replication_workers=0",
    "lc_messages=C",
];

/// A running server. Only whom it runs as can reach it, and root: it runs as we do, or as a user without
/// rights if we are root.
pub struct LocalServer {
    info: Conninfo,
    keeper: tokio::process::Child,
}

impl LocalServer {
    /// # Errors
    /// `Refused` if we are root and there is nobody else to run it as, or if the programs fail.
    pub async fn start(programs: &Installation) -> Result<LocalServer> {
        let folder = folder()?;
        match LocalServer::start_in(programs, &folder).await {
            Ok(server) => Ok(server),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                Err(error)
            }
        }
    }

    async fn start_in(programs: &Installation, folder: &Path) -> Result<LocalServer> {
        let account = Account::in_place_of_root(folder)?;
        if let Some(account) = account {
            account.own(folder)?;
        }
        Child::new(programs.program("initdb"))
            .run_as(account, folder)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(folder.join("data"))
            .run()
            .await?;
        let keeper = keep(programs, folder, account)?;
        let server = LocalServer { info: conninfo(folder)?, keeper };
        match tokio::time::timeout(START_LIMIT, server.answers(folder)).await {
            Ok(done) => done.map(|()| server),
            Err(_) => Err(does_not_start(folder)),
        }
    }

    async fn answers(&self, folder: &Path) -> Result<()> {
        loop {
            let Err(_) = Session::connect_utf8(&self.info, "replay").await else { return Ok(()) };
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            // Until it is ready it refuses sessions with a FATAL of its own.
            let fatal = |line: &str| line.contains("FATAL:") && !line.contains("starting up");
            if log.lines().any(fatal) {
                return Err(does_not_start(folder));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Leads to it.
    pub fn info(&self) -> &Conninfo {
        &self.info
    }

    /// Stops it and takes its folder away. Without this call both happen a little later.
    pub async fn stop(mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait().await;
    }
}

fn keep(programs: &Installation, folder: &Path, account: Option<Account>) -> Result<tokio::process::Child> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", KEEPER, "backwhen-server"]).arg(folder).arg(programs.program("postgres"));
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).args(["-p", "5432"]);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(variable);
    }
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid).current_dir(folder);
    }
    // A group of its own: Ctrl-C at the terminal is for us, who then let go.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context(Kind::Refused, || "cannot start /bin/sh".into())
}

/// A folder that nobody else can enter; short, since a socket's path must be.
fn folder() -> Result<PathBuf> {
    let make = |parent: &Path| ambient::private_folder(parent, "backwhen-pg-");
    let usual = std::env::temp_dir();
    let usual = if usual.as_os_str().len() > FOLDER_LIMIT { Path::new("/tmp") } else { &usual };
    let failed = |parent: &Path| format!("cannot make a temporary folder in {}", parent.display());
    let folder = make(usual).context(Kind::Unavailable, || failed(usual))?;
    let shared = shared_folder(usual.to_owned());
    if shared == usual || Account::in_place_of_root(folder.path())?.is_none() {
        return Ok(folder.keep());
    }
    let folder = make(&shared).context(Kind::Unavailable, || failed(&shared))?;
    Ok(folder.keep())
}

fn conninfo(folder: &Path) -> Result<Conninfo> {
    let folder = folder.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'");
    // The environment is about other servers.
    let text = format!("host='{folder}' port=5432 user=postgres dbname=postgres");
    Conninfo::parse_in(&text, &|name| (name == "HOME").then(String::new))
}

fn does_not_start(folder: &Path) -> Error {
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let last: Vec<_> = log.lines().rev().take(3).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    Error::refused(format!(
        "a server to replay definitions in does not start: {}; name another with --scratch CONN",
        last.join("; ")
    ))
}
