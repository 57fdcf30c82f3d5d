//! Empty clusters as initdb creates them, kept for the next short-lived server: initdb takes longer than everything
//! else.
//!
//! The clusters lie in the user's cache folder, and are used only where no other user can have written there. No
//! server ever runs in one of them: a server runs in a copy.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::install::Installation;
use crate::ambient;

/// The prefix of a cluster's name while it is being copied, and the age beyond which no process can still be copying
/// it.
const UNFINISHED: &str = "new-";
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// The place of one cached cluster.
pub(super) struct CachedCluster {
    folder: PathBuf,
}

impl CachedCluster {
    /// Returns the place for these programs and a superuser of this name; `None` if there is no place that only user
    /// `uid`, ourselves, can write.
    pub fn of(programs: &Installation, superuser: &str, uid: u32) -> Option<CachedCluster> {
        let parent = cache()?.join("backwhen");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&parent);
        made.ok().filter(|()| is_private(&parent, uid))?;
        let name = format!("cluster-{}-{:016x}", programs.major, identity(programs, superuser)?);
        Some(CachedCluster { folder: parent.join(name) })
    }

    /// Copies the cluster to `data`, which must not exist; returns whether there was a cluster.
    pub fn copy_to(&self, data: &Path) -> bool {
        if !self.folder.is_dir() {
            return false;
        }
        let copied = copy(&self.folder, data);
        if let Err(error) = &copied {
            tracing::debug!("{} is of no use: {error}", self.folder.display());
            let _ = std::fs::remove_dir_all(data);
        }
        copied.is_ok()
    }

    /// Keeps a copy of `data`, as initdb left it, either whole or not at all.
    pub fn keep(&self, data: &Path) {
        let kept = || -> io::Result<()> {
            let parent = self.folder.parent().unwrap_or(&self.folder);
            remove_leftovers(parent)?;
            let beside = ambient::private_folder(parent, UNFINISHED)?;
            let whole = beside.path().join("data");
            copy(data, &whole)?;
            std::fs::rename(&whole, &self.folder)
        };
        if let Err(error) = kept() {
            tracing::debug!("no cluster is kept in {}: {error}", self.folder.display());
        }
    }
}

/// Removes the incomplete copies of runs that were killed.
fn remove_leftovers(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let old = || entry.metadata()?.modified().map(|at| at.elapsed().is_ok_and(|age| age > LEFTOVER_AGE));
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) && old()? {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn cache() -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))
}

/// Whether no other user can read this path, or put another in its place.
fn is_private(folder: &Path, uid: u32) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let safe = |path: &Path, allowed: u32| {
        let owned = |it: &Metadata| it.uid() == uid || (it.uid() == 0 && allowed != 0o700);
        // In a folder with the sticky bit everybody can create files, and move only their own.
        let closed =
            |it: &Metadata| it.mode() & 0o777 & !allowed == 0 || (it.mode() & 0o1000 != 0 && it.uid() == 0);
        path.symlink_metadata().is_ok_and(|it| owned(&it) && closed(&it))
    };
    safe(&folder, 0o700) && folder.ancestors().skip(1).all(|path| safe(path, 0o755))
}

/// Returns a hash that differs between these programs and those of another release.
fn identity(programs: &Installation, superuser: &str) -> Option<u64> {
    let mut facts = format!("{superuser}\n{}", programs.folder.display());
    for program in ["postgres", "initdb"] {
        let found = programs.program(program).metadata().ok()?;
        facts += &format!("\n{} {} {} {}", found.len(), found.mtime(), found.mtime_nsec(), found.ino());
    }
    Some(twox_hash::XxHash3_64::oneshot(facts.as_bytes()))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => copy(&entry.path(), &to)?,
            (_, true) => drop(std::fs::copy(entry.path(), to)?),
            _ => return Err(io::Error::other("it holds neither files nor folders")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_folder_that_nobody_else_can_change_is_private() {
        let outer = ambient::private_folder(Path::new("/tmp"), "backwhen-test-").unwrap();
        let uid = outer.path().metadata().unwrap().uid();
        let inner = outer.path().join("inner");
        DirBuilder::new().mode(0o700).create(&inner).unwrap();
        assert!(is_private(&inner, uid));
        assert!(!is_private(&inner, uid + 1), "it is somebody else's");
        for (folder, mode) in [(inner.as_path(), 0o750), (outer.path(), 0o777)] {
            set_permissions(folder, Permissions::from_mode(mode)).unwrap();
            assert!(!is_private(&inner, uid), "{mode:o}");
            set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn a_kept_cluster_is_copied_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let kept = CachedCluster { folder: folder.path().join("kept") };
        let (data, again) = (folder.path().join("data"), folder.path().join("again"));
        assert!(!kept.copy_to(&again));
        std::fs::create_dir_all(data.join("base")).unwrap();
        std::fs::write(data.join("base/1"), "x").unwrap();
        kept.keep(&data);
        assert!(kept.copy_to(&again));
        assert_eq!(std::fs::read_to_string(again.join("base/1")).unwrap(), "x");
        std::os::unix::fs::symlink("/etc", kept.folder.join("link")).unwrap();
        std::fs::remove_dir_all(&again).unwrap();
        assert!(!kept.copy_to(&again) && !again.exists(), "a link is followed nowhere");
    }
}
