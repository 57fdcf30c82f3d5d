//! An encrypted history: nothing that capture writes can be read without an identity, every command works with one, and
//! what somebody without the key does to it is named.

mod commands;
mod cuts;
mod faults;
mod shown;
mod tampered;

use std::path::Path;

use crate::support::shop::{CHANGES, shop};
use crate::support::{Backwhen, Server};

mod exit {
    pub const USAGE: i32 = 2;
    pub const DAMAGED: i32 = 12;
    pub const REFUSED: i32 = 14;
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

/// A database with an encrypted history that holds sealed segments, an open one, and a folded checkpoint.
fn encrypted_shop(server: &Server) -> Backwhen {
    let backwhen = shop(server).encrypted().with_env("BACKWHEN_TEST_ROLL_AT", "20000");
    backwhen.init();
    server.psql(backwhen.database(), CHANGES);
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen.ok(&["checkpoint", "--label", "before-audit"]);
    server.psql(
        backwhen.database(),
        "INSERT INTO visits (page) SELECT md5(n::text) FROM generate_series(1, 300) n",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    backwhen
}
