//! Merges sorted sources of rows.

use super::arena::Arena;
use super::run::{Run, RunReader};
use crate::error::Result;

/// A source of sorted rows, in memory or on disk.
pub enum RowSource {
    Memory { arena: Arena, next: usize },
    Run(Box<RunReader>),
}

impl RowSource {
    /// Makes a source of the rows of a sorted arena.
    pub fn memory(arena: Arena) -> RowSource {
        RowSource::Memory { arena, next: 0 }
    }

    pub fn run(run: Run) -> Result<RowSource> {
        Ok(RowSource::Run(Box::new(RunReader::open(run)?)))
    }

    /// Goes to the next row; false if there is none.
    fn advance(&mut self) -> Result<bool> {
        match self {
            RowSource::Memory { arena, next } => {
                *next += 1;
                Ok(*next <= arena.len())
            }
            RowSource::Run(reader) => reader.advance(),
        }
    }

    /// Returns the row that [`RowSource::advance`] went to.
    fn row(&self) -> (&[u8], &[u8]) {
        match self {
            RowSource::Memory { arena, next } => arena.get(next - 1),
            RowSource::Run(reader) => reader.row(),
        }
    }
}

/// A heap of sources, the one with the first row on top.
pub struct Merge {
    heap: Vec<RowSource>,
    /// Whether the row of the top source has been returned already.
    given: bool,
}

impl Merge {
    pub fn new(sources: Vec<RowSource>) -> Result<Merge> {
        let mut heap = Vec::with_capacity(sources.len());
        for mut source in sources {
            if source.advance()? {
                heap.push(source);
            }
        }
        let mut merge = Merge { heap, given: false };
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(at);
        }
        Ok(merge)
    }

    /// Returns the key and line of the next row.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        if self.given {
            if !self.heap[0].advance()? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        self.given = !self.heap.is_empty();
        Ok(self.heap.first().map(RowSource::row))
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut first = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.heap[child].row() < self.heap[first].row() {
                    first = child;
                }
            }
            if first == at {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}
