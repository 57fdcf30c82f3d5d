//! Reads of a sealed segment's footer only what a lookup of rows needs. See FORMAT.md.
//!
//! The checksum of the whole footer is not checked then. The sections that are read have a check of their own, and the
//! pages of the filters have digests.

use super::block;
use super::fault::SegmentFault;
use super::footer::{
    FILTERS_HEAD, Footer, LOOKUP_CHECK, PAGES, RELATION_MESSAGES, RELATIONS_AT_START, lookup_check,
    read_bytes, read_trailer, stored_section,
};
use super::lookup::{ChangeIndex, SoughtRows};
use super::name::SegmentName;
use super::pages::{Page, PagedFilters};
use super::place::Journal;
use super::record::ByteReader;
use super::sections::{decode_relation_messages, decode_relations};
use crate::error::Result;
use crate::history::key::SegmentKey;
use crate::store::Object;

/// A footer with more sections than this is refused.
const MOST_SECTIONS: usize = 64;
/// The bytes of a section's entry in the table that a footer begins with.
const ENTRY_LEN: usize = 20;

/// The result of looking up rows in a segment's footer.
pub struct Lookup {
    /// The Relation messages that are in force at the start of the segment or come within it.
    pub relations: Vec<Vec<u8>>,
    /// The numbers of the blocks that may concern one of the rows, in order.
    pub blocks: Vec<u32>,
}

/// Looks rows up in a sealed segment, and reads little of it; `None` if an earlier version sealed the segment without an
/// index.
///
/// # Errors
/// Fails as [`read_footer`](super::read_footer) does.
pub fn look_up(journal: &Journal, name: SegmentName, rows: &SoughtRows) -> Result<Option<Lookup>> {
    let bytes = journal.open(name)?;
    let (_, key) = bytes.begin(&journal.authorship)?;
    let found = find(&*bytes.object, bytes.len(), key.as_ref(), rows);
    let found = found.map_err(|(offset, fault)| bytes.fault(offset, fault))?;
    Ok(found.map(|(lookup, read)| {
        // Tests count these bytes.
        tracing::trace!("looked up in {read} bytes of the index of {}", bytes.place);
        lookup
    }))
}

type Found = Option<(Lookup, u64)>;

fn find(
    object: &dyn Object,
    len: u64,
    key: Option<&SegmentKey>,
    rows: &SoughtRows,
) -> Result<Found, (u64, SegmentFault)> {
    let mut sections = StoredSections::read(object, len).map_err(|fault| (len, fault))?;
    if sections.has(LOOKUP_CHECK) {
        let at = sections.footer;
        return sections
            .look_up(key, rows)
            .map(|found| Some((found, sections.read)))
            .map_err(|fault| (at, fault));
    }
    let (bytes, trailer) = read_bytes(object, len)?;
    let decoded = Footer::decode_lookup(&bytes, key).map_err(|fault| (trailer.footer_offset, fault))?;
    let found =
        |(relations, changes): (_, ChangeIndex)| Lookup { relations, blocks: changes.blocks_with(rows) };
    Ok(decoded.map(found).map(|found| (found, bytes.len() as u64)))
}

/// The sections of a footer as they lie in their segment. Nothing of them is believed yet.
struct StoredSections<'a> {
    object: &'a dyn Object,
    /// The offset of the footer.
    footer: u64,
    sections: Vec<StoredSection>,
    /// The bytes that have been read.
    read: u64,
}

struct StoredSection {
    id: u32,
    raw_len: u64,
    offset: u64,
    stored_len: u64,
}

impl<'a> StoredSections<'a> {
    fn read(object: &'a dyn Object, len: u64) -> Result<StoredSections<'a>, SegmentFault> {
        let (trailer, _) = read_trailer(object, len)?;
        let short = || SegmentFault::bad("the footer's table is cut short");
        let (mut offset, end) = (trailer.footer_offset, trailer.footer_offset + trailer.footer_len);
        let mut read = |len: usize| {
            let begin = offset;
            offset += len as u64;
            let mut bytes = vec![0; len];
            if offset > end {
                return Err(short());
            }
            block::read_exact(object, &mut bytes, begin).map(|()| bytes)
        };
        let count = ByteReader::new(&read(4)?).u32().map(|count| count as usize);
        let count = count.filter(|count| *count <= MOST_SECTIONS).ok_or_else(short)?;
        let table = read(count * ENTRY_LEN)?;
        let (mut table, mut sections) = (ByteReader::new(&table), Vec::new());
        for _ in 0..count {
            let entry = (|| Some((table.u32()?, table.u64()?, table.u64()?)))();
            let (id, raw_len, stored_len) = entry.ok_or_else(short)?;
            sections.push(StoredSection { id, raw_len, offset, stored_len });
            offset = offset.checked_add(stored_len).filter(|it| *it <= end).ok_or_else(short)?;
        }
        Ok(StoredSections { object, footer: trailer.footer_offset, sections, read: 0 })
    }

    fn has(&self, id: u32) -> bool {
        self.section(id).is_some()
    }

    fn section(&self, id: u32) -> Option<&StoredSection> {
        self.sections.iter().find(|section| section.id == id)
    }

    fn get(&mut self, id: u32) -> Result<Vec<u8>, SegmentFault> {
        let section = self.section(id);
        let section =
            section.ok_or_else(|| SegmentFault::bad(format!("section {id} of the footer is missing")))?;
        let (raw_len, stored_len) = (section.raw_len, section.stored_len);
        let mut stored = vec![0; stored_len as usize];
        block::read_exact(self.object, &mut stored, section.offset)?;
        self.read += stored_len;
        stored_section(id, raw_len, &stored)
    }

    fn look_up(&mut self, key: Option<&SegmentKey>, rows: &SoughtRows) -> Result<Lookup, SegmentFault> {
        let (start, within) = (self.get(RELATIONS_AT_START)?, self.get(RELATION_MESSAGES)?);
        let (head, check) = (self.get(FILTERS_HEAD)?, self.get(LOOKUP_CHECK)?);
        if check != lookup_check(key, [&start, &within, &head]) {
            return Err(match key {
                Some(key) => SegmentFault::bad(key.not_ours()),
                None => SegmentFault::bad("the checksum of what a lookup reads does not agree"),
            });
        }
        let short = || SegmentFault::bad("a section of the footer is cut short");
        let filters = PagedFilters::decode(&head).ok_or_else(short)?;
        let pages = self.section(PAGES).filter(|it| it.stored_len == filters.len).ok_or_else(short)?.offset;
        let mut read = |page: Page<'_>| {
            // The pages are no longer than their section.
            let mut bytes = vec![0; page.len as usize];
            block::read_exact(self.object, &mut bytes, pages + page.offset)?;
            self.read += page.len;
            Ok(bytes)
        };
        let blocks = filters.blocks_with(&rows.tables, &rows.keys, &mut read)?;
        let mut relations = decode_relations(&start).ok_or_else(short)?;
        let within = decode_relation_messages(&within).ok_or_else(short)?;
        relations.extend(within.into_iter().map(|(_, message)| message));
        Ok(Lookup { relations, blocks })
    }
}
