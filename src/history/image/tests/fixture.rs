//! The bytes of version 1, which every later backwhen must read.
//!
//! The pack was written once, with `BACKWHEN_WRITE_FIXTURES=1 cargo test image_v1`. It is never
//! written again: a new version of the format gets a folder of its own.

use std::sync::Once;

use serde::{Deserialize, Serialize};

use super::*;

const OTHER: &[u8] = b"CREATE TABLE t (id integer PRIMARY KEY, name text);\n";

#[derive(Serialize, Deserialize)]
struct Expected {
    pack: String,
    table: TableImage,
    empty: TableImage,
    other: BlockId,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/image-v1")
}

/// A history whose packs are those of version 1.
fn history() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("packs")).unwrap();
    for name in ["expected.json", "expected-long.json"].map(|name| expected(name).pack) {
        let path = pack_path(root.path(), &name);
        std::fs::copy(folder().join(path.file_name().unwrap()), path).unwrap();
    }
    root
}

/// Forty short rows, one row that no compression makes shorter, one key with two rows.
fn table() -> Table {
    let mut table = Table::new();
    (0..40).for_each(|key| put_row(&mut table, line(key * 7, "a name of some length")));
    put_row(&mut table, line(21, "a second row"));
    put_row(&mut table, line(1000, "\\N\tq8Zr0vX2"));
    table
}

/// So many rows that they take several blocks, and so alike that they need few bytes.
fn long_table() -> Table {
    let mut table = Table::new();
    (0..3_000).for_each(|key| put_row(&mut table, line(key, &"always the same ".repeat(12))));
    table
}

/// Once, whichever test comes first.
fn write_if_asked() {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        if std::env::var_os("BACKWHEN_WRITE_FIXTURES").is_some() {
            write();
        }
    });
}

fn write() {
    let root = tempfile::tempdir().unwrap();
    let writer = packs(root.path());
    let table = build(&writer, &table());
    let empty = build(&writer, &Table::new());
    let other = writer.put(BlockKind::Other, OTHER).unwrap();
    let pack = writer.finish().unwrap().packs.remove(0);
    save("expected.json", &Expected { pack, table, empty, other });

    let writer = packs(root.path());
    let table = build(&writer, &long_table());
    let pack = writer.finish().unwrap().packs.remove(0);
    save("expected-long.json", &Expected { pack, table, empty, other });
    for entry in std::fs::read_dir(root.path().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder().join(path.file_name().unwrap())).unwrap();
    }
}

fn save(name: &str, expected: &Expected) {
    std::fs::write(folder().join(name), serde_json::to_string_pretty(expected).unwrap() + "\n").unwrap();
}

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

#[test]
fn image_v1_is_read_and_would_be_built_the_same() {
    write_if_asked();
    let history = history();
    let blocks = blocks(history.path());
    let scratch = tempfile::tempdir().unwrap();
    let writer = packs(scratch.path());
    for (name, table) in [("expected.json", table()), ("expected-long.json", long_table())] {
        let expected = expected(name);
        assert!(read(&blocks, &expected.table) == text(&table));
        assert_eq!(build(&writer, &table), expected.table);
        assert_eq!(read(&blocks, &expected.empty), b"");
        assert_eq!(blocks.get(&expected.other).unwrap(), OTHER);
        let check = check_pack(history.path(), &expected.pack);
        assert_eq!(check.faults, Vec::<String>::new());
    }
    let long = read_index(&blocks, &expected("expected-long.json").table.index).unwrap();
    assert!(long.len() > 1, "the long table must have several blocks");
}

#[test]
fn no_flipped_byte_and_no_cut_of_image_v1_passes() {
    write_if_asked();
    let name = expected("expected.json").pack;
    let history = history();
    let path = pack_path(history.path(), &name);
    let whole = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        assert!(!check_pack(history.path(), &name).faults.is_empty(), "{what}");
    };
    for at in 0..whole.len() {
        check(&whole[..at], &format!("cut at {at}"));
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            check(&damaged, &format!("byte {at} flipped by {flip:x}"));
        }
    }
    check(&[&whole[..], b"\0"].concat(), "a byte too many");
}
