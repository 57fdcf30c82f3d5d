//! Which sequence of the scratch database is which of the source's.

use std::collections::BTreeMap;

use super::super::archive::Toc;
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::history::signal::DefinitionSignal;

/// By schema and name: the oid on the source.
pub type SourceOids = BTreeMap<(String, String), u32>;

/// The source's oid of each sequence in the scratch database, by its oid there. Names are no way to tell: a sample
/// of a sequence may be older or younger than a rename of it, of its schema or of the table that it belongs to.
#[derive(Default)]
pub(super) struct Sequences {
    known: BTreeMap<u32, u32>,
}

impl Sequences {
    /// Those of an archive that was just restored.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn restored(observer: &Session, toc: &SourceOids) -> Result<Sequences> {
        let there = named(observer).await?;
        let pairs = there.into_iter().filter_map(|(name, oid)| toc.get(&name).map(|source| (oid, *source)));
        Ok(Sequences { known: pairs.collect() })
    }

    /// Those that a statement made, as it was just replayed.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn learn(&mut self, observer: &Session, signal: &DefinitionSignal) -> Result<()> {
        for object in signal.objects.iter().filter(|object| object.kind == "sequence") {
            let sql = "SELECT oid FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1) AND relkind = 'S'";
            let row = observer.query_opt(sql, &[&object.identity]).await.map_err(failed)?;
            self.known.extend(row.map(|row| (row.get(0), object.oid)));
        }
        Ok(())
    }

    /// As they are called now.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn by_name(&self, observer: &Session) -> Result<SourceOids> {
        let there = named(observer).await?.into_iter();
        Ok(there.filter_map(|(name, oid)| self.known.get(&oid).map(|source| (name, *source))).collect())
    }
}

/// The sequences of an archive that pg_dump made of the source.
pub fn source_oids(toc: &Toc) -> SourceOids {
    let sequences = toc.entries.iter().filter(|entry| entry.kind == "SEQUENCE");
    sequences.map(|it| ((it.schema.clone().unwrap_or_default(), it.tag.clone()), it.oid)).collect()
}

async fn named(observer: &Session) -> Result<SourceOids> {
    let sql = "SELECT n.nspname::text, c.relname::text, c.oid FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S'";
    let rows = observer.query(sql, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

fn failed(error: tokio_postgres::Error) -> crate::error::Error {
    server_error("cannot look for the replayed sequences", error)
}
