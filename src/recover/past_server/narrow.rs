//! Narrows tables to the rows that meet a condition, so that only these are loaded.

use std::collections::BTreeSet;

use tokio_postgres::error::SqlState;

use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::model::schema::quote_ident;
use crate::model::spelling::Spelled;
use crate::recover::gate::GatedTable;
use crate::recover::part::Narrowing;
use crate::recover::plan::Plan;

/// The tables of a moment that each condition means, by their oids on the source.
///
/// # Errors
/// `Usage` if a pattern matches no table.
pub fn tables_meant(plan: &Plan, narrowings: &[Narrowing]) -> Result<Vec<BTreeSet<u32>>> {
    let meant = |it: &Narrowing| {
        let chosen = plan.past.choose(std::slice::from_ref(&it.pattern))?;
        Ok(chosen.tables.iter().map(|table| table.oid).collect())
    };
    narrowings.iter().map(meant).collect()
}

/// Gives tables the conditions that their rows must meet. Returns a remark on each of these tables.
///
/// # Errors
/// `Usage` if a table is meant twice, or if none has the columns of a condition; `Refused` if the server cannot use it.
pub(super) async fn narrow(
    info: &Conninfo,
    plan: &Plan,
    narrowings: &[Narrowing],
    tables: &mut [GatedTable],
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (narrowing, meant) in narrowings.iter().zip(tables_meant(plan, narrowings)?) {
        let Narrowing { condition, .. } = narrowing;
        let (mut lacking, mut narrowed) = (Vec::new(), 0);
        for table in tables.iter_mut().filter(|table| meant.contains(&table.folded.table.oid)) {
            let name = table.folded.table.display();
            if table.condition.is_some() {
                return Err(Error::usage(format!("two --where mean {name}; join them with AND")));
            }
            if is_usable(info, table, condition).await? {
                notes.push(format!("only these rows of {name} are loaded: {condition}"));
                table.condition = Some(condition.clone());
                narrowed += 1;
            } else {
                lacking.push(format!(
                    "no row of {name} meets --where, as it lacks a column of the condition, or computes it"
                ));
                table.condition = Some("false".to_owned());
            }
        }
        if narrowed == 0 && !lacking.is_empty() {
            return Err(Error::usage(format!(
                "no table that matches {} has the columns of --where {condition:?}; a computed column cannot be asked for",
                narrowing.pattern
            )));
        }
        notes.extend(lacking);
    }
    Ok(notes)
}

/// Whether a table stores all columns of a condition. COPY itself is asked, of an empty table with the same columns and the
/// same name: no trigger fires there. The session is not used again, as `tokio_postgres` counts one answer too few if the
/// server refuses a COPY before its rows.
async fn is_usable(info: &Conninfo, table: &GatedTable, condition: &str) -> Result<bool> {
    let table = &table.folded.table;
    let (spelled, name) = (Spelled::of(table, "UTF8"), quote_ident(&table.name));
    let begin = format!(
        "BEGIN; CREATE TEMPORARY TABLE {name} AS SELECT {} FROM ONLY {} WITH NO DATA",
        spelled.list, spelled.table
    );
    let failed = |error| server_error("cannot use --where", error);
    let session = Session::connect_utf8(info, "past").await?;
    let encoding = session.server_encoding();
    // Rows are sent in the database's encoding, and the condition with them.
    if !condition.is_ascii() && !matches!(encoding, "UTF8" | "SQL_ASCII") {
        return Err(Error::usage(format!(
            "--where {condition:?} has letters beyond ASCII, and the database is in {encoding}; write them as in U&'caf\\00e9'"
        )));
    }
    session.batch_execute(&begin).await.map_err(failed)?;
    let copied =
        copy_nothing(&session, &format!("COPY pg_temp.{name} FROM STDIN WHERE (\n{condition}\n)")).await;
    match copied {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

async fn copy_nothing(session: &Session, copy: &str) -> Result<(), tokio_postgres::Error> {
    let mut sink = Box::pin(session.copy_in::<_, bytes::Bytes>(copy).await?);
    sink.as_mut().finish().await.map(drop)
}
