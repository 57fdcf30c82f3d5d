//! Single rows of an image, each found by its key.

use std::ops::Range;

use super::source::RowSource;
use crate::codec::key::KeyShape;
use crate::error::{Error, Result};
use crate::history::image;

/// A further thread reads and decompresses blocks for each so many of them.
const BLOCKS_PER_THREAD: usize = 8;

/// The rows of an image that have some keys.
#[derive(Default)]
pub(super) struct ImageRows<'k> {
    /// The lines, one behind the other.
    lines: Vec<u8>,
    /// Keys and places of their lines, in order.
    found: Vec<(&'k [u8], Range<usize>)>,
    /// The place in `found` of the key behind the one that was asked for last.
    next: usize,
}

/// The keys that one block may hold, by the block's place in the image.
type BlockKeys<'a, 'k> = (usize, &'a [&'k [u8]]);

impl<'k> ImageRows<'k> {
    /// Reads the rows of a table with a key. Only the blocks are read that may hold one of the keys, by several threads if
    /// there are many.
    ///
    /// # Errors
    /// `Damaged` if a block is.
    pub fn read(source: &RowSource, shape: &KeyShape, mut keys: Vec<&'k [u8]>) -> Result<ImageRows<'k>> {
        keys.sort_unstable();
        keys.dedup();
        let blocks = by_block(source, &keys);
        let most = std::thread::available_parallelism().map_or(2, usize::from);
        let threads = (blocks.len() / BLOCKS_PER_THREAD).clamp(1, most);
        let read = |blocks: &[BlockKeys<'_, 'k>]| {
            let mut rows = ImageRows::default();
            blocks.iter().try_for_each(|(block, keys)| rows.read_block(source, shape, *block, keys))?;
            Ok::<_, Error>(rows)
        };
        if threads == 1 {
            return read(&blocks);
        }
        std::thread::scope(|scope| {
            let parts = blocks.chunks(blocks.len().div_ceil(threads));
            let workers: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
            let mut all = ImageRows::default();
            for worker in workers {
                all.add(worker.join().map_err(|_| Error::internal("a thread that reads rows failed"))??);
            }
            Ok(all)
        })
    }

    fn add(&mut self, other: ImageRows<'k>) {
        let before = self.lines.len();
        self.lines.extend(other.lines);
        let moved = |(key, line): (_, Range<usize>)| (key, line.start + before..line.end + before);
        self.found.extend(other.found.into_iter().map(moved));
    }

    fn read_block(
        &mut self,
        source: &RowSource,
        shape: &KeyShape,
        block: usize,
        keys: &[&'k [u8]],
    ) -> Result<()> {
        let raw = image::read_rows(&source.blocks, &source.index[block])?;
        let mut search = BlockSearch { raw: &raw, from: 0, shape, key: Vec::new() };
        for key in keys {
            if let Some(line) = search.find(key).ok_or_else(|| source.keyless(block))? {
                let start = self.lines.len();
                self.lines.extend_from_slice(&raw[line]);
                self.found.push((key, start..self.lines.len()));
            }
        }
        Ok(())
    }

    /// The line of the row with a key. Asking in the order of the keys is quickest.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        if self.found.get(self.next).is_none_or(|(it, _)| *it != key) {
            self.next = self.found.partition_point(|(it, _)| *it < key);
        }
        let (_, line) = self.found.get(self.next).filter(|(it, _)| *it == key)?;
        self.next += 1;
        Some(&self.lines[line.clone()])
    }
}

/// The blocks that may hold rows with one of the sorted keys.
fn by_block<'a, 'k>(source: &RowSource, mut keys: &'a [&'k [u8]]) -> Vec<BlockKeys<'a, 'k>> {
    let index = &source.index;
    let mut blocks = Vec::new();
    while let Some(first) = keys.first() {
        let behind = index.partition_point(|entry| *entry.first_key <= **first);
        let bound = index.get(behind).map(|entry| &*entry.first_key);
        let (here, others) =
            keys.split_at(keys.partition_point(|key| bound.is_none_or(|bound| **key < *bound)));
        // Keys before the first block are in none.
        blocks.extend(behind.checked_sub(1).map(|block| (block, here)));
        keys = others;
    }
    blocks
}

/// Finds lines of a block, whose lines are sorted by their keys.
struct BlockSearch<'a> {
    raw: &'a [u8],
    /// The lines before this offset have smaller keys than those that are still asked for.
    from: usize,
    shape: &'a KeyShape,
    key: Vec<u8>,
}

impl BlockSearch<'_> {
    /// The line with a key, without its newline. Keys are asked for in their order. `None` if a line has no key.
    fn find(&mut self, key: &[u8]) -> Option<Option<Range<usize>>> {
        // The next line is often near, so the steps begin small.
        let (mut to, mut step) = (self.raw.len(), 1);
        while self.from < to {
            let reach = self.from + step - 1;
            let middle = if reach < to { reach } else { self.from + (to - self.from) / 2 };
            let line = self.line_at(middle, to);
            self.key.clear();
            self.shape.push_key(&self.raw[line.clone()], &mut self.key)?;
            match (*self.key).cmp(key) {
                std::cmp::Ordering::Less => (self.from, step) = (line.end + 1, step * 4),
                std::cmp::Ordering::Equal => {
                    self.from = line.end + 1;
                    return Some(Some(line));
                }
                std::cmp::Ordering::Greater => (to, step) = (line.start, to),
            }
        }
        Some(None)
    }

    /// The line around an offset, of those from `from` to before `to`.
    fn line_at(&self, middle: usize, to: usize) -> Range<usize> {
        let before = memchr::memrchr(b'\n', &self.raw[self.from..middle]);
        let start = before.map_or(self.from, |at| self.from + at + 1);
        let end = memchr::memchr(b'\n', &self.raw[start..to]).map_or(to, |at| start + at);
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::key::KeyKind;

    fn find_all(raw: &str, keys: &[&str]) -> Vec<Option<String>> {
        let shape = KeyShape::Columns(vec![(0, KeyKind::Text)]);
        let mut search = BlockSearch { raw: raw.as_bytes(), from: 0, shape: &shape, key: Vec::new() };
        let find = |key: &&str| {
            let line = search.find(format!("{key}\t").as_bytes()).unwrap();
            line.map(|line| raw[line].to_owned())
        };
        keys.iter().map(find).collect()
    }

    #[test]
    fn lines_are_found_wherever_they_lie() {
        let keys: Vec<String> = (0..200).map(|number| format!("{:03}", number * 2)).collect();
        let line = |key: &String| format!("{key}\t{}\n", "x".repeat(key.as_bytes()[2] as usize % 7 * 9));
        let raw: String = keys.iter().map(line).collect();
        for step in [1, 2, 3, 7, 50, 199, 401] {
            let asked: Vec<String> = (0..402).step_by(step).map(|number| format!("{number:03}")).collect();
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            for (key, found) in asked.iter().zip(find_all(&raw, &asked)) {
                let there =
                    keys.iter().find(|it| it == key).map(|key| line(key).trim_end_matches('\n').to_owned());
                assert_eq!(found, there, "{key} in steps of {step}");
            }
        }
        assert_eq!(find_all("", &["1"]), [None]);
    }

    #[test]
    fn a_line_without_a_key_is_noticed() {
        let shape = KeyShape::Columns(vec![(1, KeyKind::Text)]);
        let mut search = BlockSearch { raw: b"a\tb\nc\n", from: 0, shape: &shape, key: Vec::new() };
        assert_eq!(search.find(b"b\t"), Some(Some(0..3)));
        assert_eq!(search.find(b"c\t"), None);
    }
}
