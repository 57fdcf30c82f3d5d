use std::sync::Arc;

use super::*;
use crate::history::image::{BlockKind, Packs};
use crate::history::key::Authorship;
use crate::history::segments::Segments;
use crate::history::{FORMAT, Identity, Source};

fn history() -> (tempfile::TempDir, History) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("history");
    let local = LocalFolder::plain(&root);
    drop(History::prepare(&local, "init").unwrap());
    let identity = Identity {
        format: FORMAT,
        id: "0123456789abcdef0123456789abcdef".into(),
        created: PgTime(0),
        backwhen: "test".into(),
        source: Source { connection: String::new(), system_identifier: "1".into(), database: "d".into() },
        include: Vec::new(),
        exclude: Vec::new(),
        secret: String::new(),
        messages: 0,
        cuts: 0,
        event_triggers: None,
        key: None,
    };
    let history = History::found(&local, identity, Authorship::Unkeyed).unwrap();
    (folder, history)
}

fn store(history: &History, catalog: &Arc<Catalog>, raw: &[u8]) -> BlockId {
    let packs = Packs::new(history.shared_store(), Arc::clone(catalog) as Arc<_>, history.identity().cuts());
    let id = packs.put(BlockKind::Other, raw).unwrap();
    packs.finish().unwrap();
    catalog.synchronise(history).unwrap();
    id
}

#[test]
fn it_is_made_anew_when_it_is_gone_stale_or_damaged() {
    let (_folder, history) = history();
    let catalog = Arc::new(Catalog::open(&history).unwrap());
    let id = store(&history, &catalog, b"rows");
    let place = catalog.locate(&id).unwrap();
    assert!(place.is_some());
    drop(catalog);
    let path = layout::catalog(history.root());
    for content in [None, Some(&b"this is no database at all, not even a bad one"[..]), Some(b"")] {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        assert_eq!(Catalog::open(&history).unwrap().locate(&id).unwrap(), place, "{content:?}");
    }
}

#[test]
fn it_forgets_what_is_gone_and_finds_what_lies_in_another_pack_too() {
    let (_folder, history) = history();
    let catalog = Arc::new(Catalog::open(&history).unwrap());
    let id = store(&history, &catalog, b"rows");
    let place = catalog.locate(&id).unwrap().unwrap();
    history.store().remove(&[crate::history::image::pack_object(&place.pack)]).unwrap();
    catalog.synchronise(&history).unwrap();
    assert_eq!(catalog.locate(&id).unwrap(), None);
}

#[test]
fn a_newer_catalog_is_put_away() {
    let (_folder, history) = history();
    drop(Catalog::open(&history).unwrap());
    let newer = Connection::open(layout::catalog(history.root())).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    assert!(Catalog::open(&history).unwrap().checkpoints().unwrap().is_empty());
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let (folder, history) = history();
    let (path, victim) = (layout::catalog(history.root()), folder.path().join("victim"));
    for suffix in ["", "-wal", "-shm", "-journal"] {
        for content in [None, Some("somebody's letter")] {
            let link = format!("{}{suffix}", path.display());
            let _ = std::fs::remove_file(&link);
            let _ = std::fs::remove_file(&victim);
            if let Some(content) = content {
                std::fs::write(&victim, content).unwrap();
            }
            std::os::unix::fs::symlink(&victim, &link).unwrap();
            let catalog = Catalog::open(&history).unwrap();
            let id = store(&history, &Arc::new(catalog), link.as_bytes());
            assert!(Catalog::open(&history).unwrap().locate(&id).unwrap().is_some());
            assert_eq!(std::fs::read_to_string(&victim).ok().as_deref(), content, "{suffix}");
            assert!(!path.symlink_metadata().unwrap().is_symlink());
        }
    }
}

#[test]
fn one_with_another_schema_is_made_anew() {
    let (_folder, history) = history();
    let catalog = Arc::new(Catalog::open(&history).unwrap());
    let id = store(&history, &catalog, b"rows");
    drop(catalog);
    for hostile in [
        "CREATE TRIGGER lose AFTER INSERT ON blocks BEGIN DELETE FROM blocks; END",
        "CREATE VIEW more AS SELECT load_extension('x')",
        "CREATE TABLE more (n)",
        "CREATE INDEX more ON packs (abs(number))",
        "ALTER TABLE segments ADD COLUMN more TEXT DEFAULT 'x'",
        "ALTER TABLE segments RENAME TO other; CREATE VIEW segments AS SELECT * FROM other",
        "PRAGMA user_version = -1",
    ] {
        Connection::open(layout::catalog(history.root())).unwrap().execute_batch(hostile).unwrap();
        let catalog = Catalog::open(&history).unwrap();
        assert!(catalog.locate(&id).unwrap().is_some() && catalog.segments().unwrap().is_empty());
        let others =
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('lose', 'more', 'other') OR type = 'view'";
        let connection = catalog.connection().unwrap();
        assert_eq!(connection.query_row(others, [], |row| row.get::<_, i64>(0)).unwrap(), 0, "{hostile}");
    }
}

#[test]
fn a_segment_that_an_earlier_version_sealed_gets_its_index_once() {
    let (_folder, history) = history();
    let name = "0001-0000000001000000.seg";
    let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/journal-v1").join(name);
    std::fs::create_dir_all(history.root().join("journal")).unwrap();
    std::fs::copy(old, history.root().join("journal").join(name)).unwrap();
    let catalog = Catalog::open(&history).unwrap();
    let row = catalog.segments().unwrap().remove(0);
    let segment = Segments::new(history.journal()).open(row.name).unwrap();
    assert_eq!(segment.footer().changes, None);
    let made = catalog.changes_of(&segment).unwrap();
    assert_eq!(made, segment.index_changes().unwrap());
    let count = |catalog: &Catalog| {
        let connection = catalog.connection().unwrap();
        connection.query_row("SELECT count(*) FROM change_indexes", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(catalog.changes_of(&segment).unwrap(), made);
    assert_eq!(count(&catalog), 1);
    // A row that does not agree with its tag is made anew.
    catalog
        .connection()
        .unwrap()
        .execute("UPDATE change_indexes SET filters = x'00', tag = x'00'", [])
        .unwrap();
    assert_eq!(catalog.changes_of(&segment).unwrap(), made);
    history.store().remove(&[row.name.object()]).unwrap();
    catalog.synchronise(&history).unwrap();
    assert_eq!(count(&catalog), 0);
}
