//! A real S3 server for tests: SeaweedFS, which `scripts/setup.sh` fetches. The library's own tests use this file too.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A server that does not answer within this time will not.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends the server, and removes its folder and sockets, once the tests' process is gone: nobody writes to the pipe, and it
/// closes. The server makes sockets in /tmp, whatever it is told.
const KEEPER: &str = r#"folder=$1; shift; TMPDIR=$folder "$@" >"$folder/log" 2>&1 & server=$!; cat >/dev/null; kill -9 $server
    wait $server 2>/dev/null; rm -rf "$folder"
    for option; do case $option in *.grpc=*) rm -f /tmp/seaweedfs-*-grpc-"${option#*=}".sock ;; esac; done"#;

/// Who may do what. Nobody's name can make buckets, as making one is no part of any test.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "anonymous", "actions": ["Admin"]},
    {"name": "owner", "credentials": [{"accessKey": "owner", "secretKey": "owner-secret"}],
     "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
     "actions": ["Read", "List"]}]}"#;

pub struct S3Server {
    port: u16,
    _keeper: Child,
}

impl S3Server {
    /// The server that all tests of this process share; `None` if the program is not here.
    pub fn shared() -> Option<&'static S3Server> {
        static SHARED: OnceLock<Option<S3Server>> = OnceLock::new();
        SHARED.get_or_init(|| program().map(|program| S3Server::start(&program))).as_ref()
    }

    fn start(program: &Path) -> S3Server {
        let folder =
            tempfile::Builder::new().prefix("backwhen-s3-").tempdir().expect("a folder can be made").keep();
        std::fs::write(folder.join("identities"), IDENTITIES).expect("a file can be written");
        // Ports are free when they are drawn, and may be taken before the server has them.
        for _ in 0..3 {
            if let Some(server) = S3Server::try_start(program, &folder) {
                return server;
            }
        }
        panic!(
            "the S3 server does not start:\n{}",
            std::fs::read_to_string(folder.join("log")).unwrap_or_default()
        );
    }

    fn try_start(program: &Path, folder: &Path) -> Option<S3Server> {
        let ports = free_ports();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "backwhen-test-s3"]).arg(folder).arg(program).arg("server");
        let path = |name: &str| folder.join(name).display().to_string();
        for (option, value) in [
            ("dir", folder.display().to_string()),
            ("ip", "127.0.0.1".into()),
            ("ip.bind", "127.0.0.1".into()),
            ("master.telemetry", "false".into()),
            ("master.volumeSizeLimitMB", "64".into()),
            ("volume.max", "400".into()),
            ("volume.preStopSeconds", "0".into()),
            ("filer", "true".into()),
            ("filer.localSocket", path("filer")),
            ("s3", "true".into()),
            ("s3.localSocket", path("s3")),
            ("s3.config", path("identities")),
            ("s3.port.iceberg", "0".into()),
            ("s3.port.lance", "0".into()),
        ] {
            command.arg(format!("-{option}={value}"));
        }
        let names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
        let names = names.into_iter().chain(["filer.port.grpc", "s3.port", "s3.port.grpc"]);
        command.args(names.zip(ports).map(|(name, port)| format!("-{name}={port}")));
        // One volume for each bucket, not seven.
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1").stdin(Stdio::piped());
        let keeper = command.spawn().expect("/bin/sh starts");
        let server = S3Server { port: ports[6], _keeper: keeper };
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if server.try_make_bucket("first", false) {
                return Some(server);
            }
            // The library's tests use this file too, and have no `wait_for`.
            std::thread::sleep(Duration::from_millis(100));
        }
        None
    }

    /// Makes a bucket, or one in which an object that is locked cannot be removed.
    pub fn make_bucket(&self, name: &str, with_locks: bool) {
        assert!(self.try_make_bucket(name, with_locks), "no bucket {name}");
    }

    /// Makes a bucket in which no object can be removed or replaced for a day.
    pub fn make_locked_bucket(&self, name: &str) {
        self.make_bucket(name, true);
        let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let answer = self.ask(&format!("PUT /{name}?object-lock HTTP/1.1\r\n"), rule.as_bytes());
        assert!(answer.as_ref().is_some_and(|it| it.starts_with("HTTP/1.1 200")), "{answer:?}");
    }

    fn try_make_bucket(&self, name: &str, with_locks: bool) -> bool {
        let locks = if with_locks { "x-amz-bucket-object-lock-enabled: true\r\n" } else { "" };
        self.ask(&format!("PUT /{name} HTTP/1.1\r\n{locks}"), b"")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Puts an object without any condition, as nobody but a tamperer does.
    pub fn overwrite(&self, bucket_and_key: &str, bytes: &[u8]) {
        let answer = self.ask(&format!("PUT /{bucket_and_key} HTTP/1.1\r\n"), bytes);
        assert!(answer.as_ref().is_some_and(|it| it.starts_with("HTTP/1.1 200")), "{answer:?}");
    }

    pub fn remove(&self, bucket_and_key: &str) {
        let answer = self.ask(&format!("DELETE /{bucket_and_key} HTTP/1.1\r\n"), b"");
        assert!(answer.as_ref().is_some_and(|it| it.starts_with("HTTP/1.1 204")), "{answer:?}");
    }

    /// All keys of a bucket that begin like this, without the bucket, and the bytes that lie there.
    pub fn everything(&self, bucket: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let listed = self.ask(&format!("GET /{bucket}?list-type=2&prefix={prefix} HTTP/1.1\r\n"), b"");
        let listed = listed.expect("the bucket can be listed");
        let keys =
            listed.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()));
        let read = |key: String| {
            let answer =
                self.answer(&format!("GET /{bucket}/{key} HTTP/1.1\r\n"), b"").expect("there is an answer");
            let head = answer.windows(4).position(|it| it == b"\r\n\r\n").expect("there is a head");
            (key, answer[head + 4..].to_vec())
        };
        keys.map(read).collect()
    }

    /// Sends a request that nobody has signed; `None` if there is no answer.
    fn ask(&self, head: &str, body: &[u8]) -> Option<String> {
        self.answer(head, body).map(|answer| String::from_utf8_lossy(&answer).into_owned())
    }

    fn answer(&self, head: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let rest = format!("Host: 127.0.0.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), rest.as_bytes(), body].concat()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The variables that lead a program to this server as `user`, who is `owner` or `reader`.
    pub fn variables(&self, user: &str) -> [(String, String); 4] {
        S3Server::variables_at(self.port, user)
    }

    /// The same variables for a proxy that listens at `port`.
    pub fn variables_at(port: u16, user: &str) -> [(String, String); 4] {
        [
            ("AWS_ENDPOINT_URL".into(), format!("http://127.0.0.1:{port}")),
            ("AWS_ACCESS_KEY_ID".into(), user.into()),
            ("AWS_SECRET_ACCESS_KEY".into(), format!("{user}-secret")),
            ("AWS_REGION".into(), "us-east-1".into()),
        ]
    }
}

fn free_ports() -> [u16; 8] {
    let held: Vec<_> = (0..8).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port is free")).collect();
    std::array::from_fn(|at| held[at].local_addr().expect("it has an address").port())
}

/// The program where `scripts/setup.sh` puts it.
fn program() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let caches = [
        variable("BACKWHEN_PG_CACHE"),
        Some("/var/cache/backwhen".into()),
        home.map(|it| it.join("backwhen")),
    ];
    let found =
        caches.into_iter().flatten().map(|cache| cache.join("seaweedfs/weed")).find(|it| it.is_file());
    if found.is_none() {
        eprintln!(
            "the S3 server is not here, so its tests are skipped; fetch it with scripts/setup.sh --all-versions"
        );
    }
    found
}
