//! Sorts a table's rows by key: in memory as long as they fit, and otherwise with runs on disk.

mod arena;
mod merge;
mod run;

use std::path::{Path, PathBuf};

use arena::Arena;
use merge::{Merge, RowSource};
use run::{Run, RunWriter};

use crate::error::{Error, Result};

/// When there are this many runs of one level, they are merged into one run of the next, so that few files are open.
const FAN_IN: usize = 64;

/// Takes rows in any order, and returns them sorted by key; rows with equal keys are sorted by line.
///
/// Rows that come sorted take little longer than a copy.
pub struct Sorter {
    scratch: PathBuf,
    budget: usize,
    arena: Arena,
    /// The run that may still grow, because the next rows may sort after it.
    open: Option<RunWriter>,
    /// The finished runs, each with the number of times that its rows have been merged.
    runs: Vec<(u32, Run)>,
}

impl Sorter {
    /// Makes a sorter with about `budget` bytes of memory. Rows that do not fit go to unnamed files in the folder `scratch`,
    /// which must exist.
    pub fn new(scratch: &Path, budget: usize) -> Sorter {
        Sorter { scratch: scratch.to_owned(), budget, arena: Arena::default(), open: None, runs: Vec::new() }
    }

    /// Takes a row.
    ///
    /// # Errors
    /// `Unavailable` if the scratch folder does not take the rows that do not fit into memory, `Refused` if key or line have
    /// 4 GiB or more.
    pub fn push(&mut self, key: &[u8], line: &[u8]) -> Result<()> {
        if u32::try_from(key.len().max(line.len())).is_err() {
            return Err(Error::refused("a row has more than 4 GiB, which no PostgreSQL server sends"));
        }
        if !self.arena.is_empty() && self.arena.cost_with(key, line) > self.budget {
            self.spill()?;
        }
        self.arena.push(key, line);
        Ok(())
    }

    /// Sorts the rows that were pushed.
    ///
    /// # Errors
    /// `Unavailable` if the scratch folder fails.
    pub fn finish(mut self) -> Result<SortedRows> {
        self.close_run()?;
        self.arena.sort();
        let mut sources = vec![RowSource::memory(self.arena)];
        for (_, run) in self.runs {
            sources.push(RowSource::run(run)?);
        }
        Ok(SortedRows { merge: Merge::new(sources)? })
    }

    /// Moves the rows in memory to disk.
    fn spill(&mut self) -> Result<()> {
        self.arena.sort();
        if !self.open.as_ref().is_some_and(|open| open.can_take(self.arena.get(0))) {
            self.close_run()?;
        }
        if self.open.is_none() {
            self.open = Some(RunWriter::create(&self.scratch)?);
        }
        let open = self.open.as_mut().expect("made above");
        for at in 0..self.arena.len() {
            open.push(self.arena.get(at))?;
        }
        open.note_last(self.arena.get(self.arena.len() - 1));
        self.arena.clear();
        Ok(())
    }

    fn close_run(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.runs.push((0, open.finish()?));
        let mut level = 0;
        while self.runs.iter().filter(|(at, _)| *at == level).count() >= FAN_IN {
            self.merge_level(level)?;
            level += 1;
        }
        Ok(())
    }

    /// Makes one run of the next level out of all runs of this level.
    fn merge_level(&mut self, level: u32) -> Result<()> {
        let (merged, kept) = std::mem::take(&mut self.runs).into_iter().partition(|(at, _)| *at == level);
        self.runs = kept;
        let merged: Vec<(u32, Run)> = merged;
        let sources = merged.into_iter().map(|(_, run)| RowSource::run(run)).collect::<Result<_>>()?;
        let mut merge = Merge::new(sources)?;
        let mut writer = RunWriter::create(&self.scratch)?;
        while let Some(row) = merge.next_row()? {
            writer.push(row)?;
        }
        self.runs.push((level + 1, writer.finish()?));
        Ok(())
    }
}

/// Sorted rows, which are taken one by one.
pub struct SortedRows {
    merge: Merge,
}

impl SortedRows {
    /// Returns the next row's key and line.
    ///
    /// # Errors
    /// `Unavailable` if the rows cannot be read back from the scratch folder.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        self.merge.next_row()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn sorted(rows: &Rows, budget: usize) -> (Rows, usize) {
        let scratch = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(scratch.path(), budget);
        for (key, line) in rows {
            sorter.push(key, line).unwrap();
        }
        let runs = sorter.runs.len() + usize::from(sorter.open.is_some());
        let mut sorted = sorter.finish().unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "runs have no names");
        let mut out = Vec::new();
        while let Some((key, line)) = sorted.next_row().unwrap() {
            out.push((key.to_vec(), line.to_vec()));
        }
        assert!(sorted.next_row().unwrap().is_none());
        (out, runs)
    }

    fn random_rows(count: usize) -> Rows {
        let mut random = StdRng::seed_from_u64(7);
        let mut bytes = |longest: usize| -> Vec<u8> {
            let len = random.random_range(0..=longest);
            // Few letters, so that keys collide and are prefixes of one another.
            (0..len).map(|_| random.random_range(0..3)).collect()
        };
        (0..count).map(|_| (bytes(12), bytes(30))).collect()
    }

    #[test]
    fn rows_come_sorted_by_key_and_line_whatever_the_budget() {
        let rows = random_rows(20_000);
        for budget in [usize::MAX, 100_000, 3_000, 0] {
            let count = if budget == 0 { 300 } else { rows.len() };
            let rows = rows[..count].to_vec();
            let mut expected = rows.clone();
            expected.sort();
            assert!(sorted(&rows, budget).0 == expected, "budget {budget}");
        }
    }

    #[test]
    fn sorted_rows_make_one_run() {
        let mut rows = random_rows(5_000);
        rows.sort();
        let (out, runs) = sorted(&rows, 10_000);
        assert!(out == rows);
        assert_eq!(runs, 1);
    }

    #[test]
    fn many_runs_are_merged_in_levels() {
        let rows = random_rows(20_000);
        let (_, runs) = sorted(&rows, 3_000);
        assert!((2..2 * FAN_IN).contains(&runs), "{runs} runs");
    }

    #[test]
    fn no_rows_are_no_rows() {
        assert_eq!(sorted(&Vec::new(), 10).0, Vec::new());
    }
}
