//! A PostgreSQL server of this test's own, and certificates for it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backwhen::connect::{Conninfo, Session};
use tempfile::TempDir;

use crate::support::scratch_folder;

/// The server refuses to run as root; then it runs as this user.
const USER: &str = "postgres";

pub struct Server {
    folder: TempDir,
    pub port: u16,
}

impl Server {
    /// Starts a server with these lines of `pg_hba.conf` before one that trusts `admin` on the socket.
    pub fn start(hba: &str, settings: &[&str]) -> Server {
        let folder = scratch_folder("bw-connect");
        give(folder.path());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Server { folder, port };
        let data = server.data().display().to_string();
        run(&["initdb", "-D", &data, "-U", "admin", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]);
        fs::write(server.data().join("pg_hba.conf"), format!("local all admin trust\n{hba}")).unwrap();
        let conf = format!(
            "port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{}'\nwal_level=logical\nfsync=off\n{}\n",
            server.folder().display(),
            settings.join("\n")
        );
        fs::write(server.data().join("postgresql.auto.conf"), conf).unwrap();
        server
    }

    pub fn up(self) -> Server {
        let log = self.folder().join("log").display().to_string();
        run(&["pg_ctl", "start", "-w", "-t", "60", "-l", &log, "-D", &self.data().display().to_string()]);
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// As the superuser, over the socket.
    pub fn admin(&self, dbname: &str) -> Conninfo {
        self.info(&format!("host={} user=admin dbname={dbname}", self.folder().display()))
    }

    /// Over TCP unless `text` names a host; only from the string, whatever the environment says.
    pub fn info(&self, text: &str) -> Conninfo {
        let host = if text.contains("host=") { "" } else { "host=127.0.0.1 " };
        let text = format!("{host}port={} {text}", self.port);
        Conninfo::parse_in(&text, &|_| None).unwrap()
    }

    pub async fn run_sql(&self, dbname: &str, sql: &str) -> Session {
        let session = Session::connect_utf8(&self.admin(dbname), "test").await.unwrap();
        session.batch_execute(sql).await.unwrap();
        session
    }

    /// A file that the server may read and nobody else.
    pub fn put(&self, name: &str, from: &Path) {
        let to = self.data().join(name);
        fs::copy(from, &to).unwrap();
        give(&to);
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data().display().to_string();
        let _ = command(&["pg_ctl", "stop", "-m", "immediate", "-D", &data]).output();
    }
}

fn give(path: &Path) {
    if is_root() {
        let id = |flag| {
            let output = Command::new("id").args([flag, USER]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().ok()
        };
        chown(path, id("-u"), id("-g")).unwrap();
    }
}

fn is_root() -> bool {
    whoami() == "root"
}

pub fn whoami() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

fn command(words: &[&str]) -> Command {
    let folder = std::env::var("BACKWHEN_TEST_PG_BIN").unwrap_or("/usr/lib/postgresql/15/bin".to_owned());
    let program = Path::new(&folder).join(words[0]);
    assert!(
        program.exists(),
        "install postgresql-15, or name the folder of its programs in BACKWHEN_TEST_PG_BIN"
    );
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", USER, "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(&words[1..]).current_dir("/").stdin(Stdio::null());
    command
}

fn run(words: &[&str]) {
    // pg_ctl's server would keep a pipe open for ever.
    let status = command(words).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{words:?} failed");
}

/// Runs `openssl` in a folder.
pub fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// In a folder: `ca.crt`, and certificates that it signed for `localhost` (server) and `certified`
/// (client); `other.crt`, an authority that signed nothing; `old.crt`, of version 1.
pub fn make_certificates(folder: &Path) {
    for (name, subject) in [("ca", "test-authority"), ("other", "another-authority")] {
        openssl(
            folder,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={subject} -keyout {name}.key -out {name}.crt"
            ),
        );
    }
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    // A key on the curve P-521, and an authority with such a key that signs with the default hash function.
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -subj";
    openssl(
        folder,
        &format!("req -x509 {curve} /CN=curved-authority -days 2 -keyout curve-ca.key -out curve-ca.crt"),
    );
    openssl(folder, &format!("req {curve} /CN=localhost -keyout curve.key -out curve.csr"));
    openssl(
        folder,
        "x509 -req -in curve.csr -days 2 -sha256 -CA curve-ca.crt -CAkey curve-ca.key -CAcreateserial -out curve.crt \
         -extfile names",
    );
    for (name, subject, extra) in
        [("server", "localhost", " -extfile names"), ("client", "certified", ""), ("old", "localhost", "")]
    {
        openssl(
            folder,
            &format!("req -newkey rsa:2048 -nodes -subj /CN={subject} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -days 2 -sha384 -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt{extra}"
            ),
        );
    }
}
