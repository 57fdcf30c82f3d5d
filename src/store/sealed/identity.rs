//! Reads the identities that open encrypted copies, from a file as `age-keygen` writes it, or from what a program prints.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use super::age::{AgeIdentity, Recipient};
use crate::error::{Context, Error, Kind, Result};
use crate::store::files;

/// A longer text is something else, named by mistake.
const MOST: u64 = 64 << 10;

/// How a person has named the identities.
#[derive(Clone)]
pub enum IdentitySource {
    File(PathBuf),
    /// A command line for the shell, which prints what would be in the file. A process runs it once: somebody may have to
    /// type a passphrase.
    Command {
        line: String,
        printed: Arc<OnceLock<String>>,
    },
}

/// One identity or several of them, each of which may open a copy.
#[derive(Clone, Debug)]
pub struct Identities {
    list: Vec<AgeIdentity>,
    source: IdentitySource,
}

impl IdentitySource {
    pub fn of_command(line: String) -> IdentitySource {
        IdentitySource::Command { line, printed: Arc::default() }
    }

    /// Reads the identities.
    ///
    /// # Errors
    /// `Refused` if the file is not there, may be read by others, or has no identity in it, or if the program fails.
    pub fn read(&self) -> Result<Identities> {
        let text = match self {
            IdentitySource::File(file) => read_file(file)?,
            IdentitySource::Command { line, printed } => match printed.get() {
                Some(known) => known.clone(),
                None => run(line).map(|text| printed.get_or_init(|| text).clone())?,
            },
        };
        let list = parse(&text).ok_or_else(|| {
            Error::refused(format!(
                "{self} holds no identity: there must be lines that begin with AGE-SECRET-KEY-1, as `age-keygen` writes them, \
                 and nothing else but lines that begin with #"
            ))
        })?;
        Ok(Identities { list, source: self.clone() })
    }

    /// Reads the identities for a copy that is about to be made. A file that is not there is made, with a new one. Returns
    /// whether it was made.
    ///
    /// # Errors
    /// Fails as [`IdentitySource::read`] does, and as `Unavailable` if the file cannot be written.
    pub fn read_or_make(&self) -> Result<(Identities, bool)> {
        let made = match self {
            IdentitySource::File(file) => make(file)?,
            IdentitySource::Command { .. } => false,
        };
        Ok((self.read()?, made))
    }
}

/// Shows the command line, and not what the program has printed, which is a secret.
impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentitySource({self})")
    }
}

impl fmt::Display for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentitySource::File(file) => write!(f, "the identity file {}", file.display()),
            IdentitySource::Command { .. } => f.write_str("what the program of --identity-command prints"),
        }
    }
}

impl Identities {
    /// The first identity, which stands for this machine when it makes a copy.
    pub fn first(&self) -> &AgeIdentity {
        &self.list[0]
    }

    pub fn all(&self) -> &[AgeIdentity] {
        &self.list
    }

    pub fn source(&self) -> &IdentitySource {
        &self.source
    }

    pub fn recipients(&self) -> Vec<Recipient> {
        self.list.iter().map(AgeIdentity::recipient).collect()
    }
}

fn read_file(file: &Path) -> Result<String> {
    let failed = || format!("cannot read the identity file {}", file.display());
    let opened = fs::File::open(file).context(Kind::Refused, failed)?;
    if files::is_open_to_others(file) {
        return Err(Error::refused(format!(
            "others can read the identity file {}, so it keeps no secret; close it with: chmod 600 {}",
            file.display(),
            file.display()
        )));
    }
    let mut text = String::new();
    opened.take(MOST).read_to_string(&mut text).context(Kind::Refused, failed)?;
    Ok(text)
}

/// Runs the program. What it says on standard error goes to the person, who may have to type a passphrase.
fn run(command: &str) -> Result<String> {
    let failed = || "cannot run the program of --identity-command".to_owned();
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdout(Stdio::piped())
        .spawn()
        .context(Kind::Refused, failed)?;
    let mut text = String::new();
    let printed = child.stdout.take().map(|output| output.take(MOST).read_to_string(&mut text));
    let ended = child.wait().context(Kind::Refused, failed)?;
    if !ended.success() {
        return Err(Error::refused(format!(
            "the program of --identity-command failed ({ended}); run it by hand: {command}"
        )));
    }
    printed.transpose().context(Kind::Refused, failed)?;
    Ok(text)
}

fn parse(text: &str) -> Option<Vec<AgeIdentity>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let list = lines.map(AgeIdentity::parse).collect::<Option<Vec<_>>>()?;
    (!list.is_empty()).then_some(list)
}

/// Makes the file with a new identity, unless there is one. Returns whether it was made.
fn make(file: &Path) -> Result<bool> {
    let identity = AgeIdentity::random()?;
    let text = format!(
        "# Opens encrypted copies of backwhen histories. Keep it secret, and keep a copy elsewhere: without it they are lost.\n\
         # public key: {}\n{}\n",
        identity.recipient(),
        identity.secret_text()
    );
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    match opened.and_then(|mut opened| opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all())) {
        Ok(()) => {
            files::sync_parent(file)?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error)
            .context(Kind::Unavailable, || format!("cannot make the identity file {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity");
        let source = IdentitySource::File(file.clone());
        assert_eq!(source.read().unwrap_err().kind(), Kind::Refused, "reading makes none");
        let (made, is_new) = source.read_or_make().unwrap();
        assert!(is_new && fs::metadata(&file).unwrap().permissions().mode() & 0o777 == 0o600);
        let (again, is_new) = source.read_or_make().unwrap();
        assert!(!is_new && again.recipients() == made.recipients());
        assert!(fs::read_to_string(&file).unwrap().contains(&made.first().recipient().to_string()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = source.read().unwrap_err();
        assert!(refused.kind() == Kind::Refused && refused.message().contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_program_prints_identities_and_what_holds_none_is_refused() {
        let (one, two) = (AgeIdentity::random().unwrap(), AgeIdentity::random().unwrap());
        let (one, two) = (one.secret_text(), two.secret_text());
        let read = |text: &str| IdentitySource::of_command(format!("printf '{text}'")).read();
        assert_eq!(read(&format!("# both\\n{one}\\n\\n{two}\\n")).unwrap().all().len(), 2);
        let read_both = read(&format!("{one}\\n{two}\\n")).unwrap();
        assert!(!format!("{read_both:?} {:?}", read_both.source()).contains("SECRET"), "{read_both:?}");
        for text in ["", "# nothing\\n", "AGE-SECRET-KEY-1QQQQ", &one[..one.len() - 1], "age1qqqq"] {
            assert_eq!(read(text).unwrap_err().kind(), Kind::Refused, "{text}");
        }
        let failed = IdentitySource::of_command("echo nothing; exit 3".into()).read().unwrap_err();
        assert!(failed.message().contains("failed") && failed.kind() == Kind::Refused, "{failed}");
    }
}
