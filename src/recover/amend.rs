//! A change of recovered rows, by a caller, before the database gets its name.

use std::future::Future;
use std::pin::Pin;

use super::load::LoadOutcome;
use super::plan::Plan;
use super::sink::Sink;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::history::image::RowsDigest;
use crate::model::Table;

/// Changes rows of a recovered database that nobody knows yet. Its constraints and triggers are there.
pub trait Amend: Send + Sync {
    /// Returns how each table's rows changed as a whole.
    fn amend<'a>(&'a self, target: &'a Conninfo) -> Amending<'a>;
}

/// The future of [`Amend::amend`].
pub type Amending<'a> = Pin<Box<dyn Future<Output = Result<Vec<TableChange>>> + Send + 'a>>;

/// How a table's rows changed as a whole.
#[derive(Clone, Copy, Debug)]
pub struct TableChange {
    /// The table's oid in the history.
    pub table: u32,
    /// The number of rows that came, less those that went.
    pub rows: i64,
    /// Added to the digest of the rows, modulo 2^128.
    pub digest: u128,
}

/// Has the rows changed, and reads the changed tables back: they must hold what was loaded and what changed.
pub(super) async fn amend(
    plan: &Plan,
    amend: &dyn Amend,
    sink: &Sink,
    loaded: &mut LoadOutcome,
) -> Result<()> {
    for change in sink.amend(amend).await? {
        let Some(table) = plan.chosen.tables.iter().find(|it| it.oid == change.table) else { continue };
        let held = sink.read_back(table, 1).await?;
        let Some(digest) = loaded.digests.iter_mut().find(|it| it.table == table.display()) else { continue };
        let before: RowsDigest =
            digest.digest.parse().map_err(|_| Error::internal("a digest cannot be read"))?;
        let expected = before.0.wrapping_add(change.digest);
        let rows = digest.rows.saturating_add_signed(change.rows);
        if let Some(held) = held
            && (held.rows != rows || (loaded.proved && held.digest.is_some_and(|it| it != expected)))
        {
            return Err(not_amended(table));
        }
        (digest.rows, digest.digest) = (rows, RowsDigest(expected).to_string());
        loaded.rows = loaded.rows.saturating_add_signed(change.rows);
    }
    Ok(())
}

fn not_amended(table: &Table) -> Error {
    Error::internal(format!(
        "{} does not hold what the other transactions made; please report this",
        table.display()
    ))
}
