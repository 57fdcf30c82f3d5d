//! Finds the client programs, and chooses which of them to use.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::connect::Conninfo;
use crate::error::{Error, Result};

/// The variable that names the only folder from which programs are taken.
pub const FOLDER_VARIABLE: &str = "BACKWHEN_PG_BIN";

/// The first major version whose programs support `require_auth`.
const KNOWS_REQUIRE_AUTH: u32 = 16;

/// A folder with at least pg_dump and pg_restore, both of one major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub folder: PathBuf,
    pub major: u32,
}

impl Installation {
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Checks that the programs honour the connection's `require_auth`; older ones would ignore it silently, and give
    /// a server a proof that the setting forbids.
    ///
    /// # Errors
    /// Fails with `Refused` if the programs do not support it.
    pub fn keeps_require_auth(&self, info: &Conninfo) -> Result<()> {
        if info.setting("require_auth").is_none() || self.major >= KNOWS_REQUIRE_AUTH {
            return Ok(());
        }
        Err(Error::refused(format!(
            "pg_dump and pg_restore {} do not know require_auth; install the client programs of PostgreSQL \
             {KNOWS_REQUIRE_AUTH} or later, or take require_auth out of the connection string and use \
             channel_binding=require",
            self.major
        )))
    }
}

/// The installations of this machine, one for each major, oldest first.
#[derive(Clone, Debug)]
pub struct Tools {
    installations: Vec<Installation>,
    /// The installations that have a server's programs too.
    servers: Vec<Installation>,
    looked_in: Vec<PathBuf>,
}

impl Tools {
    /// Searches only `folder` (or `BACKWHEN_PG_BIN`) if one is given; otherwise `PATH` and the folders where packages
    /// install PostgreSQL.
    ///
    /// # Errors
    /// Fails with `Refused`, and says what to install, if no installation is found.
    pub fn find(folder: Option<&Path>) -> Result<Tools> {
        let folders = match folder.map(Path::to_owned).or_else(folder_from_environment) {
            Some(folder) => vec![folder],
            None => usual_folders(),
        };
        let majors = majors_in(&folders);
        let found = || folders.iter().zip(&majors).filter_map(|(folder, major)| Some((folder, (*major)?)));
        let holds_server =
            |folder: &Path| ["postgres", "initdb"].iter().all(|program| folder.join(program).is_file());
        let installations = first_of_each_major(found());
        let servers = first_of_each_major(found().filter(|(folder, _)| holds_server(folder)));
        let tools = Tools { installations, servers, looked_in: folders };
        if tools.installations.is_empty() {
            Err(tools.missing("PostgreSQL's client programs", None))
        } else {
            Ok(tools)
        }
    }

    pub fn installations(&self) -> &[Installation] {
        &self.installations
    }

    /// Chooses the programs that dump a server of major version `server`: the same major if installed, else the
    /// nearest newer one.
    ///
    /// # Errors
    /// Fails with `Refused` if all are older than the server.
    pub fn for_dump(&self, server: u32) -> Result<&Installation> {
        self.installations
            .iter()
            .find(|tool| tool.major >= server)
            .ok_or_else(|| self.missing(&format!("pg_dump {server} or newer"), Some(server)))
    }

    /// Chooses the programs that restore an archive of pg_dump `archive` into a server of major `target`: the newest
    /// major that is not newer than the target, so that it sends nothing that the target does not support; else the
    /// nearest that can read the archive.
    ///
    /// # Errors
    /// Fails with `Refused` if all are older than the archive.
    pub fn for_restore(&self, archive: u32, target: u32) -> Result<&Installation> {
        let able = || self.installations.iter().filter(|tool| tool.major >= archive);
        able()
            .rfind(|tool| tool.major <= target)
            .or_else(|| able().next())
            .ok_or_else(|| self.missing(&format!("pg_restore {archive} or newer"), Some(archive)))
    }

    /// Chooses the programs of a server that can execute definitions of a server of major version `source`: the same
    /// major if installed, else the nearest newer one; `None` if no such programs are installed.
    pub fn for_server(&self, source: u32) -> Option<&Installation> {
        self.servers.iter().find(|tool| tool.major >= source)
    }

    /// The newest programs of a server.
    ///
    /// # Errors
    /// Fails with `Refused` if no server's programs are installed.
    pub fn newest_server(&self) -> Result<&Installation> {
        self.servers.last().ok_or_else(|| self.missing("PostgreSQL's server programs", None))
    }

    fn missing(&self, what: &str, major: Option<u32>) -> Error {
        let folders: Vec<_> = self.looked_in.iter().map(|folder| folder.display().to_string()).collect();
        let found: Vec<_> = self.installations.iter().map(|tool| tool.major.to_string()).collect();
        let found =
            if found.is_empty() { String::new() } else { format!("; found only {}", found.join(", ")) };
        let major = major.map_or(String::from("17"), |major| major.to_string());
        Error::refused(format!(
            "{what} not found (looked in {}{found}); install it (apt-get install postgresql-client-{major}, dnf \
             install postgresql{major}, brew install postgresql@{major}) or name its folder with {FOLDER_VARIABLE}",
            if folders.is_empty() { "no folder".into() } else { folders.join(", ") }
        ))
    }
}

fn first_of_each_major<'a>(found: impl Iterator<Item = (&'a PathBuf, u32)>) -> Vec<Installation> {
    let mut by_major = BTreeMap::new();
    for (folder, major) in found {
        by_major.entry(major).or_insert_with(|| folder.clone());
    }
    by_major.into_iter().map(|(major, folder)| Installation { folder, major }).collect()
}

fn folder_from_environment() -> Option<PathBuf> {
    std::env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns the folders of `PATH` that contain a pg_dump, then the folders where packages install it, newest first.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for (parent, prefix, suffix) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
    ] {
        let children = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let mut found: Vec<_> = children
            .filter(|child| child.file_name().to_string_lossy().starts_with(prefix))
            .map(|child| child.path().join(suffix))
            .collect();
        found.sort();
        folders.extend(found.into_iter().rev());
    }
    // `/bin` is often `/usr/bin`.
    let mut seen = HashSet::new();
    folders.retain(|folder| {
        folder.join("pg_dump").is_file()
            && !is_wrapped(folder)
            && folder.canonicalize().is_ok_and(|place| seen.insert(place))
    });
    folders
}

/// Debian's `/usr/bin` has a script under each name that searches for a cluster and then runs the program in
/// `/usr/lib/postgresql`. The program is found there too, without the tenth of a second that the script takes each
/// time.
fn is_wrapped(folder: &Path) -> bool {
    folder.join("pg_dump").canonicalize().is_ok_and(|program| program.ends_with("pg_wrapper"))
}

/// The versions are asked for concurrently, as every command that may need one waits for all of them.
fn majors_in(folders: &[PathBuf]) -> Vec<Option<u32>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = folders.iter().map(|folder| scope.spawn(|| major_in(folder))).collect();
        asked.into_iter().map(|answer| answer.join().ok().flatten()).collect()
    })
}

/// Returns the major version of the programs in `folder`; `None` if pg_dump or pg_restore is missing or does not run,
/// or if they differ.
fn major_in(folder: &Path) -> Option<u32> {
    let (dump, restore) = std::thread::scope(|scope| {
        let restore = scope.spawn(|| major_of(&folder.join("pg_restore")));
        (major_of(&folder.join("pg_dump")), restore.join().ok().flatten())
    });
    dump.filter(|_| dump == restore)
}

fn major_of(program: &Path) -> Option<u32> {
    let output =
        Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse_major(std::str::from_utf8(&output.stdout).ok()?)
}

/// Parses the major in `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta1` or `… 17devel`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn tools(majors: &[u32]) -> Tools {
        let installations = majors
            .iter()
            .map(|major| Installation { folder: format!("/{major}").into(), major: *major })
            .collect();
        Tools { installations, servers: Vec::new(), looked_in: vec!["/somewhere".into()] }
    }

    #[test]
    fn programs_that_would_pass_over_require_auth_are_refused() {
        let info = |text: &str| Conninfo::parse_in(text, &|_| None).unwrap();
        let strict = info("host=h user=u require_auth=scram-sha-256");
        let tool = |major| Installation { folder: "/nowhere".into(), major };
        assert!(tool(15).keeps_require_auth(&strict).is_err());
        assert!(tool(16).keeps_require_auth(&strict).is_ok());
        assert!(tool(14).keeps_require_auth(&info("host=h user=u")).is_ok());
    }

    #[test]
    fn reads_the_major_of_every_way_to_write_a_version() {
        for (text, major) in [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("pg_restore (PostgreSQL) 18beta1\n", Some(18)),
            ("pg_dump (PostgreSQL) 17devel\n", Some(17)),
            ("nonsense\n", None),
        ] {
            assert_eq!(parse_major(text), major, "{text}");
        }
    }

    #[test]
    fn dumps_with_the_same_major_or_the_nearest_newer_one() {
        let tools = tools(&[14, 15, 17, 18]);
        assert_eq!(tools.for_dump(15).unwrap().major, 15);
        assert_eq!(tools.for_dump(16).unwrap().major, 17);
        let error = tools.for_dump(19).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains("/somewhere") && error.message().contains("client-19"), "{error}");
    }

    #[test]
    fn restores_with_what_reads_the_archive_and_suits_the_target() {
        let tools = tools(&[14, 15, 17]);
        assert_eq!(tools.for_restore(14, 16).unwrap().major, 15);
        assert_eq!(tools.for_restore(15, 18).unwrap().major, 17);
        assert_eq!(tools.for_restore(17, 15).unwrap().major, 17);
        assert!(tools.for_restore(18, 18).is_err());
    }

    #[test]
    fn debians_wrappers_are_passed_by() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pg_wrapper"), "").unwrap();
        std::fs::write(folder.path().join("psql"), "").unwrap();
        assert!(!is_wrapped(folder.path()));
        std::os::unix::fs::symlink("psql", folder.path().join("pg_dump")).unwrap();
        assert!(!is_wrapped(folder.path()));
        std::fs::remove_file(folder.path().join("pg_dump")).unwrap();
        std::os::unix::fs::symlink("pg_wrapper", folder.path().join("pg_dump")).unwrap();
        assert!(is_wrapped(folder.path()));
    }

    #[test]
    fn a_named_folder_is_the_only_one_looked_in() {
        let empty = tempfile::tempdir().unwrap();
        let error = Tools::find(Some(empty.path())).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains(&empty.path().display().to_string()), "{error}");
    }
}
