//! Finds the logical messages of transactions among all other records.

use super::lookup::SoughtRows;
use super::peek::{PeekedMessage, peek};
use super::reading::{Event, SegmentBlocks};
use super::segment::Segment;
use super::summary::TransactionEntry;
use crate::error::Result;
use crate::model::{Lsn, PgTime};
use crate::signal::DEFINITION;

/// One logical message of a committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub time: PgTime,
    pub xid: u32,
    pub content: Vec<u8>,
}

/// A message of a transaction that is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionMessage<'a> {
    /// A Relation message, as received.
    Relation(&'a [u8]),
    /// A transactional logical message.
    Logical { prefix: &'a [u8], content: &'a [u8] },
}

impl Segment {
    /// Returns the transactional logical messages under `prefix` of the transactions whose commit lies from `after` to before
    /// `until`, in the stream's order.
    ///
    /// # Errors
    /// `Damaged` for a bad block.
    pub fn logical_messages(&self, after: Lsn, until: Lsn, prefix: &[u8]) -> Result<Vec<LogicalMessage>> {
        let mut found = Vec::new();
        let blocks = match &self.footer().changes {
            Some(changes) if prefix == DEFINITION.as_bytes() => {
                let told = changes.blocks_with(&SoughtRows::none());
                self.some_blocks(after, until, |number| told.binary_search(&number).is_ok())
            }
            _ => self.blocks(after, until),
        };
        self.each_said_in(blocks, &mut |entry, said| {
            if let TransactionMessage::Logical { prefix: it, content } = said
                && it == prefix
            {
                found.push(LogicalMessage {
                    commit_lsn: entry.commit_lsn,
                    end_lsn: entry.end_lsn,
                    time: entry.time,
                    xid: entry.xid,
                    content: content.to_vec(),
                });
            }
            true
        })?;
        Ok(found)
    }

    /// Visits the messages that are no rows of the transactions whose commit lies from `after` to before `until`, in the
    /// stream's order, as long as `visit` returns true.
    ///
    /// # Errors
    /// `Damaged` for a bad block.
    pub fn each_said(
        &self,
        after: Lsn,
        until: Lsn,
        visit: &mut dyn FnMut(&TransactionEntry, TransactionMessage<'_>) -> bool,
    ) -> Result<()> {
        self.each_said_in(self.blocks(after, until), visit)
    }

    fn each_said_in(
        &self,
        blocks: SegmentBlocks,
        visit: &mut dyn FnMut(&TransactionEntry, TransactionMessage<'_>) -> bool,
    ) -> Result<()> {
        let mut transaction = None;
        for block in blocks {
            let block = block?;
            for event in block.events() {
                let Event::Message(message) = event? else { continue };
                if !matches!(message.first(), Some(b'B' | b'M' | b'R')) {
                    continue;
                }
                let said = match peek(message) {
                    Some(PeekedMessage::Begin { commit_lsn, .. }) => {
                        transaction = self.transaction(commit_lsn);
                        continue;
                    }
                    Some(PeekedMessage::Logical { transactional: true, prefix, content, .. }) => {
                        TransactionMessage::Logical { prefix, content }
                    }
                    Some(PeekedMessage::Relation { .. }) => TransactionMessage::Relation(message),
                    _ => continue,
                };
                if transaction.is_some_and(|entry| !visit(entry, said)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Returns the transaction that committed at this position. Only whole transactions are known.
    fn transaction(&self, commit_lsn: Lsn) -> Option<&TransactionEntry> {
        let transactions = self.transactions();
        let at = transactions.binary_search_by_key(&commit_lsn, |entry| entry.commit_lsn).ok()?;
        transactions.get(at)
    }
}
