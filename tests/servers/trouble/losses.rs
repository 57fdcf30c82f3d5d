//! What somebody does to slot and publications behind our back: each is a gap with both its ends and
//! its cause, and a new epoch that lacks nothing.

use crate::support::shop::{assert_says, shop};
use crate::support::{Backwhen, Capture, Dump, Server, assert_same};

/// A history, its capture, and how often continuity was lost.
struct Story<'a> {
    backwhen: &'a Backwhen,
    capture: Capture<'a>,
    losses: usize,
}

fn protected(server: &Server) -> Backwhen {
    let backwhen = shop(server).with_env("BACKWHEN_HEARTBEAT", "200ms");
    backwhen.init();
    backwhen
}

impl<'a> Story<'a> {
    fn of(backwhen: &'a Backwhen) -> Story<'a> {
        let mut capture = backwhen.spawn_capture();
        capture.allow("trying again").allow("continuity is lost");
        capture.wait_caught_up();
        Story { backwhen, capture, losses: 0 }
    }

    fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    fn slot(&self) -> String {
        let name = self.backwhen.json(&["status", "--offline"])["slot"]["name"].clone();
        name.as_str().expect("a slot's name").to_owned()
    }

    /// Does something behind the back of a capture that sleeps meanwhile, so that it cannot meddle.
    fn asleep(&mut self, sabotage: impl FnOnce(&Story<'a>), cause: &str) {
        self.capture.signal("STOP");
        sabotage(self);
        self.capture.signal("CONT");
        self.is_lost(cause);
    }

    /// The loss is noticed, recorded and made good.
    fn is_lost(&mut self, cause: &str) {
        self.losses += 1;
        self.capture.wait_for_epoch(self.losses as u32 + 1);
        self.psql("INSERT INTO visits (page) VALUES ('/seen again')");
        self.capture.wait_caught_up();
        let gaps = self.backwhen.json_lines(&["list", "gaps"]);
        assert_eq!(gaps.len(), self.losses, "{cause}: {gaps:?}");
        let gap = &gaps[self.losses - 1];
        assert_says(gap["cause"].as_str().expect("a cause"), &[cause]);
        for end in ["from", "to"] {
            assert!(gap[end]["lsn"].is_string() && gap[end]["time"].is_string(), "{cause}: {gap}");
        }
    }

    fn ends_well(self) {
        let Story { backwhen, capture, .. } = self;
        capture.stop();
        let (server, into) = (backwhen.server(), format!("past_of_{}", backwhen.database()));
        backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
        assert_same(&Dump::of(server, backwhen.database()), &Dump::of(server, &into));
    }
}

/// Frees the slot, whoever has it, and drops it.
fn drop_slot(slot: &str) -> String {
    format!(
        "DO $$ BEGIN LOOP
             PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}';
             BEGIN PERFORM pg_drop_replication_slot('{slot}'); RETURN;
             EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.01); END;
         END LOOP; END $$"
    )
}

#[test]
fn a_slot_that_is_dropped_or_exchanged_is_a_gap() {
    let backwhen = protected(&Server::shared(None));
    let mut story = Story::of(&backwhen);
    let slot = story.slot();
    story.psql(&drop_slot(&slot));
    story.is_lost("is gone");
    for (plugin, cause) in [("pgoutput", "made anew"), ("test_decoding", "of another kind")] {
        let sabotage = |story: &Story| {
            story.psql(&drop_slot(&slot));
            story.psql("INSERT INTO visits (page) VALUES ('/unseen')");
            story.psql(&format!("SELECT pg_create_logical_replication_slot('{slot}', '{plugin}')"));
        };
        story.asleep(sabotage, cause);
    }
    story.ends_well();
}

#[test]
fn a_slot_that_the_server_has_invalidated_is_a_gap() {
    let limits = [("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB"), ("min_wal_size", "32MB")];
    let builder = Server::builder();
    let server = limits.iter().fold(builder, |builder, (name, value)| builder.setting(name, value)).start();
    let backwhen = protected(&server);
    let mut story = Story::of(&backwhen);
    let fill = |story: &Story| {
        let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots";
        for _ in 0..40 {
            // Each on its own: the walsender that has the slot is ended first.
            story.psql("INSERT INTO visits (page) VALUES ('/unseen'); SELECT pg_switch_wal()");
            story.psql("CHECKPOINT");
            if story.psql(lost) == "t" {
                return;
            }
        }
        panic!("the server keeps all of its log:\n{}", server.log());
    };
    story.asleep(fill, "was invalidated");
    story.ends_well();
}

#[test]
fn a_publication_that_carries_less_than_it_should_is_a_gap() {
    let server = Server::shared(None);
    let backwhen = protected(&server);
    let mut story = Story::of(&backwhen);
    let slot = story.slot();
    let mut ways = vec![format!("ALTER PUBLICATION {slot} SET (publish = 'insert, update, truncate')")];
    if server.major() >= 15 {
        ways.push(format!("ALTER PUBLICATION {slot} SET TABLE customers, orders WHERE (id > 1000)"));
        ways.push(format!("ALTER PUBLICATION {slot} SET TABLE customers (id), orders"));
    }
    for way in ways {
        story.psql(&way);
        story.psql("UPDATE customers SET name = name || '!'; DELETE FROM orders WHERE id % 100 = 1");
        story.is_lost("do not carry all of public.");
    }
    story.ends_well();
}

/// Between two looks everything is as it should be again, and what came meanwhile is lost all the same.
#[test]
fn a_publication_that_was_altered_and_put_back_is_a_gap() {
    let server = Server::shared(None);
    let backwhen = protected(&server);
    let mut story = Story::of(&backwhen);
    let slot = story.slot();
    let kinds = |kinds: &str| format!("ALTER PUBLICATION {slot} SET (publish = '{kinds}')");
    let sabotage = |story: &Story| {
        story.psql(&kinds("insert"));
        story.psql("UPDATE customers SET name = name || '?' WHERE id < 10");
        story.psql(&kinds("insert, update, delete, truncate"));
    };
    story.asleep(sabotage, "somebody altered backwhen's publications");

    // While nobody captures.
    let Story { capture, losses, .. } = story;
    capture.stop();
    server.psql(backwhen.database(), &kinds("insert"));
    server.psql(backwhen.database(), "DELETE FROM orders WHERE id % 100 = 3");
    server.psql(backwhen.database(), &kinds("insert, update, delete, truncate"));
    let mut story = Story { losses, ..Story::of(&backwhen) };
    story.is_lost("for a while they may not have carried all of public.customers, public.orders");

    // Still wrong, in a way that no update fails by.
    story.psql(&format!(
        "BEGIN; ALTER PUBLICATION {slot} DROP TABLE customers; ALTER PUBLICATION {slot}_inserts ADD TABLE ONLY customers; COMMIT"
    ));
    story.psql("UPDATE customers SET name = name || '!'");
    story.is_lost("carried all of public.customers");

    // Who owns them does not matter.
    story.psql(&format!(
        "CREATE ROLE owner_of_{slot} SUPERUSER; ALTER PUBLICATION {slot} OWNER TO owner_of_{slot}"
    ));
    story.capture.wait_caught_up();
    story.psql(&format!("ALTER PUBLICATION {slot} OWNER TO postgres; DROP ROLE owner_of_{slot}"));
    story.ends_well();
}

/// With event triggers tables move from one publication to the other by themselves, and only they see who did it.
#[test]
fn a_table_that_was_taken_out_and_put_back_is_a_gap() {
    let server = Server::shared(None);
    let backwhen = protected(&server);
    taken_out_and_put_back(&backwhen, "carried all of public.customers, public.orders");
    let mut story = taken_out_while_nobody_captures(
        &backwhen,
        "carried all of public.customers, public.late, public.orders",
    );

    // Whose identity changes is moved by the triggers or by capture, and that is nobody's sabotage.
    let before = story.capture.checkpoints();
    story.psql(
        "ALTER TABLE visits REPLICA IDENTITY FULL; UPDATE visits SET page = page || '!';
         ALTER TABLE orders DROP CONSTRAINT orders_pkey",
    );
    story.capture.wait_for_checkpoints(before + 1);
    story.capture.wait_caught_up();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 2);
}

#[test]
fn without_event_triggers_a_table_that_was_taken_out_and_put_back_is_a_gap() {
    let server = Server::shared(None);
    let backwhen = shop(&server).with_env("BACKWHEN_HEARTBEAT", "200ms");
    backwhen.ok(&["init", "--no-event-triggers", "--source", &backwhen.source()]);
    taken_out_and_put_back(&backwhen, "carried all of public.orders");
    let mut story = taken_out_while_nobody_captures(&backwhen, "carried all of public.orders");

    // What capture itself moves is nobody's sabotage, also for the capture after it.
    let before = story.capture.checkpoints();
    story.psql("ALTER TABLE orders DROP CONSTRAINT orders_pkey; CREATE TABLE later (id int PRIMARY KEY)");
    story.capture.wait_for_checkpoints(before + 1);
    story.capture.wait_caught_up();
    story.capture.stop();
    let mut story = Story { losses: 2, ..Story::of(&backwhen) };
    story.capture.wait_caught_up();
    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 2);
}

fn taken_out_while_nobody_captures<'a>(backwhen: &'a Backwhen, cause: &str) -> Story<'a> {
    let slot = backwhen.json(&["status", "--offline"])["slot"]["name"].as_str().expect("a name").to_owned();
    let sql = format!(
        "ALTER PUBLICATION {slot} DROP TABLE orders; DELETE FROM orders WHERE id % 100 = 4;
         ALTER PUBLICATION {slot} ADD TABLE ONLY orders"
    );
    backwhen.server().psql(backwhen.database(), &sql);
    let mut story = Story { losses: 1, ..Story::of(backwhen) };
    story.is_lost(cause);
    story
}

fn taken_out_and_put_back(backwhen: &Backwhen, cause: &str) {
    let mut story = Story::of(backwhen);
    let slot = story.slot();
    let sabotage = |story: &Story| {
        story.psql(&format!("ALTER PUBLICATION {slot} DROP TABLE orders"));
        story.psql("DELETE FROM orders WHERE id % 100 = 2");
        story.psql(&format!("ALTER PUBLICATION {slot} ADD TABLE ONLY orders"));
    };
    story.asleep(sabotage, cause);
    // A table that comes is nobody's sabotage.
    let before = story.capture.checkpoints();
    story.psql("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)");
    story.capture.wait_for_checkpoints(before + 1);
    story.capture.wait_caught_up();
    story.ends_well();
}
