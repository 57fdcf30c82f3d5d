//! Follows the journal: its changes in commit order, each with its transaction and with its table as it was then.
//!
//! [`Follow`] is a cursor. It starts at a checkpoint, which knows the tables, and it learns of schema changes from the
//! messages of the event triggers. It tells backwhen's own messages from those of others, and it collects the objects
//! that are not exact. The fold is one reader of the cursor; whoever asks about single transactions or rows is another.

mod carried;
mod event;
mod interpreter;
mod mapping;
mod messages;
mod naming;
mod reshape;
mod retelling;
mod row;
mod shapes;
mod signals;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use carried::{tables_after, untold_tables};
pub use event::{Event, EventKind, Row, RowChange, TableChange, Transaction};
pub use reshape::Reshape;
pub use retelling::is_of_values;

use crate::codec::pgoutput;
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::history::checkpoint::Checkpoint;
use crate::history::journal::ChosenBlocks;
use crate::history::timeline::SegmentView;
use crate::model::{Inexact, Lsn, Message, Relation, RowIdentity, Table};
use crate::signal::key::MessageKey;
use interpreter::Interpreter;
use mapping::identity_fits;
use messages::{Messages, RawMessage};

/// A stretch of the journal of one epoch.
#[derive(Clone, Copy)]
pub struct JournalRange<'a> {
    /// The segments that hold the transactions, in order. Others may stand before and behind them.
    pub segments: &'a [SegmentView],
    /// The position of the first commit that may be in.
    pub after: Lsn,
    /// The position of the first commit that is not in.
    pub until: Lsn,
}

/// Tells which tables are followed.
pub type Wanted<'a> = &'a (dyn Fn(&Table) -> bool + Sync);

/// A cursor over the events of the journal.
pub struct Follow<'a> {
    /// The segments from the end of the range on.
    later: Vec<SegmentView>,
    until: Lsn,
    messages: Messages,
    interpreter: Interpreter<'a>,
}

impl<'a> Follow<'a> {
    /// Begins with the tables of a checkpoint, from which the journal goes on. Tables that are not `wanted` are passed
    /// over. `key` tells backwhen's own messages from others.
    pub fn new(
        base: &Checkpoint,
        journal: JournalRange<'_>,
        key: &MessageKey,
        wanted: Wanted<'a>,
    ) -> Follow<'a> {
        Follow::by_names(base, journal, key, wanted, &[])
    }

    /// The same, but the tables in `named` are wanted by the names that they have there, whatever they are called at the base.
    pub fn by_names(
        base: &Checkpoint,
        journal: JournalRange<'_>,
        key: &MessageKey,
        wanted: Wanted<'a>,
        named: &[Table],
    ) -> Follow<'a> {
        let JournalRange { segments, after, until } = journal;
        let later = segments.iter().filter(|view| view.summary.end > until).cloned().collect();
        let messages = Messages::new(segments, after, until);
        Follow { later, until, messages, interpreter: Interpreter::new(base, key, wanted, named) }
    }

    /// The next event; `None` behind the last one.
    ///
    /// # Errors
    /// `Damaged` if the journal cannot be decoded.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>> {
        let found = loop {
            if self.interpreter.has_given_rows()
                && let Some(found) = self.interpreter.next_given_row()?
            {
                if self.interpreter.is_shown() {
                    break found;
                }
                continue;
            }
            let (bytes, in_force) = match self.messages.next_message()? {
                None => return Ok(None),
                Some(RawMessage::InForce(bytes)) => (bytes, true),
                Some(RawMessage::InTransaction(bytes)) => (bytes, false),
            };
            if !self.interpreter.reads(bytes) || (in_force && self.interpreter.is_beyond()) {
                continue;
            }
            let message = pgoutput::decode(bytes).map_err(|error| self.interpreter.undecodable(error))?;
            let found = match message {
                Message::Begin { final_lsn, commit_time, xid } => {
                    let transaction = self.messages.transaction(final_lsn, commit_time, xid)?;
                    self.interpreter.begin(transaction);
                    None
                }
                message => self.interpreter.interpret(message)?,
            };
            if let Some(found) = found.filter(|_| self.interpreter.is_shown()) {
                break found;
            }
        };
        self.interpreter.event(found).map(Some)
    }

    /// Passes over the events of transactions that committed before `from`; only the tables are followed there.
    #[must_use]
    pub fn showing_from(mut self, from: Lsn) -> Follow<'a> {
        self.interpreter.shown_from = from;
        self
    }

    /// Reads only some blocks of some segments, and of these only those that were chosen before. The caller knows that the
    /// others do not matter.
    #[must_use]
    pub fn reading_only(mut self, blocks: &ChosenBlocks) -> Follow<'a> {
        self.messages = self.messages.only(blocks);
        self
    }

    /// Goes on behind the end of the range, without tables: from here on the events are backwhen's own messages,
    /// truncates and commits. The tables stay as they were at the end of the range.
    pub fn go_beyond(&mut self) {
        self.messages = Messages::new(&self.later, self.until, Lsn::MAX);
        self.interpreter.go_beyond();
    }

    /// Goes on behind the end of the range, in the journal as it is by then.
    pub fn go_on(&mut self, segments: &[SegmentView], until: Lsn) {
        self.messages = Messages::new(segments, self.until, until);
        self.until = until;
    }

    /// The number of the journal's blocks that have been read so far.
    pub fn blocks_read(&self) -> u64 {
        self.messages.blocks_read()
    }

    /// A table that is followed, as it stands now.
    pub fn table(&self, oid: u32) -> Option<&Arc<Table>> {
        self.interpreter.shapes.table(oid)
    }

    /// The objects of which the events so far are not exact.
    pub fn inexact(&self) -> impl Iterator<Item = Inexact> {
        self.interpreter.shapes.inexact()
    }

    /// Notes that a reader of a table's older rows could not read a value whose text a statement changed.
    pub fn note_unreadable(&mut self, table: u32) {
        let unreadable = Doubts { unreadable: true, ..Doubts::default() };
        self.interpreter.doubt(table, &unreadable);
    }
}

/// A journal that cannot be decoded.
pub(crate) fn undecodable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>, at: Lsn) -> Error {
    Error::damaged(format!("the transaction at {at} in the journal cannot be decoded")).caused_by(cause)
}

/// Whether the stream describes the table just as it is, and names its rows by the same columns.
pub fn describes_exactly(relation: &Relation, table: &Table) -> bool {
    let in_key = |name: &str| match &table.identity {
        RowIdentity::Key(columns) => columns.iter().any(|column| table.stream_column(*column) == name),
        RowIdentity::WholeRow => false,
    };
    let named = &relation.columns;
    differences(table, relation).is_empty()
        && identity_fits(table, relation)
        && (relation.replica_identity == b'f' || named.iter().all(|it| it.in_identity == in_key(&it.name)))
}

/// Whether values of a table may have another text without a change of their rows: values that are written by names, and
/// once a statement `is_retold`, values of the types that people make.
pub fn may_be_retold(table: &Table, is_retold: bool) -> bool {
    let mut types = table.columns.iter().map(|column| column.type_oid);
    types.any(|oid| naming::by_name(oid).is_some() || (is_retold && oid >= FIRST_OF_PEOPLE))
}

/// The first oid that the server does not give to its own types.
const FIRST_OF_PEOPLE: u32 = 16_384;

/// The differences between a table and the stream's description of it, for people.
pub fn differences(table: &Table, relation: &Relation) -> Vec<String> {
    mapping::Mapping::of(table, relation).differences
}
