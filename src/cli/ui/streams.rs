//! Standard output and standard error, written so that no reader and no full disk makes the program panic.

use std::io::{ErrorKind, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::error::{Context, Kind, Result, one_line};

/// Writes a line to standard output. A reader that has gone away, such as `head`, has what it wanted: that
/// is no error.
///
/// # Errors
/// `Unavailable` if standard output does not take the line, as on a full disk.
pub fn write_line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context(Kind::Unavailable, || "cannot write to standard output".into()),
    }
}

/// Writes a line to standard error. If that fails there is nobody left to tell.
pub fn write_aside(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The log's way to standard error: every event is one line, whatever names and messages are in it.
pub struct LogWriter;

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> LogWriter {
        LogWriter
    }
}

impl Write for LogWriter {
    /// `bytes` is a whole event.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        write_aside(&one_line(text.strip_suffix('\n').unwrap_or(&text)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From here on a panic says where it happened and asks for a report. Its message is not shown, since it
/// may hold a row's values.
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
