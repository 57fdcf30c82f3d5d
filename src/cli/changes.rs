//! How changes of rows are shown to people, and written as scripts.

use std::io::Write;
use std::path::Path;

use super::{Surroundings, not_exact, ui};
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Inexact, Moment};
use crate::past::Reading;
use crate::store::files::{self, NewFile};
use crate::travel::values::Values;
use crate::travel::{Row, Spans};

/// A longer value is cut in texts for people; JSON has all of it.
const WIDEST_VALUE: usize = 60;

/// Parses the argument of an option or a command that names a moment.
pub(super) fn moment(text: &str, option: &str) -> Result<Moment> {
    Moment::parse(text, ambient::now()).context(Kind::Usage, || option.to_owned())
}

/// Finds the stretch that `--since` and `--until` ask for, and says the remarks on it.
pub(super) fn spans(
    at: &Surroundings,
    reading: &Reading,
    since: Option<&str>,
    until: Option<&str>,
) -> Result<Spans> {
    let since = since.map(|text| moment(text, "--since")).transpose()?;
    let until = until.map(|text| moment(text, "--until")).transpose()?;
    let spans = Spans::between(reading, since.as_ref(), until.as_ref())?;
    spans.notes.iter().for_each(|note| at.ui.say(&format!("note: {note}")));
    Ok(spans)
}

/// Says beside a list what is not exact in it: a list has no place for that, not even in JSON.
pub(super) fn say_inexact(at: &Surroundings, inexact: &[Inexact]) {
    inexact.iter().for_each(|it| at.ui.warn(&not_exact::line(true, it)));
}

/// Describes a change of a row: a line, and then a line for each column with the values before and after. Values that the
/// change changed are marked.
pub(super) fn describe(operation: &str, what: &str, before: Option<&Row>, after: Option<&Row>) -> String {
    let shown = |value: &str| {
        let value = ui::printable(value);
        let cut = value.chars().count() > WIDEST_VALUE;
        if cut { value.chars().take(WIDEST_VALUE - 1).chain(['…']).collect() } else { value }
    };
    let value =
        |value: Option<&str>| value.map_or_else(|| "NULL".to_owned(), |text| format!("'{}'", shown(text)));
    let key = Values::key(before.or(after));
    let key: Vec<_> = key
        .iter()
        .map(|(name, text)| format!("{name}={}", shown(text.as_deref().unwrap_or_default())))
        .collect();
    let mut text = format!("{operation} {} {}", ui::printable(what), key.join(",")).trim_end().to_owned();
    let (old, new): (Vec<_>, Vec<_>) =
        (Values::all(before).iter().collect(), Values::all(after).iter().collect());
    let names: Vec<_> = if new.is_empty() { &old } else { &new }.iter().map(|(name, _)| *name).collect();
    let side = |values: &[(&str, Option<std::borrow::Cow<'_, str>>)], name: &str| {
        let found = values.iter().find(|(it, _)| *it == name);
        found.map_or_else(String::new, |(_, text)| value(text.as_deref()))
    };
    let cells: Vec<_> = names.iter().map(|name| (shown(name), side(&old, name), side(&new, name))).collect();
    let width = |of: &dyn Fn(&(String, String, String)) -> usize| cells.iter().map(of).max().unwrap_or(0);
    let (first, second) = (width(&|it| it.0.chars().count()), width(&|it| it.1.chars().count()));
    for (name, old, new) in &cells {
        let mark = if before.is_some() && after.is_some() && old != new { '*' } else { ' ' };
        let line = format!("  {mark} {name:<first$}  {old:<second$}  {new}");
        text.push('\n');
        text.push_str(line.trim_end());
    }
    text
}

/// Writes a script to a new file, or to standard output for `-`.
pub(super) fn write_script(at: &Surroundings, file: &str, script: &str) -> Result<()> {
    if file == "-" {
        return at.ui.print(&ui::script(script));
    }
    write_new(Path::new(file), script)
}

/// Writes a text into a new file.
pub(super) fn write_new(file: &Path, text: &str) -> Result<()> {
    let name = file.display();
    if files::is_there(file) {
        return Err(Error::refused(format!("{name} exists already; name another file or remove it")));
    }
    let mut new = NewFile::create(file)?;
    new.write_all(text.as_bytes()).context(Kind::Unavailable, || format!("cannot write {name}"))?;
    new.publish()
}
