//! The one door for everything that a process takes from its surroundings: the clock, randomness, temporary folders,
//! the umask, signals, threads for blocking work, and the failpoints of the tests.

mod network;
mod point;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
pub use tokio::time::Instant as Steady;

use chrono::{DateTime, Utc};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Context, Kind, Result};
pub use network::answer;
pub use point::{POINTS, point, test_number};

/// This machine's clock. Moments come from the server's clock; this clock only dates backwhen's own acts.
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Reads the steady clock, which measures how long something takes.
pub fn instant() -> Steady {
    Steady::now()
}

/// Returns random bytes, which no other history has.
///
/// # Errors
/// `Internal` if the operating system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context(Kind::Internal, || "no randomness from the system".into())?;
    Ok(bytes)
}

/// Makes every file and folder that this process or its children create private, whatever the umask was. This includes
/// the files that SQLite and pg_dump create, and temporary files.
pub fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Creates a temporary folder that nobody else can enter, whatever the umask: rows, definitions and sockets lie in it.
///
/// # Errors
/// Fails if the system cannot create the folder.
pub fn private_folder(parent: &Path, prefix: &str) -> std::io::Result<tempfile::TempDir> {
    let ours_alone = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix(prefix).permissions(ours_alone).tempdir_in(parent)
}

/// Returns the system's folder for temporary files.
pub fn temporary_place() -> PathBuf {
    std::env::temp_dir()
}

/// Creates a file without a name in `folder`, which is gone with the process.
///
/// # Errors
/// Fails as the system does.
pub fn nameless_file(folder: &Path) -> std::io::Result<std::fs::File> {
    tempfile::tempfile_in(folder)
}

/// Returns the free bytes of the disk of a folder, for a process without privileges; `None` if the disk does not tell.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Creates a private folder in the system's folder for temporary files.
///
/// # Errors
/// `Unavailable` if the folder cannot be created.
pub fn temporary_folder() -> Result<tempfile::TempDir> {
    private_folder(&temporary_place(), "backwhen-")
        .context(Kind::Unavailable, || "cannot make a temporary folder; is TMPDIR full?".into())
}

/// Waits if a test asks for it by `BACKWHEN_TEST_PAUSE=PLACE:MILLISECONDS`, to widen an instant that is otherwise too
/// short to hit. Without the variable it does nothing.
pub fn pause(place: &str) {
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let wanted = std::env::var("BACKWHEN_TEST_PAUSE").ok()?;
        let (place, millis) = wanted.split_once(':')?;
        Some((place.to_owned(), millis.parse().ok()?))
    });
    if let Some((wanted, millis)) = wanted
        && wanted == place
    {
        std::thread::sleep(std::time::Duration::from_millis(*millis));
    }
}

/// Runs work that waits for the disk, or that computes for long, in a thread of its own. Capture acknowledges durable
/// positions to the server on its only thread, and no other work may hold that up. `doing` completes "failed while …".
///
/// # Errors
/// The work's own error; `Internal` if the work panics.
pub async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.context(Kind::Internal, || format!("a thread failed while {doing}"))?
}

/// How a test wants a backlog drained by SQL, as `BACKWHEN_TEST_DRAIN=BACKLOG:REACH:CHANGES` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedDrain {
    /// Draining begins with a backlog of this many bytes of WAL.
    pub backlog: u64,
    /// One batch reaches over at most this many bytes of WAL.
    pub reach: u64,
    /// One batch brings about this many changes; without a number, as many as pay off.
    pub changes: Option<u64>,
}

pub fn wanted_drain() -> Option<WantedDrain> {
    static WANTED: OnceLock<Option<WantedDrain>> = OnceLock::new();
    *WANTED.get_or_init(|| {
        let wanted = std::env::var("BACKWHEN_TEST_DRAIN").ok()?;
        let mut numbers = wanted.split(':').map(str::parse);
        let (backlog, reach) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(WantedDrain { backlog, reach, changes: numbers.next().transpose().ok()? })
    })
}

/// Passes a failpoint where no system error is at hand to return.
///
/// # Errors
/// `Unavailable` if a test asked for a failure at this place.
pub fn pass(place: &'static str) -> Result<()> {
    point(place).context(Kind::Unavailable, || format!("cannot go on at {place}"))
}

/// From here on Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) do not end the process by themselves, but cancel the
/// token that is returned. Only the command line calls this, before it begins anything that must be undone, and passes
/// the token down. A SIGHUP that the process was started to ignore, as by nohup, stays ignored.
pub fn heed_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let came = token.clone();
    // The handlers are registered now, not when the task first runs.
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let mut hung_up = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    tokio::spawn(async move {
        let [Ok(mut interrupted), Ok(mut terminated)] = signals else { return };
        let hang_up = async {
            match &mut hung_up {
                Some(hung_up) => hung_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            _ = hang_up => {}
        }
        came.cancel();
    });
    token
}

/// Whether the process was started to ignore SIGHUP; systems without /proc do not tell.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_enters_a_temporary_folder() {
        let folder = private_folder(&std::env::temp_dir(), "backwhen-").unwrap();
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
