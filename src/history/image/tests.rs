//! Images as their users see them: sharing, packs, damage, and the bytes of version 1.

mod fixture;
mod hostile;
mod packs;
mod sharing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::store::{Folder, Store};

/// A table in memory: the lines of each key, sorted.
type Table = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// The packs of the history at `root`, which lie in its folder `packs`.
fn store(root: &Path) -> Arc<dyn Store> {
    Arc::new(Folder::new(root))
}

fn directory(root: &Path) -> Arc<MemoryDirectory> {
    Arc::new(MemoryDirectory::scan(&*store(root)).unwrap())
}

fn packs(root: &Path) -> Packs {
    Packs::new(store(root), directory(root), Cuts::Common)
}

fn blocks(root: &Path) -> Blocks {
    Blocks::new(store(root), directory(root))
}

fn pack_path(root: &Path, name: &str) -> PathBuf {
    root.join(pack_object(name).to_string())
}

fn check_pack(root: &Path, name: &str) -> PackCheck {
    verify_pack(&*store(root), &pack_object(name)).unwrap()
}

/// A row whose key can be read from its line again.
fn line(key: u32, text: &str) -> Vec<u8> {
    format!("{key}\t{text}").into_bytes()
}

fn key_of(line: &[u8]) -> Vec<u8> {
    let digits = line.split(|&byte| byte == b'\t').next().unwrap();
    std::str::from_utf8(digits).unwrap().parse::<u32>().unwrap().to_be_bytes().to_vec()
}

fn put_row(table: &mut Table, line: Vec<u8>) {
    let lines = table.entry(key_of(&line)).or_default();
    let at = lines.partition_point(|other| *other < line);
    lines.insert(at, line);
}

fn push_rows<'a>(builder: &mut ImageBuilder, rows: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<Vec<u8>>)>) {
    for (key, lines) in rows {
        for line in lines {
            builder.push(key, line).unwrap();
        }
    }
}

fn build(packs: &Packs, table: &Table) -> TableImage {
    let mut builder = ImageBuilder::new(packs);
    push_rows(&mut builder, table.iter());
    builder.finish().unwrap()
}

/// All lines of an image, each with its newline.
fn read(blocks: &Blocks, image: &TableImage) -> Vec<u8> {
    let mut reader = TableReader::open(blocks, image).unwrap();
    let mut all = Vec::new();
    while let Some((entry, raw)) = reader.next_block().unwrap() {
        let mut digest = RowsDigest::default();
        lines(&raw).for_each(|line| digest.add(line));
        assert_eq!(digest, entry.digest);
        assert_eq!(key_of(lines(&raw).next().unwrap()), entry.first_key);
        all.extend_from_slice(&raw);
    }
    all
}

fn text(table: &Table) -> Vec<u8> {
    let mut all = Vec::new();
    for line in table.values().flatten() {
        all.extend_from_slice(line);
        all.push(b'\n');
    }
    all
}
