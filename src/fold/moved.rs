//! Rows whose key changed, and whose left-out values lie in the image under the key that they had.

use super::delta::{Bytes, Latest};
use super::source::RowSource;
use super::touched::{Mismatch, TouchedKeys};
use crate::codec::copy_text;
use crate::codec::key::KeyShape;
use crate::error::Result;
use crate::history::image;

/// Fills the rows from the image, each of whose blocks is read at most once.
///
/// # Errors
/// `Damaged` if a block is, or if the image does not hold a row.
pub(super) fn fill_moved(source: &RowSource, shape: &KeyShape, touched: &mut TouchedKeys) -> Result<()> {
    let origin = |(at, (_, latest)): (usize, &(Bytes, Latest))| match latest {
        Latest::Patch { origin: Some(origin), .. } => Some((origin.clone(), at)),
        _ => None,
    };
    let mut wanted: Vec<_> = touched.rows.iter().enumerate().filter_map(origin).collect();
    wanted.sort_unstable();
    let mut wanted = &wanted[..];
    while let Some((first, _)) = wanted.first() {
        let before = source.index.partition_point(|entry| *entry.first_key <= **first);
        let block = before.checked_sub(1).ok_or_else(|| source.fault(Mismatch::MovedRowMissing))?;
        let bound = source.index.get(before).map(|after| &*after.first_key);
        let in_block = wanted.partition_point(|(origin, _)| bound.is_none_or(|bound| **origin < *bound));
        let (these, others) = wanted.split_at(in_block);
        fill_from_block(source, shape, block, these, touched)?;
        wanted = others;
    }
    Ok(())
}

/// Fills the rows at the places in `wanted`, which are sorted by the keys that the rows have in the block.
fn fill_from_block(
    source: &RowSource,
    shape: &KeyShape,
    block: usize,
    mut wanted: &[(Bytes, usize)],
    touched: &mut TouchedKeys,
) -> Result<()> {
    let raw = image::read_rows(&source.blocks, &source.index[block])?;
    let mut key = Vec::new();
    for line in image::lines(&raw) {
        key.clear();
        shape.push_key(line, &mut key).ok_or_else(|| source.keyless(block))?;
        while let Some(((_, at), others)) = wanted.split_first().filter(|((origin, _), _)| **origin == *key) {
            let latest = &mut touched.rows[*at].1;
            if let Latest::Patch { line: new, .. } = latest {
                let filled = copy_text::fill_holes(new, line);
                let filled = filled.ok_or_else(|| source.fault(Mismatch::MovedColumnsDiffer))?;
                *latest = Latest::Row(filled.into());
            }
            wanted = others;
        }
    }
    if wanted.is_empty() { Ok(()) } else { Err(source.fault(Mismatch::MovedRowMissing)) }
}
