//! Whom a server of our own runs as: PostgreSQL's server does not run as root.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Gid, Mode, OFlags, Uid, fchown, fstat, openat};

use crate::ambient;
use crate::error::{Context, Error, Kind, Result};

/// Ids that no distribution gives to a person or to a service for good.
const UNUSED: RangeInclusive<u32> = 61_184..=65_519;

/// Users without rights of their own that initdb runs as, the likeliest first. An account that owns other
/// servers, such as `postgres`, is never one of them.
const NAMED: &[&str] = &["nobody", "daemon", "bin"];

/// Where every user may make files, and nobody remove those of another.
const SHARED: &str = "/tmp";

/// Another user than root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// In place of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accounts {
    /// Runs the server: nobody else on this machine has its id.
    pub server: Account,
    /// Runs initdb, which wants a user that has a name. Nothing of the application runs as it.
    pub initdb: Account,
}

impl Accounts {
    /// The accounts to use if we, who made `folder`, are root.
    ///
    /// # Errors
    /// `Refused`, with what to do, if this machine has no user for initdb.
    pub fn in_place_of_root(folder: &Path) -> Result<Option<Accounts>> {
        // What we make belongs to whom we are.
        let owner = folder.metadata().context(Kind::Unavailable, || "cannot read a folder".into())?.uid();
        if owner != 0 {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let initdb = named(&users).ok_or_else(|| {
            Error::refused(
                "definitions are replayed on a server of our own, which PostgreSQL does not run as root, and this \
                 machine has no user nobody to make it as; run backwhen as another user, or name a server that you \
                 trust with --scratch CONN",
            )
        })?;
        Ok(Some(Accounts { server: unused(&[&users, &groups])?, initdb }))
    }
}

impl Account {
    /// Gives it the folder, which nobody else but root may enter.
    ///
    /// # Errors
    /// `Unavailable` if the system refuses.
    pub fn own(self, folder: &Path) -> Result<()> {
        chown(folder, Some(self.uid), Some(self.gid)).context(Kind::Unavailable, || not_given(folder))
    }

    /// Gives it all that `from` has in `folder`, and the folder. No link is followed, whatever `from` does
    /// meanwhile.
    ///
    /// # Errors
    /// `Unavailable` if the system refuses.
    pub fn inherit(self, folder: &Path, from: Account) -> Result<()> {
        let opened = rustix::fs::open(folder, READ, Mode::empty());
        opened
            .and_then(|folder| self.inherit_below(&folder, from))
            .context(Kind::Unavailable, || not_given(folder))
    }

    fn inherit_below(self, folder: &OwnedFd, from: Account) -> rustix::io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            if [c".", c".."].contains(&entry.file_name()) {
                continue;
            }
            let inner = openat(folder, entry.file_name(), READ, Mode::empty())?;
            match FileType::from_raw_mode(fstat(&inner)?.st_mode) {
                FileType::Directory => self.inherit_below(&inner, from)?,
                _ => self.take(&inner, from)?,
            }
        }
        self.take(folder, from)
    }

    fn take(self, file: &OwnedFd, from: Account) -> rustix::io::Result<()> {
        if fstat(file)?.st_uid != from.uid {
            return Err(rustix::io::Errno::PERM);
        }
        fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// How a file is opened whose owner may be hostile.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

fn not_given(folder: &Path) -> String {
    format!("cannot give {} to another user", folder.display())
}

/// The first of [`NAMED`] in a text like that of `/etc/passwd`.
fn named(users: &str) -> Option<Account> {
    let find = |name: &&str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(*name))?;
        let mut ids = line.split(':').skip(2);
        let account = Account { uid: ids.next()?.parse().ok()?, gid: ids.next()?.parse().ok()? };
        // The kernel's "no change" for both would leave us root.
        let plain = |id: u32| id != 0 && id != u32::MAX;
        (plain(account.uid) && plain(account.gid)).then_some(account)
    };
    NAMED.iter().find_map(find)
}

/// An id that no user, no group and no process has; `lists` are texts like that of `/etc/passwd`.
fn unused(lists: &[&str]) -> Result<Account> {
    let ids = |list: &&str| list.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect();
    let mut taken: BTreeSet<u32> = lists.iter().flat_map(|list| -> Vec<u32> { ids(list) }).collect();
    taken.extend(owners_of_processes());
    let count = UNUSED.end() - UNUSED.start() + 1;
    let first = UNUSED.start() + u32::from_ne_bytes(ambient::random::<4>()?) % count;
    let free = |id: &u32| !taken.contains(id);
    let id = (first..=*UNUSED.end()).chain(UNUSED).find(free).ok_or_else(|| {
        Error::refused(format!("all user ids from {} to {} are taken", UNUSED.start(), UNUSED.end()))
    })?;
    Ok(Account { uid: id, gid: id })
}

fn owners_of_processes() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|process| Some(process.metadata().ok()?.uid())).collect()
}

/// `usual`, or where every user can make a folder and take it away again.
pub(super) fn shared_folder(usual: PathBuf) -> PathBuf {
    let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.mode());
    let writable = mode(&usual) & 0o003 == 0o003;
    if writable && usual.ancestors().all(|folder| mode(folder) & 0o001 != 0) { usual } else { SHARED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_rights_is_found_and_neither_root_nor_one_that_owns_servers() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:::\nnobody:x:65534:65533:::\n";
        assert_eq!(named(users), Some(Account { uid: 65534, gid: 65533 }));
        let others = [
            "",
            "root:x:0:0:::",
            "postgres:x:101:104:::",
            "nobody:x:0:0",
            "nobody:x:1",
            "nobody:x:4294967295:1:::",
        ];
        for users in others {
            assert_eq!(named(users), None, "{users}");
        }
    }

    #[test]
    fn an_unused_id_is_nobodys() {
        let taken: String = UNUSED.filter(|id| *id != 62_000).map(|id| format!("u:x:{id}:1:::\n")).collect();
        assert_eq!(unused(&[&taken]).unwrap(), Account { uid: 62_000, gid: 62_000 });
        assert!(unused(&[&taken, "g:x:62000:"]).is_err());
    }

    #[test]
    fn a_private_folder_is_not_for_everybody() {
        let private = tempfile::tempdir().unwrap();
        assert_eq!(shared_folder(private.path().into()), Path::new(SHARED));
        assert_eq!(shared_folder(SHARED.into()), Path::new(SHARED));
    }
}
