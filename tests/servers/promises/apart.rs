//! 4. Recovery never needs the source.

use crate::promises::recovered;
use crate::support::{Backwhen, Dump, Server, Stop, assert_same};

#[test]
fn a_source_that_is_gone_is_not_missed() {
    let target = Server::shared(None);
    let source = Server::start(None);
    source.create_database("shop");
    source
        .psql("shop", "CREATE TABLE t (id serial PRIMARY KEY, what text); INSERT INTO t (what) VALUES ('a')");
    let backwhen = Backwhen::new(&source, "shop");
    backwhen.init();
    source.psql("shop", "INSERT INTO t (what) VALUES ('b')");
    backwhen.ok(&["mark", "the end"]);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let truth = Dump::of(&source, "shop");
    source.stop(Stop::Crash);

    backwhen.ok(&["checkpoint"]);
    for to in ["latest", "mark:the end"] {
        let (report, dump) = recovered(&backwhen, &target, &["--to", to]);
        assert_eq!(report["proved"], true);
        assert_same(&truth, &dump);
    }
    backwhen.ok(&["recover", "--to", "latest", "--into", "sqlite:shop.sqlite"]);
    backwhen.ok(&["recover", "--to", "latest", "--into", "sql:shop.sql"]);
    let status = backwhen.json(&["status"]);
    assert!(status["window"]["latest"]["lsn"].is_string(), "{status}");
    backwhen.ok(&["verify", "--prove"]);
    assert_eq!(backwhen.run(&["capture", "--until", "caught-up"]).status.code(), Some(10));
}
