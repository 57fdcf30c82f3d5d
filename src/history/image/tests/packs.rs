//! Packs: written by threads, shared, layered, damaged.

use super::*;
use crate::error::Kind;
use crate::store::{MemoryStore, StoreFault};

fn table(keys: std::ops::Range<u32>) -> Table {
    let mut table = Table::new();
    keys.for_each(|key| {
        put_row(&mut table, line(key, &format!("{:x}", u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15))))
    });
    table
}

fn files(root: &Path) -> usize {
    std::fs::read_dir(root.join("packs")).unwrap().count()
}

#[test]
fn threads_share_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let writer = packs(folder.path());
    // The first and the last table are the same.
    let tables = [table(0..40_000), table(40_000..80_000), Table::new(), table(0..40_000)];
    let images: Vec<TableImage> = std::thread::scope(|scope| {
        let threads: Vec<_> = tables.iter().map(|table| scope.spawn(|| build(&writer, table))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let stats = writer.finish().unwrap();
    assert_eq!(stats.packs.len(), 1);
    assert!(stats.blocks_shared > 1);
    assert_eq!(images[0], images[3]);
    let blocks = blocks(folder.path());
    for (table, image) in tables.iter().zip(&images) {
        assert!(read(&blocks, image) == text(table));
    }
    let check = check_pack(folder.path(), &stats.packs[0]);
    assert_eq!((check.blocks, check.faults), (stats.blocks_new, Vec::new()));

    let again = packs(folder.path());
    assert_eq!(build(&again, &tables[1]), images[1]);
    let stats = again.finish().unwrap();
    assert_eq!((stats.packs.len(), stats.blocks_new, stats.bytes_new), (0, 0, 0));
    assert!(stats.bytes_shared > 0);
    assert_eq!(files(folder.path()), 1);
}

#[test]
fn a_full_pack_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let writer = packs(folder.path());
    let mut noise = vec![0; 16 << 20];
    let ids: Vec<BlockId> = (0..5)
        .map(|n| {
            rand::Rng::fill(&mut rand::rng(), &mut noise[..]);
            noise[0] = n;
            writer.put(BlockKind::Other, &noise).unwrap()
        })
        .collect();
    let stats = writer.finish().unwrap();
    assert_eq!(stats.packs.len(), 2);
    let blocks = blocks(folder.path());
    assert!(ids.iter().enumerate().all(|(n, id)| blocks.get(id).unwrap()[0] == n as u8));
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let writer = packs(folder.path());
    writer.put(BlockKind::Other, b"something").unwrap();
    assert_eq!(files(folder.path()), 1);
    drop(writer);
    assert_eq!(files(folder.path()), 0);
    assert_eq!(packs(folder.path()).finish().unwrap(), PackStats::default());
}

#[test]
fn a_pack_that_is_there_already_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let write = || {
        let writer = Packs::new(store(folder.path()), Arc::new(MemoryDirectory::default()), Cuts::Common);
        writer.put(BlockKind::Other, b"something").unwrap();
        writer.finish().unwrap().packs
    };
    assert_eq!(write(), write());
    assert_eq!(files(folder.path()), 1);
}

#[test]
fn layers_are_asked_in_turn_and_only_known_blocks_are_reused() {
    let (kept, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let writer = packs(kept.path());
    let first = writer.put(BlockKind::Other, b"first").unwrap();
    writer.finish().unwrap();
    let writer = packs(scratch.path());
    let image = build(&writer, &table(0..10));
    writer.finish().unwrap();
    let both = Blocks::layered(&blocks(scratch.path()), &blocks(kept.path()));
    assert_eq!(both.get(&first).unwrap(), b"first");
    assert!(read(&both, &image) == text(&table(0..10)));

    // The scratch folder will go: its blocks cannot be reused in the kept one.
    let entry = &read_index(&both, &image.index).unwrap()[0];
    let writer = packs(kept.path());
    assert!(!ImageBuilder::new(&writer).reuse(entry).unwrap());
}

#[test]
fn damage_names_the_pack_and_the_block() {
    let folder = tempfile::tempdir().unwrap();
    let writer = packs(folder.path());
    let id = writer.put(BlockKind::Other, b"something").unwrap();
    let name = writer.finish().unwrap().packs.remove(0);
    let path = pack_path(folder.path(), &name);
    let blocks = blocks(folder.path());
    let missing = blocks.get(&BlockId::of(b"else")).unwrap_err();
    assert_eq!(missing.kind(), Kind::Damaged);

    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = blocks.get(&id).unwrap_err();
    assert_eq!(damaged.kind(), Kind::Damaged);
    assert!(damaged.to_string().contains(&name) && damaged.to_string().contains(&id.to_string()));
    assert_eq!(check_pack(folder.path(), &name).faults.len(), 1);

    std::fs::remove_file(&path).unwrap();
    let gone = Blocks::new(store(folder.path()), directory(folder.path())).get(&id).unwrap_err();
    assert_eq!(gone.kind(), Kind::Damaged);
}

#[test]
fn a_pack_under_another_name_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let writer = packs(folder.path());
    writer.put(BlockKind::Other, b"something").unwrap();
    let name = writer.finish().unwrap().packs.remove(0);
    let other = pack_path(folder.path(), &"0".repeat(32));
    std::fs::rename(pack_path(folder.path(), &name), &other).unwrap();
    assert_eq!(MemoryDirectory::scan(&*store(folder.path())).err().unwrap().kind(), Kind::Damaged);
    assert_eq!(check_pack(folder.path(), &"0".repeat(32)).faults.len(), 1);
}

#[test]
fn a_folder_that_is_not_there_holds_no_blocks() {
    let folder = tempfile::tempdir().unwrap();
    assert!(MemoryDirectory::scan(&*store(&folder.path().join("none"))).unwrap().is_empty());
}

#[test]
fn a_pack_whose_put_fails_is_put_again_whole() {
    for fault in [StoreFault::Fail, StoreFault::Tear, StoreFault::LoseAnswer] {
        for call in 0..3 {
            let memory = MemoryStore::default();
            let store: Arc<dyn Store> = Arc::new(memory.clone());
            let write = || {
                let writer =
                    Packs::new(Arc::clone(&store), Arc::new(MemoryDirectory::default()), Cuts::Common);
                let id = writer.put(BlockKind::Other, b"something")?;
                writer.finish().map(|stats| (id, stats.packs))
            };
            memory.fail_at(call, fault);
            let failed = write();
            memory.fail_at(u64::MAX >> 1, fault);
            // The store has a whole pack by now, or nothing.
            let listed = MemoryDirectory::scan(&*store).unwrap().len();
            assert!(
                listed == 0 || failed.is_ok() || fault == StoreFault::LoseAnswer,
                "{fault:?} at call {call}"
            );
            let (id, packs) = write().unwrap();
            assert!(verify_pack(&*store, &pack_object(&packs[0])).unwrap().faults.is_empty());
            let blocks = Blocks::new(Arc::clone(&store), Arc::new(MemoryDirectory::scan(&*store).unwrap()));
            assert_eq!(blocks.get(&id).unwrap(), b"something");
        }
    }
}
