//! The key file: a comment, and 64 hexadecimal digits.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Key;
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::store::files;

const COMMENT: &str = "# Key of a backwhen history: keep it secret, and keep a copy away from the history.";
/// A key file is not longer than this; a longer file is something else, named by mistake.
const MOST: u64 = 4096;

impl Key {
    /// Reads a key file.
    ///
    /// # Errors
    /// `Refused` if the file is not there, cannot be read, or is no key file.
    pub fn read(file: &Path) -> Result<Key> {
        let mut text = String::new();
        let read = fs::File::open(file).and_then(|opened| opened.take(MOST).read_to_string(&mut text));
        read.context(Kind::Refused, || format!("cannot read the key file {}", file.display()))?;
        let secret = parse(&text).ok_or_else(|| {
            Error::refused(format!(
                "{} is no key file: it must hold 64 hexadecimal digits, and nothing else but lines that begin with #",
                file.display()
            ))
        })?;
        Ok(Key::new(secret, file.to_owned()))
    }

    /// The key for a new history at `root`: reads the file, or makes it with a new random key.
    ///
    /// # Errors
    /// `Refused` if the file lies inside the history, or is no key file; `Unavailable` if it cannot be
    /// written.
    pub fn for_new_history(file: &Path, root: &Path) -> Result<Key> {
        if real_path(file).starts_with(real_path(root)) {
            return Err(Error::refused(format!(
                "the key file {} would lie inside the history {}, where it protects nothing; name a file elsewhere",
                file.display(),
                root.display()
            )));
        }
        match make(file) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.context(Kind::Unavailable, || format!("cannot make the key file {}", file.display()))?;
                files::sync_parent(file)?;
            }
        }
        Key::read(file)
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (digits, None) = (lines.next()?, lines.next()) else { return None };
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    // A file of zeros is no key, but what a crash or a careless script leaves.
    (secret != [0; 32]).then_some(secret)
}

fn make(file: &Path) -> std::io::Result<()> {
    let secret = ambient::random::<32>().map_err(std::io::Error::other)?;
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    opened.write_all(format!("{COMMENT}\n{digits}\n").as_bytes())?;
    opened.sync_all()
}

/// The path without links, as far as it exists already.
fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = fs::canonicalize(ancestor) {
            return real.join(absolute.strip_prefix(ancestor).unwrap_or(Path::new("")));
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, root) = (folder.path().join("shop.key"), folder.path().join("shop"));
        let made = Key::for_new_history(&file, &root).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::for_new_history(&file, &root).unwrap().id(), made.id());
        assert_eq!(Key::read(&file).unwrap().id(), made.id());
        assert_eq!(format!("{made:?}"), format!("Key({})", made.id()));
    }

    #[test]
    fn no_key_lies_inside_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("shop");
        fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
        for (file, root) in [("shop/key", "shop"), ("shop/a/b/key", "shop"), ("link/key", "real")] {
            let (file, root) = (folder.path().join(file), folder.path().join(root));
            assert_eq!(Key::for_new_history(&file, &root).unwrap_err().kind(), Kind::Refused, "{file:?}");
            assert!(!file.exists());
        }
        assert!(Key::for_new_history(&folder.path().join("shop.key"), &root).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let digits = "5a".repeat(32);
        for text in ["", "# only a comment\n", "5a5a\n", &"00".repeat(32), &format!("{digits}\n{digits}\n")] {
            fs::write(&file, text).unwrap();
            assert_eq!(Key::read(&file).unwrap_err().kind(), Kind::Refused, "{text:?}");
        }
        fs::write(&file, b"\xff\xfe").unwrap();
        assert_eq!(Key::read(&file).unwrap_err().kind(), Kind::Refused);
        fs::write(&file, format!("# mine\r\n\r\n{digits}\r\n")).unwrap();
        assert!(Key::read(&file).is_ok());
        assert_eq!(Key::read(&folder.path().join("absent")).unwrap_err().kind(), Kind::Refused);
    }
}
