//! A short-lived server of our own that holds the past: for each moment a database with the structure of that moment, whose
//! tables get their rows when they are asked for.

mod narrow;
mod schemas;
mod structure;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::definitions::{ReplaySettings, SchemaAt, schema_compared};
use super::fill::fold_plan;
use super::gate::{Gates, MOST_SESSIONS};
use super::objects::globals;
use super::part::Narrowing;
use super::plan::Plan;
use super::schema::{RestoredArchive, ScratchDatabase, SourceRoles, programs_for, silence_event_triggers};
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::fold::Folded;
use crate::model::Inexact;
use crate::model::schema::{quote_ident, quote_literal};
use crate::pgtools::{LocalServer, ServerDemands, Tools};
use crate::progress::{Progress, Unit};
use narrow::narrow;
pub use narrow::tables_meant;
use schemas::move_schemas;
use structure::{Behind, Structure};

/// The role as which clients log in, with underscores if the source has a role of this name.
const CLIENT: &str = "past";

/// The sessions that clients can have, over those of the gates.
const CLIENT_SESSIONS: usize = 100;

/// How the past is to be served.
pub struct PastSettings {
    pub tools: Tools,
    /// A trusted server for the replay of schema changes; `None` for a short-lived one of our own.
    pub scratch: Option<Conninfo>,
    /// How long one replayed statement may run.
    pub replay_limit: Duration,
    /// The tables of which only some rows are loaded.
    pub narrowings: Vec<Narrowing>,
    /// Whether clients can change nothing.
    pub read_only: bool,
    /// The password with which clients log in; `None` if only we can reach the server.
    pub password: Option<String>,
    /// Cancelled to make all work end early.
    pub interrupt: CancellationToken,
}

/// The server. [`PastServer::stop`] removes it; if backwhen is killed, it goes by itself.
pub struct PastServer {
    server: LocalServer,
    roles: SourceRoles,
    client: String,
    settings: PastSettings,
}

/// A database of the server.
pub struct PastDatabase {
    /// The connection of a client.
    pub info: Conninfo,
    pub gates: Gates,
    /// The schemas of the first moment, if several moments share the database.
    pub search_path: Option<String>,
    pub notes: BTreeSet<String>,
    pub inexact: Vec<Inexact>,
}

impl PastServer {
    /// Starts a server for the past of some plans.
    ///
    /// # Errors
    /// `Refused` if there are no programs for a server of our own; `Damaged` if the list of roles is.
    pub async fn start(plans: &[Plan], settings: PastSettings) -> Result<PastServer> {
        let newest = plans.iter().max_by_key(|plan| plan.past.base().schema.database.server_major);
        let newest = newest.ok_or_else(|| Error::usage("no moment is named; name one with --at"))?;
        let roles = SourceRoles::read(globals(&newest.past)?.as_deref());
        let mut client = CLIENT.to_owned();
        while roles.has(&client) {
            client.push('_');
        }
        let programs = programs_for(&settings.tools, newest.past.base().schema.database.server_major, "")?;
        let images = plans.iter().flat_map(|plan| &plan.past.base().tables);
        let (tables, room) =
            images.fold((0, 0), |(tables, room), entry| (tables + 1, room + entry.image.bytes));
        let demands = ServerDemands {
            room,
            settings: server_settings(plans.len(), tables),
            password_role: settings.password.is_some().then(|| client.clone()),
        };
        let server = LocalServer::start_as(programs, &roles.bootstrap(), &demands).await?;
        let past = PastServer { server, roles, client, settings };
        match past.make_client().await {
            Ok(()) => Ok(past),
            Err(error) => {
                past.stop().await;
                Err(error)
            }
        }
    }

    /// The name of the role as which clients log in.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The socket of the server.
    pub fn socket(&self) -> PathBuf {
        self.server.socket()
    }

    /// Clients have all rights in the past, as it is thrown away, but only where the server cannot reach anything else:
    /// functions of the application run with these rights too.
    async fn make_client(&self) -> Result<()> {
        let session = Session::connect_utf8(self.server.info(), "past").await?;
        let client = quote_ident(&self.client);
        let may_all = !self.settings.read_only && self.server.open_to_it().is_empty();
        let mut sql = format!(
            "CREATE ROLE {client} LOGIN BYPASSRLS {}; ALTER ROLE {client} SET session_replication_role = origin;",
            if may_all { "SUPERUSER" } else { "" }
        );
        if !may_all {
            sql += &format!("GRANT pg_read_all_data TO {client};");
        }
        if self.settings.read_only {
            sql += &format!("ALTER ROLE {client} SET default_transaction_read_only = on;");
        } else if !may_all {
            sql += &format!("GRANT pg_write_all_data TO {client};");
        }
        if let Some(password) = &self.settings.password {
            sql += &format!("ALTER ROLE {client} PASSWORD {};", quote_literal(password));
        }
        let made = session.batch_execute(&sql).await;
        made.map_err(|error| server_error("cannot make the role of the clients", error))?;
        // The event triggers of the application act for clients as they did. Up to version 16 nothing switches them off.
        let act = format!("ALTER ROLE {client} SET event_triggers = on");
        drop(session.batch_execute(&act).await);
        Ok(())
    }

    /// Makes a database with gates before all rows. The name must be free. With several plans, the schemas of each moment bear
    /// another name: see [`schemas::moved`].
    ///
    /// # Errors
    /// The errors of a replay and of a fold; `Refused` and pg_restore's own words.
    pub async fn add(
        &self,
        plans: &[Plan],
        name: &str,
        progress: &Arc<dyn Progress>,
    ) -> Result<PastDatabase> {
        let made = async {
            let (made, folded) = tokio::join!(self.structures(plans, name, progress), fold(plans, progress));
            let ((info, structures), folded) = (made?, folded?);
            progress.phase("closing gates", 0, Unit::Tables);
            self.gated(info, plans, structures, folded).await
        };
        tokio::select! {
            made = made => made,
            () = self.settings.interrupt.cancelled() => Err(Error::interrupted()),
        }
    }

    async fn structures(
        &self,
        plans: &[Plan],
        name: &str,
        progress: &Arc<dyn Progress>,
    ) -> Result<(Conninfo, Vec<Structure>)> {
        let settings = &self.settings;
        let mut schemas = Vec::new();
        for plan in plans {
            let replay = ReplaySettings {
                server: settings.scratch.as_ref(),
                limit: settings.replay_limit,
                strict: false,
                tools: &settings.tools,
                progress: &**progress,
                interrupt: &settings.interrupt,
            };
            schemas.push(schema_compared(&plan.past, &replay, None).await?);
        }
        let facts =
            schemas.iter().map(|schema| &schema.facts.database).max_by_key(|facts| facts.server_major);
        let facts = facts.ok_or_else(|| Error::internal("a past without a moment"))?;
        let database = ScratchDatabase::create(self.server.info(), true, false, facts).await?;
        let restoring = async {
            let mut made = Vec::new();
            for (number, schema) in schemas.into_iter().enumerate() {
                let prefix = (plans.len() > 1).then(|| format!("at{}", number + 1));
                made.push(self.structure(&database, schema, prefix).await?);
            }
            Ok::<_, Error>(made)
        };
        let made = tokio::select! {
            made = restoring => made?,
            () = database.end_what_hangs(settings.replay_limit) => return Err(Error::internal("looking ended")),
        };
        Ok((database.publish(name, &self.client).await?, made))
    }

    async fn structure(
        &self,
        database: &ScratchDatabase,
        schema: SchemaAt,
        prefix: Option<String>,
    ) -> Result<Structure> {
        let restored = RestoredArchive {
            archive: &schema.archive,
            ours: true,
            roles: &self.roles,
            further_roles: schema.facts.roles.iter().map(String::as_str).collect(),
            orders: &schema.orders,
            tools: &self.settings.tools,
        };
        let (definitions, mut notes) = restored.restore_into(database).await?;
        match &prefix {
            Some(prefix) => move_schemas(&database.info, prefix).await?,
            None => notes.extend(database.take_properties(&definitions).await),
        }
        let refused = database.refused.take();
        Ok(Structure { schema, prefix, notes, refused })
    }

    /// Puts gates before the tables that hold rows.
    async fn gated(
        &self,
        info: Conninfo,
        plans: &[Plan],
        structures: Vec<Structure>,
        folded: Vec<Folded>,
    ) -> Result<PastDatabase> {
        let session = Session::connect_utf8(&info, "past").await?;
        silence_event_triggers(&session).await?;
        let mut all = Behind::default();
        let mut notes: BTreeSet<String> = self.notes().collect();
        let (mut inexact, mut search_path) = (Vec::new(), None);
        for ((plan, structure), folded) in plans.iter().zip(structures).zip(folded) {
            let mut behind = structure.behind(&session, plan, folded).await?;
            notes.extend(narrow(&info, plan, &self.settings.narrowings, &mut behind.tables).await?);
            all.tables.extend(behind.tables);
            all.views.extend(behind.views);
            inexact.extend(behind.inexact);
            search_path = search_path.or_else(|| structure.search_path(plan));
            notes.extend(structure.notes.into_iter().chain(structure.schema.notes));
        }
        let gates = Gates::close(&info, all.tables, all.views).await?;
        Ok(PastDatabase { info: info.as_user(&self.client), gates, search_path, notes, inexact })
    }

    fn notes(&self) -> impl Iterator<Item = String> {
        let open = self.server.open_to_it().iter();
        open.map(|open| {
            format!(
                "the server that holds the past is not shut off from {open}; clients are no superusers there"
            )
        })
    }

    /// Stops the server, and removes everything in it.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

async fn fold(plans: &[Plan], progress: &Arc<dyn Progress>) -> Result<Vec<Folded>> {
    let mut all = Vec::new();
    for plan in plans {
        let wanted = plan.chosen.tables.iter().map(|table| table.oid).collect();
        all.push(fold_plan(plan, progress, wanted).await?);
    }
    Ok(all)
}

/// The settings of a server that holds so many databases and tables. After a crash the server stays down: its gates would be
/// open, and the tables behind them empty.
fn server_settings(databases: usize, tables: usize) -> Vec<String> {
    let sessions = CLIENT_SESSIONS + databases * MOST_SESSIONS;
    vec![
        format!("max_connections={sessions}"),
        format!("max_locks_per_transaction={}", 256 + tables / 10),
        "shared_buffers=128MB".to_owned(),
        "maintenance_work_mem=256MB".to_owned(),
        "max_worker_processes=8".to_owned(),
        "restart_after_crash=off".to_owned(),
    ]
}
