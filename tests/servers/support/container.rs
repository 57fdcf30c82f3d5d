//! A server in a container, through the engine's socket (Docker, Podman).
//!
//! Continuous integration compiles this on every run (`--features docker-tests`); it runs only where a
//! container engine does. `backwhen` itself then uses the client programs on the host's `PATH`.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use testcontainers::core::{ExecCommand, IntoContainerPort};
use testcontainers::runners::SyncRunner;
use testcontainers::{Container as Running, GenericImage, ImageExt};

use super::engine::{Stop, Wish};
use super::waiting::{wait_at_most, wait_for};

const START_LIMIT: Duration = Duration::from_secs(120);

/// Takes the container away once its input ends: servers that tests share outlive them all, and a
/// killed test takes nothing away.
const KEEPER: &str = "cat >/dev/null; docker rm -fv \"$1\" || podman rm -fv \"$1\"";

pub struct Container {
    running: Running<GenericImage>,
    port: u16,
    _keeper: Child,
}

impl Container {
    /// `image` is a name with an optional tag: `postgres:17`.
    pub fn start(image: &str, wish: &Wish) -> Container {
        let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
        // A fixed port, since the engine would choose another one after a restart.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let settings =
            wish.settings.iter().flat_map(|(name, value)| ["-c".into(), format!("{name}={value}")]);
        let request = GenericImage::new(name, tag)
            .with_mapped_port(port, 5432.tcp())
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_env_var("POSTGRES_INITDB_ARGS", format!("-E {} --locale=C", wish.encoding))
            .with_cmd(std::iter::once("postgres".to_owned()).chain(settings));
        let running = request.start().unwrap_or_else(|e| panic!("container {image}: {e}"));
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "backwhen-test-server", running.id()]).process_group(0);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let container = Container { running, port, _keeper: keeper.spawn().expect("/bin/sh starts") };
        container.wait_until_ready();
        container
    }

    pub fn address(&self) -> (String, u16) {
        (self.running.get_host().expect("the engine's host is known").to_string(), self.port)
    }

    pub fn client(&self, program: &str, database: &str, arguments: &[&str], input: &str) -> Output {
        // An exec has no standard input: a here-document in the container's shell stands in for it.
        let script = format!("\"$@\" <<'BACKWHEN-INPUT-ENDS'\n{input}\nBACKWHEN-INPUT-ENDS\n");
        let address = ["-h", "127.0.0.1", "-U", "postgres", "-d", database];
        let mut words = vec!["sh", "-c", &script, "sh", program];
        words.extend(address.iter().chain(arguments));
        self.exec(&words).unwrap_or_else(|message| panic!("{program} in the container: {message}"))
    }

    fn exec(&self, words: &[&str]) -> Result<Output, String> {
        let mut result =
            self.running.exec(ExecCommand::new(words.iter().copied())).map_err(|e| e.to_string())?;
        let stdout = result.stdout_to_vec().map_err(|e| e.to_string())?;
        let stderr = result.stderr_to_vec().map_err(|e| e.to_string())?;
        let code = result.exit_code().map_err(|e| e.to_string())?.unwrap_or(1);
        Ok(Output { status: ExitStatus::from_raw((code as i32) << 8), stdout, stderr })
    }

    pub fn stop(&self, how: Stop) {
        if how == Stop::Crash {
            // The container ends with its first process, perhaps before the exec is answered.
            let _ = self.exec(&["sh", "-c", "kill -QUIT 1"]);
            wait_for("the container has ended", || !self.running.is_running().unwrap_or(false));
        }
        self.running.stop().expect("the container stops");
    }

    pub fn start_again(&self) {
        self.running.start().expect("the container starts again");
        self.wait_until_ready();
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        let _ = self.running.stderr(false).read_to_string(&mut text);
        text
    }

    /// Over TCP: the image's set-up phase answers on the unix socket only.
    fn wait_until_ready(&self) {
        let ready = ["psql", "-h", "127.0.0.1", "-U", "postgres", "-Xqc", "SELECT 1"];
        wait_at_most(START_LIMIT, "the container's server is ready", || {
            self.exec(&ready).is_ok_and(|output| output.status.success())
        });
    }
}
