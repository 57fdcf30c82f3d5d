//! Runs a client program: its environment says how to connect, and its messages become part of our error.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::Command;

use super::account::Account;
use crate::ambient;
use crate::connect::{Conninfo, shortened};
use crate::error::{Context, Error, Kind, Result};

/// The most bytes that are kept of a program's standard error; the rest is dropped.
const COMPLAINT_LIMIT: u64 = 64 << 20;

/// The path that a child opens to read its standard input from the start.
const STANDARD_INPUT: &str = "/dev/stdin";

/// A client program that is about to run; it is killed if the future that runs it is dropped.
pub struct Child {
    name: String,
    command: Command,
    /// The connection, if its password is in no file yet.
    login: Option<Conninfo>,
}

impl Child {
    /// Creates a child that inherits none of our own `PG*` and `BACKWHEN*` variables. backwhen has resolved these
    /// already: a leftover one would send the child elsewhere, and connection strings in them may contain passwords.
    pub fn new(program: PathBuf) -> Child {
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("PG") || name.starts_with("BACKWHEN") {
                command.env_remove(&variable);
            }
        }
        // backwhen also reads the messages, so they must be in one language.
        command.env("LC_ALL", "C").env_remove("LANGUAGE").kill_on_drop(true).stdin(Stdio::null());
        Child { name, command, login: None }
    }

    /// Sets the database to connect to, never as an argument, which other users of the machine could read. The
    /// environment contains no password either: see [`password_file`].
    pub fn connects_to(mut self, info: &Conninfo) -> Child {
        self.command.envs(info.child_environment());
        self.login = Some(info.clone());
        self
    }

    /// Removes all of our environment except the variables that are named here.
    pub(super) fn only_env<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, OsString)>) -> Child {
        self.command.env_clear().envs(variables);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Child {
        self.command.env(name, value);
        self
    }

    /// Runs the program as another user, with none of our groups, in a folder of that user.
    pub(super) fn run_as(mut self, account: Option<Account>, folder: &Path) -> Child {
        if let Some(Account { uid, gid }) = account {
            self.command.uid(uid).gid(gid).current_dir(folder);
        }
        self
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Child {
        self.command.arg(argument);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Child {
        self.command.args(arguments);
        self
    }

    /// Runs the program to its end and discards its standard output.
    ///
    /// # Errors
    /// Fails with `Refused` if the program cannot be started, and with `Unavailable` and the program's own words if
    /// it fails.
    pub async fn run(self) -> Result<()> {
        let name = self.name.clone();
        let (status, complaint) = self.finish().await?;
        if status.success() { Ok(()) } else { Err(failure(&name, status, &complaint)) }
    }

    /// Runs the program like [`Child::run`], but returns its status and standard error for the caller to judge.
    ///
    /// # Errors
    /// Fails with `Refused` if the program cannot be started.
    pub async fn finish(mut self) -> Result<(ExitStatus, String)> {
        self.command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        let complaint = read_complaint(child.stderr.take()).await;
        let status =
            child.wait().await.context(Kind::Unavailable, || format!("cannot wait for {}", self.name))?;
        Ok((status, complaint))
    }

    /// Runs the program to its end and copies its standard output to `out`.
    ///
    /// # Errors
    /// Fails when [`Child::run`] does, and with `Unavailable` if writing to `out` fails.
    pub async fn run_into(mut self, out: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        let mut stdout = child.stdout.take().expect("piped above");
        // The pipe is moved in, so that it is closed as soon as `out` fails: the child must not wait for us.
        let copy = async move { tokio::io::copy(&mut stdout, out).await };
        let (complaint, copied) = tokio::join!(read_complaint(child.stderr.take()), copy);
        let status =
            child.wait().await.context(Kind::Unavailable, || format!("cannot wait for {}", self.name))?;
        copied.context(Kind::Unavailable, || format!("cannot write the output of {}", self.name))?;
        if status.success() { Ok(()) } else { Err(failure(&self.name, status, &complaint)) }
    }

    fn spawn(&mut self) -> Result<tokio::process::Child> {
        let name = self.name.clone();
        if let Some(line) = self.login.as_ref().map_or(Ok(None), Conninfo::password_line)? {
            self.command.stdin(password_file(&line)?).env("PGPASSFILE", STANDARD_INPUT);
        }
        self.command
            .spawn()
            .context(Kind::Refused, || format!("cannot start {name}; is it installed and executable?"))
    }
}

/// Provides a password file to a child as its standard input. The file never has a name, so that nothing of it
/// remains however backwhen ends, and only its owner may read it, as libpq demands.
fn password_file(line: &str) -> Result<Stdio> {
    let written = ambient::nameless_file(&ambient::temporary_place()).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(line.as_bytes())?;
        Ok(file)
    });
    let failed = || "cannot write a temporary file; is TMPDIR full?".into();
    written.map(Stdio::from).context(Kind::Unavailable, failed)
}

/// Returns the error for a program that failed, in the program's own words.
pub(crate) fn failure(name: &str, status: ExitStatus, complaint: &str) -> Error {
    let complaint = complaint.trim();
    if complaint.is_empty() {
        return Error::unavailable(format!("{name} failed: {status}"));
    }
    let lines: Vec<_> = complaint.lines().map(|line| shortened(line.to_owned())).collect();
    let kind =
        if complaint.contains("max_locks_per_transaction") { Kind::Refused } else { Kind::Unavailable };
    Error::new(kind, format!("{name} failed: {}", lines.join("\n")))
}

/// Returns the first part of standard error; the rest is read and dropped, so that the child never stalls.
async fn read_complaint(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    let _ = (&mut pipe).take(COMPLAINT_LIMIT).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_carries_the_programs_own_words() {
        let child = Child::new("/bin/sh".into()).args(["-c", "echo no such thing >&2; exit 3"]);
        let error = child.run().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.message().contains("no such thing"), "{error}");
    }

    #[tokio::test]
    async fn a_password_is_in_neither_environment_nor_arguments() {
        let info = Conninfo::parse_in("host=h user=u dbname=d password='s3:c\\\\hush'", &|_| None).unwrap();
        let script = "env; cat /proc/$$/cmdline; test ! -t 0; stat -L -c %a \"$PGPASSFILE\"; cat \"$PGPASSFILE\" \"$PGPASSFILE\"";
        let mut out = Vec::new();
        let child = Child::new("/bin/sh".into()).connects_to(&info).args(["-c", script]);
        child.run_into(&mut out).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        // Each process that opens the file reads it from the start, as each connection of pg_restore --jobs does.
        let line = "*:*:*:*:s3\\:c\\\\hush\n";
        assert!(out.ends_with(&format!("600\n{line}{line}")), "{out}");
        assert!(!out.strip_suffix(&line.repeat(2)).unwrap().contains("hush"), "{out}");
    }

    #[tokio::test]
    async fn a_missing_program_is_refused() {
        let error = Child::new("/nowhere/pg_dump".into()).run().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }

    #[tokio::test]
    async fn output_is_copied_whole() {
        let mut out = Vec::new();
        let child = Child::new("/bin/sh".into()).args(["-c", "printf abc"]);
        child.run_into(&mut out).await.unwrap();
        assert_eq!(out, b"abc");
    }
}
