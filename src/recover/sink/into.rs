//! The destinations that `--into` accepts.

use std::path::PathBuf;

use crate::connect::Conninfo;
use crate::error::{Error, Result};

/// A destination of a recovery, as a person names it.
#[derive(Clone, Debug)]
pub enum Destination {
    Postgres(Conninfo),
    Sqlite(PathBuf),
    /// A script file; `None` is standard output.
    Sql(Option<PathBuf>),
}

impl Destination {
    /// Parses the value of `--into`.
    ///
    /// # Errors
    /// Fails with `Usage` if a file has no name or the connection string is wrong.
    pub fn parse(text: &str) -> Result<Destination> {
        let missing =
            |kind: &str| Error::usage(format!("--into {kind}: needs a file, as in {kind}:backup.{kind}"));
        match text.split_once(':') {
            Some(("sqlite", "")) => Err(missing("sqlite")),
            Some(("sqlite", file)) => Ok(Destination::Sqlite(file.into())),
            Some(("sql", "")) => Err(missing("sql")),
            Some(("sql", "-")) => Ok(Destination::Sql(None)),
            Some(("sql", file)) => Ok(Destination::Sql(Some(file.into()))),
            _ => Conninfo::parse(text).map(Destination::Postgres),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn reads_every_kind_of_destination() {
        assert!(matches!(Destination::parse("sql:-"), Ok(Destination::Sql(None))));
        assert!(
            matches!(Destination::parse("sql:a b.sql"), Ok(Destination::Sql(Some(path))) if path.ends_with("a b.sql"))
        );
        assert!(
            matches!(Destination::parse("sqlite:x.db"), Ok(Destination::Sqlite(path)) if path.ends_with("x.db"))
        );
        assert!(matches!(Destination::parse("dbname=x"), Ok(Destination::Postgres(_))));
        for text in ["sql:", "sqlite:"] {
            assert_eq!(Destination::parse(text).unwrap_err().kind(), Kind::Usage);
        }
    }
}
