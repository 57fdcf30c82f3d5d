//! The only module that writes to the terminal: results to standard output, messages and progress to standard error.

mod streams;
mod table;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Local};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::{Global, OutputFormat};
pub use crate::error::one_line as printable;
use crate::error::{Context, Error, Kind, Result, is_hazard};
use crate::model::PgTime;
use crate::progress::{Progress, Silent, Unit};
pub use streams::explain_panics;
use streams::{LogWriter, is_unread, write_aside, write_line};
pub use table::table;

#[derive(Clone, Default)]
pub struct Ui {
    output: OutputFormat,
    bars: bool,
    quiet: bool,
}

impl Ui {
    /// Also sets up logging. `service` says that the command keeps running and logs its progress.
    pub fn new(global: &Global, service: bool) -> Ui {
        let level = match (global.quiet, global.verbose, service) {
            (true, _, _) => "error",
            (false, 0, false) => "warn",
            (false, 0, true) | (false, 1, false) => "info",
            (false, 1, true) | (false, _, false) => "debug",
            _ => "trace",
        };
        let filter = EnvFilter::try_from_env("BACKWHEN_LOG")
            .unwrap_or_else(|_| EnvFilter::new(format!("backwhen={level}")));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
        // Colours are escape sequences, which cannot be told from harmful ones, and an error of the writer panics.
        let log = log.with_ansi(false).log_internal_errors(false).with_writer(LogWriter);
        let started =
            if std::io::stderr().is_terminal() { log.without_time().try_init() } else { log.try_init() };
        // Logging is set up a second time only in tests, where the first set-up is enough.
        drop(started);
        let bars = std::io::stderr().is_terminal() && !global.no_progress && !global.quiet;
        Ui { output: global.output, bars, quiet: global.quiet }
    }

    pub fn is_json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    pub fn is_prometheus(&self) -> bool {
        self.output == OutputFormat::Prometheus
    }

    /// Writes text that has a format of its own.
    ///
    /// # Errors
    /// Fails with `Unavailable` if writing to standard output fails.
    pub fn print(&self, text: &str) -> Result<()> {
        write_line(text.trim_end())
    }

    /// Writes the result, as one JSON object or as text for people.
    ///
    /// # Errors
    /// Fails with `Unavailable` if writing to standard output fails.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            OutputFormat::Json => write_line(&to_json(value)?),
            OutputFormat::Text | OutputFormat::Prometheus => write_line(text().trim_end()),
        }
    }

    /// Writes one of many results, which take long to find.
    ///
    /// # Errors
    /// Fails when [`Ui::result`] does, and if nobody reads the results: see [`Ui::heard`].
    pub fn item(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        self.result(value, text)?;
        if is_unread() { Err(Error::unavailable("nobody reads standard output any more")) } else { Ok(()) }
    }

    /// The outcome of a search whose results were written by [`Ui::item`]. If their reader has gone away, such as `head`, the
    /// search ended early, and that is no error.
    ///
    /// # Errors
    /// The search's own.
    pub fn heard<T: Default>(&self, found: Result<T>) -> Result<T> {
        if is_unread() { Ok(T::default()) } else { found }
    }

    /// Writes a result to standard error, for commands whose standard output carries something else.
    ///
    /// # Errors
    /// Fails with `Internal` if the result cannot be written as JSON.
    pub fn result_beside(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            OutputFormat::Json => write_aside(&to_json(value)?),
            OutputFormat::Text | OutputFormat::Prometheus if self.quiet => {}
            OutputFormat::Text | OutputFormat::Prometheus => write_aside(&printable_lines(text().trim_end())),
        }
        Ok(())
    }

    /// Writes a list, as one JSON object for each line or as text.
    ///
    /// # Errors
    /// Fails when [`Ui::result`] does.
    pub fn list<T: Serialize>(&self, values: &[T], text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            OutputFormat::Json => values.iter().try_for_each(|value| write_line(&to_json(value)?)),
            OutputFormat::Text | OutputFormat::Prometheus => write_line(text().trim_end()),
        }
    }

    /// Writes a message beside the result.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            write_aside(&printable(text));
        }
    }

    /// Writes a message that a person must not miss, also with --quiet.
    pub fn warn(&self, text: &str) {
        write_aside(&printable(text));
    }

    pub fn error(&self, error: &Error) {
        if self.is_json() {
            #[derive(Serialize)]
            struct ErrorReport<'a> {
                error: String,
                kind: String,
                exit_code: u8,
                message: &'a str,
            }
            let said = ErrorReport {
                error: error.to_string(),
                kind: format!("{:?}", error.kind()),
                exit_code: error.kind().exit_code(),
                message: error.message(),
            };
            write_aside(&to_json(&said).unwrap_or_default());
        } else {
            explain(error);
        }
    }

    /// Returns a progress bar on a terminal, and a silent one elsewhere.
    pub fn progress(&self) -> Arc<dyn Progress> {
        if self.bars { Arc::new(Bar::default()) } else { Arc::new(Silent) }
    }
}

/// Writes an error to standard error, for people.
pub fn explain(error: &Error) {
    write_aside(&format!("backwhen: {}", indented(&error.to_string())));
}

/// Escapes JSON so that no character of it can control the terminal: such characters are only inside strings, where
/// JSON has an escape for each.
fn to_json(value: &impl Serialize) -> Result<String> {
    let text =
        serde_json::to_string(value).context(Kind::Internal, || "cannot write the result as JSON".into())?;
    if !text.contains(is_hazard) {
        return Ok(text);
    }
    let escaped = |c| if is_hazard(c) { format!("\\u{:04x}", u32::from(c)) } else { String::from(c) };
    Ok(text.chars().map(escaped).collect())
}

/// Makes each line of a text printable, as [`printable`] does.
fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Does the same and indents all lines but the first, so that none of them can be taken for a message of its own.
fn indented(text: &str) -> String {
    let mut lines = text.split('\n').map(printable);
    let first = lines.next().unwrap_or_default();
    lines.fold(first, |text, line| {
        let indent = if line.is_empty() || line.starts_with(' ') { "" } else { "  " };
        text + "\n" + indent + &line
    })
}

/// Prepares a script for standard output: unchanged for a file or another program, harmless for a terminal.
pub fn script(text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    text.split('\t').map(printable_lines).collect::<Vec<_>>().join("\t")
}

/// Quotes a word for a shell, where it needs quotes.
pub fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=./:,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Formats a time in UTC and in this machine's zone.
pub fn both_times(time: PgTime) -> String {
    let local: DateTime<Local> = time.to_utc().into();
    format!("{time} ({} local)", local.format("%Y-%m-%d %H:%M:%S%.6f %:z"))
}

/// Returns the warning for a history at `root` that other users can read or change.
pub fn open_to_others(root: &Path) -> String {
    let root = root.display().to_string();
    format!(
        "other users of this machine may read the history or change it; shut them out with: chmod -R go= {}",
        printable(&root)
    )
}

/// Formats a number of bytes for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = count as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Progress for Bar {
    fn phase(&self, name: &str, total: u64, unit: Unit) {
        let Ok(mut current) = self.0.lock() else { return };
        if let Some(bar) = current.take() {
            bar.finish_and_clear();
        }
        let count = match (unit, total) {
            (Unit::Bytes, 0) => "{bytes}",
            (Unit::Bytes, _) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            (_, 0) => "{human_pos}",
            (_, _) => "{bar:30} {human_pos} of {human_len}",
        };
        let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
        if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {{msg}} {count}")) {
            bar.set_style(style);
        }
        bar.set_message(printable(name));
        bar.enable_steady_tick(Duration::from_millis(120));
        *current = Some(bar);
    }

    fn advance(&self, count: u64) {
        if let Ok(current) = self.0.lock()
            && let Some(bar) = &*current
        {
            bar.inc(count);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Ok(mut current) = self.0.lock()
            && let Some(bar) = current.take()
        {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\r"), "a\u{fffd}[2Jb\u{fffd}");
        assert!(!table(&["name"], &[vec!["x\u{7}".into()]]).contains('\u{7}'));
    }

    #[test]
    fn a_second_line_is_never_taken_for_a_message() {
        let text = "pg_dump failed: no\nbackwhen: all is well\n\n  - ours\r";
        assert_eq!(indented(text), "pg_dump failed: no\n  backwhen: all is well\n\n  - ours\u{fffd}");
    }

    #[test]
    fn json_is_whole_and_commands_no_terminal() {
        let name = "a\n\u{1b}\u{7f}\u{9b}0m\u{202e}\"\\ü";
        let text = to_json(&name).unwrap();
        assert!(!text.contains(is_hazard), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), name);
    }

    #[test]
    fn bytes_are_short() {
        assert_eq!((bytes(0), bytes(1023), bytes(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
    }
}
