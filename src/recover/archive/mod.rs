//! The schema archive that pg_dump wrote: its contents, and the choice of entries to restore.

mod inherited;
mod not_null;
mod references;
mod roles;
mod select;
mod toc;

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

pub use inherited::{ColumnOrders, column_orders, definitions_in_order};
pub use not_null::definitions_with_names;
pub use references::referenced_tables;
pub use roles::{Roles, roles_of_privileges};
pub use select::{AfterRows, EntrySelection};
pub use toc::{Entry, Section, Toc};

/// The greatest size of a table of contents. A larger one is refused as damaged; a real one has about a kilobyte for
/// each object.
const TOC_LIMIT: u64 = 2 << 30;

/// A schema archive on disk, and its table of contents.
#[derive(Debug)]
pub struct Archive {
    pub path: PathBuf,
    pub toc: Toc,
}

impl Archive {
    /// # Errors
    /// Fails with `Unavailable` if the file cannot be read, and with `Damaged` if it is not an archive.
    pub fn open(path: &Path) -> Result<Archive> {
        let file = std::fs::File::open(path)
            .context(Kind::Unavailable, || format!("cannot open {}", path.display()))?;
        let length =
            file.metadata().context(Kind::Unavailable, || format!("cannot read {}", path.display()))?.len();
        let reader = std::io::BufReader::new(std::io::Read::take(file, TOC_LIMIT.min(length)));
        let toc = Toc::read(reader).map_err(|error| {
            Error::damaged(format!("{} is no archive of pg_dump: {error}", path.display()))
        })?;
        Ok(Archive { path: path.to_owned(), toc })
    }
}
