//! The logical messages of transactions, found among everything else.

use super::peek::{Peek, peek};
use super::reading::Event;
use super::segment::Segment;
use super::summary::TransactionEntry;
use crate::error::Result;
use crate::model::{Lsn, PgTime};

/// One logical message of a committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub time: PgTime,
    pub xid: u32,
    pub content: Vec<u8>,
}

impl Segment {
    /// The transactional logical messages under `prefix` of the transactions whose commit lies from
    /// `after` to before `until`, in the stream's order.
    ///
    /// # Errors
    /// `Damaged` for a bad block.
    pub fn logical_messages(&self, after: Lsn, until: Lsn, prefix: &[u8]) -> Result<Vec<LogicalMessage>> {
        let mut found = Vec::new();
        let mut transaction = None;
        for block in self.blocks(after, until) {
            let block = block?;
            for event in block.events() {
                let Event::Message(message) = event? else { continue };
                if !matches!(message.first(), Some(b'B' | b'M')) {
                    continue;
                }
                match peek(message) {
                    Some(Peek::Begin { commit_lsn, .. }) => transaction = self.transaction(commit_lsn),
                    Some(Peek::Logical { transactional: true, prefix: it, content, .. }) if it == prefix => {
                        found.extend(transaction.map(|entry: &TransactionEntry| LogicalMessage {
                            commit_lsn: entry.commit_lsn,
                            end_lsn: entry.end_lsn,
                            time: entry.time,
                            xid: entry.xid,
                            content: content.to_vec(),
                        }));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Only whole transactions are known.
    fn transaction(&self, commit_lsn: Lsn) -> Option<&TransactionEntry> {
        let transactions = self.transactions();
        let at = transactions.binary_search_by_key(&commit_lsn, |entry| entry.commit_lsn).ok()?;
        transactions.get(at)
    }
}
