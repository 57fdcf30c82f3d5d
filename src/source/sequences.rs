//! Reads sequences, which the stream does not carry.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::Result;
use crate::model::Lsn;
use crate::model::schema::quote_ident;
use crate::model::{SequenceOwner, SequenceState};

/// The states of the sequences at an instant that is not earlier than `sampled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub sampled: Lsn,
    pub sequences: Vec<SequenceState>,
}

/// How many sequences one statement reads.
const BATCH: usize = 200;

const SEQUENCES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, s.seqincrement,
       pg_catalog.has_sequence_privilege(c.oid, 'SELECT'),
       o.nspname::text, o.relname::text, o.attname::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
  LEFT JOIN LATERAL (
       SELECT tn.nspname, t.relname, a.attname
         FROM pg_catalog.pg_depend d
         JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
         JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
         JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
          AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0
        LIMIT 1) o ON true
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'backwhen'
 ORDER BY c.oid";

/// Samples every sequence that the role may read.
///
/// The position is read before the sequences. A sequence never goes back by itself, so a sample whose position is not
/// before a moment holds no lower values than were handed out by that moment.
///
/// # Errors
/// `Unavailable` if the server fails, or if a sequence is dropped between the two queries; the caller then tries again.
pub async fn sample(client: &Client) -> Result<Sample> {
    let failed = |error| server_error("cannot read the source's sequences", error);
    let row =
        client.query_one("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[]).await.map_err(failed)?;
    let sampled = parse_lsn(row.get(0))?;
    let rows = client.query(SEQUENCES, &[]).await.map_err(failed)?;
    let readable: Vec<_> = rows.iter().filter(|row| row.get::<_, bool>(4)).collect();
    let mut sequences = Vec::with_capacity(readable.len());
    for batch in readable.chunks(BATCH) {
        let select = |row: &&tokio_postgres::Row| {
            let (schema, name): (String, String) = (row.get(1), row.get(2));
            let oid: u32 = row.get(0);
            format!(
                "SELECT {oid}::oid, last_value, is_called FROM {}.{}",
                quote_ident(&schema),
                quote_ident(&name)
            )
        };
        let statement: Vec<_> = batch.iter().map(select).collect();
        let values = client.query(&statement.join(" UNION ALL "), &[]).await.map_err(failed)?;
        for row in batch {
            let oid: u32 = row.get(0);
            let Some(value) = values.iter().find(|value| value.get::<_, u32>(0) == oid) else { continue };
            sequences.push(SequenceState {
                oid,
                schema: row.get(1),
                name: row.get(2),
                last_value: value.get(1),
                is_called: value.get(2),
                increment: row.get(3),
                owner: owner(row),
            });
        }
    }
    Ok(Sample { sampled, sequences })
}

/// Sets the sequences, known by their names, that do not stand where they are to stand, and returns how many these were.
///
/// # Errors
/// `Refused` or `Unavailable` with the server's words.
pub async fn put_back(client: &Client, wanted: &[SequenceState]) -> Result<u64> {
    let now = sample(client).await?.sequences;
    let name = |it: &SequenceState| (it.schema.clone(), it.name.clone());
    let now: BTreeMap<_, _> = now.iter().map(|it| (name(it), it)).collect();
    let moved = wanted.iter().filter_map(|it| {
        let now = now.get(&name(it))?;
        let stands = (now.last_value, now.is_called) == (it.last_value, it.is_called);
        (!stands).then_some((now.oid, it))
    });
    let set = |(oid, it): (u32, &SequenceState)| {
        format!("SELECT pg_catalog.setval('{oid}'::pg_catalog.regclass, {}, {})", it.last_value, it.is_called)
    };
    let statements: Vec<_> = moved.map(set).collect();
    let done = client.batch_execute(&statements.join("; ")).await;
    done.map_err(|error| server_error("cannot put the sequences back", error))?;
    Ok(statements.len() as u64)
}

fn owner(row: &tokio_postgres::Row) -> Option<SequenceOwner> {
    Some(SequenceOwner {
        schema: row.get::<_, Option<String>>(5)?,
        table: row.get::<_, Option<String>>(6)?,
        column: row.get::<_, Option<String>>(7)?,
    })
}

/// Parses an LSN that the server wrote.
///
/// # Errors
/// `Internal` if the text is no LSN.
pub fn parse_lsn(text: &str) -> Result<Lsn> {
    use crate::error::{Context, Kind};
    text.parse().context(Kind::Internal, || "the server wrote a position that is none".into())
}
