//! The role without rights that a superuser's recovery creates: it owns the objects whose owner does not exist on the
//! target, and runs borrowed functions.

use crate::connect::{ServerFault, Session, server_error};
use crate::error::{Error, Result};
use crate::model::schema::quote_ident;

use super::unfinished::fitting;

/// The prefix of the role's name; the database's name follows.
const BEGINNING: &str = "backwhen_owner_of_";
/// The SQLSTATE of a role that objects or privileges depend on.
const STILL_NEEDED: &str = "2BP01";

/// The attributes of a role that cannot log in, may do nothing and is a member of no other role.
const POWERLESS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = r.oid) \
     FROM pg_catalog.pg_roles r WHERE r.rolname = $1::text AND NOT (r.rolsuper OR r.rolcreaterole \
     OR r.rolcreatedb OR r.rolcanlogin OR r.rolreplication) \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)";

/// Returns the name of the role for this database.
pub(super) fn name(database: &str) -> String {
    fitting(BEGINNING, database, "")
}

/// Creates the role, or reuses one of an earlier recovery if that role still has no rights.
///
/// # Errors
/// Fails with `Refused` if a role of this name has rights, and with `Unavailable` if the server fails.
pub(super) async fn make(session: &Session, database: &str) -> Result<String> {
    let name = name(database);
    let failed = |error| server_error(format!("cannot make role {name}, which is to have no rights"), error);
    if session.query_opt(POWERLESS, &[&name]).await.map_err(failed)?.is_some() {
        return Ok(name);
    }
    session.batch_execute(&format!("CREATE ROLE {}", quote_ident(&name))).await.map_err(|error| {
        if error.code().is_some_and(|code| code.code() == "42710") {
            return Error::refused(format!(
                "the target's server has a role {name} with rights of its own, and the recovery needs that name for a role \
                 without any; rename it with: ALTER ROLE {} RENAME TO …",
                quote_ident(&name)
            ));
        }
        failed(error)
    })?;
    Ok(name)
}

/// Lets the role bypass row security, so that materialised views are filled with all rows of its tables, or ends
/// that.
///
/// # Errors
/// Fails with `Unavailable` or `Refused` if the server fails.
pub(super) async fn bypass_row_security(session: &Session, role: &str, bypass: bool) -> Result<()> {
    let attribute = if bypass { "BYPASSRLS" } else { "NOBYPASSRLS" };
    let altered = session.batch_execute(&format!("ALTER ROLE {} {attribute}", quote_ident(role))).await;
    altered.map_err(|error| server_error(format!("cannot make role {role} {attribute}"), error))
}

/// Removes the role that a recovery into `database` created: drops it if nothing depends on it, and revokes its
/// attribute in any case. Other roles are left alone, and nothing happens if the user is not a superuser.
///
/// # Errors
/// Fails with `Unavailable` or `Refused`, and names the role, if the server fails.
pub(super) async fn release(session: &Session, database: &str) -> Result<()> {
    let name = name(database);
    let failed = |error| {
        server_error(format!("cannot drop role {name}, which the recovery made; drop it yourself"), error)
    };
    let ours = format!(
        "{POWERLESS} AND (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname = current_user)"
    );
    let Some(row) = session.query_opt(&ours, &[&name]).await.map_err(failed)? else { return Ok(()) };
    bypass_row_security(session, &name, false).await?;
    if row.get(0) {
        return Ok(());
    }
    let dropped = session.batch_execute(&format!("DROP ROLE {}", quote_ident(&name))).await.map_err(failed);
    match dropped {
        Err(error) if ServerFault::sqlstate_of(&error) == Some(STILL_NEEDED) => Ok(()),
        dropped => dropped,
    }
}
