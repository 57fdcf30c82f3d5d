//! Runs the statements of a person on the past, while the tables that they touch are loaded.

use std::sync::{Mutex, PoisonError};

use futures_util::TryStreamExt;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::recover::gate::GateEvent;
use crate::recover::past_server::PastDatabase;
use crate::recover::schema::{Sql, split};

/// A question to one moment, for people who write their own.
pub const EXAMPLE: &str = "SELECT status, count(*) FROM orders GROUP BY 1";

/// A question that compares two moments.
pub const EXAMPLE_OF_TWO: &str = "SELECT * FROM at1.prices EXCEPT SELECT * FROM at2.prices";

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    pub kind: ValueKind,
}

/// How a value is written as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    Number,
    Boolean,
    /// The value is JSON already.
    Json,
    Text,
}

/// Takes the results of statements.
pub trait Answer: Send {
    /// Begins the result of a statement that gives rows.
    ///
    /// # Errors
    /// `Unavailable` if the result cannot be written.
    fn begin(&mut self, columns: &[ResultColumn]) -> Result<()>;

    /// # Errors
    /// `Unavailable` if the result cannot be written.
    fn row(&mut self, values: &[Option<&str>]) -> Result<()>;

    /// Ends the result of a statement. `rows`: those that it gave or changed.
    ///
    /// # Errors
    /// `Unavailable` if the result cannot be written.
    fn end(&mut self, rows: u64) -> Result<()>;
}

/// Runs statements one after the other. Each sees what those before it changed.
///
/// # Errors
/// `Refused` if the server refuses a statement; `Usage` if a statement has parameters; the error of a table that cannot be
/// loaded.
pub async fn ask(
    database: &mut PastDatabase,
    text: &str,
    answer: &mut dyn Answer,
    tell: &(dyn Fn(&GateEvent) + Send + Sync),
) -> Result<()> {
    let statements = split(text, true);
    if statements.is_empty() {
        return Err(Error::usage(
            "there is no statement to run; write it as an argument, or name a file with -f",
        ));
    }
    let session = Session::connect_utf8(&database.info, "query").await?;
    let failed = |error| server_error("cannot prepare a session", error);
    let settings = format!(
        "RESET ALL; SET statement_timeout = 0; SET lock_timeout = 0; {}",
        database.search_path.as_ref().map_or_else(String::new, |path| format!("SET search_path = {path}"))
    );
    session.batch_execute(&settings).await.map_err(failed)?;
    let failure = Mutex::new(None);
    let hear = |event: GateEvent| {
        tell(&event);
        if let GateEvent::Failed { error, .. } = event {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    let running = async {
        for statement in &statements {
            run(&session, statement, answer).await?;
        }
        Ok(())
    };
    let done = tokio::select! {
        done = running => done,
        watched = database.gates.watch(&hear) => watched,
    };
    if done.is_ok() {
        database.gates.settle(&hear).await?;
    }
    // A statement that waits for a table that cannot be loaded is cancelled.
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (done, failure) {
        (Err(_), Some(why)) => Err(why),
        (done, _) => done,
    }
}

async fn run(session: &Session, statement: &Sql, answer: &mut dyn Answer) -> Result<()> {
    let failed = |error| server_error("the statement fails", error);
    let prepared = session.prepare(&statement.text).await.map_err(failed)?;
    if !prepared.params().is_empty() {
        return Err(Error::usage(
            "the statement has parameters ($1), which nothing fills; write the values into it",
        ));
    }
    let columns = prepared
        .columns()
        .iter()
        .map(|column| ResultColumn { name: column.name().to_owned(), kind: kind_of(column.type_()) });
    let columns: Vec<_> = columns.collect();
    drop(prepared);
    if !columns.is_empty() {
        answer.begin(&columns)?;
    }
    let messages = session.simple_query_raw(&statement.text).await.map_err(failed)?;
    let mut messages = std::pin::pin!(messages);
    let mut rows = 0;
    while let Some(message) = messages.try_next().await.map_err(failed)? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<_> = (0..columns.len()).map(|column| row.get(column)).collect();
                answer.row(&values)?;
            }
            SimpleQueryMessage::CommandComplete(count) => rows = count,
            _ => {}
        }
    }
    answer.end(rows)
}

fn kind_of(kind: &Type) -> ValueKind {
    let numbers = [Type::INT2, Type::INT4, Type::INT8, Type::FLOAT4, Type::FLOAT8, Type::NUMERIC, Type::OID];
    match kind {
        kind if numbers.contains(kind) => ValueKind::Number,
        kind if *kind == Type::BOOL => ValueKind::Boolean,
        kind if *kind == Type::JSON || *kind == Type::JSONB => ValueKind::Json,
        _ => ValueKind::Text,
    }
}
