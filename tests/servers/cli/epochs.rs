//! Transaction numbers with their epoch, as applications keep them, on a server that has passed 2^32 transactions.

use crate::support::Server;
use crate::support::shop::{assert_says, shop};

#[test]
fn a_transaction_has_its_whole_number_wherever_it_is_typed_or_shown() {
    let server = Server::start(None);
    server.stop(crate::support::Stop::Fast);
    server.on_data("pg_resetwal", &["-e", "3"]);
    server.start_again();
    let backwhen = shop(&server);
    backwhen.init();
    let insert = "WITH w AS (INSERT INTO visits (page) VALUES ('/epoch') RETURNING 1) \
                  SELECT pg_current_xact_id() FROM w";
    let number: u64 = server.psql(backwhen.database(), insert).parse().unwrap();
    assert_eq!(number >> 32, 3);
    server.psql(backwhen.database(), "ALTER TABLE visits ADD COLUMN referrer text");
    backwhen.ok(&["mark", "here"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let plan = |moment: String| backwhen.json(&["recover", "--to", &moment, "--dry-run"])["moment"].clone();
    let moment = plan(format!("xid:{number}"));
    assert_eq!(moment["xid"], number);
    assert_eq!(moment["next"]["xid"], number + 1);
    // Server logs and xmin have the lower half alone.
    assert_eq!(plan(format!("xid:{}", number as u32)), moment);
    let text = backwhen.ok(&["recover", "--to", &format!("xid:{number}"), "--dry-run"]);
    assert_says(&text, &[&format!("xid {number}"), &format!("xid {}", number + 1)]);
    // The same lower half in another epoch is another transaction.
    let other = format!("xid:{}", number + (1 << 32));
    assert_says(&backwhen.fails(11, &["recover", "--to", &other, "--dry-run"]), &["is not in the journal"]);
    let marks = backwhen.json_lines(&["list", "marks"]);
    assert_eq!(marks[0]["xid"], number + 2);
    let schemas = backwhen.json_lines(&["list", "schemas"]);
    assert_eq!(schemas[0]["xid"], number + 1);
}
