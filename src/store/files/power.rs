//! A log of the changes that a power cut would undo, which tests use to simulate one.
//!
//! With `BACKWHEN_TEST_POWER=FOLDER`, every act is a line in `FOLDER/log` with fields between tabs. A change that may be
//! lost is logged before it is made, and a sync after it is done. A removed file is kept in the folder, since a removal may
//! be lost too. `tests/servers/crash` undoes the changes that the log names.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

struct Log {
    folder: PathBuf,
    file: Mutex<File>,
}

fn log() -> Option<&'static Log> {
    static LOG: OnceLock<Option<Log>> = OnceLock::new();
    let open = || {
        let folder = PathBuf::from(std::env::var_os("BACKWHEN_TEST_POWER")?);
        let file = OpenOptions::new().create(true).append(true).open(folder.join("log")).ok()?;
        Some(Log { folder, file: Mutex::new(file) })
    };
    LOG.get_or_init(open).as_ref()
}

fn put(log: &Log, what: &str, path: &Path, rest: &str) {
    if let Ok(mut file) = log.file.lock() {
        let _ = file.write_all(format!("{what}\t{}\t{rest}\n", path.display()).as_bytes());
    }
}

/// Bytes from `offset` on are about to be written.
pub(in crate::store) fn writing(path: &Path, offset: u64) {
    if let Some(log) = log() {
        put(log, "write", path, &offset.to_string());
    }
}

/// All bytes of the file are on disk.
pub(in crate::store) fn synced(path: &Path) {
    if let Some(log) = log() {
        put(log, "sync", path, "");
    }
}

/// `folder` is about to be made.
pub(in crate::store) fn making(folder: &Path) {
    if let Some(log) = log() {
        put(log, "folder-made", folder, "");
    }
}

/// `path` is about to become another name of the file at `temporary`.
pub(in crate::store) fn linking(temporary: &Path, path: &Path) {
    if let Some(log) = log() {
        put(log, "link", path, &temporary.display().to_string());
    }
}

/// `path` is about to be removed.
pub(in crate::store) fn removing(path: &Path) {
    if let Some(log) = log() {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let kept = log.folder.join(format!("removed-{}-{number}", std::process::id()));
        if fs::hard_link(path, &kept).is_ok() {
            put(log, "remove", path, &kept.display().to_string());
        }
    }
}

/// All names in the folder are on disk.
pub(in crate::store) fn folder_synced(folder: &Path) {
    if let Some(log) = log() {
        put(log, "folder", folder, "");
    }
}
