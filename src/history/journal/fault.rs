//! What is wrong with some bytes, before it is known in which file they lie.

use std::path::Path;

use crate::error::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Sound, but in a version that this program does not know.
    Newer,
    Bad(String),
}

impl Fault {
    pub(super) fn bad(what: impl Into<String>) -> Fault {
        Fault::Bad(what.into())
    }

    /// The error for a person: file, offset in bytes, what, and what to do.
    pub(super) fn at(self, path: &Path, offset: u64) -> Error {
        match self {
            Fault::Newer => newer(path),
            Fault::Bad(what) => Error::damaged(format!(
                "{} is damaged at byte {offset}: {what}; run `backwhen verify` to see how far it reaches",
                path.display()
            )),
        }
    }
}

pub(super) fn newer(path: &Path) -> Error {
    Error::refused(format!("{} was written by a newer backwhen; update backwhen", path.display()))
}
