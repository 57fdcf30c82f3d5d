//! The folders in which the tests' servers and histories lie.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

const MEMORY: &str = "/dev/shm";
/// All tests together have about half of this at most.
const MEMORY_ROOM: u64 = 4 << 30;

/// Creates a folder that goes with the value: in `TMPDIR` if that is set, else in memory if there is room. Each server
/// creates a thousand files and each database three hundred, which takes a disk longer than all else that a test does;
/// and no test would see whether a disk keeps what is synced. The path is short, since a socket's path has 107 bytes at
/// most.
pub fn scratch_folder(prefix: &str) -> TempDir {
    tempfile::Builder::new().prefix(prefix).tempdir_in(place()).expect("a folder can be made for a test")
}

fn place() -> PathBuf {
    let chosen = std::env::var_os("TMPDIR").is_some();
    let room = |found: rustix::fs::StatVfs| found.f_bavail.saturating_mul(found.f_frsize);
    let in_memory = !chosen && rustix::fs::statvfs(MEMORY).is_ok_and(|found| room(found) >= MEMORY_ROOM);
    if in_memory { Path::new(MEMORY).to_owned() } else { std::env::temp_dir() }
}
