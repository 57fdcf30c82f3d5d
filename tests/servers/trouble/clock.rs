//! A server whose clock is set back while it runs: a small library before the system's tells it the time.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::support::shop::{assert_says, shop};
use crate::support::{Dump, Server, assert_same};
use crate::trouble::exit;

/// What the server asks for the time; a file holds what is added to the machine's.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *offset;

__attribute__((constructor)) static void find(void) {
    int file = open(getenv("BACKWHEN_TEST_CLOCK"), O_RDONLY);
    void *found = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    offset = found == MAP_FAILED ? 0 : found;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec real;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &real);
    now->tv_sec = real.tv_sec + (offset ? *offset : 0);
    now->tv_usec = real.tv_nsec / 1000;
    return 0;
}
"#;

struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    fn make() -> Clock {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // The server runs as somebody else.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let clock = Clock { folder };
        std::fs::write(clock.path("clock.c"), LIBRARY).unwrap();
        std::fs::write(clock.path("offset"), 0_i64.to_ne_bytes()).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(clock.path("clock.so")).arg(clock.path("clock.c"));
        assert!(compiler.status().expect("a C compiler, as the build needs one").success());
        clock
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The server's clock shows so many seconds more than the machine's from now on.
    fn set(&self, seconds: i64) {
        let file = std::fs::File::options().write(true).open(self.path("offset")).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn start_server(&self) -> Server {
        let text = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let server = Server::builder().env("LD_PRELOAD", &text("clock.so"));
        server.env("BACKWHEN_TEST_CLOCK", &text("offset")).start()
    }
}

#[test]
fn a_server_whose_clock_is_set_back_is_followed_and_the_step_is_told() {
    let clock = Clock::make();
    let server = clock.start_server();
    // One heartbeat, and none in between.
    let backwhen = shop(&server).with_env("BACKWHEN_HEARTBEAT", "60m");
    let database = backwhen.database();
    let visit = |page: &str| server.psql(database, &format!("INSERT INTO visits (page) VALUES ('{page}')"));
    let now =
        || server.psql(database, "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US TZH:TZM')");
    backwhen.init();
    let mut capture = backwhen.spawn_capture();
    // Set forward again by an hour, a server may take that for an hour without a word from us.
    capture.allow("trying again");
    let live = backwhen.history().join("live/capture.json");
    capture.wait_until("the heartbeat", |_| {
        let text = std::fs::read_to_string(&live).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|live| live["source_head"].is_string())
    });
    let earlier = now();
    visit("/before");
    capture.wait_caught_up();
    let before = now();
    clock.set(-3600);
    assert!(now() < before, "the server's clock was not set back, so this proves nothing");
    visit("/an hour ago");
    capture.wait_caught_up();
    let an_hour_ago = now();
    clock.set(0);
    visit("/after");
    capture.wait_caught_up();
    capture.stop();

    assert_eq!(backwhen.json_lines(&["list", "gaps"]).len(), 0);
    let into = format!("clock_of_{database}");
    backwhen.ok(&["recover", "--to", "latest", "--create", "--into", &server.conninfo(&into)]);
    assert_same(&Dump::of(&server, database), &Dump::of(&server, &into));
    // A prefix of the commit order, whatever the clock did: all before the first one that is later.
    let into = format!("step_of_{database}");
    backwhen.ok(&["recover", "--to", &before, "--create", "--into", &server.conninfo(&into)]);
    assert_eq!(
        server.psql(&into, "SELECT string_agg(page, ' ' ORDER BY page) FROM visits"),
        "/ /an hour ago /before /cart"
    );
    // Before the first one that is later, and what came after that with an earlier time is told of.
    let plan = backwhen.run(&["recover", "--to", &earlier, "--dry-run"]);
    assert_says(&(plan.stdout + &plan.stderr), &["stepped back"]);
    // By that clock the history had not yet begun.
    backwhen.fails(exit::OUTSIDE_WINDOW, &["recover", "--to", &an_hour_ago, "--dry-run"]);
}
