//! Proves a table of which only some rows were loaded: each row that the server holds is one of the history's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::connect::{CopyPart, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::fold::{FoldedTable, Tally};
use crate::progress::Silent;
use crate::recover::load::{PIECES_WAITING, feed};
use crate::recover::sink::{LineSplitter, row_hash};

/// How often each row is there, by the hash of its line.
type Rows = HashMap<u128, u64>;

/// Reads the rows back by the statement `copy`, and looks for each among all rows of the table, which are folded once more.
/// Returns their number and digest. Values of a `retyped` table may read differently from how they were written, so its rows
/// are only counted.
///
/// # Errors
/// `Internal` if the history lacks a row; `Damaged` if it is; `Unavailable` if the server fails.
pub(super) async fn prove(
    session: &Session,
    folded: &FoldedTable,
    copy: &str,
    retyped: bool,
) -> Result<Tally> {
    let mut held = read(session, copy).await?;
    let mut tally = Tally { rows: held.values().sum(), ..Tally::default() };
    tally.digest.0 =
        held.iter().fold(0, |sum, (hash, times)| sum.wrapping_add(hash.wrapping_mul(u128::from(*times))));
    if retyped {
        return Ok(tally);
    }
    let (pieces, mut rows) = mpsc::channel(PIECES_WAITING);
    let folded = folded.clone();
    let name = folded.table.display();
    let feeding = tokio::task::spawn_blocking(move || feed(folded, pieces, &Silent));
    let mut lines = LineSplitter::default();
    while let Some(piece) = rows.recv().await {
        lines.split(&piece?, |line| take_away(&mut held, row_hash(line)));
    }
    feeding.await.context(Kind::Internal, || "a feeding thread failed".into())??;
    if held.is_empty() {
        return Ok(tally);
    }
    Err(Error::internal(format!(
        "{name} holds {} rows that the history does not have; please report this",
        held.len()
    )))
}

fn take_away(rows: &mut Rows, hash: u128) {
    if let Some(times) = rows.get_mut(&hash) {
        *times -= 1;
        if *times == 0 {
            rows.remove(&hash);
        }
    }
}

async fn read(session: &Session, copy: &str) -> Result<Rows> {
    let taken = Arc::new(Mutex::new(Rows::new()));
    let (taking, mut lines) = (Arc::clone(&taken), LineSplitter::default());
    let take = move |part: CopyPart<'_>| {
        let mut rows = taking.lock().unwrap_or_else(PoisonError::into_inner);
        if let CopyPart::Rows(bytes) = part {
            lines.split(bytes, |line| *rows.entry(row_hash(line)).or_default() += 1);
        }
    };
    let read = session.copy_out_into(&[copy.to_owned()], take).await;
    read.map_err(|error| server_error("cannot read back the rows that meet --where", error))?;
    Ok(std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_taken_away_as_often_as_it_is_there() {
        let mut rows = Rows::from([(1, 2), (2, 1)]);
        for hash in [1, 3, 2, 2] {
            take_away(&mut rows, hash);
        }
        assert_eq!(rows, Rows::from([(1, 1)]));
    }
}
