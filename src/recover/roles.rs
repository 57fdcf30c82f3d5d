//! Roles that the recovered database names and the target's server does not have.

use std::collections::BTreeSet;

use super::definitions::check_digest;
use super::execute::Execution;
use super::plan::Plan;
use super::schema::{Sql, split};
use super::sink::Destination;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::model::schema::quote_ident;

/// Makes the roles that the target lacks, if they are wanted. They are the server's, not the database's:
/// those that are made stay, whatever becomes of the rest. Returns what a person should know.
///
/// # Errors
/// `Usage` if the target is no server; `Damaged` if the history's roles are; otherwise as
/// [`create_missing`].
pub(super) async fn create(plan: &Plan, execution: &Execution<'_>) -> Result<Vec<String>> {
    if !execution.create_roles {
        return Ok(Vec::new());
    }
    let Destination::Postgres(info) = &execution.destination else {
        return Err(Error::usage("--create-roles needs a PostgreSQL server as --into"));
    };
    let schema = &plan.base.schema;
    let globals = match &schema.globals {
        Some(digest) => {
            let path = execution.history.schemas_folder().join(format!("{digest}.sql"));
            check_digest(&path, digest)?;
            let text = std::fs::read(&path);
            let text = text.context(Kind::Damaged, || format!("cannot read {}", path.display()))?;
            Some(String::from_utf8_lossy(&text).into_owned())
        }
        None => None,
    };
    // Roles that came since own or are granted something in a later statement.
    let since = plan.changes.iter().map(|change| &change.signal.statement.role);
    let wanted: Vec<_> = schema.roles.iter().chain(since).cloned().collect();
    create_missing(info, globals.as_deref(), &wanted).await
}

/// Makes those of `wanted` that the server lacks: with the attributes, settings and memberships that
/// `globals` (of pg_dumpall, no passwords) has for them; where it has nothing, as roles that cannot
/// log in. Returns what a person should know.
///
/// # Errors
/// `Refused` if the server does not let us make roles; then none is made.
async fn create_missing(info: &Conninfo, globals: Option<&str>, wanted: &[String]) -> Result<Vec<String>> {
    let session = maintenance(info).await?;
    let failed = |error| server_error("cannot read the target's roles", error);
    let rows = session.query("SELECT rolname::text FROM pg_catalog.pg_roles", &[]).await.map_err(failed)?;
    let known: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let missing: BTreeSet<&str> =
        wanted.iter().map(String::as_str).filter(|name| !known.contains(*name)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let (required, optional) = plan(globals.unwrap_or_default(), &missing);
    let sql = format!("BEGIN; {}; COMMIT", required.join("; "));
    if let Err(error) = session.batch_execute(&sql).await {
        let error = server_error("the target's server does not let us make its missing roles", error);
        let _ = session.batch_execute("ROLLBACK").await;
        return Err(Error::new(
            Kind::Refused,
            format!("{error}; leave --create-roles away to recover without them, or connect as another role"),
        ));
    }
    let names: Vec<_> = missing.iter().copied().collect();
    let mut notes = vec![format!("made roles without passwords: {}", names.join(", "))];
    for statement in optional {
        if let Err(error) = session.batch_execute(&statement).await {
            notes.push(server_error(format!("not done: {statement}"), error).to_string());
        }
    }
    Ok(notes)
}

/// A session in the target's database, or where that is not made yet, in another of its server.
async fn maintenance(info: &Conninfo) -> Result<Session> {
    match Session::connect_utf8(info, "recover").await {
        Ok(session) => Ok(session),
        Err(error) => {
            let other = if info.dbname() == "postgres" { "template1" } else { "postgres" };
            let session = Session::connect_utf8(&info.with_dbname(other), "recover").await;
            session.map_err(|_| error)
        }
    }
}

/// What makes the roles, and what may fail without harm: attributes that only a superuser may give,
/// settings, memberships in roles that are not there.
fn plan(globals: &str, missing: &BTreeSet<&str>) -> (Vec<String>, Vec<String>) {
    let required = missing.iter().map(|name| format!("CREATE ROLE {}", quote_ident(name))).collect();
    let concerns = |sql: &&Sql| match sql.tag.as_str() {
        // ALTER ROLE name …
        "ALTER ROLE" => name(sql, 2).is_some_and(|name| missing.contains(name.as_str())),
        // GRANT role TO member …
        "GRANT" => {
            [1, 3].into_iter().any(|at| name(sql, at).is_some_and(|name| missing.contains(name.as_str())))
        }
        _ => false,
    };
    let all = split(globals, true);
    let optional = all.iter().filter(concerns).map(without_grantor).collect();
    (required, optional)
}

fn name(sql: &Sql, at: usize) -> Option<String> {
    Some(sql.words.get(at)?.name()?.to_owned())
}

/// Who granted a membership need not be there.
fn without_grantor(sql: &Sql) -> String {
    match sql.words.iter().position(|word| word.is("granted")) {
        Some(at) => sql.text[..sql.words[at].at.start].trim_end().to_owned(),
        None => sql.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBALS: &str = "
        SET default_transaction_read_only = off;
        CREATE ROLE app; ALTER ROLE app WITH NOSUPERUSER INHERIT LOGIN;
        CREATE ROLE \"Odd; one\"; ALTER ROLE \"Odd; one\" WITH NOLOGIN;
        ALTER ROLE app SET work_mem TO '1MB';
        CREATE ROLE other; ALTER ROLE other WITH LOGIN;
        GRANT \"Odd; one\" TO app WITH INHERIT TRUE GRANTED BY postgres;
        GRANT other TO postgres GRANTED BY postgres;";

    #[test]
    fn only_what_is_missing_is_made_with_what_belongs_to_it() {
        let (required, optional) = plan(GLOBALS, &BTreeSet::from(["Odd; one", "app"]));
        assert_eq!(required, ["CREATE ROLE \"Odd; one\"", "CREATE ROLE \"app\""]);
        assert_eq!(
            optional,
            [
                "ALTER ROLE app WITH NOSUPERUSER INHERIT LOGIN",
                "ALTER ROLE \"Odd; one\" WITH NOLOGIN",
                "ALTER ROLE app SET work_mem TO '1MB'",
                "GRANT \"Odd; one\" TO app WITH INHERIT TRUE",
            ]
        );
    }
}
