//! Reads the source's catalogs: its settings, its tables, and how far each table can be protected.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::codec::pgoutput::stream_name;
use crate::connect::server_error;
use crate::error::{Error, Result};
use crate::model::definition::pairs;
use crate::model::{ColumnFacts, Grade, LeftOut, PgTime, Selection, Table, TableFacts};
use crate::pgtools;

/// The tables of a database as one snapshot of its catalogs shows them.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The tables to protect, in oid order.
    pub tables: Vec<FoundTable>,
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Debug)]
pub struct FoundTable {
    pub table: Table,
    /// Why the grade is not exact, and the command that would mend it.
    pub advice: Option<Advice>,
    pub pages: u32,
    /// The `relfilenode`, which changes when the table is rewritten or truncated.
    pub filenode: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    pub why: String,
    pub command: String,
}

/// One row for each relation that stores rows, with the facts that decide how the table can be protected.
const TABLES: &str = "
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence,
       CASE WHEN c.relreplident = 'f' AND EXISTS (
            SELECT FROM pg_catalog.pg_attribute v WHERE v.attrelid = c.oid AND v.attgenerated = 'v')
            THEN 'v'::\"char\" ELSE c.relreplident END,
       greatest(c.relpages, 0), c.relfilenode,
       EXISTS (SELECT FROM pg_catalog.pg_depend d
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                 AND d.deptype = 'e') AS of_extension,
       (SELECT i.indkey::int2[]
          FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
         LIMIT 1) AS identity_columns,
       (SELECT i.indnkeyatts
          FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
         LIMIT 1) AS identity_width,
       pg_catalog.convert_to(n.nspname::text, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(c.relname::text, pg_catalog.getdatabaseencoding()),
       CASE WHEN c.relispartition THEN ARRAY(
           SELECT unnest(ARRAY[s.nspname::text, p.relname::text])
             FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY a(relid, place)
             JOIN pg_catalog.pg_class p ON p.oid = a.relid
             JOIN pg_catalog.pg_namespace s ON s.oid = p.relnamespace
            WHERE a.relid <> c.oid ORDER BY a.place) END AS partition_of
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'f') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'backwhen'
 ORDER BY c.oid";

const COLUMNS: &str = "
SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
       pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',
       pg_catalog.convert_to(a.attname::text, pg_catalog.getdatabaseencoding()), a.xmin::text
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attnum > 0 AND NOT a.attisdropped
   AND c.relkind IN ('r', 'f') AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> 'backwhen'
 ORDER BY a.attrelid, a.attnum";

/// Reads the tables of the connected database.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn inventory(client: &Client, selection: &Selection) -> Result<Inventory> {
    let failed = |error| server_error("cannot read the source's tables", error);
    let rows = client.query(TABLES, &[]).await.map_err(failed)?;
    let mut columns = read_columns(client).await?;
    let mut inventory = Inventory::default();
    for row in rows {
        let kind = row.get::<_, i8>(3) as u8;
        let pages = row.get::<_, i32>(6).max(0) as u32;
        let facts = table_facts(&row, &mut columns);
        match reason_to_leave_out(kind, &facts, selection) {
            Some(reason) => inventory.left_out.push(LeftOut {
                table: format!("{}.{}", facts.schema, facts.name),
                reason: reason.to_owned(),
            }),
            None => inventory.tables.push(grade(&facts, pages)),
        }
    }
    Ok(inventory)
}

fn table_facts(row: &tokio_postgres::Row, columns: &mut BTreeMap<u32, Vec<ColumnFacts>>) -> TableFacts {
    let oid = row.get(0);
    let letter = |number| char::from(row.get::<_, i8>(number) as u8);
    let width = row.get::<_, Option<i16>>(10).unwrap_or(0).max(0) as usize;
    let identity = row.get::<_, Option<Vec<i16>>>(9);
    let (schema, name): (String, String) = (row.get(1), row.get(2));
    let raw_names = match (raw(&schema, row.get(11)), raw(&name, row.get(12))) {
        (None, None) => None,
        _ => Some((hex(row.get(11)), hex(row.get(12)))),
    };
    TableFacts {
        oid,
        schema,
        name,
        persistence: letter(4),
        replica_identity: letter(5),
        file: row.get(7),
        identity: identity.map(|numbers| numbers.into_iter().take(width).collect()),
        of_extension: row.get(8),
        columns: columns.remove(&oid).unwrap_or_default(),
        raw_names,
        partition_of: pairs(row.get::<_, Option<Vec<String>>>(13).unwrap_or_default()),
    }
}

/// Reads the columns of every table, by the table's oid.
async fn read_columns(client: &Client) -> Result<BTreeMap<u32, Vec<ColumnFacts>>> {
    let failed = |error| server_error("cannot read the source's columns", error);
    let mut tables: BTreeMap<u32, Vec<ColumnFacts>> = BTreeMap::new();
    for row in client.query(COLUMNS, &[]).await.map_err(failed)? {
        let name: String = row.get(2);
        let raw_name = raw(&name, row.get(7));
        tables.entry(row.get(0)).or_default().push(ColumnFacts {
            number: row.get(1),
            name,
            type_oid: row.get(3),
            modifier: row.get(4),
            type_name: row.get(5),
            generated: row.get(6),
            missing: None,
            raw_missing: None,
            definer: row.get(8),
            raw_name,
        });
    }
    Ok(tables)
}

/// Returns a name's bytes in hexadecimal if they differ from UTF-8, because the database has another encoding.
fn raw(name: &str, bytes: &[u8]) -> Option<String> {
    (name.as_bytes() != bytes).then(|| hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn reason_to_leave_out(kind: u8, facts: &TableFacts, selection: &Selection) -> Option<&'static str> {
    match (kind, facts.persistence) {
        (b'f', _) => Some("foreign table: only its definition is kept"),
        (_, 'u') => Some("unlogged table: only its definition is kept"),
        _ if facts.of_extension => Some("belongs to an extension, which fills it when it is created"),
        _ if !selection.takes_partition(&facts.schema, &facts.name, &facts.partition_of) => {
            Some("not selected by --include and --exclude")
        }
        _ => None,
    }
}

fn grade(facts: &TableFacts, pages: u32) -> FoundTable {
    let table = facts.table(stream_name);
    let insert_only = table.grade == Grade::InsertOnly;
    let advice = insert_only.then(|| advice(&table, facts.replica_identity));
    FoundTable { advice, table, pages, filenode: facts.file }
}

fn advice(table: &Table, replica_identity: char) -> Advice {
    let why = match replica_identity {
        'v' => "it has a virtual column, with which its replica identity FULL does not serve",
        'n' => "its replica identity is NOTHING",
        'i' => "the index of its replica identity is gone, or covers a generated column",
        _ => "it has no primary key that the stream can use",
    };
    Advice {
        why: format!("{why}: updates and deletes are not in the stream"),
        command: if replica_identity == 'v' {
            format!("ALTER TABLE {} ADD PRIMARY KEY (...), REPLICA IDENTITY DEFAULT;", table.quoted())
        } else {
            format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted())
        },
    }
}

/// Computes a digest that changes whenever a definition that pg_dump writes may have changed.
///
/// Rewrites, statistics, TRUNCATE and temporary objects leave the digest as it is. The query takes no lock on the
/// objects, as `pg_get_expr` would: an ALTER TABLE may wait for a table that backwhen holds, and backwhen must not wait
/// for that ALTER TABLE.
const FINGERPRINT: &str = "
WITH space AS (
    SELECT oid, nspname FROM pg_catalog.pg_namespace
     WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND nspname <> 'backwhen'),
rel AS (
    SELECT c.* FROM pg_catalog.pg_class c JOIN space ON space.oid = c.relnamespace
     WHERE c.relpersistence <> 't'),
part AS (
    SELECT hashtextextended(ROW(oid, relname, relnamespace, relkind, relowner, relpersistence, relreplident,
                                relrowsecurity, relforcerowsecurity, relispartition, reloptions, relacl,
                                relpartbound, relam, reltablespace, reloftype)::text, 1) AS h FROM rel
    UNION ALL
    SELECT hashtextextended(ROW(attrelid, xmin, attnum, attname, atttypid, atttypmod, attnotnull, attisdropped,
                                attidentity, attgenerated, attcollation, attstorage, attacl, attoptions,
                                attfdwoptions, attislocal, attinhcount)::text, 2)
      FROM pg_catalog.pg_attribute WHERE attnum > 0 AND attrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(adrelid, adnum, adbin)::text, 3) FROM pg_catalog.pg_attrdef
               WHERE adrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 4) FROM pg_catalog.pg_constraint
               WHERE connamespace IN (SELECT oid FROM space)
    UNION ALL SELECT hashtextextended(ROW(indexrelid, indisvalid, indisreplident, indisclustered)::text, 5)
                FROM pg_catalog.pg_index WHERE indrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 6) FROM pg_catalog.pg_proc
               WHERE pronamespace IN (SELECT oid FROM space)
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 7) FROM pg_catalog.pg_type
               WHERE typnamespace IN (SELECT oid FROM space)
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 8) FROM pg_catalog.pg_enum
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 9) FROM pg_catalog.pg_trigger
               WHERE tgrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(oid, ev_action, ev_enabled)::text, 10) FROM pg_catalog.pg_rewrite
               WHERE ev_class IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 11) FROM pg_catalog.pg_policy
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 12) FROM pg_catalog.pg_extension
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 13) FROM pg_catalog.pg_namespace
               WHERE oid IN (SELECT oid FROM space)
    UNION ALL SELECT hashtextextended(ROW(seqrelid, seqtypid, seqstart, seqincrement, seqmax, seqmin, seqcache,
                                          seqcycle)::text, 14)
                FROM pg_catalog.pg_sequence WHERE seqrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(objoid, classoid, objsubid, description)::text, 15)
                FROM pg_catalog.pg_description WHERE objoid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 16) FROM pg_catalog.pg_default_acl
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 17) FROM pg_catalog.pg_statistic_ext
    UNION ALL SELECT hashtextextended(ROW(inhrelid, inhparent, inhseqno)::text, 18) FROM pg_catalog.pg_inherits
               WHERE inhrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 19) FROM pg_catalog.pg_event_trigger
               WHERE evtname !~ '^!?backwhen'
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 20) FROM pg_catalog.pg_cast WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 21) FROM pg_catalog.pg_operator WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 22) FROM pg_catalog.pg_collation WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 23) FROM pg_catalog.pg_ts_config WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 24) FROM pg_catalog.pg_ts_dict WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 25) FROM pg_catalog.pg_foreign_server
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 26) FROM pg_catalog.pg_publication
               WHERE pubname !~ '^backwhen_'
    UNION ALL SELECT hashtextextended(ROW(r.oid, r.xmin)::text, 27) FROM pg_catalog.pg_publication_rel r
                JOIN pg_catalog.pg_publication p ON p.oid = prpubid WHERE pubname !~ '^backwhen_'
    UNION ALL SELECT hashtextextended(ROW(datdba, datacl, datconnlimit, datistemplate)::text, 28) FROM pg_catalog.pg_database
               WHERE datname = pg_catalog.current_database()
    UNION ALL SELECT hashtextextended(ROW(setrole, setconfig)::text, 29) FROM pg_catalog.pg_db_role_setting
                JOIN pg_catalog.pg_database d ON d.oid = setdatabase WHERE datname = pg_catalog.current_database()
    UNION ALL SELECT hashtextextended(ROW(s.*)::text, 30) FROM pg_catalog.pg_seclabel s
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 31) FROM pg_catalog.pg_opfamily WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 32) FROM pg_catalog.pg_opclass WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 33) FROM pg_catalog.pg_amop WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 34) FROM pg_catalog.pg_amproc WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(m.*)::text, 35) FROM pg_catalog.pg_ts_config_map m WHERE mapcfg >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 36) FROM pg_catalog.pg_ts_parser WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 37) FROM pg_catalog.pg_ts_template WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 38) FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL SELECT hashtextextended(ROW(f.*)::text, 39) FROM pg_catalog.pg_foreign_table f
    UNION ALL SELECT hashtextextended(ROW(umid, srvid, umuser)::text, 40) FROM pg_catalog.pg_user_mappings
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 41) FROM pg_catalog.pg_language WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 42) FROM pg_catalog.pg_am WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 43) FROM pg_catalog.pg_transform WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, xmin)::text, 44) FROM pg_catalog.pg_conversion WHERE oid >= 16384
    UNION ALL SELECT hashtextextended(ROW(oid, subname, subowner, subbinary, substream, subslotname, subsynccommit,
                                          subpublications)::text, 45) FROM pg_catalog.pg_subscription
               WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    UNION ALL SELECT hashtextextended(ROW(oid, proacl)::text, 46) FROM pg_catalog.pg_proc WHERE oid < 16384 AND proacl IS NOT NULL
    UNION ALL SELECT hashtextextended(ROW(oid, relacl)::text, 47) FROM pg_catalog.pg_class WHERE oid < 16384 AND relacl IS NOT NULL
    UNION ALL SELECT 1 WHERE EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
)
SELECT count(*)::text || '-' || coalesce(sum(h::numeric), 0)::text FROM part";

/// Digests the definitions of the connected database.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn fingerprint(client: &Client) -> Result<String> {
    digested(client, FINGERPRINT).await
}

/// Returns the transactions whose changes a statement now sees, as [`Snapshot::parse`](crate::model::Snapshot::parse)
/// reads them.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn snapshot(client: &Client) -> Result<String> {
    let row = client.query_one("SELECT pg_catalog.pg_current_snapshot()::text", &[]).await;
    Ok(row.map_err(|error| server_error("cannot ask for the running transactions", error))?.get(0))
}

/// Labels of enums and attributes of composite types, which the text of stored values follows.
const VALUE_SPELLING: &str = "
SELECT pg_catalog.md5(pg_catalog.concat(
    (SELECT pg_catalog.string_agg(pg_catalog.concat(e.oid, ' ', e.enumlabel), ',' ORDER BY e.oid) FROM pg_catalog.pg_enum e), ';',
    (SELECT pg_catalog.string_agg(pg_catalog.concat(a.attrelid, ' ', a.attnum, ' ', a.attisdropped), ',' ORDER BY a.attrelid, a.attnum)
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid WHERE c.relkind = 'c')))";

/// Computes a digest that changes whenever the text of stored values may have changed although nobody wrote them.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn value_spelling(client: &Client) -> Result<String> {
    digested(client, VALUE_SPELLING).await
}

async fn digested(client: &Client, query: &str) -> Result<String> {
    let row = client.query_one(query, &[]).await;
    let row = row.map_err(|error| server_error("cannot read the source's definitions", error))?;
    let text: String = row.get(0);
    Ok(blake3::hash(text.as_bytes()).to_hex()[..32].to_owned())
}

/// A digest that changes whenever a role or a membership may have changed. Passwords are not part of the digest.
const ROLES: &str = "
WITH part AS (
    SELECT hashtextextended(r::text, 1) AS h FROM pg_catalog.pg_roles r
    UNION ALL SELECT hashtextextended(m::text, 2) FROM pg_catalog.pg_auth_members m
)
SELECT count(*)::text || '-' || coalesce(sum(h::numeric), 0)::text FROM part";

/// Digests the server's roles.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn roles_digest(client: &Client) -> Result<String> {
    digested(client, ROLES).await
}

/// Reads a checkpoint's facts beside the tables: roles, populated materialised views, the number of large objects.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn schema_extras(client: &Client) -> Result<(Vec<String>, Vec<(String, String)>, u64)> {
    let failed = |error| server_error("cannot read the source's catalogs", error);
    let roles = pgtools::roles_used(client).await?;
    let views = pgtools::materialized_views(client).await?;
    let views =
        views.into_iter().filter(|view| view.populated).map(|view| (view.schema, view.name)).collect();
    let objects = client.query_one("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata", &[]).await;
    let objects: i64 = objects.map_err(failed)?.get(0);
    Ok((roles, views, objects as u64))
}

/// Reads the server's clock.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn clock(client: &Client) -> Result<PgTime> {
    let query = "SELECT ((extract(epoch FROM pg_catalog.clock_timestamp()) - 946684800) * 1000000)::int8";
    let row = client.query_one(query, &[]).await;
    Ok(PgTime(row.map_err(|error| server_error("cannot read the clock", error))?.get(0)))
}

/// Reads the server's version in full, such as `15.14 (Debian 15.14-0+deb12u1)`.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn server_version(client: &Client) -> Result<String> {
    let row = client.query_one("SELECT current_setting('server_version')", &[]).await;
    Ok(row.map_err(|error| server_error("cannot read the version", error))?.get(0))
}

/// Asks the server whether it is the cluster on which the history was begun.
///
/// # Errors
/// `Refused` if the server is another cluster; `Unavailable` if it fails.
pub async fn check_cluster(client: &Client, expected: &str) -> Result<()> {
    let query = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    let row = client.query_one(query, &[]).await;
    let row = row.map_err(|error| server_error("cannot ask which cluster the source is", error))?;
    same_cluster(expected, row.get(0))
}

/// Compares the identifier of a cluster with that of the cluster on which the history was begun.
///
/// # Errors
/// `Refused` if the server is another cluster.
pub fn same_cluster(expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the source is another cluster than the one on which this history was begun (system identifier {found}, not \
         {expected}), as it is after pg_upgrade; name the right server with --source, or begin a new history in another \
         folder with `backwhen init`, and take this one off the source with: backwhen drop"
    )))
}
