//! The rows of a folded table that have certain keys.

use std::borrow::Cow;

use super::delta::{Delta, Latest};
use super::point::ImageRows;
use super::rewrite::Rewrite;
use super::table::Standing;
use super::touched::Mismatch;
use super::{FoldedTable, KeyRange};
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::error::Result;

/// The number of keys that are looked up together, so that their rows fit into memory.
const KEYS_AT_ONCE: usize = 1 << 15;

/// The rows of a table that are asked for.
#[derive(Clone, Debug)]
pub enum AskedRows<K> {
    All,
    /// The rows with these keys, which are sorted.
    Keys(Vec<K>),
}

impl FoldedTable {
    /// Hands the key and the line of each row to `take`, in key order.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`] and of `take`.
    pub fn each(self, mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut rows = self.rows(KeyRange::all(), None)?;
        while let Some((key, line)) = rows.next_row()? {
            take(key, line)?;
        }
        Ok(())
    }

    /// Hands the key and the line of each row that is asked for to `take`, in key order.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`] and of `take`.
    pub fn each_of<K: AsRef<[u8]> + Sync>(
        self,
        asked: &AskedRows<K>,
        take: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        match asked {
            AskedRows::All => self.each(take),
            AskedRows::Keys(keys) => self.find(keys, take),
        }
    }

    /// Hands the key and the line of each row with one of the sorted `keys` to `take`, in key order. Of the image,
    /// only the blocks are read that may hold such a row.
    ///
    /// # Errors
    /// The errors of [`FoldedTable::rows`] and of `take`.
    pub fn find<K: AsRef<[u8]> + Sync>(
        &self,
        keys: &[K],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let none = Delta::new(KeyShape::of(&self.table));
        let (delta, reshape) = match &self.standing {
            Standing::Untouched(_) => (&none, None),
            Standing::Changed { delta, reshape, .. } | Standing::Cleared { delta, reshape } => {
                (delta, reshape.clone())
            }
        };
        if *delta.shape() == KeyShape::WholeRow {
            return self.find_equal(keys, take);
        }
        let source = self.source()?;
        let mut rewrite = Rewrite::new(reshape, None);
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let known: Vec<_> = keys.iter().map(|key| (key.as_ref(), delta.latest(key.as_ref()))).collect();
            let places = known.iter().filter_map(|(key, latest)| place(key, *latest)).collect();
            let mut image = ImageRows::read(&source, delta.shape(), places)?;
            for (key, latest) in known {
                let line = line(key, latest, &mut image).map_err(|mismatch| source.fault(mismatch))?;
                match (line, &mut rewrite) {
                    (None, _) => {}
                    (Some(line), None) => take(key, &line)?,
                    (Some(line), Some(rewrite)) => take(key, rewrite.rewrite(&line)?)?,
                }
            }
        }
        Ok(())
    }

    /// The same for a table without a key: equal rows have the same one.
    fn find_equal<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = keys.first() else { return Ok(()) };
        let standing = match &self.standing {
            Standing::Untouched(image) => Standing::Untouched(*image),
            Standing::Changed { image, delta, reshape, is_unreadable } => Standing::Changed {
                image: *image,
                delta: delta.only(keys),
                reshape: reshape.clone(),
                is_unreadable: *is_unreadable,
            },
            Standing::Cleared { delta, reshape } => {
                Standing::Cleared { delta: delta.only(keys), reshape: reshape.clone() }
            }
        };
        let (table, blocks, scratch) = (self.table.clone(), self.blocks.clone(), self.scratch.clone());
        let mut rows = FoldedTable { table, blocks, standing, scratch }
            .rows(KeyRange::between(first.as_ref(), None), None)?;
        rows.keep_only(keys);
        let mut passed = 0;
        while let Some((key, line)) = rows.next_row()? {
            passed += keys[passed..].iter().take_while(|it| it.as_ref() < key).count();
            if keys.get(passed).is_some_and(|it| it.as_ref() == key) {
                take(key, line)?;
            }
        }
        Ok(())
    }
}

/// The key under which the image has what a row needs of it; `None` if the row needs nothing.
fn place<'a>(key: &'a [u8], latest: Option<&'a Latest>) -> Option<&'a [u8]> {
    match latest {
        None => Some(key),
        Some(Latest::Patch { origin, .. }) => Some(origin.as_deref().unwrap_or(key)),
        Some(_) => None,
    }
}

/// The line of the row that has a key.
fn line<'a>(
    key: &[u8],
    latest: Option<&'a Latest>,
    image: &'a mut ImageRows<'_>,
) -> std::result::Result<Option<Cow<'a, [u8]>>, Mismatch> {
    Ok(match latest {
        None => image.get(key).map(Cow::Borrowed),
        Some(Latest::Row(line)) => Some(Cow::Borrowed(line)),
        Some(Latest::Gone | Latest::Counted(_)) => None,
        Some(Latest::Patch { line, origin: None }) => {
            let before = image.get(key).ok_or(Mismatch::ChangedRowMissing)?;
            Some(Cow::Owned(copy_text::fill_holes(line, before).ok_or(Mismatch::ColumnsDiffer)?))
        }
        Some(Latest::Patch { line, origin: Some(origin) }) => {
            let before = image.get(origin).ok_or(Mismatch::MovedRowMissing)?;
            Some(Cow::Owned(copy_text::fill_holes(line, before).ok_or(Mismatch::MovedColumnsDiffer)?))
        }
    })
}
