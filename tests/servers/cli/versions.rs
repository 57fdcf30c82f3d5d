//! Recovery across major versions: into every newer one, never into an older one.

use crate::support::shop::captured_shop;
use crate::support::{Server, versions};

#[test]
fn into_each_newer_major() {
    let all = versions();
    let (Some(&oldest), Some(&newest)) = (all.first(), all.last()) else { return };
    if oldest == newest {
        eprintln!("skipped: only PostgreSQL {newest} is on this machine");
        return;
    }
    // Programs of every version at hand, as on a machine that has them all.
    let bins: Vec<_> =
        all.iter().map(|major| Server::shared(Some(*major)).bin().unwrap().display().to_string()).collect();
    let path = format!("{}:/usr/bin:/bin", bins.join(":"));
    let source = Server::shared(Some(oldest));
    let backwhen = captured_shop(&source).with_env("PATH", &path);
    let rows = "SELECT (SELECT count(*) || md5(string_agg(o::text, '' ORDER BY id)) FROM orders o), \
                (SELECT count(*) || md5(string_agg(c::text, '' ORDER BY id)) FROM customers c), \
                (SELECT count(*) FROM visits), (SELECT count(*) FROM latest_orders)";
    let expected = source.psql(backwhen.database(), rows);
    for major in all {
        let target = Server::shared(Some(major));
        let into = format!("from_{oldest}");
        let report =
            backwhen.json(&["recover", "--to", "latest", "--create", "--into", &target.conninfo(&into)]);
        assert_eq!(report["proved"], true, "into {major}");
        assert_eq!(target.psql(&into, rows), expected, "into {major}");
        let keys = target.psql(&into, "SELECT count(*) FROM pg_constraint WHERE contype IN ('p', 'f') AND connamespace = 'public'::regnamespace");
        assert_eq!(keys, "3", "into {major}");
    }
}
