//! Writers do not wait for the locks of a rewind while it reads what was changed since its plan.

use super::while_captured;
use crate::support::Server;

#[test]
fn locks_are_given_back_while_much_is_read() {
    let server = Server::shared(None);
    let table = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g";
    while_captured(&server, table, |scene| {
        scene.mark("good");
        let good = scene.rows();
        scene.psql("UPDATE t SET v = id");
        // The plan is quick. Each time that it is brought up to date takes longer than the locks are held for that.
        let mut command = scene.backwhen.command(&["rewind", "--to", "mark:good", "--apply"]);
        command.env("BACKWHEN_TEST_POINT", "rewind.planned=2500@2").env("BACKWHEN_LOG", "backwhen=info");
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert!(said.contains("the locks are given back until it is read"), "{said}");
        assert_eq!(scene.rows(), good);
    });
}
