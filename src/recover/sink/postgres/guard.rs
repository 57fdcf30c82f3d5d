//! While a superuser recovers, the application's functions run with their owners' rights, not with the superuser's.
//!
//! A CHECK, a domain, a computed column, a partition key or an index may call functions that any role of the source
//! wrote, and the server calls them while definitions are made and rows are loaded: as whoever does that. So as long as a
//! superuser builds the database, no function runs while definitions are made, and from then on the functions of ordinary roles
//! are SECURITY DEFINER. Inside of such a function nobody can take up another role, not even the session's own. In the end
//! each is what it was.
//!
//! CHECKs can call functions of the server itself too, or a superuser's with their author's arguments. Those that call a
//! risky one are set aside while rows are loaded, and come back NOT VALID.

use crate::ambient;
use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::history::checkpoint::Inexact;
use crate::model::schema::{quote_ident, quote_literal};

use super::marker::MARKER;

/// Where an owner is missing, a role of this name and the database's owns the objects.
const OWNER: &str = "backwhen_owner_of_";
/// The most bytes of a role's name.
const NAME_LIMIT: usize = 63;

/// As for the archive in a scratch database: no function runs while definitions are made.
const MUTED: &str = include_str!("../../schema/muted.sql");
const UNMUTED: &str = include_str!("../../schema/unmuted.sql");
const SET: &str = include_str!("guard_set.sql");
const CHECKS: &str = include_str!("guard_checks.sql");
const GIVE: &str = include_str!("guard_give.sql");
const LIFT: &str = include_str!("guard_lift.sql");

/// Stands in the database until it is lifted.
pub(super) struct Guard {
    /// Owns what nobody else could; it has no right beyond that.
    owner: Option<String>,
    /// The schema in which it is, of a name that no schema of the source can have been given on purpose.
    schema: String,
}

impl Guard {
    /// Guards the database that the session is in, if its user is a superuser. `owners`: all owners are there.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server fails.
    pub async fn set(session: &Session, database: &str, owners: bool) -> Result<Option<Guard>> {
        let query = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
        if !session.query_one(query, &[]).await.map_err(not_guarded)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let owner = if owners { None } else { Some(make_owner(session, database).await?) };
        let schema = free_name()?;
        let muted = MUTED.replace("backwhen.", &format!("{schema}."));
        session.batch_execute(&format!("CREATE SCHEMA {schema}; {muted}")).await.map_err(not_guarded)?;
        Ok(Some(Guard { owner, schema }))
    }

    /// What a person should know of it.
    pub fn note(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        Some(format!(
            "what has no owner here belongs to role {owner}, which was made for it and has no other right; give it away \
             with: REASSIGN OWNED BY {} TO …",
            quote_ident(owner)
        ))
    }

    /// Once the tables and types are made, and before they have rows. Returns the CHECKs that are set aside.
    ///
    /// # Errors
    /// As [`Guard::set`].
    pub async fn before_rows(&self, session: &Session) -> Result<Vec<Inexact>> {
        let unmuted = UNMUTED.replace("backwhen.", &format!("{}.", self.schema));
        session.batch_execute(&unmuted).await.map_err(not_guarded)?;
        if let Some(owner) = &self.owner {
            self.give_owners(session, owner).await?;
        }
        for sql in [CHECKS, SET] {
            session.batch_execute(&sql.replace("{guard}", &self.schema)).await.map_err(not_guarded)?;
        }
        let aside = format!("SELECT name FROM {}.checks ORDER BY name", self.schema);
        let rows = session.query(&aside, &[]).await.map_err(not_guarded)?;
        let why = "it calls a function that could misuse a superuser's rights, so it was not checked and is NOT VALID; \
                   validate it (VALIDATE CONSTRAINT) as a role without rights, or recover as one";
        Ok(rows
            .iter()
            .map(|row| Inexact { what: format!("check {}", row.get::<_, &str>(0)), why: why.into() })
            .collect())
    }

    /// Gives what has no owner here to a role without rights, since indexes and materialised views are made with their
    /// table's owner's.
    async fn give_owners(&self, session: &Session, owner: &str) -> Result<()> {
        let sql = GIVE
            .replace("{owner}", &quote_literal(owner))
            .replace("{guard}", &self.schema)
            .replace("{marker}", MARKER);
        let given = session.batch_execute(&sql).await;
        given
            .map_err(|error| server_error(format!("cannot give the target's objects to role {owner}"), error))
    }

    /// Takes the guard away: every function is again what the source had.
    ///
    /// # Errors
    /// As [`Guard::set`].
    pub async fn lift(self, session: &Session) -> Result<()> {
        let owner = self.owner.map(|owner| format!("ALTER ROLE {} NOBYPASSRLS;", quote_ident(&owner)));
        let sql = format!("{} {}", owner.unwrap_or_default(), LIFT.replace("{guard}", &self.schema));
        let lifted = session.batch_execute(&sql).await;
        lifted.map_err(|error| {
            server_error("cannot give the application's functions their own rights back", error)
        })
    }
}

fn not_guarded(error: tokio_postgres::Error) -> Error {
    server_error("cannot guard the target against the application's functions", error)
}

fn free_name() -> Result<String> {
    Ok(format!("backwhen_guard_{:016x}", u64::from_ne_bytes(ambient::random()?)))
}

/// A role that cannot log in and is in no other; one of an earlier recovery is taken if it still is that. Until the guard is
/// lifted, row security does not keep it from its own tables: materialised views are filled with all rows.
async fn make_owner(session: &Session, database: &str) -> Result<String> {
    let mut name = format!("{OWNER}{database}");
    while name.len() > NAME_LIMIT {
        name.pop();
    }
    let failed = |error| server_error(format!("cannot make role {name}, which is to own the objects"), error);
    let query = "SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = $1::text AND NOT (r.rolsuper OR r.rolcreaterole \
                 OR r.rolcreatedb OR r.rolcanlogin OR r.rolreplication) \
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)";
    let verb =
        if session.query_opt(query, &[&name]).await.map_err(failed)?.is_some() { "ALTER" } else { "CREATE" };
    session.batch_execute(&format!("{verb} ROLE {} BYPASSRLS", quote_ident(&name))).await.map_err(failed)?;
    Ok(name)
}
