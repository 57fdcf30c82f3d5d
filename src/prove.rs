//! Proves checkpoints: each checkpoint, folded forward, must equal the next one.

use serde::Serialize;

use crate::ambient;
use crate::error::Result;
use crate::fold::FoldedTable;
use crate::history::checkpoint::Checkpoint;
use crate::history::evidence::TableDigest;
use crate::model::Edge;
use crate::past::{PROOF_BUDGET, Reading};
use crate::progress::Progress;

/// The result of folding one checkpoint forward and comparing it with the next.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    pub from: String,
    pub to: String,
    pub transactions: u64,
    /// The number of tables that were compared.
    pub tables: usize,
    /// Digests of the compared tables, as the fold computed them.
    #[serde(skip)]
    pub compared: Vec<TableDigest>,
    /// The later checkpoint's moment.
    #[serde(skip)]
    pub up_to: Edge,
    /// Tables whose rows differ.
    pub differences: Vec<String>,
    /// Tables that could not be compared, and why.
    pub not_compared: Vec<String>,
}

/// Proves every pair of neighbouring checkpoints.
///
/// # Errors
/// `Damaged` if the history is.
pub fn prove_all(reading: &Reading, progress: &dyn Progress) -> Result<Vec<Proof>> {
    let history = reading.history();
    let mut proofs = Vec::new();
    for stretch in &reading.timeline().stretches {
        // A checkpoint read from the source may lie beyond the journal's frontier; the journal cannot prove it yet.
        let frontier = stretch.frontier();
        let reached: Vec<_> = stretch.checkpoints.iter().filter(|row| row.lsn <= frontier).collect();
        for pair in reached.windows(2) {
            let (from, to) = (history.read_checkpoint(&pair[0].id)?, history.read_checkpoint(&pair[1].id)?);
            let past = reading.forward(from, to.lsn)?;
            let folded = past.fold(&|_| true, PROOF_BUDGET, &ambient::temporary_place(), progress)?;
            proofs.push(compare(past.base(), &to, folded.transactions, folded.tables)?);
        }
    }
    Ok(proofs)
}

fn compare(from: &Checkpoint, to: &Checkpoint, transactions: u64, tables: Vec<FoldedTable>) -> Result<Proof> {
    let mut proof = Proof {
        from: from.id.clone(),
        to: to.id.clone(),
        transactions,
        tables: 0,
        compared: Vec::new(),
        up_to: Edge { lsn: to.lsn, time: to.time },
        differences: Vec::new(),
        not_compared: Vec::new(),
    };
    for entry in &to.tables {
        if from.table(entry.table.oid).is_none() {
            proof.not_compared.push(format!("{}: not in {} yet", entry.table.display(), from.id));
        }
    }
    for folded in tables {
        let name = folded.table.display();
        let Some(entry) = to.table(folded.table.oid) else {
            proof.not_compared.push(format!("{name}: not in {} any more", to.id));
            continue;
        };
        if folded.table.is_insert_only() {
            proof.not_compared.push(format!("{name}: inserts only, so the journal does not tell all"));
            continue;
        }
        // This loss is known, and every recovery to a moment before the mending checkpoint reports it.
        if to.resync.iter().flat_map(|resync| resync.differing()).any(|lost| lost.oid == entry.table.oid) {
            proof.not_compared.push(format!("{name}: changes were lost before {}, which mended it", to.id));
            continue;
        }
        if entry.table.columns != folded.table.columns {
            proof.not_compared.push(format!("{name}: its columns changed before {}", to.id));
            continue;
        }
        if folded.table.storage.was_rewritten(&entry.table.storage) {
            proof.not_compared.push(format!("{name}: ALTER TABLE rewrote its rows before {}", to.id));
            continue;
        }
        let sum = folded.tally()?;
        let digest = sum.digest.to_string();
        proof.compared.push(TableDigest { table: name.clone(), rows: sum.rows, digest });
        proof.tables += 1;
        if sum.rows != entry.image.rows || sum.digest != entry.image.digest {
            proof
                .differences
                .push(format!("{name} ({} rows folded, {} in the image)", sum.rows, entry.image.rows));
        }
    }
    Ok(proof)
}
