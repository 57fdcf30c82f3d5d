//! Says what is not exact: once, on standard error, and in a file if there is much of it. The JSON output has all of it.

use std::io::Write;
use std::path::PathBuf;

use super::{Surroundings, left_out, ui};
use crate::error::{Context, Kind, Result};
use crate::model::Inexact;
use crate::store::files::NewFile;

/// More parts than this are told by their number.
const LINES: usize = 10;

/// Returns the line for a part that is not exact, or that perhaps is not.
pub(super) fn line(is_certain: bool, inexact: &Inexact) -> String {
    let certainty = if is_certain { "not exact" } else { "perhaps not exact" };
    format!("{certainty}: {}: {}", inexact.what, inexact.why)
}

/// Says the lines. If there are many, they are written into a file that bears the name of `database`; a command that
/// writes no files gives no name.
pub(super) fn say(at: &Surroundings, lines: &[String], database: Option<&str>) {
    if at.ui.is_json() {
        return;
    }
    if lines.len() <= LINES {
        return lines.iter().for_each(|line| at.ui.warn(line));
    }
    let place = match database.map(|database| write(database, lines)) {
        Some(Ok(path)) => format!("they are in {}", path.display()),
        Some(Err(error)) => format!("see them with --output json ({error})"),
        None => "see them with --output json".to_owned(),
    };
    at.ui.warn(&format!("not exact: {} parts of the database; {place}", lines.len()));
}

/// Says the parts that are not exact. The JSON report has them.
pub(super) fn say_of(at: &Surroundings, inexact: &[Inexact]) {
    let lines: Vec<_> = inexact.iter().map(|it| line(true, it)).collect();
    say(at, &lines, None);
}

fn write(database: &str, lines: &[String]) -> Result<PathBuf> {
    let path = left_out::free_path(database, "not-exact", "txt");
    let mut file = NewFile::create(&path)?;
    let text: String = lines.iter().map(|line| ui::printable(line) + "\n").collect();
    file.write_all(text.as_bytes())
        .context(Kind::Unavailable, || format!("cannot write {}", path.display()))?;
    file.publish()?;
    Ok(path)
}
