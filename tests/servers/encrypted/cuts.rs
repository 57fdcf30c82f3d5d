//! Tables are cut into blocks, and the lengths of encrypted blocks can be seen: they must not tell which rows these are.

use backwhen::history::catalog::Catalog;
use backwhen::history::image::{BlockId, Blocks, MemoryDirectory, read_index};
use backwhen::history::timeline::Timeline;
use backwhen::store::Store;

use super::text;
use crate::support::{Backwhen, Server};

/// The blocks of the newest checkpoint of a database with one table: their names, and their lengths as they were cut.
fn blocks_in(backwhen: &Backwhen) -> Vec<(BlockId, u64)> {
    let history = backwhen.history_at(&backwhen.history());
    let timeline = Timeline::read(&history, &Catalog::open(&history).unwrap()).unwrap();
    let newest = timeline.checkpoints().last().unwrap();
    let store = history.shared_store();
    let directory = MemoryDirectory::scan(&*store as &dyn Store).unwrap();
    let blocks = Blocks::new(store, std::sync::Arc::new(directory));
    let checkpoint = history.read_checkpoint(&newest.id).unwrap();
    let entries = read_index(&blocks, &checkpoint.tables[0].image.index).unwrap();
    entries.into_iter().map(|entry| (entry.id, entry.raw_len)).collect()
}

#[test]
fn who_knows_the_rows_does_not_find_their_lengths_and_a_copy_goes_on_with_its_blocks() {
    let server = Server::shared(None);
    let database = server.fresh_database("lengths");
    server.psql(
        &database,
        "CREATE TABLE known (n int PRIMARY KEY, words text);
         INSERT INTO known SELECT n, md5(n::text) || md5((n + 1)::text) FROM generate_series(1, 120000) n",
    );
    let ours = Backwhen::new(&server, &database).encrypted();
    // Somebody with the same rows makes a history of them.
    let theirs = Backwhen::new(&server, &database);
    let (ours, theirs) = [ours, theirs].map(|it| (it.init(), it).1).into();
    let (before, guessed) = (blocks_in(&ours), blocks_in(&theirs));
    assert!(before.len() > 20 && guessed.len() > 20, "{} and {} blocks", before.len(), guessed.len());
    let is_guessed =
        |(id, len): &&(BlockId, u64)| guessed.iter().any(|(known, like)| known == id || like == len);
    let found = before.iter().filter(is_guessed).count();
    assert!(found * 4 < before.len(), "the lengths of {found} of {} blocks are known", before.len());

    // The machine is lost, and a folder that is made of the copy goes on: what has not changed is not stored again.
    let (copy, back) = (text(&ours.folder().join("copy")), text(&ours.folder().join("back")));
    ours.ok(&["copy", "--to", &copy]);
    ours.ok(&["copy", "--history", &copy, "--to", &back]);
    let ours = ours.with_env("BACKWHEN_HISTORY", &back);
    server.psql(&database, "UPDATE known SET words = 'changed' WHERE n = 60000");
    ours.ok(&["capture", "--until", "caught-up"]);
    ours.ok(&["checkpoint"]);
    let after = blocks_in(&ours);
    let new = after.iter().filter(|block| !before.contains(block)).count();
    assert!((1..=2).contains(&new), "{new} of {} blocks are new", after.len());
    ours.ok(&["verify", "--prove"]);
}
