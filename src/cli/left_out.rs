//! Writes the objects that a recovery left out: as a file of SQL, and as lines for people.

use std::io::Write;
use std::path::PathBuf;

use super::ui;
use crate::error::{Context, Kind, Result};
use crate::recover::refused::RefusedObject;
use crate::store::files::{self, NewFile};

/// Writes the SQL of the objects into `NAME.left-out.sql` in the current folder, or under the next free name.
///
/// # Errors
/// Fails with `Unavailable` if the file cannot be written.
pub(super) fn write(database: &str, objects: &[RefusedObject]) -> Result<PathBuf> {
    let path = free_path(database, "left-out", "sql");
    let mut file = NewFile::create(&path)?;
    let written = file.write_all(script(database, objects).as_bytes());
    written.context(Kind::Unavailable, || format!("cannot write {}", path.display()))?;
    file.publish()?;
    Ok(path)
}

/// Returns the first path in the current folder that is free, of those that name the database and the content.
pub(super) fn free_path(database: &str, content: &str, extension: &str) -> PathBuf {
    let plain = |letter: char| if letter.is_alphanumeric() || "-_".contains(letter) { letter } else { '_' };
    let name: String = database.chars().map(plain).collect();
    let numbered = (2..).map(|number| PathBuf::from(format!("{name}.{content}-{number}.{extension}")));
    let mut paths = [PathBuf::from(format!("{name}.{content}.{extension}"))].into_iter().chain(numbered);
    paths.find(|path| !files::is_there(path)).expect("numbers do not end")
}

fn script(database: &str, objects: &[RefusedObject]) -> String {
    let mut text = format!(
        "-- Written by backwhen: what the recovery into {} left out. Mend each cause, then apply what is wanted.\n",
        ui::printable(database)
    );
    for RefusedObject { what, why, sql } in objects {
        text.push_str(&format!("\n-- {}: {}\n{}\n", ui::printable(what), ui::printable(why), sql.trim()));
    }
    text
}

/// Returns a line for each object.
pub(super) fn describe(objects: &[RefusedObject]) -> String {
    let line = |it: &RefusedObject| {
        format!("\nleft out     {}: {}", ui::printable(&it.what), ui::printable(&it.why))
    };
    objects.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_databases_and_objects_are_neither_paths_nor_statements() {
        assert_eq!(free_path("../a b", "left-out", "sql"), PathBuf::from("___a_b.left-out.sql"));
        let object =
            RefusedObject { what: "VIEW v\nDROP TABLE t;".into(), why: "w".into(), sql: "S;".into() };
        let text = script("d\nx", &[object]);
        assert!(
            text.lines().all(|line| line.is_empty() || line.starts_with("-- ") || line == "S;"),
            "{text}"
        );
    }
}
