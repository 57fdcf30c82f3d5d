//! A real S3 server for tests: SeaweedFS.

use std::path::Path;
use std::process::Child;
use std::sync::OnceLock;

use super::http::{Message, ask};
use super::kept;

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
        let program = || kept::fetched("the S3 server", "seaweedfs/weed");
        SHARED.get_or_init(|| program().map(|program| S3Server::start(&program))).as_ref()
    }

    fn start(program: &Path) -> S3Server {
        let (keeper, ports) =
            kept::start(program, arguments, |ports: [u16; 8]| try_make_bucket(ports[6], "first", false));
        S3Server { port: ports[6], _keeper: keeper }
    }

    /// Makes a bucket, or one in which an object that is locked cannot be removed.
    pub fn make_bucket(&self, name: &str, with_locks: bool) {
        assert!(try_make_bucket(self.port, name, with_locks), "no bucket {name}");
    }

    /// Makes a bucket in which no object can be removed or replaced for a day.
    pub fn make_locked_bucket(&self, name: &str) {
        self.make_bucket(name, true);
        let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let answer = ask(self.port, &format!("PUT /{name}?object-lock HTTP/1.1\r\n"), rule.as_bytes());
        assert_says(answer, "200");
    }

    /// Puts an object without any condition, as nobody but a tamperer does.
    pub fn overwrite(&self, bucket_and_key: &str, bytes: &[u8]) {
        let answer = ask(self.port, &format!("PUT /{bucket_and_key} HTTP/1.1\r\n"), bytes);
        assert_says(answer, "200");
    }

    pub fn remove(&self, bucket_and_key: &str) {
        let answer = ask(self.port, &format!("DELETE /{bucket_and_key} HTTP/1.1\r\n"), b"");
        assert_says(answer, "204");
    }

    /// All keys of a bucket that begin like this, without the bucket, and the bytes that lie there.
    pub fn everything(&self, bucket: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let listed = ask(self.port, &format!("GET /{bucket}?list-type=2&prefix={prefix} HTTP/1.1\r\n"), b"");
        let listed = listed.expect("the bucket can be listed").body;
        let listed = String::from_utf8_lossy(&listed);
        let keys =
            listed.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()));
        let read = |key: String| {
            let answer = ask(self.port, &format!("GET /{bucket}/{key} HTTP/1.1\r\n"), b"");
            (key, answer.expect("there is an answer").body)
        };
        keys.map(read).collect()
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

fn arguments(folder: &Path, ports: [u16; 8]) -> Vec<String> {
    std::fs::write(folder.join("identities"), IDENTITIES).expect("a file can be written");
    let path = |name: &str| folder.join(name).display().to_string();
    let options = [
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
    ];
    let names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
    let names = names.into_iter().chain(["filer.port.grpc", "s3.port", "s3.port.grpc"]);
    let listens = names.zip(ports.map(|port| port.to_string()));
    let options = options.into_iter().chain(listens).map(|(name, value)| format!("-{name}={value}"));
    std::iter::once("server".to_owned()).chain(options).collect()
}

fn try_make_bucket(port: u16, name: &str, with_locks: bool) -> bool {
    let locks = if with_locks { "x-amz-bucket-object-lock-enabled: true\r\n" } else { "" };
    ask(port, &format!("PUT /{name} HTTP/1.1\r\n{locks}"), b"")
        .is_some_and(|answer| answer.head.starts_with("HTTP/1.1 200"))
}

fn assert_says(answer: Option<Message>, status: &str) {
    let head = answer.map(|it| it.head).unwrap_or_default();
    assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
}
