//! The filters of a segment's blocks in pages, of which a reader who looks for a key reads one. See FORMAT.md.
//!
//! Hashes of one stretch of all hashes lie in one page, whatever their block. So a lookup reads as little of a long journal's
//! filters as of its blocks.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::SegmentFault;
use super::filter::{self, Filter};
use super::record::{ByteReader, put_varint};

/// The bits that tell a key from others.
const BITS: u32 = 12;
/// A page holds about so many keys. With fewer, the list of the pages takes longer to read than a page.
const KEYS_OF_PAGE: usize = 4096;
/// A group of blocks is complete with so many keys, which are held in memory until then.
const KEYS_OF_GROUP: usize = 1 << 20;
/// The same in blocks: each page has a filter of each block, and open segments have many small ones.
const BLOCKS_OF_GROUP: usize = 128;
const DIGEST_LEN: usize = 16;

/// The changes in a block that are not those of rows with a key.
#[derive(Clone, Debug, Default)]
pub(super) struct ListedChanges {
    /// Whether the block has messages of a schema change.
    pub(super) schema: bool,
    /// The tables of which any row may be concerned.
    pub(super) tables: BTreeSet<u32>,
}

impl ListedChanges {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, (self.tables.len() as u64) << 1 | u64::from(self.schema));
        self.tables.iter().for_each(|oid| put_varint(out, u64::from(*oid)));
    }

    fn decode(bytes: &mut ByteReader<'_>) -> Option<ListedChanges> {
        let first = bytes.varint()?;
        let tables = (0..first >> 1).map(|_| u32::try_from(bytes.varint()?).ok()).collect::<Option<_>>()?;
        Some(ListedChanges { schema: first & 1 == 1, tables })
    }
}

/// The page of a hash among `pages`, and what tells the hash from others in the page. A larger hash has no smaller place.
fn place(hash: u64, pages: u64) -> (u64, u64) {
    let product = u128::from(hash) * u128::from(pages);
    ((product >> 64) as u64, product as u64)
}

fn digest(page: &[u8]) -> [u8; DIGEST_LEN] {
    *blake3::hash(page).as_bytes().first_chunk().expect("a digest has 32 bytes")
}

/// Gathers the filters of blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct PagesBuilder {
    blocks: u64,
    listed: Vec<u8>,
    groups: Vec<u8>,
    pages: Vec<u8>,
    /// The sorted hashes of each block of the present group.
    group: Vec<Vec<u64>>,
    keys: usize,
}

impl PagesBuilder {
    pub(super) fn end_block(&mut self, mut hashes: Vec<u64>, listed: &ListedChanges) {
        hashes.sort_unstable();
        hashes.dedup();
        listed.encode(&mut self.listed);
        self.blocks += 1;
        self.keys += hashes.len();
        self.group.push(hashes);
        if self.keys >= KEYS_OF_GROUP || self.group.len() == BLOCKS_OF_GROUP {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        let blocks = std::mem::take(&mut self.group);
        let pages = (std::mem::take(&mut self.keys) / KEYS_OF_PAGE).max(1) as u64;
        put_varint(&mut self.groups, blocks.len() as u64);
        put_varint(&mut self.groups, pages);
        let mut left: Vec<&[u64]> = blocks.iter().map(Vec::as_slice).collect();
        for page in 0..pages {
            let begin = self.pages.len();
            for hashes in &mut left {
                let (here, later) = hashes.split_at(hashes.partition_point(|it| place(*it, pages).0 == page));
                let mut rests = here.iter().map(|hash| place(*hash, pages).1).collect();
                self.pages.extend(filter::encode(&mut rests, BITS));
                *hashes = later;
            }
            let page = &self.pages[begin..];
            put_varint(&mut self.groups, page.len() as u64);
            self.groups.extend(digest(page));
        }
    }

    /// Returns the head, which tells the pages, and the pages.
    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        if !self.group.is_empty() {
            self.end_group();
        }
        let mut head = Vec::new();
        put_varint(&mut head, self.blocks);
        head.extend(self.listed);
        head.extend(self.groups);
        (head, self.pages)
    }
}

/// The head of a segment's filters.
pub(super) struct PagedFilters<'a> {
    listed: Vec<ListedChanges>,
    groups: Vec<Group<'a>>,
    /// The bytes of all pages.
    pub(super) len: u64,
}

/// Consecutive blocks whose filters lie in the same pages.
struct Group<'a> {
    first: u32,
    blocks: u32,
    pages: Vec<Page<'a>>,
}

/// The place of a page behind the head.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    pub(super) offset: u64,
    pub(super) len: u64,
    digest: &'a [u8],
}

impl<'a> PagedFilters<'a> {
    /// Reads a head; `None` if the bytes are none.
    pub(super) fn decode(head: &'a [u8]) -> Option<PagedFilters<'a>> {
        let mut bytes = ByteReader::new(head);
        let blocks = u32::try_from(bytes.varint()?).ok()?;
        let listed = (0..blocks).map(|_| ListedChanges::decode(&mut bytes)).collect::<Option<_>>()?;
        let (mut groups, mut first, mut offset) = (Vec::new(), 0, 0_u64);
        while first < blocks {
            let count = u32::try_from(bytes.varint()?).ok().filter(|it| *it > 0 && *it <= blocks - first)?;
            let pages = bytes.varint().filter(|it| *it > 0)?;
            let mut page = || {
                let (len, digest) = (bytes.varint()?, bytes.take(DIGEST_LEN)?);
                let page = Page { offset, len, digest };
                offset = offset.checked_add(len)?;
                Some(page)
            };
            let pages = (0..pages).map(|_| page()).collect::<Option<_>>()?;
            groups.push(Group { first, blocks: count, pages });
            first += count;
        }
        bytes.is_empty().then_some(PagedFilters { listed, groups, len: offset })
    }

    pub(super) fn blocks(&self) -> usize {
        self.listed.len()
    }

    /// Returns the numbers of the blocks that may hold one of the keys, that may concern any row of the tables, or that hold
    /// schema changes, in order. `read` reads a page.
    ///
    /// # Errors
    /// Fails with the faults of `read`, and if a page does not have the digest that the head tells.
    pub(super) fn blocks_with(
        &self,
        tables: &[u32],
        keys: &[u64],
        read: &mut dyn FnMut(Page<'_>) -> Result<Vec<u8>, SegmentFault>,
    ) -> Result<Vec<u32>, SegmentFault> {
        let is_listed = |it: &ListedChanges| it.schema || tables.iter().any(|oid| it.tables.contains(oid));
        let listed = self.listed.iter().zip(0..).filter(|(it, _)| is_listed(it));
        let mut found: BTreeSet<u32> = listed.map(|(_, number)| number).collect();
        for group in &self.groups {
            let mut sought: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (page, rest) in keys.iter().map(|hash| place(*hash, group.pages.len() as u64)) {
                sought.entry(page).or_default().push(rest);
            }
            for (number, rests) in sought {
                let page = group.pages[number as usize];
                let bytes = read(page)?;
                if digest(&bytes) != *page.digest {
                    return Err(SegmentFault::bad(
                        "a page of the filters is another one than its index says",
                    ));
                }
                let holding = group.holding(&bytes, &rests);
                found.extend(holding.ok_or_else(|| SegmentFault::bad("a page of the filters is cut short"))?);
            }
        }
        Ok(found.into_iter().collect())
    }
}

impl Group<'_> {
    /// The numbers of the blocks whose filters in a page may hold one of the hashes.
    fn holding(&self, page: &[u8], rests: &[u64]) -> Option<Vec<u32>> {
        let (mut bytes, mut found) = (ByteReader::new(page), Vec::new());
        for number in self.first..self.first + self.blocks {
            let filter = Filter::read(&mut bytes, BITS)?;
            if rests.iter().any(|rest| filter.may_hold(*rest)) {
                found.push(number);
            }
        }
        bytes.is_empty().then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    fn build(blocks: &[Vec<u64>]) -> (Vec<u8>, Vec<u8>) {
        let mut builder = PagesBuilder::default();
        blocks.iter().for_each(|hashes| builder.end_block(hashes.clone(), &ListedChanges::default()));
        builder.finish()
    }

    /// The blocks that a key is looked up in, and the bytes of pages that are read for it.
    fn find(head: &[u8], pages: &[u8], keys: &[u64]) -> (Vec<u32>, usize) {
        let mut bytes = 0;
        let mut read = |page: Page<'_>| {
            bytes += page.len as usize;
            Ok(pages[page.offset as usize..][..page.len as usize].to_vec())
        };
        let found = PagedFilters::decode(head).unwrap().blocks_with(&[], keys, &mut read).unwrap();
        (found, bytes)
    }

    #[test]
    fn every_key_is_found_in_its_blocks_and_little_is_read_for_it() {
        let mut random = StdRng::seed_from_u64(5);
        // As many blocks as two groups, and a group with more than one page.
        for (blocks, keys) in [(1, 0), (1, 1), (300, 3), (40, 6000)] {
            let mut key = || random.next_u64();
            let hashes: Vec<Vec<u64>> = (0..blocks).map(|_| (0..keys).map(|_| key()).collect()).collect();
            let (head, pages) = build(&hashes);
            assert_eq!(PagedFilters::decode(&head).unwrap().blocks(), blocks);
            for (number, hashes) in hashes.iter().enumerate().step_by(7) {
                for hash in hashes.iter().step_by(97) {
                    let (found, _) = find(&head, &pages, &[*hash]);
                    assert!(found.contains(&(number as u32)) && found.len() < 4, "{number} in {found:?}");
                }
            }
            let both = hashes.iter().filter_map(|hashes| hashes.first().copied()).collect::<Vec<_>>();
            let all: Vec<u32> = if keys == 0 { Vec::new() } else { (0..blocks as u32).collect() };
            assert_eq!(find(&head, &pages, &both).0, all);
        }
        let hashes: Vec<Vec<u64>> =
            (0..40).map(|_| (0..25_000).map(|_| random.next_u64()).collect()).collect();
        let (head, pages) = build(&hashes);
        let (_, read) = find(&head, &pages, &[hashes[7][9]]);
        let whole = head.len() + pages.len();
        assert!((head.len() + read) * 100 < whole, "{} and {read} of {whole} bytes", head.len());
    }

    #[test]
    fn a_page_that_was_exchanged_is_refused() {
        let (head, pages) = build(&[vec![1, 2, u64::MAX]]);
        let filters = PagedFilters::decode(&head).unwrap();
        let mut other = |_: Page<'_>| {
            let mut page = pages.clone();
            page[1] ^= 1;
            Ok(page)
        };
        assert!(filters.blocks_with(&[], &[1], &mut other).is_err());
    }
}
