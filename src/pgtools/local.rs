//! A short-lived server of our own, in a temporary folder and on a socket there.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::account::{Account, Accounts, shared_folder};
use super::child::Child;
use super::cluster::CachedCluster;
use super::confine::{Confinement, confined};
use super::install::Installation;
use crate::ambient;
use crate::connect::{Conninfo, Session};
use crate::error::{Context, Error, Kind, Result};

/// The time that a server may take to start. Later the start has failed.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A folder whose files are in memory, and the number of bytes that must be free there; one server takes about fifty
/// million. With less space free, the usual folder is used.
const MEMORY: &str = "/dev/shm";
const MEMORY_ROOM: u64 = 4 << 30;

/// In a server, rows with their indexes and with dead rows take at most about this many times their bytes as text.
const ROOM_FACTOR: u64 = 8;

/// The longest path of a folder, in bytes, that leaves room for a socket's name.
const FOLDER_LIMIT: usize = 85;

/// Runs the server until its standard input ends, because backwhen closed it or was killed; then stops the server and
/// removes the folder. So nothing stays behind.
const KEEPER: &str = r#"
folder=$1; shift
"$@" >"$folder/log" 2>&1 </dev/null &
server=$!
read -r end
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf "$folder"
"#;

/// These settings switch off work that a server without lasting data does not need, and actions that it must not
/// take: the application's own triggers and event triggers stay silent in each session, whoever logs in. The server's
/// log contains no statements.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "shared_buffers=32MB",
    "max_connections=50",
    "superuser_reserved_connections=10",
    "max_locks_per_transaction=256",
    "max_worker_processes=0",
    "max_logical_replication_workers=0",
    "dynamic_shared_memory_type=mmap",
    "jit=off",
    "lc_messages=C",
    "log_min_error_statement=panic",
    "session_replication_role=replica",
];

/// Settings with the first major version that has them.
const NEWER_SETTINGS: &[(u32, &str)] = &[(17, "event_triggers=off"), (18, "io_method=sync")];

/// The demands on a server of our own that is for more than the replay of definitions.
#[derive(Clone, Debug, Default)]
pub struct ServerDemands {
    /// The bytes of rows that it is to hold.
    pub room: u64,
    /// Settings that come after the usual ones, as `name=value`.
    pub settings: Vec<String>,
    /// The role that logs in with a password only.
    pub password_role: Option<String>,
}

/// These settings, after the others, make the server one that a history can follow. What is committed reaches the
/// stream only once it is flushed, so commits wait for that.
const SOURCE_SETTINGS: &[&str] = &[
    "wal_level=logical",
    "max_wal_senders=10",
    "max_replication_slots=10",
    "max_connections=100",
    "superuser_reserved_connections=3",
    "synchronous_commit=on",
    "session_replication_role=origin",
];

/// A running server. Only root and the server's own user can reach it: that is our user, or a user whom nobody else
/// uses if we are root.
pub struct LocalServer {
    info: Conninfo,
    folder: PathBuf,
    keeper: tokio::process::Child,
    open: Vec<&'static str>,
}

impl LocalServer {
    /// Starts a server whose only role is a superuser of this name.
    ///
    /// # Errors
    /// Fails with `Refused` if we are root and there is no other user to run the server, or if the programs fail.
    pub async fn start(programs: &Installation, superuser: &str) -> Result<LocalServer> {
        LocalServer::start_as(programs, superuser, &ServerDemands::default()).await
    }

    /// Starts a server whose databases a history can follow, for tests of applications.
    ///
    /// # Errors
    /// Fails when [`LocalServer::start`] does.
    pub async fn start_source(programs: &Installation, superuser: &str) -> Result<LocalServer> {
        let newer: &[&str] = if programs.major >= 17 { &["event_triggers=on"] } else { &[] };
        let settings = SOURCE_SETTINGS.iter().chain(newer).map(|it| (*it).to_owned()).collect();
        LocalServer::start_as(programs, superuser, &ServerDemands { settings, ..ServerDemands::default() })
            .await
    }

    /// The same as [`LocalServer::start`], as it is demanded.
    ///
    /// # Errors
    /// Fails when [`LocalServer::start`] does.
    pub async fn start_as(
        programs: &Installation,
        superuser: &str,
        demands: &ServerDemands,
    ) -> Result<LocalServer> {
        let folder = folder(demands.room)?;
        match LocalServer::start_in(programs, &folder, superuser, demands).await {
            Ok(server) => Ok(server),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                Err(error)
            }
        }
    }

    async fn start_in(
        programs: &Installation,
        folder: &Path,
        superuser: &str,
        demands: &ServerDemands,
    ) -> Result<LocalServer> {
        let bin = std::fs::canonicalize(&programs.folder).unwrap_or_else(|_| programs.folder.clone());
        let confines = Confinement { folder: folder.to_owned(), programs: bin };
        let accounts = Accounts::in_place_of_root(folder)?;
        initialise(programs, folder, accounts, superuser).await?;
        if let Some(role) = &demands.password_role {
            demand_password(folder, role)?;
        }
        let account = accounts.map(|accounts| accounts.server);
        let (programs, inner, settings) = (programs.clone(), folder.to_owned(), demands.settings.clone());
        let keeping = async move { keep(&programs, &inner, account, &settings) };
        let (keeper, open) = confined(confines, keeping).await?;
        let server = LocalServer {
            info: conninfo(folder, superuser)?,
            folder: folder.to_owned(),
            keeper: keeper?,
            open,
        };
        match tokio::time::timeout(START_LIMIT, server.answers(folder)).await {
            Ok(done) => done.map(|()| server),
            Err(_) => Err(does_not_start(folder)),
        }
    }

    async fn answers(&self, folder: &Path) -> Result<()> {
        loop {
            let Err(_) = Session::connect_utf8(&self.info, "replay").await else { return Ok(()) };
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            // Until the server is ready it refuses sessions with a FATAL error. Its messages are English: see
            // `SETTINGS`.
            let fatal = |line: &str| line.contains("FATAL:") && !line.contains("starting up");
            if log.lines().any(fatal) {
                return Err(does_not_start(folder));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The parts of this machine that the server can still reach, in words.
    pub fn open_to_it(&self) -> &[&'static str] {
        &self.open
    }

    /// Returns the connection to the server, as its superuser.
    pub fn info(&self) -> &Conninfo {
        &self.info
    }

    /// Returns the path of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Stops the server and removes its folder. Without this call both happen a little later.
    pub async fn stop(mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait().await;
    }
}

/// Creates the server's data, or copies a cluster made earlier, and gives the data to the server's account.
async fn initialise(
    programs: &Installation,
    folder: &Path,
    accounts: Option<Accounts>,
    superuser: &str,
) -> Result<()> {
    let data = folder.join("data");
    let uid = folder.metadata().context(Kind::Unavailable, || "cannot read a folder".into())?.uid();
    let kept = CachedCluster::of(programs, superuser, uid);
    if kept.as_ref().is_some_and(|kept| kept.copy_to(&data)) {
        let give = |accounts: Accounts| accounts.server.inherit(folder, Account { uid, gid: uid });
        return accounts.map_or(Ok(()), give);
    }
    make(programs, folder, accounts.map(|accounts| accounts.initdb), superuser).await?;
    if let Some(accounts) = accounts {
        accounts.server.inherit(folder, accounts.initdb)?;
    }
    if let Some(kept) = kept {
        kept.keep(&data);
    }
    Ok(())
}

/// initdb asks the system for its user's name, and runs nothing of the application, so it is not confined.
async fn make(
    programs: &Installation,
    folder: &Path,
    account: Option<Account>,
    superuser: &str,
) -> Result<()> {
    if let Some(account) = account {
        account.own(folder)?;
    }
    Child::new(programs.program("initdb"))
        .run_as(account, folder)
        .only_env(environment(programs))
        .arg(format!("--username={superuser}"))
        .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--wal-segsize=1", "-D"])
        .arg(folder.join("data"))
        .run()
        .await
}

/// The whole environment of the server and of every program that the server starts: it contains no secret of ours.
fn environment(programs: &Installation) -> Vec<(&'static str, OsString)> {
    let mut variables = vec![("PATH", "/usr/bin:/bin".into()), ("LC_ALL", "C".into()), ("TZ", "UTC".into())];
    // Where an installation has its own client library, its extensions find the library only through this variable.
    let library = programs.folder.join("../lib");
    if library.join("libpq.so.5").exists() {
        variables.push(("LD_LIBRARY_PATH", library.into()));
    }
    variables
}

/// Replaces initdb's rules, so that the role logs in with a password and every other role without one. The file keeps its
/// owner.
fn demand_password(folder: &Path, role: &str) -> Result<()> {
    let path = folder.join("data/pg_hba.conf");
    let rules = format!("local all \"{role}\" scram-sha-256\nlocal all all trust\n");
    std::fs::write(&path, rules).context(Kind::Unavailable, || format!("cannot write {}", path.display()))
}

fn keep(
    programs: &Installation,
    folder: &Path,
    account: Option<Account>,
    further: &[String],
) -> Result<tokio::process::Child> {
    let mut command = Command::new("/bin/sh");
    command.env_clear().envs(environment(programs));
    command.args(["-c", KEEPER, "backwhen-server"]).arg(folder).arg(programs.program("postgres"));
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).args(["-p", "5432"]);
    let newer = NEWER_SETTINGS.iter().filter(|(since, _)| programs.major >= *since);
    for setting in SETTINGS.iter().chain(newer.map(|(_, setting)| setting)) {
        command.args(["-c", setting]);
    }
    for setting in further {
        command.args(["-c", setting]);
    }
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    // The server has its own process group: Ctrl-C at the terminal reaches only backwhen, which then lets the server
    // end.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir(folder).spawn().context(Kind::Refused, || "cannot start /bin/sh".into())
}

/// Uses a folder in memory if it has room, unless the user chose a place for temporary files: each server creates a
/// thousand files, which takes longer than everything else on some disks.
fn in_memory(room: u64) -> Option<&'static Path> {
    let chosen = std::env::var_os("TMPDIR").is_some();
    let memory = Path::new(MEMORY);
    let free = ambient::free_bytes(memory).filter(|_| !chosen)?;
    let needed = MEMORY_ROOM.saturating_add(room.saturating_mul(ROOM_FACTOR));
    (free >= needed).then_some(memory)
}

/// Creates a folder that no other user can enter; its path is short, since a socket's path must be.
fn folder(room: u64) -> Result<PathBuf> {
    let make = |parent: &Path| ambient::private_folder(parent, "backwhen-pg-");
    if let Some(folder) = in_memory(room).and_then(|memory| make(memory).ok()) {
        return Ok(folder.keep());
    }
    let usual = ambient::temporary_place();
    let usual = if usual.as_os_str().len() > FOLDER_LIMIT { Path::new("/tmp") } else { &usual };
    let failed = |parent: &Path| format!("cannot make a temporary folder in {}", parent.display());
    let folder = make(usual).context(Kind::Unavailable, || failed(usual))?;
    let shared = shared_folder(usual.to_owned());
    if shared == usual || Accounts::in_place_of_root(folder.path())?.is_none() {
        return Ok(folder.keep());
    }
    let folder = make(&shared).context(Kind::Unavailable, || failed(&shared))?;
    Ok(folder.keep())
}

fn conninfo(folder: &Path, superuser: &str) -> Result<Conninfo> {
    let folder = folder.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'");
    // The variables of the environment are about other servers.
    let text = format!("host='{folder}' port=5432 user={superuser} dbname=postgres");
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
