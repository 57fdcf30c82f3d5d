//! The password file (`~/.pgpass`): lines of `host:port:database:user:password`, of which the first match counts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// One line, without escapes. `None` in a field is the wildcard `*`.
#[derive(Clone, PartialEq, Eq)]
struct Line {
    fields: [Option<String>; 4],
    password: String,
}

/// The lines of a password file. The type has no `Debug`, since all of its content is secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passfile {
    lines: Vec<Line>,
}

impl Passfile {
    /// Reads the file. A missing file has no lines; a file that other users may read is ignored with a warning, as in
    /// libpq.
    pub fn read(path: &Path) -> Passfile {
        let Ok(metadata) = std::fs::metadata(path) else { return Passfile::default() };
        if !metadata.is_file() {
            tracing::warn!("the password file {} is not a plain file and was not used", path.display());
            return Passfile::default();
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            let path = path.display();
            tracing::warn!(
                "the password file {path} was not used, since others may read it: chmod 0600 {path}"
            );
            return Passfile::default();
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Passfile::parse(&text),
            Err(error) => {
                tracing::warn!("the password file {} could not be read: {error}", path.display());
                Passfile::default()
            }
        }
    }

    fn parse(text: &str) -> Passfile {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Passfile { lines: lines.filter_map(parse_line).collect() }
    }

    /// Returns the password for one server. `host` is `localhost` for a socket in the default folder.
    pub fn password(&self, host: &str, port: u16, dbname: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let wanted = [host, port.as_str(), dbname, user];
        let matches = |line: &&Line| {
            line.fields
                .iter()
                .zip(wanted)
                .all(|(field, wanted)| field.as_ref().is_none_or(|field| field == wanted))
        };
        self.lines.iter().find(matches).map(|line| line.password.as_str())
    }
}

fn parse_line(line: &str) -> Option<Line> {
    let mut parts = vec![String::new()];
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' if parts.len() < 5 => parts.push(String::new()),
            // The fields stay escaped here, so that `\*` differs from the wildcard.
            '\\' => parts.last_mut()?.extend([Some('\\'), rest.next()].into_iter().flatten()),
            c => parts.last_mut()?.push(c),
        }
    }
    let [host, port, dbname, user, password] = <[String; 5]>::try_from(parts).ok()?;
    let field = |text: String| (text != "*").then(|| unescape(&text));
    Some(Line {
        fields: [field(host), field(port), field(dbname), field(user)],
        password: unescape(&password),
    })
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        plain.extend(if c == '\\' { rest.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_match_counts() {
        let file = Passfile::parse(
            "# comment\nbroken:line\n\nh:1:d:u:first\nh:*:d:u:second\n*:*:*:u:any\n\\*:*:*:*:star\n",
        );
        assert_eq!(file.password("h", 1, "d", "u"), Some("first"));
        assert_eq!(file.password("h", 2, "d", "u"), Some("second"));
        assert_eq!(file.password("x", 2, "d", "u"), Some("any"));
        assert_eq!(file.password("*", 2, "d", "other"), Some("star"));
        assert_eq!(file.password("x", 2, "d", "other"), None);
    }

    #[test]
    fn takes_escapes_out() {
        let file = Passfile::parse(r"a\:b:1:d\\x:u:p\:w:x\\y");
        assert_eq!(file.password("a:b", 1, r"d\x", "u"), Some(r"p:w:x\y"));
    }

    #[test]
    fn passes_over_a_file_that_others_may_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:*:pw\n").unwrap();
        let mode =
            |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        assert_eq!(Passfile::read(file.path()).password("h", 1, "d", "u"), Some("pw"));
        mode(0o640);
        assert!(Passfile::read(file.path()) == Passfile::default());
    }
}
