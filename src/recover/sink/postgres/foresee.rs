//! Foresees the objects that a target will refuse, as far as its catalogs tell before anything is created.

use std::collections::BTreeSet;

use crate::connect::{Conninfo, Session};
use crate::error::Result;
use crate::recover::refused::RefusedObject;

use super::super::ArchiveDefinitions;
use super::super::definitions::GET_ROLES;
use super::maintenance::maintenance;
use super::retry::{Places, names};
use super::usable_roles;

/// Returns the objects that lack a role, an extension, a tablespace or an access method on the target's server. The
/// objects that depend on them will be refused too.
///
/// # Errors
/// Fails with `Unavailable` if the server cannot be asked.
pub async fn foresee(info: &Conninfo, mut definitions: ArchiveDefinitions) -> Result<Vec<RefusedObject>> {
    let session = match maintenance(info).await {
        Ok(session) => session,
        Err(_) => Session::connect_utf8(info, "recover").await?,
    };
    let roles = usable_roles(&session).await?;
    let (_, mut refused) = definitions.adapt_to_roles(|name| roles.contains(name), GET_ROLES);
    let places = Places::of(&session).await?;
    let available = "SELECT name::text FROM pg_catalog.pg_available_extensions";
    let available: BTreeSet<String> = names(&session, available).await?;
    for entry in definitions.selection.entries(&definitions.archive.toc) {
        refused.extend(places.refused(entry));
        let needed = entry.kind == "EXTENSION" && definitions.selection.needs(entry);
        if needed && !available.contains(&entry.tag) {
            let why = "it is not installed on the target's server".to_owned();
            refused.push(RefusedObject { what: entry.display(), why, sql: entry.definition.clone() });
        }
    }
    Ok(refused)
}
