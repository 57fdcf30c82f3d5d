//! Where PostgreSQL's programs are on this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One folder of server and client programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub major: u32,
    pub bin: PathBuf,
}

impl Installation {
    /// Asks the programs in `bin` for their version; `None` when it holds no whole server.
    pub fn at(bin: &Path) -> Option<Installation> {
        let whole = ["postgres", "initdb", "pg_dump", "psql"].iter().all(|name| bin.join(name).is_file());
        let output = whole.then(|| Command::new(bin.join("postgres")).arg("--version").output().ok())??;
        let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
        Some(Installation { major, bin: bin.to_owned() })
    }

    /// A command that runs one of the programs with nothing of the caller's PostgreSQL settings.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        clear_settings(&mut command);
        // The wheels' dblink and postgres_fdw find their libpq only this way.
        let lib = self.bin.join("../lib");
        if lib.join("libpq.so.5").exists() {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command
    }
}

/// Takes `PG*` and `BACKWHEN_*` out of a child's environment, so that no test depends on them.
pub fn clear_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("BACKWHEN_") {
            command.env_remove(&name);
        }
    }
}

/// The installations here, one for each major, oldest first; `scripts/setup.sh` puts them there.
pub fn installations() -> &'static [Installation] {
    static FOUND: OnceLock<Vec<Installation>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found = BTreeMap::new();
        // The system's own come first: unlike the wheels they know ICU collations.
        for bin in system_folders().into_iter().chain(cached_folders()) {
            if let Some(installation) = Installation::at(&bin) {
                found.entry(installation.major).or_insert(installation);
            }
        }
        found.into_values().collect()
    })
}

/// The majors a test can ask for, oldest first.
pub fn versions() -> Vec<u32> {
    installations().iter().map(|installation| installation.major).collect()
}

/// `postgres (PostgreSQL) 17.11` and `18beta1 (Debian …)` alike.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

fn system_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = children(Path::new("/usr/lib/postgresql"))
        .into_iter()
        .chain(children(Path::new("/usr")).into_iter().filter(|p| p.starts_with_name("pgsql-")))
        .chain(
            children(Path::new("/opt/homebrew/opt"))
                .into_iter()
                .filter(|p| p.starts_with_name("postgresql@")),
        )
        .map(|home| home.join("bin"))
        .collect();
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders
}

fn cached_folders() -> Vec<PathBuf> {
    let chosen = std::env::var_os("BACKWHEN_PG_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home);
    let shared = Some(PathBuf::from("/var/cache/backwhen"));
    [chosen, user.map(|cache| cache.join("backwhen")), shared]
        .into_iter()
        .flatten()
        .flat_map(|cache| children(&cache))
        .map(|home| home.join("bin"))
        .collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

trait StartsWithName {
    fn starts_with_name(&self, prefix: &str) -> bool;
}

impl StartsWithName for PathBuf {
    fn starts_with_name(&self, prefix: &str) -> bool {
        self.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    }
}
