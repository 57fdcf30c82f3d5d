//! Chooses the blocks of a segment that are read, and makes blocks that stand for the others.
//!
//! A block holds whole transactions, or a part of one that is larger than a block. A reader of some blocks must still know
//! the Relation messages in force, and of each part the transaction that it belongs to.

use std::collections::VecDeque;
use std::ops::Range;

use super::footer::Footer;
use super::reading::Part;
use super::record::{put_message, put_relation};
use super::summary::TransactionEntry;
use crate::model::Lsn;

/// A run of a segment's blocks.
pub(super) struct Parts<'a> {
    footer: &'a Footer,
    blocks: Range<usize>,
    parts: VecDeque<Part>,
    /// The transaction of which the reader has seen the beginning, but not the end.
    open: Option<Lsn>,
}

impl<'a> Parts<'a> {
    /// The blocks that hold positions from `after` to before `until`.
    pub(super) fn of(footer: &'a Footer, after: Lsn, until: Lsn) -> Parts<'a> {
        let from = footer.blocks.partition_point(|block| block.last < after);
        let to = footer.blocks.partition_point(|block| block.first < until).max(from);
        Parts { footer, blocks: from..to, parts: VecDeque::new(), open: None }
    }

    /// Chooses those of the blocks that are wanted.
    pub(super) fn choose(mut self, is_wanted: impl Fn(u32) -> bool) -> VecDeque<Part> {
        let Range { start, end } = self.blocks.clone();
        let mut relations = Vec::new();
        self.footer.relations_at_start.iter().for_each(|message| put_relation(&mut relations, message));
        self.put_relations(0..start, &mut relations);
        self.parts.push_back(Part::Made { first: Lsn::ZERO, raw: relations });
        let mut done = start;
        for number in (start..end).filter(|number| is_wanted(*number as u32)) {
            self.stand_for(done..number);
            self.parts.push_back(Part::Stored(self.footer.blocks[number]));
            self.open = self.spanning(number + 1).map(|entry| entry.commit_lsn);
            done = number + 1;
        }
        self.stand_for(done..end);
        self.parts
    }

    /// Puts a made block in the place of blocks that are not read.
    fn stand_for(&mut self, skipped: Range<usize>) {
        let (mut raw, first) = (Vec::new(), self.open.unwrap_or(Lsn::ZERO));
        // Behind the last block, no part of a transaction is read.
        let next = if skipped.end < self.blocks.end { self.spanning(skipped.end) } else { None };
        let goes_on = next.map(|entry| entry.commit_lsn);
        if let Some(open) = self.open.filter(|open| Some(*open) != goes_on) {
            self.entry(open).into_iter().for_each(|entry| put_message(&mut raw, &commit(entry)));
        }
        self.put_relations(skipped, &mut raw);
        if let Some(entry) = next.filter(|entry| Some(entry.commit_lsn) != self.open) {
            put_message(&mut raw, &begin(entry));
        }
        self.open = goes_on;
        if !raw.is_empty() {
            self.parts.push_back(Part::Made { first, raw });
        }
    }

    /// Appends the Relation messages of some blocks.
    fn put_relations(&self, blocks: Range<usize>, raw: &mut Vec<u8>) {
        let messages = &self.footer.relation_messages;
        let from = messages.partition_point(|(block, _)| (*block as usize) < blocks.start);
        let within = messages[from..].iter().take_while(|(block, _)| (*block as usize) < blocks.end);
        within.for_each(|(_, message)| put_relation(raw, message));
    }

    /// The transaction that a block begins inside of.
    fn spanning(&self, block: usize) -> Option<&'a TransactionEntry> {
        let first = self.footer.blocks.get(block)?.first;
        self.entry(first).filter(|entry| (entry.block as usize) < block)
    }

    fn entry(&self, commit_lsn: Lsn) -> Option<&'a TransactionEntry> {
        let entries = &self.footer.transactions;
        let place = entries.partition_point(|entry| entry.commit_lsn < commit_lsn);
        entries.get(place).filter(|entry| entry.commit_lsn == commit_lsn)
    }
}

fn begin(entry: &TransactionEntry) -> Vec<u8> {
    let TransactionEntry { commit_lsn, time, xid, .. } = entry;
    [&b"B"[..], &commit_lsn.0.to_be_bytes(), &time.0.to_be_bytes(), &xid.to_be_bytes()].concat()
}

fn commit(entry: &TransactionEntry) -> Vec<u8> {
    let TransactionEntry { commit_lsn, end_lsn, time, .. } = entry;
    [&b"C\0"[..], &commit_lsn.0.to_be_bytes(), &end_lsn.0.to_be_bytes(), &time.0.to_be_bytes()].concat()
}
