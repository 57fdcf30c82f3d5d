//! Evidence, in the form in which `list proofs` and `status` show it.

use serde::Serialize;

use crate::history::evidence::{CheckMethod, Evidence};
use crate::model::{Edge, PgTime};
use crate::store::ObjectName;

#[derive(Clone, Serialize)]
pub(super) struct ProofShown {
    pub evidence: String,
    pub how: CheckMethod,
    pub finished: PgTime,
    pub from: Option<Edge>,
    pub up_to: Option<Edge>,
    pub tables: usize,
    pub rows: u64,
    pub differences: Vec<String>,
    pub faults: Vec<String>,
}

impl ProofShown {
    pub fn of((name, evidence): &(ObjectName, Evidence)) -> ProofShown {
        ProofShown {
            evidence: name.to_string(),
            how: evidence.how,
            finished: evidence.finished,
            from: evidence.from,
            up_to: evidence.up_to,
            tables: evidence.tables.len(),
            rows: evidence.tables.iter().map(|table| table.rows).sum(),
            differences: evidence.differences.clone(),
            faults: evidence.faults.clone(),
        }
    }

    /// Returns the relevant one of all pieces of evidence, ordered from the newest to the oldest: the newest, unless
    /// an earlier one covers more and nothing was found wrong since.
    pub fn latest(mut all: impl Iterator<Item = (ObjectName, Evidence)>) -> Option<ProofShown> {
        let says_more = |it: &Evidence| it.how > CheckMethod::Read && it.is_good();
        let newest = all.next()?;
        if says_more(&newest.1) || !newest.1.is_good() {
            return Some(ProofShown::of(&newest));
        }
        let earlier = all.find(|(_, it)| says_more(it));
        Some(ProofShown::of(&earlier.unwrap_or(newest)))
    }

    pub fn describe(&self) -> String {
        let up_to = self.up_to.map_or_else(|| "nothing".to_owned(), |edge| edge.time.to_string());
        let by = format!("{}, {}", self.how.command(), self.finished);
        match (self.faults.len(), self.how) {
            (0, CheckMethod::Read) => format!("every byte read up to {up_to}, 0 faults ({by})"),
            (0, _) if self.differences.is_empty() => {
                format!("proven up to {up_to}, {} tables, 0 differences ({by})", self.tables)
            }
            (faults, _) => {
                let differences = self.differences.len();
                format!("NOT PROVEN: {faults} faults, {differences} differences ({by})")
            }
        }
    }
}
