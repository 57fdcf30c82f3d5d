//! Damage is always found, named, and never a panic.

use std::fs;
use std::ops::ControlFlow;

use super::super::BlockBuilder;
use super::paths::{open_segment, read_footer, roll, seal, segments, verify_segment};
use super::stream::{drain, open, random};
use crate::error::Kind;
use crate::history::key::Authorship;
use crate::model::Lsn;

fn read(path: &std::path::Path) -> crate::error::Result<u64> {
    let mut events = 0;
    open_segment(path, &Authorship::Unkeyed)?.read(Lsn::ZERO, Lsn::MAX, &mut |_| {
        events += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(events)
}

#[test]
fn every_flipped_byte_of_a_sealed_segment_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::with_size(recovered.frontier, 300);
    for item in random(21, 12, 10) {
        item.push(&mut builder);
        drain(&mut builder, &mut writer);
    }
    let path = roll(&mut writer);
    seal(&path, &Authorship::Unkeyed).unwrap();
    let path = path.with_extension("seg");
    let bytes = fs::read(&path).unwrap();
    let events = read(&path).unwrap();
    for at in 0..bytes.len() {
        for flip in [1, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            match verify_segment(&path, &Authorship::Unkeyed) {
                Ok(report) => assert!(!report.faults.is_empty(), "damage at byte {at} was missed"),
                Err(error) => assert_eq!(error.kind(), Kind::Refused, "{error}"),
            }
            // Reading checks less, but gives the same, or an error.
            match read(&path) {
                Ok(found) => assert_eq!(found, events),
                Err(error) => assert!(matches!(error.kind(), Kind::Damaged | Kind::Refused), "{error}"),
            }
            let _ = read_footer(&path, &Authorship::Unkeyed);
        }
    }
    for len in 0..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        assert!(!verify_segment(&path, &Authorship::Unkeyed).unwrap().faults.is_empty());
        assert!(read(&path).is_err());
    }
}

#[test]
fn a_flipped_byte_of_an_open_segment_never_adds_anything() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::with_size(recovered.frontier, 300);
    for item in random(22, 8, 6) {
        item.push(&mut builder);
        drain(&mut builder, &mut writer);
        writer.sync().unwrap();
    }
    let path = segments(folder.path()).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    // One segment is enough to see; a damaged one makes the reader look again, which takes time.
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let report = verify_segment(&path, &Authorship::Unkeyed).unwrap();
        assert!(!report.faults.is_empty() || report.unfinished_bytes > 0, "damage at byte {at} was missed");
    }
}
