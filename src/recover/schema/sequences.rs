//! Maps the sequences of the scratch database to those of the source.

use std::collections::BTreeMap;

use super::super::sequences::MadeSequence;
use super::tables::relation;
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::signal::DefinitionSignal;

/// The source's oid of each sequence in the scratch database, by its oid there. Names cannot identify a sequence: a
/// sample of a sequence may be older or newer than a rename of the sequence, of its schema or of its table.
#[derive(Default)]
pub(super) struct Sequences {
    known: BTreeMap<u32, u32>,
}

impl Sequences {
    /// Records the sequences of a source's archive that was just restored.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn restored<'a>(
        observer: &Session,
        archived: impl IntoIterator<Item = &'a MadeSequence>,
    ) -> Result<Sequences> {
        let there = named(observer).await?;
        let oids: BTreeMap<_, _> = there.into_iter().map(|(oid, name)| (name, oid)).collect();
        let pair = |it: &MadeSequence| Some((*oids.get(&(it.schema.clone(), it.name.clone()))?, it.oid?));
        Ok(Sequences { known: archived.into_iter().filter_map(pair).collect() })
    }

    /// Records the sequences that a statement created when it was replayed just now.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn learn(&mut self, observer: &Session, signal: &DefinitionSignal) -> Result<()> {
        for object in signal.objects.iter().filter(|object| object.kind == "sequence") {
            let made = relation(observer, &object.identity, 'S').await?;
            self.known.extend(made.map(|made| (made, object.oid)));
        }
        Ok(())
    }

    /// Returns all sequences of the scratch database, by their oids there.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn made(&self, observer: &Session) -> Result<BTreeMap<u32, MadeSequence>> {
        let made = |(oid, (schema, name))| {
            let source = self.known.get(&oid).copied();
            (oid, MadeSequence { schema, name, oid: source })
        };
        Ok(named(observer).await?.into_iter().map(made).collect())
    }
}

async fn named(observer: &Session) -> Result<Vec<(u32, (String, String))>> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S'";
    let rows = observer.query(sql, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

fn failed(error: tokio_postgres::Error) -> crate::error::Error {
    server_error("cannot look for the replayed sequences", error)
}
