//! Servers that end with the tests' process, and the place of their programs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that does not answer within this time will not.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends the server, and removes its folder and sockets, once the tests' process is gone: nobody writes to the pipe, and it
/// closes. SeaweedFS makes sockets in /tmp, whatever it is told.
const KEEPER: &str = r#"folder=$1; shift; TMPDIR=$folder "$@" >"$folder/log" 2>&1 & server=$!; cat >/dev/null; kill -9 $server
    wait $server 2>/dev/null; rm -rf "$folder"
    for option; do case $option in *.grpc=*) rm -f /tmp/seaweedfs-*-grpc-"${option#*=}".sock ;; esac; done"#;

/// Starts the server that `arguments` describes, for a folder and free ports, and returns its ports once it `answers`. It runs
/// until the child that is returned is dropped.
///
/// Ports are free when they are drawn, and may be taken before the server has them: then it is tried again.
pub fn start<const N: usize>(
    program: &Path,
    arguments: impl Fn(&Path, [u16; N]) -> Vec<String>,
    answers: impl Fn([u16; N]) -> bool,
) -> (Child, [u16; N]) {
    let mut log = String::new();
    for _ in 0..3 {
        let (folder, ports) = (folder(), free_ports());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "backwhen-test-store"]).arg(&folder).arg(program);
        command.args(arguments(&folder, ports)).stdin(Stdio::piped());
        // One volume of SeaweedFS for each bucket, not seven.
        let mut keeper =
            command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1").spawn().expect("/bin/sh starts");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if answers(ports) {
                return (keeper, ports);
            }
            // The library's tests use this file too, and have no `wait_for`.
            std::thread::sleep(Duration::from_millis(100));
        }
        log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        // The keeper ends the server once nobody can write to it.
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }
    panic!("a server for the tests does not start:\n{log}");
}

/// A folder for a server's files, which its keeper removes.
fn folder() -> PathBuf {
    tempfile::Builder::new().prefix("backwhen-store-").tempdir().expect("a folder can be made").keep()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held: Vec<_> = (0..N).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port is free")).collect();
    std::array::from_fn(|at| held[at].local_addr().expect("it has an address").port())
}

/// A file where `scripts/setup.sh` puts it; `None` if `what` was not fetched.
pub fn fetched(what: &str, file: &str) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let caches = [
        variable("BACKWHEN_PG_CACHE"),
        Some("/var/cache/backwhen".into()),
        home.map(|it| it.join("backwhen")),
    ];
    let found = caches.into_iter().flatten().map(|cache| cache.join(file)).find(|it| it.is_file());
    if found.is_none() {
        eprintln!(
            "{what} is not here, so its tests are skipped; fetch it with scripts/setup.sh --all-versions"
        );
    }
    found
}
