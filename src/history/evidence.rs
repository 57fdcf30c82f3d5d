//! What each `verify` found: objects that are written once, for whoever asks later what was proved.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::key::Authorship;
use super::timeline::Edge;
use super::{FORMAT, History, inventory, read_object, write_object};
use crate::error::{Error, Kind, Result};
use crate::model::PgTime;

/// Where it lies in a history.
pub const FOLDER: &str = "evidence";

/// The content of `evidence/TIME.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub format: u32,
    /// When it was begun and done, by the clock of the machine that did it.
    pub started: PgTime,
    pub finished: PgTime,
    pub backwhen: String,
    pub how: How,
    /// The first moment that it speaks of, if it is about all of a window and not about one moment.
    pub from: Option<Edge>,
    /// The last moment that it speaks of; none if nothing could be recovered then.
    pub up_to: Option<Edge>,
    /// Tables whose rows were compared.
    pub tables: Vec<TableDigest>,
    /// Tables that differ.
    pub differences: Vec<String>,
    /// Tables that could not be compared, and why.
    pub not_compared: Vec<String>,
    /// Objects that are damaged or missing.
    pub faults: Vec<String>,
    /// Bytes of objects that were read.
    pub bytes: u64,
    /// The checkpoints that were there and sound, each with the digest of its manifest: none of them
    /// may be gone or another one later.
    pub checkpoints: Vec<(String, String)>,
}

/// What was done, the strongest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Every byte was read, every digest and link checked.
    Read,
    /// Each checkpoint was folded forward and compared with the next.
    Prove,
    /// The moment was recovered into a database, which was read back.
    Restore,
    /// The moment was compared with the source itself.
    AgainstSource,
    /// The same, range by range, and what differed was read.
    Resync,
}

impl How {
    /// As a person types it.
    pub fn command(self) -> &'static str {
        match self {
            How::Read => "verify",
            How::Prove => "verify --prove",
            How::Restore => "verify --restore",
            How::AgainstSource => "check --against-source",
            How::Resync => "resync",
        }
    }
}

/// A table's rows at the moment, independent of their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    pub table: String,
    pub rows: u64,
    /// The sum modulo 2^128 of XXH3-128 of each row's line of COPY text, in hexadecimal digits.
    pub digest: String,
}

impl Evidence {
    /// Nothing found yet.
    pub fn begun(how: How, started: PgTime) -> Evidence {
        Evidence {
            format: FORMAT,
            started,
            finished: started,
            backwhen: env!("CARGO_PKG_VERSION").to_owned(),
            how,
            from: None,
            up_to: None,
            tables: Vec::new(),
            differences: Vec::new(),
            not_compared: Vec::new(),
            faults: Vec::new(),
            bytes: 0,
            checkpoints: Vec::new(),
        }
    }

    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.differences.is_empty()
    }
}

impl History {
    /// All evidence that can be read, with its name, oldest first from the front and newest first from
    /// the back; each is read when it is asked for.
    ///
    /// # Errors
    /// `Unavailable` if the folder cannot be read.
    pub fn evidence(&self) -> Result<impl DoubleEndedIterator<Item = (String, Evidence)>> {
        let names = inventory::names(self.root(), FOLDER, &["json"])?;
        Ok(names.into_iter().filter_map(|name| {
            // A damaged one is named by `verify`, and is no reason to keep the others back.
            let evidence = read_object::<Evidence>(&self.root().join(&name), self.authorship()).ok()??;
            Some((name, evidence))
        }))
    }

    /// Keeps evidence as an object of the history; returns its name.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it.
    pub fn keep_evidence(&self, evidence: &Evidence) -> Result<String> {
        crate::store::files::create_folder(&self.root().join(FOLDER))?;
        let stem = evidence.finished.to_utc().format("%Y%m%dT%H%M%S%6fZ").to_string();
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        for stem in std::iter::once(stem.clone()).chain(numbered) {
            let name = format!("{FOLDER}/{stem}.json");
            let path = self.root().join(&name);
            match write_object(&path, evidence, self.authorship()) {
                Err(error) if error.kind() == Kind::Internal && path.exists() => {}
                written => return written.map(|()| name),
            }
        }
        Err(Error::internal("numbers have an end"))
    }
}

/// Reads one piece of evidence.
///
/// # Errors
/// `Damaged` if it is or is not there.
pub fn check(path: &Path, authorship: &Authorship) -> Result<()> {
    let found: Option<Evidence> = read_object(path, authorship)?;
    found.map(drop).ok_or_else(|| Error::damaged(format!("{} is missing", path.display())))
}
