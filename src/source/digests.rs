//! Digests that the server makes of its own rows; `codec::row_digest` says of what.

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::LOOK_AFTER_MS;
use super::snapshot::{Reader, copy_statement};
use crate::codec::row_digest::DIGEST;
use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::model::Table;
use crate::model::spelling::Spelled;

/// A function takes at most 100 arguments; one of `format`'s is the pattern.
const COLUMNS_AT_ONCE: usize = 90;

/// Bytes of where a row lies, as the server's `tidsend` says it.
const PLACE: usize = 6;
/// Bytes of that and of the first number of the row's hash.
pub const PLACED: usize = PLACE + 8;

/// Rows that are asked for by their places in one statement.
const PLACES_AT_ONCE: usize = 2000;

/// Memory that the server may use for one table's digests; by its default it would spill them to disk.
const WORK_MEM: &str = "64MB";

/// Where a row lies in its table, for as long as the snapshot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub page: u32,
    pub line: u16,
}

/// The digests of a table's ranges.
#[derive(Clone, Debug, Default)]
pub struct RangeDigests {
    /// Of all ranges.
    pub rows: u64,
    digests: Vec<u8>,
}

impl RangeDigests {
    /// One digest after the other.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.digests.chunks_exact(DIGEST)
    }

    /// How many bytes the server sent.
    pub fn bytes(&self) -> u64 {
        self.digests.len() as u64
    }
}

/// Prepares a session under a snapshot for what follows. It works alone: how much of the server's processor
/// the comparison takes is the number of sessions, and nothing else.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn prepare(session: &Session) -> Result<()> {
    let failed = |error| server_error("cannot prepare to compare tables", error);
    let alone = format!(
        "SET LOCAL work_mem = '{WORK_MEM}'; SET LOCAL max_parallel_workers_per_gather = 0; SAVEPOINT digests"
    );
    session.batch_execute(&alone).await.map_err(failed)?;
    // Not every platform can look; there it finds out when it sends.
    let looks = format!("SET LOCAL client_connection_check_interval = {LOOK_AFTER_MS}");
    let after =
        if session.batch_execute(&looks).await.is_ok() { "RELEASE digests" } else { "ROLLBACK TO digests" };
    session.batch_execute(after).await.map_err(failed)
}

/// Digests the 2^`bits` ranges of a table.
///
/// # Errors
/// `Unavailable` if the server fails; then the session is where it was before.
pub async fn of_ranges(reader: &Reader, table: &Table, bits: u32) -> Result<RangeDigests> {
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

/// The places of the rows in some of those ranges, each with the first number of its hash; and how many
/// bytes the server sent.
///
/// # Errors
/// As [`of_ranges`].
pub async fn of_rows(
    reader: &Reader,
    table: &Table,
    bits: u32,
    ranges: &[usize],
) -> Result<(Vec<(i64, Place)>, u64)> {
    let statement = format!(
        "SELECT coalesce(string_agg(tidsend(at) || int8send(high), ''::bytea), ''::bytea) \
           FROM ({}) AS hashed WHERE range = ANY ($1)",
        hashed(reader, table, bits)
    );
    let ranges: Vec<i64> = ranges.iter().map(|range| *range as i64).collect();
    let row = undone_on_failure(reader, table, reader.query_one(&statement, &[&ranges])).await?;
    let bytes: &[u8] = row.get(0);
    let rows = bytes.chunks_exact(PLACED).map(placed).collect();
    Ok((rows, bytes.len() as u64))
}

fn placed(bytes: &[u8]) -> (i64, Place) {
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let place = Place { page: number(0..4) as u32, line: number(4..PLACE) as u16 };
    (number(PLACE..PLACED) as i64, place)
}

/// Reads the rows at `places`, as pieces of whole COPY text lines.
///
/// # Errors
/// `Unavailable` if the server fails; `Interrupted` if nobody takes the rows any more.
pub async fn copy_places(
    reader: &Reader,
    table: &Table,
    places: &[Place],
    rows: &mpsc::Sender<Bytes>,
) -> Result<()> {
    for places in places.chunks(PLACES_AT_ONCE) {
        let list: Vec<_> = places.iter().map(|place| format!("\"{place}\"")).collect();
        let condition = format!(" WHERE ctid = ANY ('{{{}}}'::tid[])", list.join(","));
        copy_statement(reader, table, &condition, rows).await?;
    }
    Ok(())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.page, self.line)
    }
}

/// A query for each row's place, hash and range. `OFFSET 0` keeps the planner from writing an expression
/// in the place of each of its uses, and so from hashing a row more than once.
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
        form(&spelled.each),
        spelled.table
    )
}

/// `format` takes the texts that COPY writes; a cast to text would write some types otherwise.
/// `textsend` converts nothing, since the client's encoding is the server's.
fn form(columns: &[String]) -> String {
    let formatted = |columns: &[String]| {
        format!("format('{}', {})", vec!["%L"; columns.len()].join(","), columns.join(", "))
    };
    if columns.is_empty() {
        "''::text".to_owned()
    } else {
        columns.chunks(COLUMNS_AT_ONCE).map(formatted).collect::<Vec<_>>().join(" || ',' || ")
    }
}

/// A failed statement would end the transaction, and the snapshot with it.
async fn undone_on_failure<T>(
    reader: &Reader,
    table: &Table,
    asked: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let failed =
        |error| server_error(format!("the server cannot digest the rows of {}", table.display()), error);
    reader.batch_execute("SAVEPOINT digests").await.map_err(failed)?;
    let answer = reader.guard(asked).await?;
    let after = if answer.is_ok() { "RELEASE digests" } else { "ROLLBACK TO digests" };
    reader.batch_execute(after).await.map_err(failed)?;
    answer.map_err(failed)
}
