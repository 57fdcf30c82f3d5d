//! Writes to standard output and standard error so that no absent reader and no full disk makes the program panic.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::fmt::MakeWriter;

use crate::error::{Context, Kind, Result, one_line};

/// Whether the reader of standard output has gone away.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

pub fn is_unread() -> bool {
    IS_UNREAD.load(Ordering::Relaxed)
}

/// Writes a line to standard output. A reader that has gone away, such as `head`, has read all it wanted; that is no
/// error.
///
/// # Errors
/// `Unavailable` if standard output does not take the line, as on a full disk.
pub fn write_line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            IS_UNREAD.store(true, Ordering::Relaxed);
            Ok(())
        }
        written => written.context(Kind::Unavailable, || "cannot write to standard output".into()),
    }
}

/// Writes a line to standard error. A failure is ignored, since there is nowhere left to report it.
pub fn write_aside(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes the log to standard error. Every event takes one line, whatever names and messages it contains.
pub struct LogWriter;

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter
    }
}

impl Write for LogWriter {
    /// Writes `bytes`, which is a whole event.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        write_aside(&one_line(text.strip_suffix('\n').unwrap_or(&text)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From here on, a panic prints its place and asks for a report. Its message is not printed, since it may hold a row's
/// values.
pub fn explain_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        write_aside(&format!(
            "backwhen: internal error at {place} in version {}; please report this line",
            env!("CARGO_PKG_VERSION")
        ));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            write_aside(&trace.to_string());
        }
    }));
}
