//! Digests a database's definitions, on the source and on every server that they are brought back to.

use tokio_postgres::Client;

use super::facts::server_major;
use crate::connect::server_error;
use crate::error::Result;
use crate::model::schema_digests::{PartDigest, SchemaDigests};

const DIGESTS: &str = include_str!("digests.sql");

/// From this major version on, a publication `p` may hold schemas, and some rows and columns of a table.
const PUBLISHES_SCHEMAS: u32 = 15;
const TABLES: &str =
    "ARRAY(SELECT prrelid::regclass::text FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY 1), NULL";
const TABLES_AND_SCHEMAS: &str = "
    ARRAY(SELECT CASE WHEN prqual IS NULL AND prattrs IS NULL THEN prrelid::regclass::text ELSE
                 ROW(prrelid::regclass, pg_get_expr(prqual, prrelid),
                     ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = prrelid AND attnum = ANY (prattrs) ORDER BY attnum))::text END
            FROM pg_publication_rel WHERE prpubid = p.oid ORDER BY 1),
    nullif(ARRAY(SELECT pnnspid::regnamespace::text FROM pg_publication_namespace WHERE pnpubid = p.oid ORDER BY 1), '{}')";

/// How long the server may wait for a lock of a relation whose expressions are read. An ALTER TABLE may wait for a
/// table that the caller holds, and must not wait for it in turn.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '100ms'";

/// Digests the definitions of the connected database. The session must have the pinned settings.
///
/// # Errors
/// Fails with `Unavailable` if the server fails, or if an object is altered meanwhile.
pub async fn schema_digests(client: &Client) -> Result<SchemaDigests> {
    let failed = |error| server_error("cannot digest the definitions", error);
    let server_major = server_major(client).await?;
    let published = if server_major < PUBLISHES_SCHEMAS { TABLES } else { TABLES_AND_SCHEMAS };
    client.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let rows = client.query(&DIGESTS.replace("{published}", published), &[]).await;
    client.batch_execute("SET lock_timeout = 0").await.map_err(failed)?;
    let rows = rows.map_err(failed)?;
    let mut digests = SchemaDigests { server_major, ..SchemaDigests::default() };
    for row in rows {
        let (kind, identity, part): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let exact: &str = row.get(3);
        let digest =
            row.get::<_, Option<&str>>(4).map_or(exact.to_owned(), |loose| format!("{exact} {loose}"));
        let object = format!("{kind} {identity}").trim_end().to_owned();
        digests.objects.entry(object).or_default().insert(part.to_owned(), PartDigest(digest));
    }
    Ok(digests)
}
