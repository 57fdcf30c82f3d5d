//! Files that an earlier version wrote open for ever. Never write them anew for version 1.

use std::path::{Path, PathBuf};

use super::super::BlockBuilder;
use super::paths::{folder_in, open_segment, open_writer, read_footer, roll, seal, segments, verify_segment};
use super::stream::{HISTORY, Item, START, begin, change, commit, drain, logical, relation};
use super::stream::{read_all, truncate};
use crate::history::key::Authorship;
use crate::model::Lsn;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/journal-v1")
}

/// Two transactions and an idle mark for each segment.
pub(super) fn stream(at: u64) -> Vec<Item> {
    let first = vec![
        begin(at, 794_000_000_000_000, 741),
        relation(16_384, 0),
        change(b'I', 16_384, b"N\0\x02t\0\0\0\x011t\0\0\0\x05hello"),
        change(b'U', 16_384, b"N\0\x02t\0\0\0\x011u"),
        commit(at, at + 0x30, 794_000_000_000_000),
    ];
    let second = vec![
        begin(at + 0x80, 794_000_000_500_000, 742),
        relation(16_384, 1),
        logical(true, at + 0x60, "backwhen.mark", "{\"name\":\"before the fall\"}"),
        truncate(&[16_384]),
        commit(at + 0x80, at + 0xb0, 794_000_000_500_000),
    ];
    vec![
        Item::Transaction { commit: at, end: at + 0x30, messages: first },
        Item::Transaction { commit: at + 0x80, end: at + 0xb0, messages: second },
        Item::Idle { lsn: at + 0xf0, time: 794_000_001_000_000 },
    ]
}

fn write() {
    assert!(!folder().exists(), "the files of version 1 exist, and stay as they are");
    let root = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open_writer(root.path(), HISTORY, 1, START, &Authorship::Unkeyed).unwrap();
    let mut builder = BlockBuilder::new(recovered.frontier);
    for at in [START.0, START.0 + 0x100] {
        for item in stream(at) {
            item.push(&mut builder);
            drain(&mut builder, &mut writer);
            writer.sync().unwrap();
        }
        if at == START.0 {
            seal(&roll(&mut writer), &Authorship::Unkeyed).unwrap();
        }
    }
    std::fs::rename(folder_in(root.path()), folder()).unwrap();
}

/// A history whose segments are those of version 1.
fn history() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let journal = folder_in(root.path());
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, journal.join(path.file_name().unwrap())).unwrap();
    }
    root
}

#[test]
fn version_1_opens() {
    if std::env::var_os("BACKWHEN_WRITE_FIXTURES").is_some() {
        write();
    }
    let expected = [stream(START.0), stream(START.0 + 0x100)].concat();
    let history = history();
    assert_eq!(read_all(history.path()), expected);
    let [sealed, open] = segments(history.path()).try_into().unwrap();
    assert_eq!(read_footer(&sealed, &Authorship::Unkeyed).unwrap().summary.marks[0].name, "before the fall");
    for path in [&sealed, &open] {
        let report = verify_segment(path, &Authorship::Unkeyed).unwrap();
        assert_eq!((report.faults, report.unfinished_bytes), (Vec::new(), 0));
    }
    let open = open_segment(&open, &Authorship::Unkeyed).unwrap();
    assert_eq!(open.header().history, HISTORY);
    assert_eq!(open.footer().relations_at_start, [relation(16_384, 1)]);
    assert_eq!(open.summary().end, Lsn(START.0 + 0x1f0));
}
