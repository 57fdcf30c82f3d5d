//! A temporary database, in which definitions are replayed and from which they are dumped.

use std::time::Duration;

use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Kind, Result};
use crate::model::DatabaseFacts;
use crate::model::schema::{quote_ident, quote_literal};
use crate::pgtools::Tools;
use crate::recover::archive::{AfterRows, Section};
use crate::recover::refused::RefusedObjects;
use crate::recover::sink::{ArchiveDefinitions, Restoring, Retry, create_like, holds_nothing, maintenance};

/// The prefix of the database's name; 16 hexadecimal digits follow.
const NAME: &str = "backwhen_scratch_";
/// The text of the comment on the database, and of the comment on the schema [`MARKER`] inside.
const COMMENT: &str = "backwhen: a scratch database of a running recovery, not one to use";
/// This schema still marks the database when the database gets its source's own comment. pg_restore leaves this name
/// out.
pub(super) const MARKER: &str = "backwhen";

const MUTED: &str = include_str!("muted.sql");
const UNMUTED: &str = include_str!("unmuted.sql");

/// From this major version on event triggers can be switched off, as on a server of our own.
const SWITCHES_EVENT_TRIGGERS: u32 = 17;

/// How often statements that hang are looked for, and how much longer than the limit of the source's statements one
/// may take before it is ended.
const LOOK: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(5);

/// A scratch database, which exists from `create` to `drop`; the next `create` drops one that a killed process left.
pub(in crate::recover) struct ScratchDatabase {
    /// A session in another database of the server, which holds the lock on the name.
    maintenance: Session,
    name: String,
    /// The connection to the scratch database.
    pub info: Conninfo,
    pub server_major: u32,
    /// The objects of the archive that the server refused.
    pub refused: RefusedObjects,
}

impl ScratchDatabase {
    /// Creates an empty database in the encoding of the source.
    ///
    /// # Errors
    /// Fails with `Refused` if the server is older than the source or does not let us create a database, or if the
    /// server is not our own and our user there could do harm.
    pub async fn create(
        server: &Conninfo,
        ours: bool,
        strict: bool,
        source: &DatabaseFacts,
    ) -> Result<ScratchDatabase> {
        let maintenance = maintenance(server).await?;
        if !ours {
            require_few_rights(&maintenance).await?;
        }
        let server_major = DatabaseFacts::read(&maintenance).await?.server_major;
        if server_major < source.server_major {
            return Err(Error::refused(format!(
                "the scratch server is PostgreSQL {server_major}, older than the source, which was {}; name another \
                 with --scratch",
                source.server_major
            )));
        }
        drop_leftovers(&maintenance, server).await?;
        let random = u64::from_ne_bytes(ambient::random::<8>()?);
        let name = format!("{NAME}{random:016x}");
        try_lock(&maintenance, &name).await?;
        create_in_encoding(&maintenance, &name, source).await?;
        let refused = RefusedObjects::new(strict, false);
        let scratch =
            ScratchDatabase { info: server.with_dbname(&name), maintenance, name, server_major, refused };
        match scratch.mark().await {
            Ok(()) => Ok(scratch),
            Err(error) => {
                scratch.drop().await?;
                Err(error)
            }
        }
    }

    async fn mark(&self) -> Result<()> {
        let failed = |error| server_error("cannot mark the scratch database", error);
        let comment = quote_literal(COMMENT);
        let sql = format!("COMMENT ON DATABASE {} IS {comment}", quote_ident(&self.name));
        self.maintenance.batch_execute(&sql).await.map_err(failed)?;
        let session = Session::connect_utf8(&self.info, "replay").await?;
        let sql = format!("CREATE SCHEMA {MARKER}; COMMENT ON SCHEMA {MARKER} IS {comment}");
        session.batch_execute(&sql).await.map_err(failed)
    }

    /// Gives the database the source's owner, and the privileges that roles had there to create objects in it. Every
    /// role that ran a statement can connect.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn belong_to_source(&self, definitions: &ArchiveDefinitions) -> Result<()> {
        let failed = |error| server_error("cannot give the scratch database its owner", error);
        let name = quote_ident(&self.name);
        if let Some(owner) = definitions.database_owner() {
            let sql = format!("ALTER DATABASE {name} OWNER TO {}", quote_ident(owner));
            self.maintenance.batch_execute(&sql).await.map_err(failed)?;
        }
        for statement in definitions.database_properties(&self.name) {
            if (statement.starts_with("GRANT") || statement.starts_with("REVOKE"))
                && let Err(error) = self.maintenance.batch_execute(&statement).await
            {
                tracing::debug!("{}", server_error(format!("not done: {statement}"), error));
            }
        }
        self.open_to_roles().await
    }

    /// Lets every role connect, with none of the source's settings.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn open_to_roles(&self) -> Result<()> {
        let name = quote_ident(&self.name);
        let sql = format!("GRANT CONNECT ON DATABASE {name} TO PUBLIC; ALTER DATABASE {name} RESET ALL");
        let opened = self.maintenance.batch_execute(&sql).await;
        opened.map_err(|error| server_error("cannot open the scratch database to roles", error))
    }

    /// Restores definitions, without rows, while functions of ordinary roles do nothing. This is for a server of our
    /// own, where the restoring user is a superuser.
    ///
    /// # Errors
    /// Fails when [`ScratchDatabase::restore`] does.
    pub async fn restore_muted(&self, definitions: &ArchiveDefinitions, tools: &Tools) -> Result<()> {
        let session = Session::connect_utf8(&self.info, "replay").await?;
        let failed = |error| server_error("cannot prepare the scratch database", error);
        session.batch_execute(MUTED).await.map_err(failed)?;
        self.run_restore(definitions, tools, true).await?;
        session.batch_execute(UNMUTED).await.map_err(failed)
    }

    /// Restores definitions, without rows.
    ///
    /// # Errors
    /// Fails with `Refused` and pg_restore's own words.
    pub async fn restore(&self, definitions: &ArchiveDefinitions, tools: &Tools) -> Result<()> {
        self.run_restore(definitions, tools, false).await
    }

    async fn run_restore(&self, definitions: &ArchiveDefinitions, tools: &Tools, ours: bool) -> Result<()> {
        let restoring = Restoring {
            step: AfterRows::All,
            definitions,
            tools,
            info: &self.info,
            server_major: self.server_major,
            options: self.child_options(ours),
            ours: std::collections::BTreeSet::new(),
        };
        // pg_restore restores both sections in one run.
        let complaints = restoring.run(Section::PreData, ["--section=post-data".to_owned()]).await?;
        let session = Session::connect_utf8(&self.info, "replay").await?;
        let (tables, refused) = (&[], &self.refused);
        let sections = &[Section::PreData, Section::PostData, Section::None];
        let (session, step) = (&session, AfterRows::All);
        Retry { session, definitions, tables, refused, sections, step }.run(&complaints).await
    }

    /// For as long as this future is polled, ends each statement in the database that runs longer than any statement
    /// may: expressions in an archive's definitions need not terminate either.
    pub async fn end_what_hangs(&self, limit: Duration) {
        let sql = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
                   WHERE datname = $1 AND usesysid IS NOT NULL AND state = 'active' \
                   AND pg_catalog.clock_timestamp() - query_start > $2::int4 * pg_catalog.make_interval(secs => 1)";
        let seconds = i32::try_from((limit + SLACK).as_secs()).unwrap_or(i32::MAX);
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.maintenance.query(sql, &[&self.name, &seconds]).await {
                tracing::debug!("{}", server_error("cannot look for what hangs", error));
            }
        }
    }

    /// Losing the scratch database in a crash of the server does no harm, so it is not worth a sync for each
    /// statement.
    fn child_options(&self, ours: bool) -> String {
        let mut settings = vec![("synchronous_commit", "off")];
        if ours && self.server_major >= SWITCHES_EVENT_TRIGGERS {
            settings.push(("event_triggers", "on"));
        }
        self.info.child_options(&settings)
    }

    /// Gives the database the source's own settings, privileges and comment, which a dump then contains. Returns
    /// those that the server refused.
    pub async fn take_properties(&self, definitions: &ArchiveDefinitions) -> Vec<String> {
        let comment = definitions.database_comment(&self.name);
        let comment =
            comment.unwrap_or_else(|| format!("COMMENT ON DATABASE {} IS NULL", quote_ident(&self.name)));
        let mut notes = Vec::new();
        // Settings that the database's owner may have made meanwhile would also affect the dump.
        let reset = format!("ALTER DATABASE {} RESET ALL", quote_ident(&self.name));
        for statement in [reset].iter().chain(&definitions.database_properties(&self.name)).chain([&comment])
        {
            if let Err(error) = self.maintenance.batch_execute(statement).await {
                notes.push(server_error("a property of the database could not be set", error).to_string());
            }
        }
        notes
    }

    /// Takes the mark off the database, gives it a name under which clients find it, and lets the role `client` connect. This
    /// is for a server of our own. Returns the connection to the database.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn publish(self, name: &str, client: &str) -> Result<Conninfo> {
        let failed = |error| server_error("cannot name a database", error);
        let session = Session::connect_utf8(&self.info, "replay").await?;
        session.batch_execute(&format!("DROP SCHEMA {MARKER}")).await.map_err(failed)?;
        drop(session);
        // The session that has just ended may last a little longer on the server.
        let end = "SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity WHERE datname = $1";
        self.maintenance.query(end, &[&self.name]).await.map_err(failed)?;
        let (old, new) = (quote_ident(&self.name), quote_ident(name));
        let rename = format!(
            "ALTER DATABASE {old} RENAME TO {new}; GRANT CONNECT, TEMPORARY ON DATABASE {new} TO {}",
            quote_ident(client)
        );
        self.maintenance.batch_execute(&rename).await.map_err(failed)?;
        Ok(self.info.with_dbname(name))
    }

    /// # Errors
    /// Fails with the name of the database that is left.
    pub async fn drop(self) -> Result<()> {
        let server = self.info.clone();
        drop_database(&self.maintenance, &server, &self.name).await.map_err(|error| {
            Error::new(error.kind(), format!("database {} is left; drop it: {error}", self.name))
        })
    }
}

/// On a server that belongs to somebody else, statements that the source's roles wrote run as the user that we were
/// given.
async fn require_few_rights(session: &Session) -> Result<()> {
    let sql = "SELECT rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls OR EXISTS (\
                 SELECT FROM pg_catalog.pg_roles p WHERE p.rolname IN ('pg_execute_server_program', \
                   'pg_read_server_files', 'pg_write_server_files') AND pg_catalog.pg_has_role(r.oid, p.oid, 'MEMBER')) \
               FROM pg_catalog.pg_roles r WHERE rolname = current_user";
    let row = session.query_one(sql, &[]).await;
    let powerful: bool =
        row.map_err(|error| server_error("cannot read the scratch server's roles", error))?.get(0);
    if !powerful {
        return Ok(());
    }
    Err(Error::refused(
        "the user of --scratch could do harm on that server: statements that ordinary roles of the source wrote are \
         replayed there as this user, and it is a superuser or may make roles, read all rows or run programs; name \
         one that may only make databases (CREATE ROLE replay LOGIN CREATEDB), or leave --scratch away to replay on \
         a server of our own",
    ))
}

/// Locales matter to rows and their order, not to definitions; so a locale that the server lacks does not prevent the
/// replay.
async fn create_in_encoding(maintenance: &Session, name: &str, source: &DatabaseFacts) -> Result<()> {
    let Err(error) = create_like(maintenance, name, source).await else { return Ok(()) };
    if error.kind() != Kind::Refused {
        return Err(error);
    }
    let plain = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'",
        quote_ident(name),
        quote_literal(&source.encoding)
    );
    maintenance.batch_execute(&plain).await.map_err(|error| {
        server_error(
            "cannot make a scratch database; let the user create databases, or name a server with --scratch",
            error,
        )
    })
}

/// Takes a lock on the name for as long as the session lives; returns whether the lock was free.
async fn try_lock(maintenance: &Session, name: &str) -> Result<bool> {
    let key = twox_hash::XxHash3_64::oneshot(name.as_bytes()) as i64;
    let row = maintenance.query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&key]).await;
    Ok(row.map_err(|error| server_error("cannot lock the scratch database's name", error))?.get(0))
}

/// Drops the databases that killed processes left: no session holds the lock on the name or is connected to the
/// database, and the database is marked as ours.
async fn drop_leftovers(maintenance: &Session, server: &Conninfo) -> Result<()> {
    let sql = "SELECT datname::text, coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), '') \
               FROM pg_catalog.pg_database d WHERE datname ~ '^backwhen_scratch_[0-9a-f]{16}$' \
               AND pg_catalog.pg_has_role(current_user, datdba, 'USAGE') \
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)";
    let rows = maintenance.query(sql, &[]).await;
    for row in rows.map_err(|error| server_error("cannot list databases", error))? {
        let (name, comment): (String, String) = (row.get(0), row.get(1));
        if !try_lock(maintenance, &name).await? {
            continue;
        }
        let info = server.with_dbname(&name);
        let ours = comment == COMMENT || is_marked(&info).await? || holds_nothing(&info).await?;
        if ours && let Err(error) = drop_database(maintenance, &info, &name).await {
            tracing::warn!("{name}, which an earlier recovery left, cannot be dropped: {error}");
        }
    }
    Ok(())
}

async fn is_marked(info: &Conninfo) -> Result<bool> {
    let session = Session::connect_utf8(info, "replay").await?;
    let sql = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1::text \
               AND pg_catalog.obj_description(oid, 'pg_namespace') = $2";
    let rows = session.query(sql, &[&MARKER, &COMMENT]).await;
    Ok(!rows.map_err(|error| server_error("cannot look into a scratch database", error))?.is_empty())
}

async fn drop_database(maintenance: &Session, info: &Conninfo, name: &str) -> Result<()> {
    drop_subscriptions(maintenance, info, name).await?;
    // The session of a killed pg_restore may last a little longer than the program.
    let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name));
    maintenance.batch_execute(&sql).await.map_err(|error| server_error("it cannot be dropped", error))
}

/// A database with subscriptions cannot be dropped. The subscriptions' slots are the source's own, and must stay.
async fn drop_subscriptions(maintenance: &Session, info: &Conninfo, name: &str) -> Result<()> {
    let failed = |error| server_error("its subscriptions cannot be dropped", error);
    let sql = "SELECT subname::text FROM pg_catalog.pg_subscription s \
               JOIN pg_catalog.pg_database d ON d.oid = subdbid WHERE datname = $1::text";
    let rows = maintenance.query(sql, &[&name]).await.map_err(failed)?;
    if rows.is_empty() {
        return Ok(());
    }
    let session = Session::connect_utf8(info, "replay").await?;
    for row in rows {
        let name = quote_ident(row.get(0));
        let sql = format!(
            "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}"
        );
        session.batch_execute(&sql).await.map_err(failed)?;
    }
    Ok(())
}
