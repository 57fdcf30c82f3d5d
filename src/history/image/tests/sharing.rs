//! An image does not depend on how it came about, and shares what did not change.

use std::collections::BTreeSet;
use std::ops::Bound;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// Lines of 20 to 2000 bytes; one key in ten has several.
fn random_line(random: &mut StdRng, key: u32) -> Vec<u8> {
    let len = random.random_range(10..100) * if random.random_bool(0.1) { 20 } else { 1 };
    let text: String = (0..len).map(|_| random.random_range('a'..='z')).collect();
    line(key, &text)
}

fn random_table(random: &mut StdRng, rows: u32) -> Table {
    let mut table = Table::new();
    for _ in 0..rows {
        let key = random.random_range(0..10 * rows);
        for _ in 0..if random.random_bool(0.1) { 3 } else { 1 } {
            put_row(&mut table, random_line(random, key));
        }
    }
    table
}

/// Inserts, updates and deletes some rows, and returns their keys.
fn change(random: &mut StdRng, table: &mut Table, changes: usize) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    for _ in 0..changes {
        let old = table.keys().choose(random).cloned();
        let number = random.random_range(0..300_000);
        let row = random_line(random, number);
        let key = match (random.random_range(0..3), old) {
            (0, Some(old)) => {
                table.remove(&old);
                old
            }
            (1, Some(old)) => {
                let number = u32::from_be_bytes(old[..].try_into().unwrap());
                table.insert(old.clone(), vec![random_line(random, number)]);
                old
            }
            _ => {
                let key = key_of(&row);
                put_row(table, row);
                key
            }
        };
        keys.insert(key);
    }
    keys
}

/// What a fold does: takes the untouched blocks of the old image, pushes the rows of the others.
fn fold(
    old: &[BlockEntry],
    blocks: &Blocks,
    packs: &Packs,
    table: &Table,
    keys: &BTreeSet<Vec<u8>>,
) -> TableImage {
    let mut touched = BTreeSet::new();
    keys.iter().for_each(|key| touched.extend(index::covering(old, key)));
    let mut builder = ImageBuilder::new(packs);
    for (at, entry) in old.iter().enumerate() {
        if touched.contains(&at) {
            let from = if at == 0 { Bound::Unbounded } else { Bound::Included(&entry.first_key) };
            let to = old.get(at + 1).map_or(Bound::Unbounded, |next| Bound::Excluded(&next.first_key));
            push_rows(&mut builder, table.range::<Vec<u8>, _>((from, to)));
        } else if !builder.reuse(entry).unwrap() {
            for line in lines(&read_rows(blocks, entry).unwrap()) {
                builder.push(&key_of(line), line).unwrap();
            }
        }
    }
    if old.is_empty() {
        push_rows(&mut builder, table.iter());
    }
    builder.finish().unwrap()
}

#[test]
fn a_fold_gives_the_image_that_building_from_scratch_gives() {
    let mut random = StdRng::seed_from_u64(42);
    let folder = tempfile::tempdir().unwrap();
    let mut table = random_table(&mut random, 30_000);
    let first = packs(folder.path());
    let mut image = build(&first, &table);
    first.finish().unwrap();
    let (mut changed, mut new) = (0, 0);
    for round in 0..24 {
        // From one row changed to so many that hardly a block stays; at last, none left.
        let changes = [1, 3, 10, 60, 400][round % 5];
        let mut keys = change(&mut random, &mut table, changes);
        if round == 20 {
            keys.extend(table.keys().cloned());
            table.clear();
        }
        let blocks = blocks(folder.path());
        let old = read_index(&blocks, &image.index).unwrap();
        let writer = packs(folder.path());
        image = fold(&old, &blocks, &writer, &table, &keys);
        let stats = writer.finish().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(image, build(&packs(scratch.path()), &table), "round {round}");
        assert!(read(&super::blocks(folder.path()), &image) == text(&table));
        if changes <= 3 && round < 20 {
            changed += changes as u64;
            new += stats.blocks_new - 1;
            assert!(stats.blocks_shared + 6 * changes as u64 >= old.len() as u64);
        }
    }
    // A change costs its block, and now and then one beside it.
    assert!(new <= 2 * changed, "{changed} changes cost {new} blocks");
}

#[test]
fn rows_are_the_same_where_the_hard_maximum_cuts() {
    let mut random = StdRng::seed_from_u64(43);
    let folder = tempfile::tempdir().unwrap();
    let mut table = random_table(&mut random, 3_000);
    // Many rows of one key, a row beyond the maximum, and one just below.
    for n in 0..3_000 {
        put_row(&mut table, line(700, &format!("{n:0800}")));
    }
    put_row(&mut table, line(800, &"x".repeat(3 << 20)));
    put_row(&mut table, line(900, &"y".repeat((1 << 20) - 10)));
    let first = packs(folder.path());
    let image = build(&first, &table);
    first.finish().unwrap();
    let before = blocks(folder.path());
    assert!(read(&before, &image) == text(&table));
    let old = read_index(&before, &image.index).unwrap();
    assert!(old.iter().all(|entry| entry.rows == 1 || entry.raw_len <= 1 << 20));
    assert!(index::covering(&old, &700u32.to_be_bytes()).len() > 2);

    let keys = change(&mut random, &mut table, 1);
    let second = packs(folder.path());
    let image = fold(&old, &before, &second, &table, &keys);
    second.finish().unwrap();
    assert!(read(&blocks(folder.path()), &image) == text(&table));
}

#[test]
fn rows_out_of_order_and_newlines_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let packs = packs(folder.path());
    let mut builder = ImageBuilder::new(&packs);
    builder.push(b"b", b"1").unwrap();
    assert_eq!(builder.push(b"a", b"1").unwrap_err().kind(), crate::error::Kind::Internal);
    let mut builder = ImageBuilder::new(&packs);
    builder.push(b"b", b"1\n2").unwrap();
    assert_eq!(builder.finish().unwrap_err().kind(), crate::error::Kind::Internal);
}
