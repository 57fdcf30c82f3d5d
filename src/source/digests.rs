//! Digests that the server computes of its own rows; `codec::row_digest` defines what a digest covers.

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::snapshot::{SnapshotReader, copy_statement};
use crate::codec::row_digest::DIGEST;
use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::spelling::Spelled;

/// How many columns one call of `format` takes: a function takes at most 100 arguments, and one of them is the pattern.
const COLUMNS_AT_ONCE: usize = 90;

/// Length in bytes of a row's ctid, as the server's `tidsend` sends it.
const CTID_LENGTH: usize = 6;
/// Length in bytes of a ctid and the first number of the row's hash.
pub const CTID_AND_HASH: usize = CTID_LENGTH + 8;

/// How many rows one statement asks for by their ctids.
const CTIDS_AT_ONCE: usize = 2000;

/// Memory that the server may use for one table's digests; with its default it would spill them to disk.
const WORK_MEM: &str = "64MB";

/// A row's ctid: it names the row for as long as the snapshot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctid {
    pub page: u32,
    pub line: u16,
}

/// The digests of the ranges of one table.
#[derive(Clone, Debug, Default)]
pub struct RangeDigests {
    /// The number of rows in all ranges.
    pub rows: u64,
    digests: Vec<u8>,
}

impl RangeDigests {
    /// Returns the digest of each range, in order.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.digests.chunks_exact(DIGEST)
    }

    /// Returns how many bytes the server sent.
    pub fn bytes(&self) -> u64 {
        self.digests.len() as u64
    }
}

/// Prepares a session under a snapshot for digesting. Parallel workers are switched off, so that the number of sessions
/// alone decides how much of the server's processor a comparison takes.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn prepare(session: &Session) -> Result<()> {
    let failed = |error| server_error("cannot prepare to compare tables", error);
    let alone = format!(
        "SET LOCAL work_mem = '{WORK_MEM}'; SET LOCAL max_parallel_workers_per_gather = 0; \
         SAVEPOINT unlocked"
    );
    session.batch_execute(&alone).await.map_err(failed)
}

/// Digests the 2^`bits` hash ranges of a table.
///
/// # Errors
/// `Unavailable` if the server fails; the session's transaction then stands as before the call.
pub async fn of_ranges(reader: &SnapshotReader, table: &Table, bits: u32) -> Result<RangeDigests> {
    let last = (1u64 << bits) - 1;
    let statement = format!(
        "SELECT coalesce(sum(counted), 0)::int8, \
                coalesce(string_agg(coalesce(digest, '\\x{}'::bytea), ''::bytea ORDER BY number), ''::bytea) \
           FROM generate_series(0, {last}) AS number \
           LEFT JOIN (SELECT range, count(*) AS counted, \
                             substr(sha256(textsend(count(*)::text || ' ' || sum(high)::text || ' ' || \
                                                    sum(low)::text)), 1, {DIGEST}) AS digest \
                        FROM ({}) AS hashed GROUP BY range) AS summed ON range = number",
        "00".repeat(DIGEST),
        hashed(reader, table, bits)
    );
    let row = undone_on_failure(reader, table, reader.query_one(&statement, &[])).await?;
    let found = RangeDigests { rows: row.get::<_, i64>(0).max(0) as u64, digests: row.get(1) };
    if found.digests.len() as u64 != (last + 1) * DIGEST as u64 {
        return Err(Error::internal(format!("the server digested other ranges of {}", table.display())));
    }
    Ok(found)
}

/// Returns the ctids of the rows in some of the ranges, each with the first number of the row's hash, and how many
/// bytes the server sent.
///
/// # Errors
/// `Unavailable` if the server fails; the session's transaction then stands as before the call.
pub async fn of_rows(
    reader: &SnapshotReader,
    table: &Table,
    bits: u32,
    ranges: &[usize],
) -> Result<(Vec<(i64, Ctid)>, u64)> {
    let statement = format!(
        "SELECT coalesce(string_agg(tidsend(at) || int8send(high), ''::bytea), ''::bytea) \
           FROM ({}) AS hashed WHERE range = ANY ($1)",
        hashed(reader, table, bits)
    );
    let ranges: Vec<i64> = ranges.iter().map(|range| *range as i64).collect();
    let row = undone_on_failure(reader, table, reader.query_one(&statement, &[&ranges])).await?;
    let bytes: &[u8] = row.get(0);
    let rows = bytes.chunks_exact(CTID_AND_HASH).map(ctid_and_hash).collect();
    Ok((rows, bytes.len() as u64))
}

fn ctid_and_hash(bytes: &[u8]) -> (i64, Ctid) {
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let ctid = Ctid { page: number(0..4) as u32, line: number(4..CTID_LENGTH) as u16 };
    (number(CTID_LENGTH..CTID_AND_HASH) as i64, ctid)
}

/// Copies the rows with these ctids, as chunks of whole COPY text lines.
///
/// # Errors
/// `Unavailable` if the server fails; `Interrupted` if the receiver of `rows` is gone.
pub async fn copy_ctids(
    reader: &SnapshotReader,
    table: &Table,
    ctids: &[Ctid],
    rows: &mpsc::Sender<Bytes>,
) -> Result<()> {
    for ctids in ctids.chunks(CTIDS_AT_ONCE) {
        let list: Vec<_> = ctids.iter().map(|ctid| format!("\"{ctid}\"")).collect();
        let condition = format!(" WHERE ctid = ANY ('{{{}}}'::tid[])", list.join(","));
        copy_statement(reader, table, &condition, rows).await?;
    }
    Ok(())
}

impl fmt::Display for Ctid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.page, self.line)
    }
}

/// Builds a query for each row's ctid, hash and range. `OFFSET 0` keeps the planner from repeating an expression
/// wherever it is used, and so from hashing a row more than once.
fn hashed(session: &Session, table: &Table, bits: u32) -> String {
    let spelled = Spelled::of(table, session.server_encoding());
    let number = |from: u32| format!("('x' || encode(substr(hash, {from}, 8), 'hex'))::bit(64)::int8");
    let (shift, mask) = (64 - bits, (1u64 << bits) - 1);
    format!(
        "SELECT at, high, low, (high >> {shift}) & {mask} AS range \
           FROM (SELECT at, {} AS high, {} AS low \
                   FROM (SELECT ctid AS at, sha256(textsend({})) AS hash FROM ONLY {} OFFSET 0) AS rows \
                 OFFSET 0) AS numbers",
        number(1),
        number(9),
        text_of(&spelled.each),
        spelled.table
    )
}

/// Builds the text that is hashed for a row. `format` writes values as COPY does, while a cast to text would write some
/// types otherwise. `textsend` converts nothing, since the client's encoding is the server's.
pub(super) fn text_of(columns: &[String]) -> String {
    let formatted = |columns: &[String]| {
        format!("format('{}', {})", vec!["%L"; columns.len()].join(","), columns.join(", "))
    };
    if columns.is_empty() {
        "''::text".to_owned()
    } else {
        columns.chunks(COLUMNS_AT_ONCE).map(formatted).collect::<Vec<_>>().join(" || ',' || ")
    }
}

/// Runs a statement under a savepoint: a failed statement would otherwise end the transaction, and with it the
/// snapshot.
async fn undone_on_failure<T>(
    reader: &SnapshotReader,
    table: &Table,
    asked: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let failed =
        |error| server_error(format!("the server cannot digest the rows of {}", table.display()), error);
    reader.batch_execute("SAVEPOINT digests").await.map_err(failed)?;
    let answer = reader.guard(asked).await?;
    // The savepoint is rolled back after success too, which gives the lock on the table back.
    reader.batch_execute("ROLLBACK TO digests; RELEASE digests").await.map_err(failed)?;
    answer.map_err(failed)
}
