//! Sinks that begin as a copy of a template, or leave one.

use super::Sink;
use crate::error::Result;
use crate::history::Identity;
use crate::model::Inexact;
use crate::recover::template::TemplateRecord;

impl Sink {
    /// Guards a copy of a template: its definitions and rows are there already. Returns the objects that differ from the
    /// source's.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn guard_copy(&self) -> Result<Vec<Inexact>> {
        match self {
            Sink::Postgres(target) => target.guard_rows().await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(Vec::new()),
        }
    }

    /// Keeps a copy of the database as a template, and returns the template's name; `None` if that cannot be done.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn keep_template(
        &mut self,
        identity: &Identity,
        record: &TemplateRecord,
    ) -> Result<Option<String>> {
        match self {
            Sink::Postgres(target) => target.keep_template(identity, record).await,
            Sink::Sqlite(_) | Sink::Sql(_) => Ok(None),
        }
    }
}
