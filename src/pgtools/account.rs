//! Whom a server of our own runs as: PostgreSQL's server does not run as root.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

/// Users without rights of their own, the likeliest first.
const CANDIDATES: &[&str] = &["postgres", "nobody"];

/// Where every user may make files, and nobody remove those of another.
const SHARED: &str = "/tmp";

/// Another user than root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The account to run as if we, who made `folder`, are root.
    ///
    /// # Errors
    /// `Refused`, with what to do, if this machine has no such user.
    pub fn in_place_of_root(folder: &Path) -> Result<Option<Account>> {
        // What we make belongs to whom we are.
        let owner = folder.metadata().context(Kind::Unavailable, || "cannot read a folder".into())?.uid();
        if owner != 0 {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Account::among(&users).map(Some).ok_or_else(|| {
            Error::refused(
                "definitions are replayed in a server of their own, which PostgreSQL does not run as root, and this \
                 machine has no user postgres or nobody to run it as; run backwhen as another user, or name a server \
                 that takes a scratch database with --scratch CONN",
            )
        })
    }

    /// The first candidate in a text like that of `/etc/passwd`.
    fn among(users: &str) -> Option<Account> {
        let find = |name: &&str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(*name))?;
            let mut ids = line.split(':').skip(2);
            let account = Account { uid: ids.next()?.parse().ok()?, gid: ids.next()?.parse().ok()? };
            // The kernel's "no change" for both would leave us root.
            let plain = |id: u32| id != 0 && id != u32::MAX;
            (plain(account.uid) && plain(account.gid)).then_some(account)
        };
        CANDIDATES.iter().find_map(find)
    }

    /// Gives it the folder, which nobody else but root may enter.
    ///
    /// # Errors
    /// `Unavailable` if the system refuses.
    pub fn own(self, folder: &Path) -> Result<()> {
        chown(folder, Some(self.uid), Some(self.gid))
            .context(Kind::Unavailable, || format!("cannot give {} to another user", folder.display()))
    }
}

/// `usual`, or where every user can make a folder and take it away again.
pub(super) fn shared_folder(usual: PathBuf) -> PathBuf {
    let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.mode());
    let writable = mode(&usual) & 0o003 == 0o003;
    match writable && usual.ancestors().all(|folder| mode(folder) & 0o001 != 0) {
        true => usual,
        false => SHARED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_rights_is_found_and_root_is_none() {
        let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533:::\n";
        assert_eq!(Account::among(users), Some(Account { uid: 65534, gid: 65533 }));
        let users = format!("{users}postgres:x:101:104:::\n");
        assert_eq!(Account::among(&users), Some(Account { uid: 101, gid: 104 }));
        for users in ["", "root:x:0:0:::", "postgres:x:0:0:::", "nobody:x:1", "nobody:x:4294967295:1:::"] {
            assert_eq!(Account::among(users), None, "{users}");
        }
    }

    #[test]
    fn a_private_folder_is_not_for_everybody() {
        let private = tempfile::tempdir().unwrap();
        assert_eq!(shared_folder(private.path().into()), Path::new(SHARED));
        assert_eq!(shared_folder(SHARED.into()), Path::new(SHARED));
    }
}
