//! The index of a segment's changes: what each transaction changed, and which rows each block may concern. See FORMAT.md.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use twox_hash::XxHash3_64;

use super::counts::{ChangeKind, Counts, CountsBuilder};
use super::fault::SegmentFault;
use super::filter::{self, Filter};
use super::name::SegmentName;
use super::pages::{ListedChanges, Page, PagedFilters, PagesBuilder};
use super::peek::PeekedMessage;
use super::record::{ByteReader, put_varint};
use crate::history::key::{Digest, SegmentKey, Tag, digest_of};
use crate::signal::{DEFINITION, ROWS};

/// The first byte of what is hashed.
const KEY: u8 = 0;
const TABLE: u8 = 1;
const SCHEMA: u8 = 2;

/// The index of a segment's changes, encoded. The filters begin with their form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeIndex {
    pub(super) counts: Vec<u8>,
    pub(super) filters: Vec<u8>,
}

/// How the filters of a segment's blocks are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FilterForm {
    /// As earlier versions wrote them: one filter a block, in which 8 bits tell a key from others. That any row of a table may
    /// be concerned, or that a schema change lies in the block, is a hash among those of the keys, so a reader is wrong about
    /// these now and then.
    Hashed,
    /// A head that tells these exactly, and pages of filters in which 12 bits tell a key from others.
    #[default]
    Paged,
}

/// What the filters of the newer form begin with. Those of the older form begin with the number of blocks.
const PAGED: u8 = 0;
/// The bits that tell a key from others in the older form.
const HASHED_BITS: u32 = 8;

/// The numbers of the blocks that are read of each segment, in order. A segment that is not named is read whole.
pub type ChosenBlocks = BTreeMap<SegmentName, Vec<u32>>;

/// The rows that blocks are looked up for: those of some tables that have some keys.
pub struct SoughtRows {
    /// The tables; none if only schema changes are looked up.
    pub(super) tables: Vec<u32>,
    /// The hashes of the keys.
    pub(super) keys: Vec<u64>,
}

impl SoughtRows {
    /// No rows: only schema changes are looked up.
    pub fn none() -> SoughtRows {
        SoughtRows { tables: Vec::new(), keys: Vec::new() }
    }

    /// The rows of the table `oid` whose key columns have one of these values, in the order in which the stream has the
    /// columns.
    pub fn new<'a>(oid: u32, keys: impl IntoIterator<Item = Vec<&'a [u8]>>) -> SoughtRows {
        let mut content = Vec::new();
        let hash = |key: Vec<&'a [u8]>| {
            begin_key(&mut content, oid);
            key.into_iter().for_each(|value| push_value(&mut content, value));
            XxHash3_64::oneshot(&content)
        };
        SoughtRows { tables: vec![oid], keys: keys.into_iter().map(hash).collect() }
    }

    /// The rows of both.
    #[must_use]
    pub fn and(mut self, other: SoughtRows) -> SoughtRows {
        self.tables.extend(other.tables);
        self.keys.extend(other.keys);
        self
    }
}

fn begin_key(content: &mut Vec<u8>, oid: u32) {
    content.clear();
    content.push(KEY);
    content.extend_from_slice(&oid.to_le_bytes());
}

fn push_value(content: &mut Vec<u8>, value: &[u8]) {
    // The length stands before the value, so that no byte can pass from one value to the next.
    content.extend_from_slice(&(value.len() as u32).to_le_bytes());
    content.extend_from_slice(value);
}

impl SoughtRows {
    /// The hashes that stand for the rows in filters of the older form.
    fn hashes(&self) -> Vec<u64> {
        let beside_keys = self.tables.iter().copied().map(table_hash).chain([schema_hash()]);
        self.keys.iter().copied().chain(beside_keys).collect()
    }
}

/// The hash in a block's filter that stands for changes that may concern any row of the table.
fn table_hash(oid: u32) -> u64 {
    let [a, b, c, d] = oid.to_le_bytes();
    XxHash3_64::oneshot(&[TABLE, a, b, c, d])
}

/// The hash in a block's filter that stands for statements that may concern any table.
fn schema_hash() -> u64 {
    XxHash3_64::oneshot(&[SCHEMA])
}

impl ChangeIndex {
    /// The index of a segment with this many blocks, as somebody kept it; `None` if it cannot be the segment's.
    pub(in crate::history) fn of_segment(
        blocks: usize,
        counts: Vec<u8>,
        filters: Vec<u8>,
    ) -> Option<ChangeIndex> {
        let changes = ChangeIndex { counts, filters };
        changes.is_sound(blocks).then_some(changes)
    }

    pub(in crate::history) fn counts_bytes(&self) -> &[u8] {
        &self.counts
    }

    pub(in crate::history) fn filter_bytes(&self) -> &[u8] {
        &self.filters
    }

    pub(in crate::history) fn digest(&self) -> Digest {
        digest_of([&self.counts[..], &self.filters].into_iter())
    }

    /// Whether the sections are what they should be for a segment with this many blocks.
    pub(super) fn is_sound(&self, blocks: usize) -> bool {
        let filters = match self.head_and_pages() {
            Some((head, pages)) => PagedFilters::decode(head)
                .is_some_and(|it| it.blocks() == blocks && it.len == pages.len() as u64),
            None => self.hashed_filters().is_some_and(|it| it.len() == blocks),
        };
        filters && Counts::decode(&self.counts).is_some()
    }

    /// Returns the tag of the index in a history with a key.
    pub(super) fn tag(&self, key: &SegmentKey) -> Tag {
        key.changes_tag(&self.digest())
    }

    pub(super) fn form(&self) -> FilterForm {
        // A segment without blocks has the same filters in the older form.
        match self.filters[..] {
            [PAGED, _, ..] => FilterForm::Paged,
            _ => FilterForm::Hashed,
        }
    }

    /// Puts the head and the pages of filters together.
    pub(super) fn of_pages(counts: Vec<u8>, head: &[u8], pages: &[u8]) -> ChangeIndex {
        let mut filters = Vec::with_capacity(head.len() + pages.len() + 11);
        filters.push(PAGED);
        put_varint(&mut filters, head.len() as u64);
        filters.extend_from_slice(head);
        filters.extend_from_slice(pages);
        ChangeIndex { counts, filters }
    }

    /// The head and the pages of filters that are of this form.
    pub(super) fn head_and_pages(&self) -> Option<(&[u8], &[u8])> {
        let mut bytes = ByteReader::new(&self.filters);
        (self.form() == FilterForm::Paged && bytes.take(1).is_some()).then_some(())?;
        let head = bytes.counted()?;
        Some((head, bytes.rest()))
    }

    /// The filter of each block in the older form.
    fn hashed_filters(&self) -> Option<Vec<Filter<'_>>> {
        let mut bytes = ByteReader::new(&self.filters);
        let count = bytes.varint()?;
        let filters = (0..count).map(|_| Filter::decode(bytes.counted()?, HASHED_BITS));
        let filters = filters.collect::<Option<_>>()?;
        bytes.is_empty().then_some(filters)
    }

    /// Returns the numbers of the blocks that may concern one of the rows, in order. All changes of these rows lie in
    /// these blocks, and so do all schema changes.
    pub fn blocks_with(&self, rows: &SoughtRows) -> Vec<u32> {
        let Some((head, pages)) = self.head_and_pages() else {
            let filters = self.hashed_filters().unwrap_or_default().into_iter().zip(0..);
            let hashes = rows.hashes();
            let found = filters.filter(|(filter, _)| hashes.iter().any(|hash| filter.may_hold(*hash)));
            return found.map(|(_, number)| number).collect();
        };
        let Some(filters) = PagedFilters::decode(head) else { return Vec::new() };
        let mut read = |page: Page<'_>| {
            let end = page.offset.checked_add(page.len).and_then(|end| usize::try_from(end).ok());
            let bytes = end.and_then(|end| pages.get(page.offset as usize..end));
            bytes.map(<[u8]>::to_vec).ok_or_else(|| SegmentFault::bad("a page of the filters is missing"))
        };
        // If the filters tell nothing, every block is read.
        filters
            .blocks_with(&rows.tables, &rows.keys, &mut read)
            .unwrap_or_else(|_| (0..filters.blocks() as u32).collect())
    }

    /// Returns the counts of the segment's transactions.
    pub fn counts(&self) -> Option<Counts<'_>> {
        Counts::decode(&self.counts)
    }
}

/// Gathers the index of the blocks that it is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct ChangeIndexBuilder {
    form: FilterForm,
    /// The places of the key's columns in the tuples of each relation; `None` if the stream does not name its rows by a
    /// key.
    keys: HashMap<u32, Option<Vec<usize>>>,
    row: RowMessage,
    content: Vec<u8>,
    /// The hashes of the present block.
    hashes: Vec<u64>,
    /// The other changes of the present block.
    listed: ListedChanges,
    blocks: u64,
    /// The filters of the older form.
    filters: Vec<u8>,
    pages: PagesBuilder,
    counts: CountsBuilder,
}

impl ChangeIndexBuilder {
    pub(super) fn new(form: FilterForm) -> ChangeIndexBuilder {
        ChangeIndexBuilder { form, ..ChangeIndexBuilder::default() }
    }

    /// A Relation message is in force from here on.
    pub(super) fn relation(&mut self, message: &[u8]) {
        if let Some((oid, key)) = key_places(message) {
            self.keys.insert(oid, key);
        }
    }

    /// The next message.
    #[inline]
    pub(super) fn message(&mut self, message: &[u8], peeked: &PeekedMessage<'_>) {
        match *peeked {
            PeekedMessage::Insert { oid } => self.row(message, oid, ChangeKind::Insert),
            PeekedMessage::Update { oid } => self.row(message, oid, ChangeKind::Update),
            PeekedMessage::Delete { oid } => self.row(message, oid, ChangeKind::Delete),
            PeekedMessage::Truncate { oids } => {
                for oid in oids.iter().map(|oid| u32::from_be_bytes(*oid)) {
                    self.listed.tables.insert(oid);
                    self.counts.add(oid, ChangeKind::Truncate, 0);
                }
            }
            PeekedMessage::Relation { .. } => self.relation(message),
            PeekedMessage::Logical { prefix, .. }
                if [DEFINITION, ROWS].map(str::as_bytes).contains(&prefix) =>
            {
                self.listed.schema = true;
            }
            PeekedMessage::Commit { .. } => self.counts.commit(),
            PeekedMessage::Begin { .. } | PeekedMessage::Logical { .. } | PeekedMessage::Other => {}
        }
    }

    fn row(&mut self, message: &[u8], oid: u32, kind: ChangeKind) {
        let is_read = self.row.read(message).is_some();
        self.counts.add(oid, kind, if is_read { self.row.bytes() } else { 0 });
        let before = self.hashes.len();
        let key = self.keys.get(&oid).and_then(Option::as_deref).filter(|_| is_read);
        if key
            .and_then(|key| self.row.push_hashes(message, oid, key, &mut self.content, &mut self.hashes))
            .is_none()
        {
            self.hashes.truncate(before);
            self.listed.tables.insert(oid);
        }
    }

    /// The block is complete.
    pub(super) fn end_block(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        match self.form {
            FilterForm::Hashed => {
                self.hashes.extend(listed.tables.into_iter().map(table_hash));
                self.hashes.extend(listed.schema.then(schema_hash));
                let filter = filter::encode(&mut self.hashes, HASHED_BITS);
                self.hashes.clear();
                put_varint(&mut self.filters, filter.len() as u64);
                self.filters.extend(filter);
            }
            FilterForm::Paged => self.pages.end_block(std::mem::take(&mut self.hashes), &listed),
        }
        self.blocks += 1;
    }

    pub(super) fn finish(self) -> ChangeIndex {
        let counts = self.counts.finish();
        if self.form == FilterForm::Paged && self.blocks > 0 {
            let (head, pages) = self.pages.finish();
            return ChangeIndex::of_pages(counts, &head, &pages);
        }
        let mut filters = Vec::with_capacity(self.filters.len() + 10);
        put_varint(&mut filters, self.blocks);
        filters.extend(self.filters);
        ChangeIndex { counts, filters }
    }
}

/// Reads from a Relation message the places of the columns that name a row. With REPLICA IDENTITY FULL, the whole row
/// does.
fn key_places(message: &[u8]) -> Option<(u32, Option<Vec<usize>>)> {
    let oid = u32::from_be_bytes(message.get(1..5)?.try_into().ok()?);
    let mut bytes = ByteReader::new(message.get(5..)?);
    cstr(&mut bytes)?;
    cstr(&mut bytes)?;
    let identity = bytes.take(1)?[0];
    let columns = u16::from_be_bytes(bytes.take(2)?.try_into().ok()?);
    let mut places = Vec::new();
    for place in 0..usize::from(columns) {
        if bytes.take(1)?[0] & 1 == 1 {
            places.push(place);
        }
        cstr(&mut bytes)?;
        bytes.take(8)?;
    }
    Some((oid, (identity != b'f' && !places.is_empty()).then_some(places)))
}

fn cstr(bytes: &mut ByteReader<'_>) -> Option<()> {
    let end = bytes.rest().iter().position(|&byte| byte == 0)?;
    bytes.take(end + 1).map(drop)
}

/// One column of a tuple.
#[derive(Clone, Debug)]
enum Field {
    Null,
    Unchanged,
    /// The place of the value in the message.
    Value(Range<usize>),
}

/// The tuples of a row message. The value is filled anew for each message, since new memory for every row would take
/// longer than all the rest.
#[derive(Clone, Debug, Default)]
struct RowMessage {
    /// The row before the change, or its key; empty if the stream has neither.
    old: Vec<Field>,
    /// The row after the change; empty after a delete.
    new: Vec<Field>,
}

impl RowMessage {
    /// Reads an Insert, Update or Delete message; `None` if it is none.
    fn read(&mut self, message: &[u8]) -> Option<()> {
        self.old.clear();
        self.new.clear();
        let mut bytes = ByteReader::new(message);
        bytes.take(5)?;
        while !bytes.is_empty() {
            let tuple = if bytes.take(1)?[0] == b'N' { &mut self.new } else { &mut self.old };
            for _ in 0..u16::from_be_bytes(bytes.take(2)?.try_into().ok()?) {
                tuple.push(match bytes.take(1)?[0] {
                    b'n' => Field::Null,
                    b'u' => Field::Unchanged,
                    _ => {
                        let len = u32::from_be_bytes(bytes.take(4)?.try_into().ok()?) as usize;
                        bytes.take(len)?;
                        let end = message.len() - bytes.remaining();
                        Field::Value(end - len..end)
                    }
                });
            }
        }
        Some(())
    }

    /// The bytes of the values before and after. A value that did not change is taken from the row before.
    fn bytes(&self) -> u64 {
        let len = |field: &Field| if let Field::Value(value) = field { value.len() as u64 } else { 0 };
        let new = self.new.iter().enumerate().map(|(place, field)| match (field, self.old.get(place)) {
            (Field::Unchanged, Some(old)) => len(old),
            (field, _) => len(field),
        });
        self.old.iter().map(len).chain(new).sum()
    }

    /// Appends the hashes of the row's keys before and after; `None` if the message does not tell one of them.
    fn push_hashes(
        &self,
        message: &[u8],
        oid: u32,
        key: &[usize],
        content: &mut Vec<u8>,
        hashes: &mut Vec<u64>,
    ) -> Option<()> {
        for tuple in [&self.old, &self.new].into_iter().filter(|tuple| !tuple.is_empty()) {
            begin_key(content, oid);
            for place in key {
                let value = match tuple.get(*place)? {
                    Field::Unchanged => self.old.get(*place)?,
                    field => field,
                };
                let Field::Value(value) = value else { return None };
                push_value(content, message.get(value.clone())?);
            }
            hashes.push(XxHash3_64::oneshot(content));
        }
        Some(())
    }
}
