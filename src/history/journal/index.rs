//! Reads blocks in order and gathers the content of a footer; checks the protocol on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::BlockHeader;
use super::fault::SegmentFault;
use super::footer::Footer;
use super::lookup::{ChangeIndex, ChangeIndexBuilder};
use super::peek::{PeekedMessage, peek};
use super::record::{Record, Records, put_varint};
use super::relations::{RelationNovelty, Relations};
use super::sections::BlockExtent;
use super::summary::{IdleMark, Mark, RelationChange, RelationCounts, SegmentSummary, TransactionEntry};
use crate::history::key::Digest;
use crate::model::{Lsn, PgTime};
use crate::signal::key::{body_of, transaction_of};
use crate::signal::{DEFINITION, DIGESTS, MARK, ROLES, SEQUENCES};

#[derive(Clone, Copy, Debug)]
struct OpenTransaction {
    commit_lsn: Lsn,
    time: PgTime,
    xid: u32,
    block: u32,
    marks: usize,
}

/// The positions of a block's first and last record that have one.
#[derive(Clone, Copy)]
struct Span {
    first: Option<Lsn>,
    last: Lsn,
}

impl Span {
    fn reach(&mut self, position: Lsn) {
        self.first.get_or_insert(position);
        self.last = position;
    }
}

#[derive(Clone, Debug)]
pub(super) struct Index {
    summary: SegmentSummary,
    counts: BTreeMap<u32, RelationCounts>,
    transactions: Vec<TransactionEntry>,
    relations_at_start: Vec<Vec<u8>>,
    relation_messages: Vec<(u32, Vec<u8>)>,
    blocks: Vec<BlockExtent>,
    in_force: Relations,
    current: Option<OpenTransaction>,
    changes: ChangeIndexBuilder,
    /// The number, with its epoch, of the last transaction that told sequences.
    number: Option<u64>,
    digest: blake3::Hasher,
    /// The bytes that are not hashed yet: hashing many bytes at once is many times quicker.
    undigested: Vec<u8>,
}

/// With at least this many bytes waiting, they are hashed.
const DIGEST_AT: usize = 64 << 10;

impl Index {
    pub(super) fn new(epoch: u32, start: Lsn) -> Index {
        Index {
            summary: SegmentSummary { epoch, start, end: start, ..SegmentSummary::default() },
            counts: BTreeMap::new(),
            transactions: Vec::new(),
            relations_at_start: Vec::new(),
            relation_messages: Vec::new(),
            blocks: Vec::new(),
            in_force: Relations::default(),
            current: None,
            changes: ChangeIndexBuilder::default(),
            number: None,
            digest: blake3::Hasher::new(),
            undigested: Vec::new(),
        }
    }

    /// The number, with its epoch, of the last transaction that told sequences.
    pub(super) fn number(&self) -> Option<u64> {
        self.number
    }

    /// Lets the index of changes have the form of another one, with which it is compared.
    pub(super) fn in_form_of(mut self, changes: &ChangeIndex) -> Index {
        self.changes = ChangeIndexBuilder::new(changes.form());
        self
    }

    /// Takes a Relation message that is in force at the start. Blocks may only come after it.
    pub(super) fn relation_at_start(&mut self, message: &[u8]) -> Result<(), SegmentFault> {
        self.in_force
            .tell(message)
            .ok_or_else(|| SegmentFault::bad("a relation record without a Relation message"))?;
        self.changes.relation(message);
        self.relations_at_start.push(message.to_vec());
        Ok(())
    }

    /// Takes the next block, which lies at `offset` in the segment, and in a history with a key the digest of the block.
    pub(super) fn block(
        &mut self,
        offset: u64,
        header: &BlockHeader,
        raw: &[u8],
        digest: Option<Digest>,
    ) -> Result<(), SegmentFault> {
        if header.before != self.summary.end || header.starts_inside() != self.current.is_some() {
            return Err(SegmentFault::bad("the block does not go on where the one before it ended"));
        }
        let number = u32::try_from(self.blocks.len()).map_err(|_| SegmentFault::bad("too many blocks"))?;
        let mut span = Span { first: None, last: header.before };
        if let Some(current) = self.current {
            span.reach(current.commit_lsn);
        }
        let mut records = 0;
        let mut only_relations = true;
        for record in Records::new(raw) {
            records += 1;
            match record? {
                Record::Relation(message) if number == 0 && only_relations => {
                    self.relation_at_start(message)?
                }
                Record::Relation(_) => {
                    return Err(SegmentFault::bad("a relation record behind other records"));
                }
                Record::Idle { lsn, time } => {
                    only_relations = false;
                    self.idle(lsn, time, &mut span)?;
                }
                Record::Message(message) => {
                    only_relations = false;
                    self.message(number, message, &mut span)?;
                }
            }
        }
        if records != header.records {
            return Err(SegmentFault::bad("the block does not hold as many records as its header says"));
        }
        if header.after != self.summary.end || header.ends_inside() != self.current.is_some() {
            return Err(SegmentFault::bad("the block does not end where its header says"));
        }
        if !(only_relations && number == 0) {
            self.changes.end_block();
            self.blocks.push(BlockExtent {
                offset,
                raw_len: header.raw_len,
                stored_len: header.stored_len,
                first: span.first.unwrap_or(span.last),
                last: span.last,
                digest,
            });
        }
        Ok(())
    }

    /// Returns the finished footer, and the relations in force at the end.
    pub(super) fn finish(mut self) -> (Footer, Relations) {
        self.summary.relations = self.counts.into_values().collect();
        self.digest.update(&self.undigested);
        self.summary.content = self.digest.finalize().to_hex().to_string();
        let footer = Footer {
            summary: self.summary,
            transactions: self.transactions,
            relations_at_start: self.relations_at_start,
            blocks: self.blocks,
            relation_messages: self.relation_messages,
            changes: Some(Arc::new(self.changes.finish())),
        };
        (footer, self.in_force)
    }

    fn idle(&mut self, lsn: Lsn, time: PgTime, span: &mut Span) -> Result<(), SegmentFault> {
        if self.current.is_some() || lsn < self.summary.end {
            return Err(SegmentFault::bad("an idle mark out of place"));
        }
        span.reach(lsn);
        self.summary.end = lsn;
        self.summary.last_idle = Some(IdleMark { lsn, time });
        Ok(())
    }

    fn message(&mut self, number: u32, message: &[u8], span: &mut Span) -> Result<(), SegmentFault> {
        let peeked =
            peek(message).ok_or_else(|| SegmentFault::bad("a message that pgoutput does not know"))?;
        self.changes.message(message, &peeked);
        self.summary.messages += 1;
        self.summary.raw_bytes += message.len() as u64;
        put_varint(&mut self.undigested, message.len() as u64);
        self.undigested.extend_from_slice(message);
        if self.undigested.len() >= DIGEST_AT {
            self.digest.update(&self.undigested);
            self.undigested.clear();
        }

        match (peeked, self.current) {
            (PeekedMessage::Begin { commit_lsn, time, xid }, None) if commit_lsn >= self.summary.end => {
                span.reach(commit_lsn);
                let marks = self.summary.marks.len();
                self.current = Some(OpenTransaction { commit_lsn, time, xid, block: number, marks });
            }
            (PeekedMessage::Commit { commit_lsn, end_lsn }, Some(current))
                if commit_lsn == current.commit_lsn && end_lsn >= commit_lsn =>
            {
                self.commit(current, end_lsn);
            }
            (PeekedMessage::Begin { .. } | PeekedMessage::Commit { .. }, _) => {
                return Err(SegmentFault::bad("Begin and Commit do not pair or go back"));
            }
            (PeekedMessage::Logical { transactional: false, lsn, .. }, None) if lsn >= self.summary.end => {
                span.reach(lsn);
            }
            (_, None) => return Err(SegmentFault::bad("a change outside a transaction")),
            (change, Some(current)) => self.change(number, current, message, change),
        }
        Ok(())
    }

    fn commit(&mut self, current: OpenTransaction, end_lsn: Lsn) {
        let OpenTransaction { commit_lsn, time, xid, block, marks } = current;
        self.current = None;
        let summary = &mut self.summary;
        summary.end = end_lsn;
        summary.transactions += 1;
        summary.first_commit.get_or_insert(commit_lsn);
        summary.last_commit = Some(commit_lsn);
        summary.min_time = Some(summary.min_time.map_or(time, |earliest| earliest.min(time)));
        if let Some(latest) = summary.max_time.filter(|&latest| time < latest) {
            summary.clock_steps.count += 1;
            let step = latest.0.abs_diff(time.0);
            summary.clock_steps.largest_micros = summary.clock_steps.largest_micros.max(step);
        } else {
            summary.max_time = Some(time);
        }
        for mark in &mut summary.marks[marks..] {
            mark.end_lsn = end_lsn;
        }
        self.transactions.push(TransactionEntry { commit_lsn, end_lsn, xid, time, block });
    }

    fn change(&mut self, number: u32, current: OpenTransaction, message: &[u8], change: PeekedMessage<'_>) {
        match change {
            PeekedMessage::Insert { oid } => self.counts(oid).inserts += 1,
            PeekedMessage::Update { oid } => self.counts(oid).updates += 1,
            PeekedMessage::Delete { oid } => self.counts(oid).deletes += 1,
            PeekedMessage::Truncate { oids } => {
                for oid in oids {
                    self.counts(u32::from_be_bytes(*oid)).truncates += 1;
                }
            }
            PeekedMessage::Relation { oid, schema, name } => {
                let (schema, name) = (text(schema), text(name));
                self.relation_messages.push((number, message.to_vec()));
                if self.in_force.tell(message) == Some(RelationNovelty::Changed) {
                    let (schema, name, commit_lsn) = (schema.clone(), name.clone(), current.commit_lsn);
                    self.summary.relation_changes.push(RelationChange { oid, schema, name, commit_lsn });
                }
                if let Some(counts) = self.counts.get_mut(&oid) {
                    (counts.schema, counts.name) = (schema, name);
                }
            }
            PeekedMessage::Logical { prefix, content, .. } => self.own_message(current, prefix, content),
            PeekedMessage::Begin { .. } | PeekedMessage::Commit { .. } | PeekedMessage::Other => {}
        }
    }

    fn own_message(&mut self, current: OpenTransaction, prefix: &[u8], content: &[u8]) {
        if prefix == MARK.as_bytes() {
            // A message that is no mark of backwhen names nothing.
            if let Some(name) = mark_name(body_of(content)) {
                let OpenTransaction { commit_lsn, time, xid, .. } = current;
                self.summary.marks.push(Mark { name, lsn: commit_lsn, end_lsn: commit_lsn, time, xid });
            }
        } else if prefix == SEQUENCES.as_bytes() {
            self.number = transaction_of(content);
            self.summary.sequences.count += 1;
            self.summary.sequences.last_lsn = Some(current.commit_lsn);
            self.summary.sequences.last = String::from_utf8(body_of(content).to_vec()).ok();
        } else if prefix == DEFINITION.as_bytes()
            && self.summary.definitions.last() != Some(&current.commit_lsn)
        {
            self.summary.definitions.push(current.commit_lsn);
        } else if prefix == ROLES.as_bytes() {
            self.summary.roles.push(current.commit_lsn);
        } else if prefix == DIGESTS.as_bytes() {
            self.summary.digests.push(current.commit_lsn);
        }
    }

    fn counts(&mut self, oid: u32) -> &mut RelationCounts {
        let in_force = &self.in_force;
        self.counts.entry(oid).or_insert_with(|| {
            let (schema, name) = match in_force.get(oid).and_then(peek) {
                Some(PeekedMessage::Relation { schema, name, .. }) => (text(schema), text(name)),
                _ => Default::default(),
            };
            RelationCounts { oid, schema, name, ..RelationCounts::default() }
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn mark_name(content: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct MarkContent {
        name: String,
    }
    serde_json::from_slice::<MarkContent>(content).ok().map(|named| named.name)
}
