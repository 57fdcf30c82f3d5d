//! A clock that a test sets: a small library before the system's tells the time.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::Server;

/// The library that tells a program the time: a file holds what is added to the machine's. A server asks `gettimeofday`,
/// and backwhen `clock_gettime`.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset;

__attribute__((constructor)) static void find(void) {
    int file = open(getenv("BACKWHEN_TEST_CLOCK"), O_RDONLY);
    void *found = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    offset = found == MAP_FAILED ? 0 : found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec real;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &real);
    now->tv_sec = real.tv_sec;
    now->tv_usec = real.tv_nsec / 1000;
    return 0;
}
"#;

/// A clock that a test sets, for servers and for backwhen.
pub struct Clock {
    folder: tempfile::TempDir,
}

impl Clock {
    pub fn make() -> Clock {
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

    /// The clock shows so many seconds more than the machine's from now on.
    pub fn set(&self, seconds: i64) {
        let file = std::fs::File::options().write(true).open(self.path("offset")).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// The variables with which a program goes by this clock.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |name: &str| self.path(name).to_str().unwrap().to_owned();
        [("LD_PRELOAD", text("clock.so")), ("BACKWHEN_TEST_CLOCK", text("offset"))]
    }

    pub fn start_server(&self) -> Server {
        let [library, offset] = self.environment();
        Server::builder().env(library.0, &library.1).env(offset.0, &offset.1).start()
    }
}
