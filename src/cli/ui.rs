//! The only place that talks to the terminal: results on standard output, talk and progress on
//! standard error.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Local};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::{Global, Output};
use crate::error::{Context, Error, Kind, Result};
use crate::model::PgTime;
use crate::progress::{Progress, Silent, Unit};

#[derive(Clone)]
pub struct Ui {
    output: Output,
    bars: bool,
    quiet: bool,
}

impl Ui {
    /// Sets up logging as well. `service`: the command runs on and tells what it does.
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
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(Talk);
        let started = match std::io::stderr().is_terminal() {
            true => log.without_time().try_init(),
            false => log.with_ansi(false).try_init(),
        };
        // A second time only in tests, where the first one serves.
        drop(started);
        let bars = std::io::stderr().is_terminal() && !global.no_progress && !global.quiet;
        Ui { output: global.output, bars, quiet: global.quiet }
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub fn is_prometheus(&self) -> bool {
        self.output == Output::Prometheus
    }

    /// Writes text that is a format of its own.
    ///
    /// # Errors
    /// `Unavailable` if standard output does not take it.
    pub fn print(&self, text: &str) -> Result<()> {
        self.write(text.trim_end())
    }

    /// Writes the result, as one JSON object or as text for people.
    ///
    /// # Errors
    /// `Unavailable` if standard output does not take it.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            Output::Json => self.write(&to_json(value)?),
            Output::Text | Output::Prometheus => self.write(text().trim_end()),
        }
    }

    /// Writes a result to standard error, where standard output carries something else.
    ///
    /// # Errors
    /// `Internal` if it cannot be written as JSON.
    pub fn result_beside(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            Output::Json => eprintln!("{}", to_json(value)?),
            Output::Text | Output::Prometheus => self.say(text().trim_end()),
        }
        Ok(())
    }

    /// Writes a list: one JSON object a line, or as text.
    ///
    /// # Errors
    /// As [`Ui::result`].
    pub fn list<T: Serialize>(&self, values: &[T], text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            Output::Json => values.iter().try_for_each(|value| self.write(&to_json(value)?)),
            Output::Text | Output::Prometheus => self.write(text().trim_end()),
        }
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        written.context(Kind::Unavailable, || "cannot write to standard output".into())
    }

    /// Says something beside the result.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", printable(text));
        }
    }

    pub fn error(&self, error: &Error) {
        if self.is_json() {
            #[derive(Serialize)]
            struct Said<'a> {
                error: String,
                kind: String,
                exit_code: u8,
                message: &'a str,
            }
            let said = Said {
                error: error.to_string(),
                kind: format!("{:?}", error.kind()),
                exit_code: error.kind().exit_code(),
                message: error.message(),
            };
            eprintln!("{}", serde_json::to_string(&said).unwrap_or_default());
        } else {
            eprintln!("backwhen: {}", printable(&error.to_string()));
        }
    }

    /// A progress bar on a terminal, nothing elsewhere.
    pub fn progress(&self) -> Arc<dyn Progress> {
        if self.bars { Arc::new(Bar::default()) } else { Arc::new(Silent) }
    }
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context(Kind::Internal, || "cannot write the result as JSON".into())
}

/// Text that cannot command the terminal: names from the source may hold anything.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A script for standard output: as it is for a file or another program, harmless for a terminal.
pub fn script(text: &str) -> String {
    match std::io::stdout().is_terminal() {
        true => text.split('\t').map(printable).collect::<Vec<_>>().join("\t"),
        false => text.to_owned(),
    }
}

/// A time in UTC and in this machine's zone.
pub fn both_times(time: PgTime) -> String {
    let local: DateTime<Local> = time.to_utc().into();
    format!("{time} ({} local)", local.format("%Y-%m-%d %H:%M:%S%.6f %:z"))
}

/// Bytes for people.
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

/// Rows under a head, in columns.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<_> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head: Vec<_> = head.iter().map(|cell| cell.to_uppercase()).collect();
    let lines = std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Standard error for the log, without what could command a terminal.
struct Talk;

impl<'a> MakeWriter<'a> for Talk {
    type Writer = std::io::Stderr;

    fn make_writer(&'a self) -> Self::Writer {
        std::io::stderr()
    }
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
        bar.set_message(name.to_owned());
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
    fn bytes_are_short() {
        assert_eq!((bytes(0), bytes(1023), bytes(1536)), ("0 B".into(), "1023 B".into(), "1.5 KiB".into()));
    }
}
