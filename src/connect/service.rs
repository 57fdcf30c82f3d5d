//! Connection service files (`~/.pg_service.conf` and the system's own).

use std::path::PathBuf;

use super::settings::{Lookup, Settings};
use crate::error::{Context, Error, Kind, Result};

/// The system's service files: of Debian's packages, and PostgreSQL's own default.
const SYSTEM_FOLDERS: &[&str] = &["/etc/postgresql-common", "/usr/local/pgsql/etc"];

/// Fills in the values of the named service, if one is named. The user's file is searched first, then the system's.
///
/// # Errors
/// Fails with usage if no file has the service or a file is malformed, and with unavailable if a file cannot be read.
pub fn fill(settings: &mut Settings, lookup: Lookup<'_>) -> Result<()> {
    let Some(name) = settings.get("service").map(str::to_owned).or_else(|| lookup("PGSERVICE")) else {
        return Ok(());
    };
    settings.replace("service", name.clone());
    let own =
        settings.get("servicefile").map(PathBuf::from).or_else(|| lookup("PGSERVICEFILE").map(PathBuf::from));
    let named = own.is_some();
    let home = lookup("HOME").map(|home| PathBuf::from(home).join(".pg_service.conf"));
    let mut files: Vec<PathBuf> = own.or(home).into_iter().collect();
    if named && !files[0].exists() {
        return Err(Error::usage(format!("the service file {} does not exist", files[0].display())));
    }
    match lookup("PGSYSCONFDIR") {
        Some(folder) => files.push(PathBuf::from(folder).join("pg_service.conf")),
        None => {
            files.extend(SYSTEM_FOLDERS.iter().map(|folder| PathBuf::from(folder).join("pg_service.conf")))
        }
    }
    for file in files.iter().filter(|file| file.exists()) {
        let text = std::fs::read_to_string(file)
            .context(Kind::Unavailable, || format!("could not read the service file {}", file.display()))?;
        let place = file.display().to_string();
        if fill_from_text(&text, &name, &place, settings)? {
            return Ok(());
        }
    }
    let places: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    Err(Error::usage(format!("the service {name:?} is in none of {}; add it there", places.join(", "))))
}

/// Fills in the service's values; returns whether the text has the service.
fn fill_from_text(text: &str, name: &str, place: &str, settings: &mut Settings) -> Result<bool> {
    let mut found = false;
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            if found {
                return Ok(true);
            }
            found = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) == Some(name);
        } else if found {
            let (keyword, value) = line.split_once('=').ok_or_else(|| {
                Error::usage(format!("{place}:{number}: a line of a service is keyword=value"))
            })?;
            if keyword.trim() == "service" {
                return Err(Error::usage(format!("{place}:{number}: a service cannot name another service")));
            }
            settings.fill(keyword.trim(), value.trim())?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# ours\n[other]\nhost=wrong\n\n[prod]\nhost=db\nport = 77\npassword=x\n[late]\nhost=no\n";

    #[test]
    fn fills_only_what_was_not_said() {
        let mut settings = Settings::default();
        settings.set("port", "1").unwrap();
        assert!(fill_from_text(FILE, "prod", "f", &mut settings).unwrap());
        assert_eq!(settings.get("host"), Some("db"));
        assert_eq!(settings.get("port"), Some("1"));
        assert!(!fill_from_text(FILE, "absent", "f", &mut Settings::default()).unwrap());
    }

    #[test]
    fn asks_the_own_file_and_then_the_system() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pg_service.conf"), FILE).unwrap();
        let path = folder.path().to_string_lossy().into_owned();
        let lookup = |name: &str| match name {
            "PGSYSCONFDIR" | "HOME" => Some(path.clone()),
            "PGSERVICE" => Some("late".to_owned()),
            _ => None,
        };
        let mut settings = Settings::default();
        fill(&mut settings, &lookup).unwrap();
        assert_eq!(settings.get("host"), Some("no"));

        let mut settings = Settings::default();
        settings.set("service", "absent").unwrap();
        let error = fill(&mut settings, &lookup).unwrap_err();
        assert!(error.message().contains("\"absent\""), "{error}");
    }
}
