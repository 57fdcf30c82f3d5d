//! Evidence: the findings of each verification, kept as objects, so that it can be told later what was proved.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::resync::TableResync;
use super::{FORMAT, History, read_object, write_object};
use crate::ambient;
use crate::error::Result;
use crate::model::schema_digests::SchemaProof;
use crate::model::{Edge, PgTime};
use crate::store::{ObjectKind, ObjectName};

/// The content of `evidence/TIME.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub format: u32,
    /// When the verification began and ended, by the clock of the machine that carried it out.
    pub started: PgTime,
    pub finished: PgTime,
    pub backwhen: String,
    pub how: CheckMethod,
    /// The first moment that the evidence is about, if it is about all of a window and not about one moment.
    pub from: Option<Edge>,
    /// The last moment that the evidence is about; `None` if no moment could be recovered then.
    pub up_to: Option<Edge>,
    /// Tables whose rows were compared.
    pub tables: Vec<TableDigest>,
    /// The outcome of comparing the definitions by digests, if a moment was recovered or compared with the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaProof>,
    /// Tables and definitions that differ.
    pub differences: Vec<String>,
    /// Tables that could not be compared, and why.
    pub not_compared: Vec<String>,
    /// Objects that are damaged or missing.
    pub faults: Vec<String>,
    /// Bytes of objects that were read.
    pub bytes: u64,
    /// How long a recovery took but for the journal, and what the journal took of it, if a moment was recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loading: Option<Measured>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folding: Option<Measured>,
    /// The sound checkpoints, each with the digest of its manifest. Later verifications miss a checkpoint that is gone,
    /// and notice one whose manifest is another.
    pub checkpoints: Vec<(String, String)>,
}

/// How long a part of a recovery took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub milliseconds: u64,
    /// The bytes for which it took that time, as they lie in the history: of the checkpoint's blocks, or of segments.
    pub bytes: u64,
}

impl Measured {
    pub fn of(time: Duration, bytes: u64) -> Measured {
        Measured { milliseconds: time.as_millis() as u64, bytes }
    }
}

/// How the history was checked. A later variant is the stronger check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckMethod {
    /// Every byte was read, every digest and link checked.
    Read,
    /// Each checkpoint was folded forward and compared with the next.
    Prove,
    /// The moment was recovered into a database, which was read back.
    Restore,
    /// The moment was compared with the source itself.
    AgainstSource,
    /// The moment was compared with the source range by range, and rows that differed were read from the source.
    Resync,
}

impl CheckMethod {
    /// Returns the command that makes such a check, as a person types it.
    pub fn command(self) -> &'static str {
        match self {
            CheckMethod::Read => "verify",
            CheckMethod::Prove => "verify --prove",
            CheckMethod::Restore => "verify --restore",
            CheckMethod::AgainstSource => "check --against-source",
            CheckMethod::Resync => "resync",
        }
    }
}

/// The digest of a table's rows at the moment, which does not depend on their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    pub table: String,
    pub rows: u64,
    /// The sum modulo 2^128 of XXH3-128 of each row's line of COPY text, in hexadecimal digits.
    pub digest: String,
}

impl From<&TableResync> for TableDigest {
    fn from(it: &TableResync) -> TableDigest {
        TableDigest { table: it.table.clone(), rows: it.rows, digest: it.digest.clone() }
    }
}

impl Evidence {
    /// Begins evidence without findings.
    pub fn begun(how: CheckMethod, started: PgTime) -> Evidence {
        Evidence {
            format: FORMAT,
            started,
            finished: started,
            backwhen: env!("CARGO_PKG_VERSION").to_owned(),
            how,
            from: None,
            up_to: None,
            tables: Vec::new(),
            schema: None,
            differences: Vec::new(),
            not_compared: Vec::new(),
            faults: Vec::new(),
            bytes: 0,
            loading: None,
            folding: None,
            checkpoints: Vec::new(),
        }
    }

    /// Returns the evidence of the resynchronisation that began at `started` about an epoch's first checkpoint: each table
    /// that was compared is as the source had it. `None` if no table was compared.
    pub fn of_resync(checkpoint: &Checkpoint, started: PgTime) -> Option<Evidence> {
        let resync = checkpoint.resync.as_ref().filter(|resync| !resync.tables.is_empty())?;
        let mut evidence = Evidence::begun(CheckMethod::Resync, started);
        evidence.finished = PgTime::from_utc(ambient::now());
        evidence.up_to = Some(Edge { lsn: checkpoint.lsn, time: checkpoint.time });
        for report in &resync.tables {
            match (&report.read_whole, checkpoint.table(report.oid)) {
                (None, Some(_)) => evidence.tables.push(TableDigest::from(report)),
                (why, _) => {
                    let why = why.as_deref().unwrap_or("it was not read");
                    evidence.not_compared.push(format!("{}: read whole, as {why}", report.table));
                }
            }
        }
        Some(evidence)
    }

    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.differences.is_empty()
    }
}

impl History {
    /// Returns all evidence that can be read, with its name, oldest first. Each piece is read only when it is asked for.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be listed.
    pub fn evidence(&self) -> Result<impl DoubleEndedIterator<Item = (ObjectName, Evidence)>> {
        let names = self.store().list_sorted(ObjectKind::Evidence)?;
        Ok(names.into_iter().filter_map(|name| {
            // `verify` names damaged evidence; the other evidence is returned all the same.
            let evidence = read_object::<Evidence>(self.store(), &name, self.authorship()).ok()??;
            Some((name, evidence))
        }))
    }

    /// Keeps evidence as an object of the history, and returns its name.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take it.
    pub fn keep_evidence(&self, evidence: &Evidence) -> Result<ObjectName> {
        let stem = evidence.finished.to_utc().format("%Y%m%dT%H%M%S%6fZ").to_string();
        self.store().put_numbered(ObjectKind::Evidence, &stem, |name| {
            write_object(self.store(), name, evidence, self.authorship())
        })
    }
}
