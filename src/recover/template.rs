//! Templates: closed databases that recoveries keep on their target, so that later recoveries of the same history copy one
//! and change only the rows that differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Kind, Result};
use crate::model::{Lsn, Moment};
use crate::past::Reading;

/// The contents of a template. The history's secret seals it, so that nobody else can write one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    pub history: String,
    pub epoch: u32,
    pub lsn: Lsn,
    /// The digest of all definitions.
    pub definitions: String,
    /// The numbers and digests of the rows, by the tables' oids on the source.
    pub tables: BTreeMap<u32, (u64, String)>,
}

/// A template on a target's server.
pub struct KeptTemplate {
    pub name: String,
    /// `None` if nothing tells what the template holds: the recovery that made it was killed.
    pub record: Option<TemplateRecord>,
    /// Whether the database is the one that was closed when it was made, and has not been opened since.
    pub is_as_kept: bool,
}

/// A template, as a recovery reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateReport {
    pub name: String,
    /// The position of the moment whose rows the template holds.
    pub lsn: Lsn,
    /// Whether the database was made from the template, or the template was kept of the database.
    pub used: bool,
}

impl KeptTemplate {
    /// Returns why no recovery can use the template any more; `None` if recoveries of nearby moments can.
    ///
    /// # Errors
    /// `Damaged` if the history is.
    pub fn staleness(&self, reading: &Reading) -> Result<Option<String>> {
        let Some(record) = &self.record else {
            return Ok(Some("the recovery that made it was killed".to_owned()));
        };
        if !self.is_as_kept {
            return Ok(Some("the database was changed since it was kept".to_owned()));
        }
        match reading.at(&Moment::Lsn(record.lsn), false) {
            Ok(past) if past.stretch().epoch.number == record.epoch && past.until() == record.lsn => Ok(None),
            Err(error) if error.kind() == Kind::Damaged => Err(error),
            _ => Ok(Some(format!("the history does not hold {} any more", record.lsn))),
        }
    }

    pub fn is_of(&self, history: &str) -> bool {
        self.record.as_ref().is_some_and(|record| record.history == history)
    }
}
