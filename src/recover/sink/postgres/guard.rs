//! While a superuser recovers, the guard runs the application's code with no more rights than its authors had on the
//! source.
//!
//! A CHECK, a domain, a computed column, a partition key or an index may call functions, with arguments that its
//! author chose. The server calls these functions while definitions are created and rows are loaded, with the rights
//! of the user who does that. So while a superuser builds the database, no function runs during the creation of
//! definitions. After that, each function that the catalogs refer to is lent to a role: it runs as SECURITY DEFINER,
//! as a role that has no more rights than its owner and the owners of the objects that call it. Inside such a
//! function nobody can switch to another role, not even the session's own. At the end each function is as it was on
//! the source.
//!
//! CHECKs can also call functions of the server itself, or a superuser's functions, with their author's arguments.
//! CHECKs that call a risky function are removed while rows are loaded, and are added again as NOT VALID.

use crate::ambient;
use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::model::schema::{quote_ident, quote_literal};

use super::super::ArchiveDefinitions;
use super::marker::MARKER;
use super::owner_role;
use super::retry::attempt;
use crate::model::Inexact;

/// As with the archive in a scratch database, no function runs while definitions are created.
const MUTED: &str = include_str!("../../schema/muted.sql");
const UNMUTED: &str = include_str!("../../schema/unmuted.sql");
const SET: &str = include_str!("guard_set.sql");
const CHECKS: &str = include_str!("guard_checks.sql");
const GIVE: &str = include_str!("guard_give.sql");
const RETURN: &str = include_str!("guard_return.sql");
const LIFT: &str = include_str!("guard_lift.sql");

/// The query matches names only, so it finds more functions than are called.
const LATER: &str = "INSERT INTO {guard}.later SELECT DISTINCT p.oid, r.oid
    FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) l (owner, definition)
    JOIN pg_catalog.pg_roles r ON r.rolname = l.owner AND NOT r.rolsuper
    JOIN pg_catalog.pg_proc p ON p.oid >= 16384 AND pg_catalog.strpos(l.definition, p.proname) > 0
    JOIN pg_catalog.pg_language g ON g.oid = p.prolang AND g.lanname NOT IN ('internal', 'c')";

/// Whether there are ordinary roles of which neither has the other's rights.
const SEVERAL_OWNERS: &str = "SELECT pg_catalog.count(DISTINCT o.owner) > 1 FROM (
    SELECT c.relowner AS owner FROM pg_catalog.pg_class c WHERE c.oid >= 16384
    UNION ALL SELECT t.typowner FROM pg_catalog.pg_type t WHERE t.oid >= 16384
    UNION ALL SELECT p.proowner FROM pg_catalog.pg_proc p WHERE p.oid >= 16384
    UNION ALL SELECT p.oprowner FROM pg_catalog.pg_operator p WHERE p.oid >= 16384) o
    JOIN pg_catalog.pg_roles r ON r.oid = o.owner WHERE NOT r.rolsuper";

/// The guard on a database until it is lifted.
pub(super) struct Guard {
    /// The name that the database has once it is valid.
    database: String,
    /// The role that owns the objects whose owner does not exist here; it has no other right.
    owner: Option<String>,
    /// The schema of the guard's own functions. No schema of the source can have been given its name on purpose.
    schema: String,
}

impl Guard {
    /// Guards the database of the session, if the session's user is a superuser. `owners` says that all owners exist.
    ///
    /// # Errors
    /// Fails with `Unavailable` or `Refused` if the server fails.
    pub async fn set(session: &Session, database: &str, owners: bool) -> Result<Option<Guard>> {
        let query = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
        if !session.query_one(query, &[]).await.map_err(not_guarded)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let owner = if owners { None } else { Some(make_owner(session, database).await?) };
        let database = database.to_owned();
        let schema = free_name()?;
        let muted = MUTED.replace("backwhen.", &format!("{schema}."));
        session.batch_execute(&format!("CREATE SCHEMA {schema}; {muted}")).await.map_err(not_guarded)?;
        Ok(Some(Guard { database, owner, schema }))
    }

    /// Returns the notes that a person should read.
    pub fn note(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        Some(format!(
            "what has no owner here belongs to role {owner}, which was made for it and has no other right; give it away \
             with: REASSIGN OWNED BY {} TO …",
            quote_ident(owner)
        ))
    }

    /// Lends the functions, once the tables and types exist and before they have rows. Returns the CHECKs that are removed
    /// meanwhile.
    ///
    /// # Errors
    /// Fails when [`Guard::set`] does.
    pub async fn before_rows(
        &self,
        session: &Session,
        definitions: &ArchiveDefinitions,
    ) -> Result<Vec<Inexact>> {
        let unmuted = UNMUTED.replace("backwhen.", &format!("{}.", self.schema));
        session.batch_execute(&unmuted).await.map_err(not_guarded)?;
        if let Some(owner) = &self.owner {
            self.give_owners(session, owner, definitions).await?;
        }
        let several: bool = session.query_one(SEVERAL_OWNERS, &[]).await.map_err(not_guarded)?.get(0);
        if several {
            owner_role::make(session, &self.database).await?;
        }
        let powerless = quote_literal(&owner_role::name(&self.database));
        for sql in [CHECKS, SET] {
            let sql = sql.replace("{guard}", &self.schema).replace("{powerless}", &powerless);
            session.batch_execute(&sql).await.map_err(not_guarded)?;
        }
        if several {
            let later = definitions.made_after_rows(self.owner.as_deref());
            self.know_later_callers(session, &later).await?;
        }
        let lend = format!("SELECT {}.lend()", self.schema);
        session.batch_execute(&lend).await.map_err(not_guarded)?;
        self.checks_set_aside(session).await
    }

    /// The server builds an index as the table's owner, who must be able to call the index's functions by then.
    async fn know_later_callers(&self, session: &Session, later: &[(&str, &str)]) -> Result<()> {
        let (owners, definitions): (Vec<&str>, Vec<&str>) = later.iter().copied().unzip();
        let sql = LATER.replace("{guard}", &self.schema);
        session.execute(&sql, &[&owners, &definitions]).await.map(drop).map_err(not_guarded)
    }

    async fn checks_set_aside(&self, session: &Session) -> Result<Vec<Inexact>> {
        let aside = format!("SELECT name FROM {}.checks ORDER BY name", self.schema);
        let rows = session.query(&aside, &[]).await.map_err(not_guarded)?;
        let why = "it calls a function that could misuse a superuser's rights, so it was not checked and is NOT VALID; \
                   validate it (VALIDATE CONSTRAINT) as a role without rights, or recover as one";
        Ok(rows
            .iter()
            .map(|row| Inexact { what: format!("check {}", row.get::<_, &str>(0)), why: why.into() })
            .collect())
    }

    /// Gives the objects whose owner does not exist here to a role without rights, since indexes and materialised
    /// views are built with the rights of their table's owner.
    async fn give_owners(
        &self,
        session: &Session,
        owner: &str,
        definitions: &ArchiveDefinitions,
    ) -> Result<()> {
        if definitions.has_owners() {
            for statement in definitions.give_ownerless_to(owner) {
                // The object may have been left out.
                attempt(session, &statement).await?;
            }
            return Ok(());
        }
        let sql = GIVE
            .replace("{owner}", &quote_literal(owner))
            .replace("{guard}", &self.schema)
            .replace("{marker}", MARKER);
        let given = session.batch_execute(&sql).await;
        given
            .map_err(|error| server_error(format!("cannot give the target's objects to role {owner}"), error))
    }

    /// Prepares for filling materialised views: the server fills them as their owners, who need the functions in
    /// their own form.
    ///
    /// # Errors
    /// Fails when [`Guard::set`] does.
    pub async fn before_views(&self, session: &Session) -> Result<()> {
        session.batch_execute(&RETURN.replace("{guard}", &self.schema)).await.map_err(not_lifted)
    }

    /// Lifts the guard: every function is again as it was on the source.
    ///
    /// # Errors
    /// Fails when [`Guard::set`] does.
    pub async fn lift(self, session: &Session) -> Result<()> {
        session.batch_execute(&LIFT.replace("{guard}", &self.schema)).await.map_err(not_lifted)?;
        if let Some(owner) = &self.owner {
            owner_role::bypass_row_security(session, owner, false).await?;
        }
        owner_role::release(session, &self.database).await
    }
}

fn not_lifted(error: tokio_postgres::Error) -> Error {
    server_error("cannot give the application's functions their own rights back", error)
}

fn not_guarded(error: tokio_postgres::Error) -> Error {
    server_error("cannot guard the target against the application's functions", error)
}

fn free_name() -> Result<String> {
    Ok(format!("backwhen_guard_{:016x}", u64::from_ne_bytes(ambient::random()?)))
}

/// A role that owns objects while they are built, and that bypasses row security while its own materialised views are
/// filled.
async fn make_owner(session: &Session, database: &str) -> Result<String> {
    let name = owner_role::make(session, database).await?;
    owner_role::bypass_row_security(session, &name, true).await?;
    Ok(name)
}
