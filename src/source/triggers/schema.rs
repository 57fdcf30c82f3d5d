//! Checks whether the schema `backwhen` on the source can be trusted: a role that owns a schema, or may create objects
//! in it, decides what runs under the names that backwhen's functions call.

use std::fmt;

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::{Error, Result};

/// Why the schema cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SchemaFault {
    Owner(String),
    MayCreate(String),
    Object { name: String, owner: String },
}

impl fmt::Display for SchemaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaFault::Owner(role) => write!(f, "schema backwhen belongs to role {role}"),
            SchemaFault::MayCreate(role) => write!(f, "role {role} may create objects in schema backwhen"),
            SchemaFault::Object { name, owner } => {
                write!(f, "{name} in schema backwhen belongs to role {owner}")
            }
        }
    }
}

/// A role is trusted if it is a superuser or the connected role, and a role that may create objects in the schema must
/// be trusted. A superuser is a member of every role, so that membership says nothing for a superuser; any other
/// connected role also trusts the schema's owner if the connected role may act for that owner.
const UNTRUSTED: &str = "
    WITH space AS (SELECT n.oid, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n WHERE n.nspname = 'backwhen'),
         trusted AS (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolsuper OR r.rolname = current_user
                     UNION SELECT s.nspowner FROM space s JOIN pg_catalog.pg_roles me ON me.rolname = current_user
                      WHERE NOT me.rolsuper AND pg_catalog.pg_has_role(me.oid, s.nspowner, 'USAGE'))
    SELECT 'owner', '', pg_catalog.pg_get_userbyid(s.nspowner)::text FROM space s
     WHERE s.nspowner NOT IN (SELECT oid FROM trusted)
    UNION ALL
    SELECT 'create', '', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END
      FROM space s, pg_catalog.aclexplode(s.nspacl) a
     WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (SELECT oid FROM trusted)
    UNION ALL
    SELECT 'object', p.oid::pg_catalog.regprocedure::text, pg_catalog.pg_get_userbyid(p.proowner)::text
      FROM space s JOIN pg_catalog.pg_proc p ON p.pronamespace = s.oid WHERE p.proowner NOT IN (SELECT oid FROM trusted)
    UNION ALL
    SELECT 'object', c.oid::pg_catalog.regclass::text, pg_catalog.pg_get_userbyid(c.relowner)::text
      FROM space s JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid WHERE c.relowner NOT IN (SELECT oid FROM trusted)
    LIMIT 1";

/// Returns why the schema cannot be trusted; `None` if it can, or if the schema does not exist.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn fault(client: &Client) -> Result<Option<SchemaFault>> {
    let rows = client.query(UNTRUSTED, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot look at the source's schema backwhen", error))?;
    Ok(rows.first().map(|row| {
        let (name, owner): (String, String) = (row.get(1), row.get(2));
        match row.get(0) {
            "owner" => SchemaFault::Owner(owner),
            "create" => SchemaFault::MayCreate(owner),
            _ => SchemaFault::Object { name, owner },
        }
    }))
}

/// The error for a schema that cannot be trusted.
pub(super) fn untrusted(fault: &SchemaFault) -> Error {
    Error::refused(format!(
        "{fault}: the event triggers would run what that role puts there; drop or rename that schema on the source \
         (ALTER SCHEMA backwhen RENAME TO …), then try again"
    ))
}
