//! Whether the schema `backwhen` on the source is ours: whoever owns a schema, or may create in it, decides what runs
//! under the names that our functions call.

use std::fmt;

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::Result;

/// Why the schema is not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    Owner(String),
    MayCreate(String),
    Object { name: String, owner: String },
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stranger::Owner(role) => write!(f, "schema backwhen belongs to role {role}"),
            Stranger::MayCreate(role) => write!(f, "role {role} may create objects in schema backwhen"),
            Stranger::Object { name, owner } => {
                write!(f, "{name} in schema backwhen belongs to role {owner}")
            }
        }
    }
}

/// Whoever is neither a superuser nor the connected role is a stranger, and so is a role that may create in the schema. A
/// superuser is a member of every role, which says nothing; for others a role that they can act for is no stranger.
const STRANGERS: &str = "
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

/// What is wrong with the schema; `None` if nothing is, or if it is not there.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn fault(client: &Client) -> Result<Option<Stranger>> {
    let rows = client.query(STRANGERS, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot look at the source's schema backwhen", error))?;
    Ok(rows.first().map(|row| {
        let (name, owner): (String, String) = (row.get(1), row.get(2));
        match row.get(0) {
            "owner" => Stranger::Owner(owner),
            "create" => Stranger::MayCreate(owner),
            _ => Stranger::Object { name, owner },
        }
    }))
}
