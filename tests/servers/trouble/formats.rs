//! Histories that a newer backwhen wrote.

use std::path::Path;

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Backwhen, Server};
use crate::trouble::exit;

fn edit_format(path: &Path, now: u32, newer: u32) {
    let text = std::fs::read_to_string(path).unwrap();
    let line = format!("\"format\": {now},");
    assert!(text.contains(&line), "{text}");
    std::fs::write(path, text.replacen(&line, &format!("\"format\": {newer},"), 1)).unwrap();
}

fn every_command_is_refused(backwhen: &Backwhen, newer: u32) {
    for arguments in [
        &["status"][..],
        &["list", "segments"],
        &["checkpoint", "--label", "x"],
        &["capture", "--until", "caught-up"],
        &["recover", "--to", "latest", "--dry-run"],
    ] {
        let message = backwhen.fails(exit::REFUSED, arguments);
        assert_says(&message, &[&format!("format {newer}"), "update backwhen"]);
    }
}

#[test]
fn a_newer_history_is_refused() {
    let backwhen = captured_shop(&Server::shared(None));
    // 2 is the format of a history with signed messages, 3 of one with a key.
    edit_format(&backwhen.history().join("history.json"), 2, 4);
    every_command_is_refused(&backwhen, 4);
    backwhen.fails(exit::REFUSED, &["verify"]);
    backwhen.fails(exit::REFUSED, &["drop"]);
}

#[test]
fn a_newer_epoch_is_refused() {
    let backwhen = captured_shop(&Server::shared(None));
    edit_format(&backwhen.history().join("epochs/0001.json"), 1, 2);
    every_command_is_refused(&backwhen, 2);
}

#[test]
fn a_newer_segment_is_refused_and_left_alone() {
    let backwhen = captured_shop(&Server::shared(None));
    let mut entries = std::fs::read_dir(backwhen.history().join("journal")).unwrap();
    let segment = entries.next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    // The version behind the magic, and the header's checksum at its end.
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..40]);
    bytes[40..44].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&segment, &bytes).unwrap();
    for arguments in [&["capture", "--until", "caught-up"][..], &["recover", "--to", "latest", "--dry-run"]] {
        let message = backwhen.fails(exit::REFUSED, arguments);
        assert_says(&message, &[segment.file_name().unwrap().to_str().unwrap(), "newer", "update backwhen"]);
    }
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "the segment was changed");
}
