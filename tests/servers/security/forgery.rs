//! What somebody with write access to a history, but without its key, can make of its objects: sound in all
//! but their author.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use backwhen::history::History;
use backwhen::history::journal::{BlockBuilder, Event, Journal, Segment, Writer, seal};
use backwhen::history::key::Authorship;
use backwhen::model::{Lsn, PgTime};
use backwhen::store::LocalFolder;

/// The files in one folder of a history whose names end like this, sorted.
pub fn objects(history: &Path, folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(history.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    found.sort();
    found
}

/// Changes an object's text and makes its digest anew; the tag stays as it was.
pub fn forge(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let (_, content) = text.split_once('\n').unwrap().1.split_once('\n').unwrap();
    let changed = change(content.to_owned());
    assert_ne!(changed, content, "nothing was changed in {}", path.display());
    put(path, &changed);
}

/// Writes an object with these fields, a right digest, and no tag.
pub fn put(path: &Path, fields: &str) {
    let content = fields.trim_start_matches("{\n");
    let digest = blake3::hash(content.as_bytes());
    let _ = fs::remove_file(path);
    fs::write(path, format!("{{\n  \"digest\": \"{digest}\",\n{content}")).unwrap();
}

/// The same, but the old tag stays in its place.
pub fn forge_under_the_old_tag(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let (_, content) = text.split_once('\n').unwrap().1.split_once('\n').unwrap();
    let tag = text.lines().nth(1).filter(|line| line.contains("\"tag\"")).map(|line| format!("{line}\n"));
    let changed = change(text.split_once(content).map(|_| content.to_owned()).unwrap());
    put(path, &format!("{}{changed}", tag.unwrap_or_default()));
}

/// Takes the key's record out of `history.json`, so that the history seems to have none.
pub fn strip_key(history: &Path) {
    let path = history.join("history.json");
    forge(&path, |text| {
        let mut object: serde_json::Value = serde_json::from_str(&format!("{{{text}")).unwrap();
        object.as_object_mut().unwrap().remove("key");
        object["format"] = 1.into();
        // `format` must not come first by chance: any order is read.
        format!("{}\n", serde_json::to_string_pretty(&object).unwrap())
    });
}

/// Rewrites the first sealed segment with another text of the same length in its rows.
pub fn rewrite_sealed(history: &Path, old: &[u8], new: &[u8]) {
    let journal = Journal::in_folder(history, &Authorship::Unkeyed);
    let name = journal.list().unwrap().into_iter().find(|name| name.sealed).unwrap();
    let segment = Segment::open(&journal, name).unwrap();
    let folder = history.join("forged");
    let forged = Journal::in_folder(&folder, &Authorship::Unkeyed);
    let id = History::open(&LocalFolder::plain(history), None).unwrap().identity().id_bytes().unwrap();
    let (mut writer, _) = Writer::open(&forged, id, name.epoch, name.start).unwrap();
    let mut builder = BlockBuilder::new(name.start);
    let mut replaced = 0;
    segment
        .read(Lsn::ZERO, Lsn::MAX, &mut |event| {
            match event {
                Event::Message(message) | Event::Relation(message) => {
                    let mut message = message.to_vec();
                    while let Some(at) = message.windows(old.len()).position(|bytes| bytes == old) {
                        message[at..at + new.len()].copy_from_slice(new);
                        replaced += 1;
                    }
                    builder.push(&message)?;
                }
                Event::Idle { lsn, time } => builder.push_idle(lsn, time)?,
            }
            while let Some(block) = builder.take_full() {
                writer.write(block)?;
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert!(replaced > 0, "the segment does not hold what is to be replaced");
    while let Some(block) = builder.take_complete() {
        writer.write(block).unwrap();
    }
    let finished = writer.roll_now().unwrap().unwrap();
    seal(&forged, finished).unwrap();
    fs::rename(forged.locate(finished.form(true)), journal.locate(name)).unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

/// Appends a block to the open segment: an idle mark far in the future, which makes later moments seem held.
pub fn append_to_open(history: &Path) {
    let journal = Journal::in_folder(history, &Authorship::Unkeyed);
    let name = journal.list().unwrap().into_iter().rfind(|name| !name.sealed).unwrap();
    let id = History::open(&LocalFolder::plain(history), None).unwrap().identity().id_bytes().unwrap();
    let (mut writer, recovered) = Writer::open(&journal, id, name.epoch, name.start).unwrap();
    let mut builder = BlockBuilder::new(recovered.frontier);
    builder.push_idle(Lsn(recovered.frontier.0 + 0x10000), PgTime(i64::MAX / 2)).unwrap();
    while let Some(block) = builder.take_complete() {
        writer.write(block).unwrap();
    }
    writer.sync().unwrap();
}
