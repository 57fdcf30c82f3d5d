//! Where `scripts/setup.sh` puts public migration histories.

use std::path::PathBuf;

/// `None`, and a word on standard error, where setup has not put it.
pub fn folder(name: &str) -> Option<PathBuf> {
    let found =
        caches().into_iter().map(|cache| cache.join(name)).find(|it| it.join(".backwhen-version").is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not on this machine: run scripts/setup.sh --all-versions");
    }
    found
}

fn caches() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let user = variable("XDG_CACHE_HOME").or(variable("HOME").map(|home| home.join(".cache")));
    let user = user.map(|cache| cache.join("backwhen"));
    [variable("BACKWHEN_PG_CACHE"), user, Some("/var/cache/backwhen".into())].into_iter().flatten().collect()
}
