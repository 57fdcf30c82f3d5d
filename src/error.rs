//! Errors, sorted by what the caller should do about them.

mod one_line;

use std::fmt;

pub use one_line::{is_hazard, one_line};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error. The number is the process's exit code, which is a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line or the configuration is wrong: change it.
    Usage = 2,
    /// A server or the disk did not do its part now: try again.
    Unavailable = 10,
    /// The moment is outside the window or in a gap: choose another.
    OutsideWindow = 11,
    /// The history holds damaged bytes: repair it.
    Damaged = 12,
    /// Another process holds the history: wait for it.
    Locked = 13,
    /// Going on would break something, or a precondition is missing: mend that first.
    Refused = 14,
    /// All else is recovered, but the target refused some objects: see which.
    Incomplete = 15,
    /// A fault in backwhen itself.
    Internal = 70,
    /// Stopped by the user.
    Interrupted = 130,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// The advice in errors about damage.
pub const SEE_ALL_DAMAGE: &str = "; see all that is damaged with: backwhen verify";

/// Returns a message without the advice to run `verify`, for `verify` itself.
pub fn without_verify(message: &str) -> String {
    message.replace(&format!("{SEE_ALL_DAMAGE} --prove"), "").replace(SEE_ALL_DAMAGE, "")
}

/// One message for a person (what, where, and what to type next), and the cause beneath it.
///
/// The message never holds a row's values.
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, message)
    }

    pub fn outside_window(message: impl Into<String>) -> Error {
        Error::new(Kind::OutsideWindow, message)
    }

    pub fn damaged(message: impl Into<String>) -> Error {
        Error::new(Kind::Damaged, message)
    }

    /// Damage that was met by work that needs the object, and that `verify` shows in full.
    pub fn damage_met(message: impl fmt::Display) -> Error {
        Error::damaged(format!("{message}{SEE_ALL_DAMAGE}"))
    }

    pub fn locked(message: impl Into<String>) -> Error {
        Error::new(Kind::Locked, message)
    }

    pub fn refused(message: impl Into<String>) -> Error {
        Error::new(Kind::Refused, message)
    }

    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Kind::Internal, message)
    }

    pub fn interrupted() -> Error {
        Error::new(Kind::Interrupted, "interrupted")
    }

    /// Keeps the cause, to be shown after the message.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(tokio::task::JoinError::is_panic) {
                // A panic's message may hold a row's values, so it is left out; the panic's place was printed at once.
                return f.write_str(": it panicked; please report this");
            }
            write!(f, ": {error}")?;
            // A server's error says all in its own Display; its sources would repeat it.
            cause = if error.is::<Error>() { None } else { error.source() };
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &dyn std::error::Error)
    }
}

/// Adds to a foreign error what was being done, and what kind of failure that makes it.
pub trait Context<T> {
    /// # Errors
    /// The cause, as an error of `kind` with `message` before it.
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(kind, message()).caused_by(cause))
    }
}
