//! Digests a database's definitions, on the source and on every server that they are brought back to.

use futures_util::future::try_join_all;
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
    schema_digests_over(&[client]).await
}

/// Digests the definitions over sessions in the same database, each of which digests a share of the objects: the server
/// uses one core for each. Each session sees its own snapshot, so nobody may change a definition meanwhile.
///
/// # Errors
/// Fails when [`schema_digests`] does.
pub async fn schema_digests_over(clients: &[&Client]) -> Result<SchemaDigests> {
    let shares = clients.iter().enumerate();
    let shares = shares.map(|(number, client)| digest_share(client, Share { number, of: clients.len() }));
    let mut whole = SchemaDigests::default();
    for share in try_join_all(shares).await? {
        whole.server_major = share.server_major;
        for (object, parts) in share.objects {
            whole.objects.entry(object).or_default().extend(parts);
        }
    }
    Ok(whole)
}

/// One of several shares of all objects.
#[derive(Clone, Copy)]
struct Share {
    number: usize,
    of: usize,
}

impl Share {
    /// The condition on an object's oid. Tables are made one after the other, each with as many further objects, so the oid
    /// itself would give all tables to one share.
    fn condition(self, oid: &str) -> String {
        let Share { number, of } = self;
        if of == 1 { "true".to_owned() } else { format!("(hashoid({oid}) & 2147483647) % {of} = {number}") }
    }
}

async fn digest_share(client: &Client, share: Share) -> Result<SchemaDigests> {
    let failed = |error| server_error("cannot digest the definitions", error);
    let server_major = server_major(client).await?;
    let published = if server_major < PUBLISHES_SCHEMAS { TABLES } else { TABLES_AND_SCHEMAS };
    let sql = DIGESTS.replace("{published}", published);
    let sql = sql.replace("{share of oid}", &share.condition("o.oid"));
    let sql = sql.replace("{share of attrelid}", &share.condition("attrelid"));
    client.batch_execute(LOCK_TIMEOUT).await.map_err(failed)?;
    let rows = client.query(&sql, &[]).await;
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
