//! Checks whether a database can be protected, without changing anything.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use super::blocker::{OpenTransaction, oldest_transaction};
use super::stream::{ReplicationClient, StreamFault};
use super::triggers::{InstallOutcome, Triggers};
use super::{inspect, traces};
use crate::ambient;
use crate::connect::{Conninfo, ServerFault, Session, server_error};
use crate::error::{Error, Kind, Result};
use crate::model::schema::quote_ident;
use crate::model::{Grade, Selection};
use crate::pgtools::Tools;

/// The result of the check.
#[derive(Clone, Debug, Serialize)]
pub struct Preflight {
    pub server_version: String,
    pub findings: Vec<Finding>,
    pub tables: Vec<TableGrade>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Whether capture cannot start because of this finding.
    pub fatal: bool,
    pub what: String,
    /// The command or setting that mends the finding.
    pub mend: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct TableGrade {
    pub table: String,
    /// `exact`, `insert-only` or `left out`.
    pub grade: &'static str,
    pub why: String,
    pub mend: String,
}

impl Preflight {
    pub fn is_ready(&self) -> bool {
        self.findings.iter().all(|finding| !finding.fatal)
    }
}

/// The oldest major version that is supported: earlier servers cannot scan a range of a table's pages, and their
/// pgoutput carries no messages.
const OLDEST_MAJOR: i32 = 14;

/// The newest major version that backwhen is tested with.
const NEWEST_MAJOR: i32 = 18;

/// Checks the source.
///
/// # Errors
/// `Unavailable` if the source cannot be reached, `Refused` if it does not let backwhen in.
pub async fn look(
    source: &Conninfo,
    tools: std::result::Result<&Tools, &Error>,
    selection: &Selection,
) -> Result<Preflight> {
    let session = Session::connect_utf8(source, "check").await?;
    let settings = SourceSettings::read(&session).await?;
    let mut findings = settings.findings();
    findings.extend(unproven_server(source));
    match tools.map(|tools| tools.for_dump(settings.version as u32 / 10_000)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            findings.push(fatal(error.to_string(), "install PostgreSQL's client programs of that version"))
        }
        Err(error) => findings.push(fatal(error.to_string(), "install PostgreSQL's client programs")),
    }
    let inventory = inspect::inventory(&session, selection).await?;
    findings.extend(not_owned(&session, &settings, &inventory).await?);
    findings.extend(insert_only(&inventory));
    findings.extend(event_triggers(&session, &settings.user).await?);
    findings.extend(refused_in_functions(&session).await?);
    if settings.may_replicate && settings.senders_free > 0 {
        findings.extend(no_replication(source).await);
    }
    findings.extend(oldest_transaction(&session).await?.and_then(late_transaction));
    findings.extend(many_locks(&session, inventory.tables.len()).await?);
    findings
        .extend(traces::slots(&session).await?.iter().filter(|trace| !trace.active).map(trace_of_another));
    let mut tables: Vec<_> = inventory.tables.iter().map(grade).collect();
    tables.extend(inventory.left_out.iter().map(|left_out| TableGrade {
        table: left_out.table.clone(),
        grade: "left out",
        why: left_out.reason.clone(),
        mend: String::new(),
    }));
    Ok(Preflight { server_version: settings.server_version, findings, tables })
}

/// The server refuses some statements for a table that is in a publication. The event triggers take the table out for
/// those that the client sends itself, but not for those that functions run.
async fn refused_in_functions(session: &Session) -> Result<Option<Finding>> {
    let query = "SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p \
                   JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
                  WHERE p.prosrc ~* '\\mset\\s+(unlogged|expression)\\M' \
                    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'backwhen') ORDER BY 1";
    let rows = session.query(query, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot look at the source's functions", error))?;
    let names: Vec<String> = rows.iter().take(5).map(|row| row.get(0)).collect();
    Ok((!names.is_empty()).then(|| {
        advice(
            format!(
                "{} may run SET UNLOGGED or SET EXPRESSION, which the server refuses inside a function for a table that \
                 is protected",
                names.join(", ")
            ),
            "let the client send that statement itself, or leave the table out with --exclude",
        )
    }))
}

/// Tries to install the event triggers, exactly as `init` does, and rolls that back.
async fn event_triggers(session: &Session, user: &str) -> Result<Option<Finding>> {
    match Triggers::try_install(session).await {
        Ok(InstallOutcome::Installed) => Ok(None),
        Ok(InstallOutcome::NotAllowed(reason)) => Ok(Some(advice(
            format!(
                "no event triggers can be made ({reason}): a change of the schema is then known only within two \
                 heartbeats"
            ),
            format!("ALTER ROLE {} SUPERUSER; or name a role that may, with --source", quote_ident(user)),
        ))),
        Err(error) if ServerFault::sqlstate_of(&error).is_some() || error.kind() == Kind::Refused => Ok(
            Some(fatal(error.to_string(), "mend this on the source, or: backwhen init --no-event-triggers")),
        ),
        Err(error) => Err(error),
    }
}

fn grade(found: &inspect::FoundTable) -> TableGrade {
    let advice = found.advice.clone();
    let (why, mend) = advice.map_or_else(Default::default, |advice| (advice.why, advice.command));
    let grade = match found.table.grade {
        Grade::Exact => "exact",
        Grade::InsertOnly => "insert-only",
    };
    TableGrade { table: found.table.display(), grade, why, mend }
}

fn fatal(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { fatal: true, what: what.into(), mend: mend.into() }
}

struct SourceSettings {
    server_version: String,
    version: i32,
    wal_level: String,
    /// The server makes the WAL logical as soon as there is a logical slot, whatever `wal_level` says (from version 19 on).
    raises_wal_level: bool,
    in_recovery: bool,
    slots_free: i64,
    senders_free: i64,
    may_replicate: bool,
    may_create: bool,
    is_superuser: bool,
    user: String,
    database: String,
    slot_limit: String,
    /// How many more sessions the role may have in this database, if that is limited.
    sessions_free: Option<i64>,
}

/// With fewer sessions than this left, `init` cannot begin.
const SESSIONS_NEEDED: i64 = 3;

/// With fewer sessions than this left, images of new tables may fail.
const SESSIONS_WANTED: i64 = 8;

/// One managed service grants the right to replicate by the role `rds_replication`, another by `cloudsqlreplica`.
const SETTINGS: &str = "
SELECT current_setting('server_version'), current_setting('server_version_num')::int4,
       current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),
       current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_catalog.pg_stat_replication),
       r.rolreplication OR r.rolsuper OR EXISTS (
           SELECT FROM pg_catalog.pg_roles g WHERE g.rolname IN ('rds_replication', 'cloudsqlreplica')
              AND pg_catalog.pg_has_role(current_user, g.oid, 'MEMBER')),
       pg_catalog.has_database_privilege(current_database(), 'CREATE'), r.rolsuper,
       current_user::text, current_database()::text, current_setting('max_slot_wal_keep_size'),
       current_setting('effective_wal_level', true) IS NOT NULL,
       CASE WHEN NOT r.rolsuper THEN least(
           CASE WHEN r.rolconnlimit >= 0 THEN r.rolconnlimit - (
               SELECT count(*) FROM pg_catalog.pg_stat_activity a
                WHERE a.usesysid = r.oid AND a.pid <> pg_catalog.pg_backend_pid()) END,
           CASE WHEN d.datconnlimit >= 0 THEN d.datconnlimit - (
               SELECT count(*) FROM pg_catalog.pg_stat_activity a
                WHERE a.datid = d.oid AND a.pid <> pg_catalog.pg_backend_pid()) END) END
  FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
 WHERE r.rolname = current_user AND d.datname = current_database()";

impl SourceSettings {
    async fn read(client: &Client) -> Result<SourceSettings> {
        let row = client.query_one(SETTINGS, &[]).await;
        let row = row.map_err(|error| server_error("cannot read the source's settings", error))?;
        Ok(SourceSettings {
            server_version: row.get(0),
            version: row.get(1),
            wal_level: row.get(2),
            in_recovery: row.get(3),
            slots_free: row.get(4),
            senders_free: row.get(5),
            may_replicate: row.get(6),
            may_create: row.get(7),
            is_superuser: row.get(8),
            user: row.get(9),
            database: row.get(10),
            slot_limit: row.get(11),
            raises_wal_level: row.get(12),
            sessions_free: row.get(13),
        })
    }

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.version / 10_000 < OLDEST_MAJOR {
            found.push(fatal(
                format!("PostgreSQL {} is older than {OLDEST_MAJOR}", self.server_version),
                "upgrade the server",
            ));
        }
        if self.in_recovery {
            found.push(fatal("the server is a standby", "name its primary with --source"));
        }
        found.extend(too_new(self.version));
        found.extend(wal_level(&self.wal_level, self.raises_wal_level));
        if self.slots_free < 1 {
            found.push(fatal(
                "no replication slot is free",
                "ALTER SYSTEM SET max_replication_slots = ...; then restart the server (or drop a slot that nobody uses)",
            ));
        } else if self.slots_free < 2 {
            found.push(advice(
                "only one replication slot is free; images of later tables need a second one for a moment",
                "ALTER SYSTEM SET max_replication_slots = ...; then restart the server",
            ));
        }
        if self.senders_free < 1 {
            found.push(fatal(
                "no walsender is free",
                "ALTER SYSTEM SET max_wal_senders = ...; then restart the server",
            ));
        }
        let user = quote_ident(&self.user);
        if !self.may_replicate {
            found.push(fatal(
                format!("{} may not replicate", self.user),
                format!("ALTER ROLE {user} REPLICATION;"),
            ));
        }
        if !self.may_create {
            found.push(fatal(
                format!("{} may not create publications in {}", self.user, self.database),
                format!("GRANT CREATE ON DATABASE {} TO {user};", quote_ident(&self.database)),
            ));
        }
        found.extend(
            self.sessions_free.filter(|free| *free < SESSIONS_WANTED).map(|free| self.few_sessions(free)),
        );
        if self.slot_limit == "-1" {
            found.push(advice(
                "max_slot_wal_keep_size is unlimited: if capture stays away, the slot retains WAL until the disk is full",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '...'; SELECT pg_reload_conf();",
            ));
        }
        found
    }
}

/// Returns a finding if the server is newer than all versions that backwhen knows.
fn too_new(version: i32) -> Option<Finding> {
    let major = version / 10_000;
    (major > NEWEST_MAJOR).then(|| {
        advice(
            format!(
                "PostgreSQL {major} is newer than {NEWEST_MAJOR}, the newest version that this backwhen is tested with; \
                 a schema change that only {major} has is kept as the server tells it, and named where a recovery \
                 cannot repeat it"
            ),
            "update backwhen, or prove a recovery before you rely on it: backwhen verify --restore",
        )
    })
}

/// Returns a finding if the WAL cannot be decoded. `raises`: the server raises the level by itself from `replica` on.
fn wal_level(level: &str, raises: bool) -> Option<Finding> {
    (level != "logical" && !(raises && level == "replica")).then(|| {
        fatal(
            format!("wal_level is {level}, not logical"),
            "ALTER SYSTEM SET wal_level = logical; then restart the server",
        )
    })
}

impl SourceSettings {
    fn few_sessions(&self, free: i64) -> Finding {
        let (user, database) = (quote_ident(&self.user), quote_ident(&self.database));
        let what = format!(
            "{} may have {free} sessions in {}, fewer than capture and its images want ({SESSIONS_WANTED}, with more --jobs \
             more)",
            self.user, self.database
        );
        let mend =
            format!("ALTER ROLE {user} CONNECTION LIMIT -1; ALTER DATABASE {database} CONNECTION LIMIT -1;");
        Finding { fatal: free < SESSIONS_NEEDED, what, mend }
    }
}

/// Returns a finding if the source is reached over a network and need not prove its identity.
pub fn unproven_server(source: &Conninfo) -> Option<Finding> {
    let (host, mode) = source.unproven_server()?;
    Some(advice(
        format!(
            "sslmode={mode} does not make {host} prove that it is the source: whoever sits between can read the \
             password and every row"
        ),
        "add sslmode=verify-full to the connection string, and sslrootcert=FILE where the system does not know the \
         authority that signed the server's certificate",
    ))
}

fn advice(what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { fatal: false, what: what.into(), mend: mend.into() }
}

fn insert_only(inventory: &inspect::Inventory) -> Option<Finding> {
    let tables = inventory.tables.iter().filter(|found| found.table.is_insert_only());
    let names: Vec<_> = tables.map(|found| found.table.display()).collect();
    (!names.is_empty()).then(|| {
        let shown = names[..names.len().min(5)].join(", ");
        let more = names.len().saturating_sub(5);
        let more = if more > 0 { format!(" and {more} more tables") } else { String::new() };
        advice(
            format!("updates and deletes of {shown}{more} are not in the stream"),
            "backwhen init --full-identity (each gets REPLICA IDENTITY FULL; `backwhen drop` puts back what it had)",
        )
    })
}

/// Opens a replication connection: a pooler passes on ordinary sessions only, and pg_hba.conf has rules of its own.
async fn no_replication(source: &Conninfo) -> Option<Finding> {
    let error = match ReplicationClient::connect(source, "check").await {
        Ok(client) => {
            client.end().await;
            return None;
        }
        Err(error) => error,
    };
    Some(fatal(
        format!("the source takes no replication connection: {error}"),
        "name the server's own address with --source, not that of a connection pooler such as PgBouncer; in pg_hba.conf let \
         the role in to the database from here",
    ))
}

/// Creates a slot that ends with its connection, since only the server itself knows whether it lets this role use the output plugin.
///
/// # Errors
/// `Unavailable` if the source cannot be reached any more.
pub async fn no_slot(source: &Conninfo) -> Result<Option<Finding>> {
    let mut client = ReplicationClient::connect(source, "check").await?;
    let name = format!("backwhen_check_{:08x}", u32::from_ne_bytes(ambient::random()?));
    let made = client.create_temporary_slot(&name, SLOT_WAIT).await;
    client.end().await;
    let Err(error) = made else { return Ok(None) };
    if matches!(StreamFault::of(&error), Some(StreamFault::LockTimeout(_))) {
        let what = format!("a new slot waits for transactions that are open: {error}");
        return Ok(Some(advice(what, "let them end before init")));
    }
    Ok(Some(fatal(
        format!("no slot can be made for the output plugin pgoutput: {error}"),
        "let the role use pgoutput, which is a part of PostgreSQL; a managed service has a setting for logical \
         replication",
    )))
}

/// How long `check` waits for each running transaction, as a new slot does.
const SLOT_WAIT: Duration = Duration::from_secs(2);

fn late_transaction(oldest: OpenTransaction) -> Option<Finding> {
    let what = "a new slot waits for transactions that have begun before it, `init` for at most a minute: ";
    oldest.is_late().then(|| advice(format!("{what}{oldest}"), "let that transaction end before init"))
}

/// To read the tables, each is locked once, and the server has room for so many locks and not much more.
async fn many_locks(client: &Client, tables: usize) -> Result<Option<Finding>> {
    let query = "SELECT current_setting('max_locks_per_transaction')::int8, \
                        current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8";
    let row = client.query_one(query, &[]).await;
    let row = row.map_err(|error| server_error("cannot read how many locks the source takes", error))?;
    let (each, sessions): (i64, i64) = (row.get(0), row.get(1));
    let (room, tables) = (each * sessions, i64::try_from(tables).unwrap_or(i64::MAX));
    Ok((tables * 2 > room).then(|| {
        let wanted = (tables * 2 / sessions.max(1)).unsigned_abs().next_power_of_two();
        advice(
            format!("{tables} tables are locked at the same time to be read, and the server has room for about {room} locks"),
            format!("ALTER SYSTEM SET max_locks_per_transaction = {wanted}; then restart the server"),
        )
    }))
}

fn trace_of_another(trace: &traces::Trace) -> Finding {
    let slot = &trace.slot;
    advice(
        format!("a history with slot {slot} has something on the source, and no capture of it runs"),
        format!("if that history is gone: backwhen drop --force --slot {slot} --source CONN"),
    )
}

/// Returns a finding if the role does not own all tables, because only its owner can put a table into a publication.
async fn not_owned(
    client: &Client,
    settings: &SourceSettings,
    inventory: &inspect::Inventory,
) -> Result<Option<Finding>> {
    if settings.is_superuser {
        return Ok(None);
    }
    let oids: Vec<u32> = inventory.tables.iter().map(|found| found.table.oid).collect();
    let query = "SELECT c.oid, pg_catalog.pg_get_userbyid(c.relowner)::text FROM pg_catalog.pg_class c \
                 WHERE c.oid = ANY ($1) AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')";
    let rows = client.query(query, &[&oids]).await;
    let rows = rows.map_err(|error| server_error("cannot read who owns the tables", error))?;
    let foreign: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
    let named = inventory.tables.iter().filter(|found| foreign.contains(&found.table.oid));
    let names: Vec<_> = named.map(|found| found.table.display()).take(5).collect();
    let owners: std::collections::BTreeSet<String> = rows.iter().map(|row| row.get(1)).collect();
    let user = quote_ident(&settings.user);
    let grants: Vec<_> =
        owners.iter().map(|owner| format!("GRANT {} TO {user};", quote_ident(owner))).collect();
    Ok((!names.is_empty()).then(|| {
        fatal(
            format!("{} does not own {} tables, such as {}", settings.user, foreign.len(), names.join(", ")),
            format!("{} (or leave the tables out with --exclude)", grants.join(" ")),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_server_is_told_of_and_never_refused() {
        assert!(too_new(180_006).is_none());
        let finding = too_new(190_000).unwrap();
        assert!(!finding.fatal && finding.what.contains("PostgreSQL 19 is newer than 18"), "{finding:?}");
    }

    #[test]
    fn a_server_that_raises_the_wal_level_by_itself_needs_replica() {
        for (level, raises, fine) in [
            ("logical", false, true),
            ("replica", false, false),
            ("replica", true, true),
            ("minimal", true, false),
        ] {
            assert_eq!(wal_level(level, raises).is_none(), fine, "{level} {raises}");
        }
    }
}
