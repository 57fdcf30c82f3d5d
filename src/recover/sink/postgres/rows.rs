//! Loads rows, and reads rows back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::try_join_all;
use tokio_postgres::CopyInSink;

use crate::codec::copy_binary::{self, BinaryRows};
use crate::connect::{CopyPart, ServerFault, Session, server_error};
use crate::error::{Error, Result};
use crate::model::Table;

use super::super::{Contents, RowDigest, Rows};
use super::PostgresSink;
use crate::model::spelling::Spelled;

/// A table is read over one session for each of this many pages; one with fewer than twice as many is read over one.
const WORTH_A_SESSION: i64 = 4096;

/// SQLSTATEs of a name that belongs to no table, function or operator, type or role, or schema.
const NO_SUCH_OBJECT: [&str; 4] = ["42P01", "42883", "42704", "3F000"];

impl PostgresSink {
    /// Loads one table in one transaction: all of its rows or none.
    ///
    /// # Errors
    /// Fails with the error in `rows`, and with `Refused` or `Unavailable` and the server's words.
    pub async fn load(&self, table: &Table, rows: Rows) -> Result<()> {
        let Some(root) = self.root_of(table).await? else {
            return self.copy_rows(table, Emptying::First, rows).await;
        };
        let _alone = self.distributing.lock().await;
        let before = self.contents_below(&root).await?;
        self.copy_rows(&root, Emptying::Never, rows).await?;
        self.note_through_root(table, before, self.contents_below(&root).await?);
        Ok(())
    }

    async fn copy_rows(&self, table: &Table, emptying: Emptying, rows: Rows) -> Result<()> {
        // After an error, or when this future is dropped, the session ends, and its transaction is rolled back.
        let session = self.row_session().await?;
        let as_text = emptying == Emptying::Never || self.has_text_instead(table);
        copy_in(&session, table, &self.facts.encoding, emptying, as_text, rows).await?;
        self.idle().push(session);
        Ok(())
    }

    /// Counts and digests the rows of a table, in the server's encoding. A large table is read over several
    /// `sessions` at once, as the server uses one core for each session's COPY.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable` and the server's words.
    pub async fn read_back(&self, table: &Table, sessions: usize) -> Result<Contents> {
        match self.loaded_through_root(table) {
            Some(contents) => Ok(contents),
            None => self.read_one(table, sessions).await,
        }
    }

    pub(super) async fn read_one(&self, table: &Table, sessions: usize) -> Result<Contents> {
        let statements = self.copies_out(table, sessions).await?;
        let name = table.display();
        let parts = statements.into_iter().map(|copy| self.digests(&name, vec![copy]));
        let mut whole = Contents { rows: 0, digest: Some(0) };
        for part in try_join_all(parts).await?.concat() {
            whole.rows += part.rows;
            whole.digest = whole.digest.zip(part.digest).map(|(sum, digest)| sum.wrapping_add(digest));
        }
        Ok(whole)
    }

    /// Returns statements that together select all rows, in as many shares of pages as there are `sessions`.
    async fn copies_out(&self, table: &Table, sessions: usize) -> Result<Vec<String>> {
        let spelled = Spelled::of(table, &self.facts.encoding);
        let whole = format!("COPY {}{} TO STDOUT", spelled.table, spelled.columns);
        if sessions < 2 || table.columns.is_empty() {
            return Ok(vec![whole]);
        }
        let size = "SELECT pg_catalog.pg_relation_size($1::text::pg_catalog.regclass) \
                    / pg_catalog.current_setting('block_size')::int8";
        let row = self.session.query_one(size, &[&table.quoted()]).await;
        let fail = |error| server_error(format!("cannot ask for the size of {}", table.display()), error);
        let pages: i64 = row.map_err(fail)?.get(0);
        let columns = spelled.columns.trim_start_matches(" (").trim_end_matches(')');
        let select =
            |share| format!("COPY (SELECT {columns} FROM ONLY {} WHERE {share}) TO STDOUT", spelled.table);
        match shares(pages, sessions) {
            shares if shares.len() < 2 => Ok(vec![whole]),
            shares => Ok(shares.into_iter().map(select).collect()),
        }
    }

    /// Counts and digests what each of several COPY statements gives.
    pub(super) async fn digests(&self, what: &str, copies: Vec<String>) -> Result<Vec<Contents>> {
        let session = self.row_session().await?;
        let contents = digests_of(&session, what, &copies).await?;
        self.idle().push(session);
        Ok(contents)
    }
}

/// Counts and digests what each of several COPY statements gives, all of them sent in one message.
///
/// # Errors
/// Fails with `Refused` or `Unavailable` and the server's words.
pub(in crate::recover) async fn digests_of(
    session: &Session,
    what: &str,
    copies: &[String],
) -> Result<Vec<Contents>> {
    let (taken, mut open) = (Arc::new(Mutex::new(Vec::new())), RowDigest::default());
    let taking = Arc::clone(&taken);
    let take = move |part: CopyPart<'_>| match part {
        CopyPart::Rows(bytes) => open.update(bytes),
        CopyPart::End => {
            let (rows, digest) = std::mem::take(&mut open).finish();
            let contents = Contents { rows, digest: Some(digest) };
            taking.lock().unwrap_or_else(PoisonError::into_inner).push(contents);
        }
    };
    let read = session.copy_out_into(copies, take).await;
    read.map_err(|error| server_error(format!("cannot read back {what}"), error))?;
    let contents = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
    if contents.len() != copies.len() {
        return Err(Error::internal(format!("{what}: the server sent {} tables", contents.len())));
    }
    Ok(contents)
}

/// Whether a table is emptied before rows are loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::recover) enum Emptying {
    First,
    Never,
}

/// Loads rows in one transaction, in the session's encoding, which must be the server's.
pub(in crate::recover) async fn copy_in(
    session: &Session,
    table: &Table,
    encoding: &str,
    emptying: Emptying,
    as_text: bool,
    rows: Rows,
) -> Result<()> {
    let fail = |error| server_error(format!("cannot load {}", table.display()), error);
    let spelled = Spelled::of(table, encoding);
    let mut rows = Pieces { first: VecDeque::new(), rest: rows };
    let small = rows.are_few().await?;
    // Rows that an extension's script inserted are removed. If TRUNCATE empties a table in the same transaction, the
    // table can be loaded with FREEZE, and its rows need no later vacuum. But the new files make the server sync its
    // WAL at the commit, whatever its settings.
    let frozen = !small && emptying == Emptying::First;
    let empty = match emptying {
        Emptying::Never => String::new(),
        Emptying::First => {
            format!("{} ONLY {}", if small { "DELETE FROM" } else { "TRUNCATE" }, spelled.table)
        }
    };
    session.batch_execute(&format!("BEGIN; {empty}")).await.map_err(fail)?;
    let copy = format!("COPY {}{} FROM STDIN", spelled.table, spelled.columns);
    let options = if frozen { "FREEZE, " } else { "" };
    let mut copying = Copying { session, table, copy, options, condition: String::new(), rows };
    match BinaryRows::of(&table.columns).filter(|_| !as_text) {
        Some(binary) => copying.binary(&binary).await?,
        None => copying.text().await?,
    }
    session.batch_execute("COMMIT").await.map_err(fail)
}

/// Loads rows in the session's open transaction. If they are `frozen`, every snapshot sees them; the table's file must then
/// be new in the transaction. The encoding is as for [`copy_in`].
pub(in crate::recover) async fn copy_rows(
    session: &Session,
    table: &Table,
    encoding: &str,
    frozen: bool,
    condition: Option<&str>,
    rows: Rows,
) -> Result<()> {
    let spelled = Spelled::of(table, encoding);
    let copy = format!("COPY {}{} FROM STDIN", spelled.table, spelled.columns);
    let rows = Pieces { first: VecDeque::new(), rest: rows };
    let options = if frozen { "FREEZE, " } else { "" };
    let condition = condition.map(|text| format!(" WHERE (\n{text}\n)")).unwrap_or_default();
    let mut copying = Copying { session, table, copy, options, condition, rows };
    match BinaryRows::of(&table.columns) {
        Some(binary) => copying.binary(&binary).await,
        None => copying.text().await,
    }
}

/// Rows in order of arrival, the first of which have been examined already.
struct Pieces {
    first: VecDeque<Bytes>,
    rest: Rows,
}

impl Pieces {
    /// Whether all rows are in one piece.
    async fn are_few(&mut self) -> Result<bool> {
        for _ in 0..2 {
            match self.rest.recv().await.transpose()? {
                Some(piece) => self.first.push_back(piece),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self.first.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => self.rest.recv().await.transpose(),
        }
    }
}

/// A COPY of rows into one table.
struct Copying<'a> {
    session: &'a Session,
    table: &'a Table,
    /// The statement up to its options.
    copy: String,
    options: &'static str,
    /// The end of the statement.
    condition: String,
    rows: Pieces,
}

type CopySink = Pin<Box<CopyInSink<Bytes>>>;

impl Copying<'_> {
    async fn begin(&self, format: &str) -> Result<CopySink> {
        let copy = format!("{} ({}FORMAT {format}){}", self.copy, self.options, self.condition);
        self.session.copy_in(&copy).await.map(Box::pin).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: tokio_postgres::Error) -> Error {
        let fault = error.as_db_error().map(ServerFault::from_db);
        let nameless = fault.filter(|it| it.part.column.is_some() && NO_SUCH_OBJECT.contains(&&*it.sqlstate));
        let Some(fault) = nameless else {
            return server_error(format!("cannot load {}", self.table.display()), error);
        };
        Error::refused(format!(
            "cannot load {}: a value of column {} names an object that the recovered database does not have; recover \
             the other tables with --table, or a moment at which the object was there",
            self.table.display(),
            fault.part.column.as_deref().unwrap_or_default()
        ))
        .caused_by(fault)
    }

    /// Sends rows in binary form up to the first row that has none, and the rest as text; the rows are read back as
    /// text in any case.
    async fn binary(&mut self, form: &BinaryRows) -> Result<()> {
        let mut sink = self.begin("binary").await?;
        let mut piece = copy_binary::HEADER.to_vec();
        let mut rest = None;
        while rest.is_none()
            && let Some(chunk) = self.rows.next().await?
        {
            rest = converted(form, &chunk, &mut piece).map(|taken| chunk.slice(taken..));
            let full = std::mem::replace(&mut piece, Vec::with_capacity(chunk.len() * 5 / 4));
            sink.feed(full.into()).await.map_err(|error| self.failed(error))?;
        }
        piece.extend_from_slice(copy_binary::TRAILER);
        sink.feed(piece.into()).await.map_err(|error| self.failed(error))?;
        sink.as_mut().finish().await.map_err(|error| self.failed(error))?;
        let Some(rest) = rest else { return Ok(()) };
        self.rows.first.push_front(rest);
        self.text().await
    }

    async fn text(&mut self) -> Result<()> {
        let mut sink = self.begin("text").await?;
        while let Some(chunk) = self.rows.next().await? {
            sink.feed(chunk).await.map_err(|error| self.failed(error))?;
        }
        sink.as_mut().finish().await.map(drop).map_err(|error| self.failed(error))
    }
}

/// Loads lines that are in memory.
///
/// # Errors
/// The server's and the connection's.
pub(super) async fn send_text(
    session: &Session,
    copy: &str,
    rows: Bytes,
) -> Result<u64, tokio_postgres::Error> {
    let mut sink = Box::pin(session.copy_in(copy).await?);
    sink.feed(rows).await?;
    sink.as_mut().finish().await
}

/// Appends the rows of whole `lines`; at a line without a binary form, stops and returns the line's position in
/// bytes.
fn converted(form: &BinaryRows, lines: &[u8], rows: &mut Vec<u8>) -> Option<usize> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        if form.push_row(&lines[start..end], rows).is_none() {
            return Some(start);
        }
        start = end + 1;
    }
    // A line without an end is no row: it is left to the server, whose error says what is wrong with it.
    (start < lines.len()).then_some(start)
}

/// Returns conditions that divide a table's pages into shares, each page in exactly one share.
fn shares(pages: i64, sessions: usize) -> Vec<String> {
    let count = (pages / WORTH_A_SESSION).clamp(1, sessions as i64);
    let start = |number: i64| pages / count * number;
    let share = |number| {
        if number + 1 == count {
            // The last share has no end, so that no page can be missed.
            format!("ctid >= '({},0)'", start(number))
        } else {
            format!("ctid >= '({},0)' AND ctid < '({},0)'", start(number), start(number + 1))
        }
    };
    (0..count).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_in_one_share_and_small_tables_are_not_shared_out() {
        assert_eq!(shares(0, 2).len(), 1);
        assert_eq!(shares(2 * WORTH_A_SESSION - 1, 2).len(), 1);
        assert_eq!(shares(12_289, 2), ["ctid >= '(0,0)' AND ctid < '(6144,0)'", "ctid >= '(6144,0)'"]);
        assert_eq!(shares(12_289, 9).len(), 3);
    }
}
