//! Creates roles that the recovered database names and the target's server lacks.

use std::collections::BTreeSet;

use super::objects::globals;
use super::schema::{Sql, missing, split};
use super::sink::{Destination, maintenance};
use crate::connect::{Conninfo, server_error};
use crate::error::{Error, Kind, Result};
use crate::model::schema::quote_ident;
use crate::past::Past;

/// Returns the error of a recovery with the roles that it has created, since they stay.
pub(super) fn name_created(error: Error, created: &[String]) -> Error {
    match created.first() {
        Some(created) => {
            Error::new(error.kind(), format!("{error}; on the target's server stays: {created}"))
        }
        None => error,
    }
}

/// Creates the roles that the target lacks. Roles belong to the server, not to the database: created roles stay even if
/// the recovery fails. Returns notes for the user.
///
/// # Errors
/// `Usage` if the target is no server; `Damaged` if the history's list of roles is; `Refused` if the server does not
/// let backwhen create roles, and then none is created.
pub(super) async fn create(past: &Past, destination: &Destination) -> Result<Vec<String>> {
    let Destination::Postgres(info) = destination else {
        return Err(Error::usage("--create-roles needs a PostgreSQL server as --into"));
    };
    let globals = globals(past)?.unwrap_or_default();
    let globals = split(&globals, true);
    create_missing(info, &globals, &wanted(past, &globals)?).await
}

/// Returns the roles that the recovered database needs, and the roles that have rights in it as members of those.
fn wanted(past: &Past, globals: &[Sql]) -> Result<BTreeSet<String>> {
    let mut wanted: BTreeSet<_> = past.base().schema.roles.iter().cloned().collect();
    let changes = past.changes_since_archive()?;
    // Roles that own objects, or were granted rights, since the checkpoint.
    wanted.extend(changes.iter().map(|change| change.signal.statement.role.clone()));
    let texts: BTreeSet<_> = changes.iter().map(|change| &change.signal.statement.query).collect();
    let statements: Vec<_> = texts.into_iter().flat_map(|text| split(text, true)).collect();
    let named = |role: &String| statements.iter().any(|sql| sql.names(role));
    wanted.extend(made(globals).filter(named));
    Ok(with_members(wanted, globals))
}

/// Returns the roles that the list creates.
fn made(globals: &[Sql]) -> impl Iterator<Item = String> {
    globals.iter().filter(|sql| sql.tag == "CREATE ROLE").filter_map(|sql| name(sql, 2))
}

fn with_members(mut roles: BTreeSet<String>, globals: &[Sql]) -> BTreeSet<String> {
    let grants = globals.iter().filter(|sql| sql.tag == "GRANT");
    // GRANT role TO member …
    let grants: Vec<_> = grants.filter_map(|sql| Some((name(sql, 1)?, name(sql, 3)?))).collect();
    loop {
        let before = roles.len();
        let members: Vec<_> = grants
            .iter()
            .filter(|(role, _)| roles.contains(role))
            .map(|(_, member)| member.clone())
            .collect();
        roles.extend(members);
        if roles.len() == before {
            return roles;
        }
    }
}

/// Creates those of the `wanted` roles that the server lacks, with the attributes, settings and memberships that
/// `globals` (from pg_dumpall, without passwords) has for them. A role that is not in `globals` is created without the
/// right to log in. Returns notes for the user.
///
/// # Errors
/// `Refused` if the server does not let backwhen create roles; then none is created.
async fn create_missing(info: &Conninfo, globals: &[Sql], wanted: &BTreeSet<String>) -> Result<Vec<String>> {
    let session = maintenance(info).await?;
    let missing = missing(&session, wanted.iter().map(String::as_str)).await?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let (required, optional) = statements(globals, &missing);
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

/// Returns the statements that create the roles, and the statements that may fail without harm: attributes that only a
/// superuser may give, settings, and memberships in roles that do not exist.
fn statements(globals: &[Sql], missing: &BTreeSet<&str>) -> (Vec<String>, Vec<String>) {
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
    let optional = globals.iter().filter(concerns).map(without_grantor).collect();
    (required, optional)
}

fn name(sql: &Sql, at: usize) -> Option<String> {
    Some(sql.words.get(at)?.name()?.to_owned())
}

/// Removes the GRANTED BY clause, since the role that granted a membership need not exist on the target.
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
        GRANT \"Odd; one\" TO app WITH INHERIT TRUE GRANTED BY postgres; GRANT app TO leaf;
        GRANT other TO postgres GRANTED BY postgres;";

    #[test]
    fn only_what_is_missing_is_made_with_what_belongs_to_it() {
        let (required, optional) = statements(&split(GLOBALS, true), &BTreeSet::from(["Odd; one", "app"]));
        assert_eq!(required, ["CREATE ROLE \"Odd; one\"", "CREATE ROLE \"app\""]);
        assert_eq!(
            optional,
            [
                "ALTER ROLE app WITH NOSUPERUSER INHERIT LOGIN",
                "ALTER ROLE \"Odd; one\" WITH NOLOGIN",
                "ALTER ROLE app SET work_mem TO '1MB'",
                "GRANT \"Odd; one\" TO app WITH INHERIT TRUE",
                "GRANT app TO leaf",
            ]
        );
    }

    #[test]
    fn who_is_a_member_of_a_needed_role_is_needed() {
        let needed = |role: &str| with_members(BTreeSet::from([role.to_owned()]), &split(GLOBALS, true));
        assert_eq!(Vec::from_iter(needed("Odd; one")), ["Odd; one", "app", "leaf"]);
        assert_eq!(Vec::from_iter(needed("leaf")), ["leaf"]);
    }
}
