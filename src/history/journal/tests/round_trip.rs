//! What goes in comes out: through blocks, segments and sealing.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::BlockBuilder;
use super::super::relations::Relations;
use super::paths::{open_segment, roll, seal, segments, verify_segment};
use super::stream::{Item, drain, open, random, read, read_all};
use crate::history::key::Authorship;
use crate::model::Lsn;

/// Writes `items` with small blocks, taking them at random times, rolling and reopening often.
fn write(folder: &std::path::Path, items: &[Item], seed: u64) -> Vec<std::path::PathBuf> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut writer, recovered) = open(folder);
    let mut builder = BlockBuilder::with_size(recovered.frontier, 600);
    let mut finished = Vec::new();
    writer.set_roll_at(20_000);
    for item in items {
        match item {
            Item::Transaction { messages, .. } => {
                for message in messages {
                    builder.push(message).unwrap();
                    while let Some(block) = builder.take_full() {
                        writer.write(block).unwrap();
                    }
                    if rng.random_bool(0.02)
                        && let Some(block) = builder.take_complete()
                    {
                        writer.write(block).unwrap();
                        writer.sync().unwrap();
                    }
                }
            }
            Item::Idle { .. } => item.push(&mut builder),
        }
        assert_eq!(builder.received().lsn(), Lsn(item.frontier()));
        let rolled = writer.roll().unwrap();
        finished.extend(rolled.map(|name| writer.journal.locate(name).into()));
        if rng.random_bool(0.05) {
            drain(&mut builder, &mut writer);
            assert_eq!(writer.sync().unwrap().lsn(), Lsn(item.frontier()));
            drop(writer);
            let (again, recovered) = open(folder);
            assert_eq!((recovered.frontier, recovered.truncated_bytes), (Lsn(item.frontier()), 0));
            writer = again;
            writer.set_roll_at(20_000);
        }
    }
    drain(&mut builder, &mut writer);
    writer.sync().unwrap();
    finished
}

#[test]
fn random_streams_come_back_before_and_after_sealing() {
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let items = random(seed, 250, 300);
        let finished = write(folder.path(), &items, seed);
        assert!(finished.len() > 1, "the stream is too short to be cut");
        assert_eq!(read_all(folder.path()), items);

        for path in finished {
            let open = open_segment(&path, &Authorship::Unkeyed).unwrap();
            let before = read(&path, Lsn::ZERO, Lsn::MAX);
            let in_force: Vec<_> = open.relations_at_end().map(<[u8]>::to_vec).collect();
            seal(&path, &Authorship::Unkeyed).unwrap();
            assert!(!path.exists());
            // The path of the open file leads to the sealed one.
            let sealed = open_segment(&path, &Authorship::Unkeyed).unwrap();
            assert!(sealed.is_sealed());
            assert_eq!(open.summary(), sealed.summary());
            assert_eq!(in_force, sealed.relations_at_end().map(<[u8]>::to_vec).collect::<Vec<_>>());
            assert_eq!(open.footer().relations_at_start, sealed.footer().relations_at_start);
            assert_eq!(before, read(sealed.place().as_ref(), Lsn::ZERO, Lsn::MAX));
            // Segments join without a seam, and a reader that opened early reads on.
            let report = verify_segment(sealed.place().as_ref(), &Authorship::Unkeyed).unwrap();
            assert_eq!(report.faults, Vec::<String>::new());
            let mut seen = 0;
            open.read(Lsn::ZERO, Lsn::MAX, &mut |_| {
                seen += 1;
                Ok(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
            assert!(seen > 0);
        }
        assert_eq!(read_all(folder.path()), items);
        let mut frontier = super::stream::START;
        for path in segments(folder.path()) {
            let segment = open_segment(&path, &Authorship::Unkeyed).unwrap();
            assert_eq!(segment.summary().start, frontier);
            frontier = segment.summary().end;
        }
    }
}

#[test]
fn any_stretch_can_be_read_with_the_relations_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let items = random(77, 300, 300);
    for path in write(folder.path(), &items, 77).into_iter().skip(1).step_by(2) {
        seal(&path, &Authorship::Unkeyed).unwrap();
    }
    let mut rng = StdRng::seed_from_u64(1);
    let last = items.last().unwrap().frontier() + 10;
    for path in segments(folder.path()) {
        let (all, _) = read(&path, Lsn::ZERO, Lsn::MAX);
        for _ in 0..100 {
            let mut pick = || match rng.random_range(0..4) {
                0 => rng.random_range(super::stream::START.0..last),
                1 => items[rng.random_range(0..items.len())].frontier(),
                _ => items[rng.random_range(0..items.len())].position(),
            };
            let (a, b) = (pick(), pick());
            let (after, until) = (a.min(b), a.max(b));
            let wanted: Vec<_> = all
                .iter()
                .filter(|item| after <= item.position() && item.position() < until)
                .cloned()
                .collect();
            let (found, told) = read(&path, Lsn(after), Lsn(until));
            assert_eq!(found, wanted);
            if !wanted.is_empty() {
                // At the end of the stretch, the same relations are in force as for who read all.
                let (_, everything) = read(&path, Lsn::ZERO, Lsn(until));
                assert_eq!(in_force(&told), in_force(&everything));
            }
        }
    }
}

fn in_force(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut relations = Relations::default();
    for message in messages {
        relations.tell(message);
    }
    relations.to_vec()
}

#[test]
fn the_summary_counts_what_is_there() {
    use super::stream::{begin, change, commit, logical, relation, truncate};
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, recovered) = open(folder.path());
    let mut builder = BlockBuilder::new(recovered.frontier);
    let at = super::stream::START.0;
    for message in [
        begin(at, 1000, 5),
        relation(7, 0),
        change(b'I', 7, b"x"),
        change(b'U', 7, b"y"),
        commit(at, at + 10, 1000),
        begin(at + 20, 400, 6),
        relation(7, 1),
        change(b'D', 7, b"y"),
        truncate(&[7, 8]),
        logical(true, at + 15, "backwhen.mark", "{\"name\":\"before\"}"),
        logical(true, at + 15, "backwhen.mark", "no mark"),
        logical(true, at + 16, "backwhen.sequences", "{\"s\":[1,true]}"),
        commit(at + 20, at + 30, 400),
    ] {
        builder.push(&message).unwrap();
    }
    builder.push_idle(Lsn(at + 40), crate::model::PgTime(2000)).unwrap();
    builder.push_idle(Lsn(at + 50), crate::model::PgTime(3000)).unwrap();
    drain(&mut builder, &mut writer);
    let path = roll(&mut writer);
    assert_eq!(writer.roll_now().unwrap(), None);
    let summary = seal(&path, &Authorship::Unkeyed).unwrap();

    assert_eq!((summary.start.0, summary.end.0), (at, at + 50));
    assert_eq!((summary.transactions, summary.messages), (2, 13));
    let table = &summary.relations[0];
    assert_eq!((table.oid, table.schema.as_str(), table.name.as_str()), (7, "public", "table7"));
    assert_eq!((table.inserts, table.updates, table.deletes, table.truncates), (1, 1, 1, 1));
    assert_eq!(summary.relations[1].truncates, 1);
    let mark = &summary.marks[0];
    assert_eq!((mark.name.as_str(), mark.lsn.0, mark.end_lsn.0), ("before", at + 20, at + 30));
    assert_eq!((mark.time.0, mark.xid, summary.marks.len()), (400, 6, 1));
    assert_eq!(summary.sequences.last.as_deref(), Some("{\"s\":[1,true]}"));
    assert_eq!((summary.clock_steps.count, summary.clock_steps.largest_micros), (1, 600));
    assert_eq!(summary.relation_changes[0].commit_lsn.0, at + 20);
    assert_eq!(summary.relation_changes.len(), 1);
    assert_eq!(summary.last_idle.map(|idle| (idle.lsn.0, idle.time.0)), Some((at + 50, 3000)));
    assert_eq!((summary.min_time.unwrap().0, summary.max_time.unwrap().0), (400, 1000));
}
