//! The command line: one file per command; `ui` alone talks to the terminal.

mod against_source;
mod also;
mod bisect;
mod capture;
mod caught_up;
mod changes;
mod check;
mod checkpoint;
#[expect(clippy::disallowed_methods, reason = "it reads the user's configuration")]
mod config;
mod copy;
mod diff;
mod dispersal;
mod drop;
mod except;
mod expire;
mod init;
mod key;
mod left_out;
mod limits;
mod list;
mod log;
mod mark;
mod metrics;
mod not_exact;
mod on_demand;
mod past;
mod pin;
mod place;
mod proof;
mod query;
mod recover;
mod repair;
mod restore;
mod resync;
mod retention;
mod rewind;
mod row;
mod schemas;
mod secrecy;
mod serve;
mod show;
mod status;
mod templates;
mod ui;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::history::journal;
use crate::history::key::Key;
use crate::pgtools::Tools;
use crate::store::Lease;
use crate::store::sealed::IdentitySource;
use also::CopyOptions;
use limits::{BudgetOption, DEFAULT_BUDGET, LagOption};
use ui::Ui;

/// Bring a PostgreSQL database back to when it was right.
///
/// backwhen follows a database's logical replication stream, keeps checkpoints and every transaction between them, and
/// rebuilds the database as it was at any moment.
#[derive(Parser)]
#[command(name = "backwhen", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 2 usage, 10 unavailable (try again), 11 moment not held, \
12 history damaged, 13 locked, 14 refused, 15 recovered but for some objects, 70 internal, 130 interrupted.\n\
Every option can be given as BACKWHEN_<OPTION> or in backwhen.toml.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The heading in the help above the options of every command.
const EVERYWHERE: &str = "Options of every command";

#[derive(Args)]
struct Global {
    /// The folder of the history; commands that read also take a copy in an object store: s3://BUCKET/PREFIX, gs:// or
    /// az://, or in several of them, disperse:k=K,m=M,URL,…
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_HISTORY", value_name = "PATH|URL")]
    history: Option<String>,
    /// A local folder for the catalogs of histories in object stores, which may be deleted [default: backwhen in
    /// $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_CACHE", value_name = "PATH")]
    cache: Option<PathBuf>,
    /// How much of what is read from object stores is kept in the cache folder for the next command: a size such as
    /// 500MB, or 0
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_CACHE_SIZE", value_name = "SIZE", default_value = "1GB", value_parser = parse_cache_size)]
    cache_size: u64,
    /// The file with the history's key, stored outside the history; objects that were not written with this key are
    /// refused
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    identity: secrecy::IdentityOptions,
    /// A file with options [default: ./backwhen.toml, else /etc/backwhen.toml, if it exists]
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How results are written to standard output; prometheus is for status only
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_OUTPUT", value_enum, default_value = "text")]
    output: OutputFormat,
    /// Print only results and errors
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_QUIET")]
    quiet: bool,
    /// Print more details on standard error; give it twice for everything
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show no progress bars, not even on a terminal
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_NO_PROGRESS")]
    no_progress: bool,
    /// How long to wait for another command that holds the history, such as a checkpoint, before exit code 13
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_WAIT", value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// A folder with PostgreSQL's client programs, searched before the PATH
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_PG_BIN", value_name = "FOLDER")]
    pg_bin: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    #[default]
    Text,
    Json,
    Prometheus,
}

#[derive(Clone, Subcommand)]
enum Command {
    #[command(
        after_help = "Example: backwhen check --source 'host=db.example.com user=postgres dbname=shop'"
    )]
    Check(check::Check),
    #[command(after_help = "Example: backwhen init --source 'host=db.example.com user=postgres dbname=shop'")]
    Init(init::Init),
    #[command(after_help = "Example: backwhen capture --until caught-up")]
    Capture(capture::Capture),
    #[command(after_help = "Example: backwhen checkpoint --if-older-than 24h")]
    Checkpoint(checkpoint::Checkpoint),
    #[command(after_help = "Example: backwhen mark before-import")]
    Mark(mark::Mark),
    #[command(after_help = "Example: backwhen status --nagios")]
    Status(status::Status),
    #[command(after_help = "Example: backwhen list marks")]
    List(list::List),
    #[command(alias = "restore")]
    #[command(
        after_help = "Example: backwhen recover --to mark:before-import --create --into dbname=rescued"
    )]
    Recover(recover::Recover),
    Log(log::LogCommand),
    Show(show::Show),
    Row(row::RowCommand),
    Diff(diff::Diff),
    Bisect(bisect::Bisect),
    Query(query::Query),
    Serve(serve::Serve),
    Rewind(rewind::Rewind),
    Undo(rewind::Undo),
    #[command(after_help = "Example: backwhen verify --prove")]
    Verify(verify::Verify),
    #[command(after_help = "Example: backwhen resync")]
    Resync(resync::Resync),
    #[command(after_help = "Example: backwhen copy --to /srv/history.copy")]
    Copy(copy::Copy),
    #[command(after_help = "Example: backwhen key list --history s3://backups/shop")]
    Key(key::KeyCommand),
    #[command(after_help = "Example: backwhen repair --from /srv/history.copy")]
    Repair(repair::Repair),
    #[command(after_help = "Example: backwhen expire --keep-within 30d --keep-last 2 --apply")]
    Expire(expire::Expire),
    #[command(after_help = "Example: backwhen pin before-migration --reason 'audit of 2026'")]
    Pin(pin::Pin),
    #[command(after_help = "Example: backwhen unpin before-migration")]
    Unpin(pin::Unpin),
    #[command(after_help = "Example: backwhen drop")]
    Drop(drop::Drop),
}

/// The settings and the terminal that every command gets.
#[derive(Default)]
struct Surroundings {
    ui: Ui,
    history: Option<String>,
    cache: Option<PathBuf>,
    /// The bytes that may be kept of what is read from object stores.
    cache_size: u64,
    key_file: Option<PathBuf>,
    /// The source of the identities that open encrypted copies.
    identities: Option<IdentitySource>,
    pg_bin: Option<PathBuf>,
    /// Cancelled by a signal, once signals are heeded.
    interrupt: OnceLock<CancellationToken>,
    /// Set by what a command does once, although `--wait` may run it again.
    unchecked_said: OnceLock<()>,
    metrics_served: OnceLock<()>,
}

/// Runs the command line and returns the exit code, which is a contract.
pub fn main() -> ExitCode {
    ambient::keep_files_private();
    ui::explain_panics();
    // The panic hook has reported the panic; only the exit code remains to be returned.
    std::panic::catch_unwind(run_command_line).unwrap_or(ExitCode::from(Kind::Internal.exit_code()))
}

fn run_command_line() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            ui::explain(&error);
            return ExitCode::from(error.kind().exit_code());
        }
    };
    if cli.global.output == OutputFormat::Prometheus && !matches!(cli.command, Command::Status(_)) {
        let error = Error::usage("--output prometheus goes with status; choose text or json");
        ui::explain(&error);
        return ExitCode::from(error.kind().exit_code());
    }
    let ui = Ui::new(&cli.global, matches!(cli.command, Command::Capture(_)));
    let mut runtime = match &cli.command {
        // The command follows one connection; more threads would only pass on the news that bytes have arrived.
        Command::Capture(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build();
    let done = runtime.context(Kind::Internal, || "cannot start".into()).and_then(|runtime| {
        let Global { history, cache, cache_size, key_file, identity, pg_bin, wait, .. } = cli.global;
        let identities = identity.source();
        let cache_size = if place::reads_past_the_cache(&cli.command) { 0 } else { cache_size };
        let ui = ui.clone();
        let context = Surroundings {
            ui,
            history,
            cache,
            cache_size,
            key_file,
            identities,
            pg_bin,
            ..Surroundings::default()
        };
        let done = runtime.block_on(run_patiently(cli.command, &context, wait.unwrap_or_default()));
        // Threads that still read for a command that has failed need not be waited for.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Flags override the environment, and the environment overrides the file.
fn parse() -> Result<Cli> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let command = config::with_defaults(<Cli as clap::CommandFactory>::command(), &arguments)?;
    let matches = command.get_matches_from(arguments);
    Cli::from_arg_matches(&matches).map_err(|error| error.exit())
}

/// The first pause before a command that was refused as `Locked` is tried again; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause: a command begins at most this long after the history is free.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Runs the command, and runs it again while another command holds the history, for as long as `patience`. Each try
/// reads the history anew, so that nothing is decided by what the other command has changed meanwhile.
async fn run_patiently(command: Command, context: &Surroundings, patience: Duration) -> Result<ExitCode> {
    let begun = ambient::instant();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match run(command.clone(), context).await {
            Err(error) if error.kind() == Kind::Locked && begun.elapsed() < patience => error,
            done => return done,
        };
        if pause == FIRST_PAUSE {
            context.ui.say(&format!(
                "{error}; waiting for up to {}",
                crate::model::moment::format_duration(patience)
            ));
        }
        let rest = tokio::time::sleep(pause.min(patience.saturating_sub(begun.elapsed())));
        match context.interrupt.get() {
            Some(interrupt) => interrupt.run_until_cancelled(rest).await.ok_or_else(Error::interrupted)?,
            None => rest.await,
        }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

async fn run(command: Command, context: &Surroundings) -> Result<ExitCode> {
    let done = match command {
        Command::Check(check) => return check.run(context).await,
        Command::Status(status) => return status.run(context).await,
        Command::Verify(verify) => return verify.run(context).await,
        Command::Copy(copy) => return copy.run(context).await,
        Command::Repair(repair) => return repair.run(context).await,
        Command::Init(init) => init.run(context).await,
        Command::Capture(capture) => capture.run(context).await,
        Command::Checkpoint(checkpoint) => checkpoint.run(context).await,
        Command::Mark(mark) => mark.run(context).await,
        Command::List(list) => list.run(context).await,
        Command::Key(key) => key.run(context).await,
        Command::Recover(recover) => return recover.run(context).await,
        Command::Rewind(rewind) => return rewind.run(context).await,
        Command::Undo(undo) => return undo.run(context).await,
        Command::Log(log) => log.run(context).await,
        Command::Show(show) => show.run(context).await,
        Command::Row(row) => row.run(context).await,
        Command::Diff(diff) => diff.run(context).await,
        Command::Bisect(bisect) => bisect.run(context).await,
        Command::Query(query) => query.run(context).await,
        Command::Serve(serve) => serve.run(context).await,
        Command::Resync(resync) => resync.run(context).await,
        Command::Expire(expire) => expire.run(context).await,
        Command::Pin(pin) => pin.run(context).await,
        Command::Unpin(unpin) => unpin.run(context).await,
        Command::Drop(drop) => drop.run(context).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl Surroundings {
    /// From here on, Ctrl-C and SIGTERM cancel the token instead of ending the process. A command calls this before it
    /// begins anything that must be undone.
    fn heed_signals(&self) -> CancellationToken {
        self.interrupt.get_or_init(ambient::heed_signals).clone()
    }

    fn key(&self) -> Result<Option<Key>> {
        self.key_file.as_deref().map(Key::read).transpose()
    }

    fn history(&self) -> Result<History> {
        let history = self.history_place()?.history(self.key()?.as_ref())?;
        let is_unchecked = history.identity().key.is_some() && !history.authorship().is_checked();
        if is_unchecked && self.unchecked_said.set(()).is_ok() {
            self.ui.say(
                "it is not checked who wrote this history: name the file with its key with --key-file, unless you \
                 trust all who can write to its folder",
            );
        }
        Ok(history)
    }

    /// Opens the history for work that adds to it: new objects must have tags, if the history has a key.
    fn history_to_write(&self, command: &str) -> Result<History> {
        let local = self.history_folder(command)?.local_folder_to_write()?;
        let history = History::open(&local, self.key()?.as_ref())?;
        history.authorship().check_may_write(history.root())?;
        Ok(history)
    }

    /// Opens the history for a capture. An encrypted copy in a folder becomes a history that capture writes.
    fn history_to_grow(&self) -> Result<History> {
        let local = self.growing_folder("capture")?.local_folder_to_write()?;
        let history = History::open(&local, self.key()?.as_ref())?;
        history.authorship().check_may_write(history.root())?;
        journal::adopt_increments(&local, history.authorship())?;
        Ok(history)
    }

    /// Opens the history for work that reads or uses its objects for a while: nothing is expired while the lock
    /// lives.
    fn history_held(&self) -> Result<(History, Option<Lease>)> {
        let history = self.history()?;
        let lock = history.hold_objects()?;
        Ok((history, lock))
    }

    fn catalog(&self, history: &History) -> Result<Arc<Catalog>> {
        Catalog::open(history).map(Arc::new)
    }

    fn tools(&self) -> Result<Tools> {
        Tools::find(self.pg_bin.as_deref())
    }
}

/// Options of commands that talk to the source of an existing history.
#[derive(Args, Clone)]
struct SourceOption {
    /// The source, if it is not where `init` found it: a libpq connection string. Other users of this machine can see
    /// the arguments of a process, so keep the password in ~/.pgpass
    #[arg(long, env = "BACKWHEN_SOURCE", value_name = "CONN", hide_env_values = true)]
    source: Option<String>,
}

impl SourceOption {
    /// Returns the given source, or the one that the history records.
    fn of(&self, history: &History) -> Result<Conninfo> {
        let identity = history.identity();
        let source = match &self.source {
            Some(named) => Conninfo::parse(named)?,
            None => Conninfo::parse(&identity.source.connection)?.as_recorded(),
        };
        Ok(source.for_history(&identity.slot()))
    }
}

fn parse_cache_size(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    parse_size(text).ok_or_else(|| "write a size such as 500MB or 4GB, or 0 to keep nothing".to_owned())
}

/// Parses a number of bytes with a unit. The units are those of PostgreSQL's own settings: a kilobyte is 1024 bytes.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let power = ["kB", "MB", "GB", "TB"].iter().position(|known| *known == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(1024 << (10 * power))
}

/// How long a replayed statement may run, unless --replay-timeout sets another limit.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

/// The server on which schema changes are replayed.
#[derive(Args, Clone)]
struct ScratchOption {
    /// A server to replay schema changes on. Statements of the source's roles run there as this user, who must not be a
    /// superuser, so it must be a server that you trust with them [default: a short-lived server that backwhen starts
    /// for this replay only]
    #[arg(long, env = "BACKWHEN_SCRATCH", value_name = "CONN", hide_env_values = true)]
    scratch: Option<String>,
    /// How long one replayed statement may run; a slower statement is left out and named
    #[arg(long, env = "BACKWHEN_REPLAY_TIMEOUT", value_name = "SECONDS", default_value_t = REPLAY_LIMIT.as_secs())]
    replay_timeout: u64,
}

impl ScratchOption {
    fn conninfo(&self) -> Result<Option<Conninfo>> {
        self.scratch.as_deref().map(Conninfo::parse).transpose()
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.replay_timeout.max(1))
    }
}

/// Returns the source that `--source` or libpq's own variables name.
fn named_source(source: Option<&str>) -> Result<Conninfo> {
    let named = ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE", "PGPORT"];
    if source.is_none() && named.iter().all(|name| std::env::var_os(name).is_none()) {
        return Err(Error::usage(
            "no source is named; name it with --source 'host=... dbname=...', or BACKWHEN_SOURCE",
        ));
    }
    Conninfo::parse(source.unwrap_or_default())
}

/// Returns how many sessions run at the same time, unless --jobs sets another number.
fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

/// Parses a length of time such as `90s`, `10 minutes` or `1d`.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let duration = crate::model::moment::parse_duration(text).and_then(|duration| duration.to_std().ok());
    duration.ok_or_else(|| "write a length of time such as 90s, 10m, 24h or 7d".to_owned())
}
