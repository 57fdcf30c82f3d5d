//! Resets a database by recovering it anew: the recovered one takes the place of the old one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::protected::Protected;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::history::History;
use crate::model::Moment;
use crate::model::schema::quote_ident;
use crate::past::Reading;
use crate::progress::Silent;
use crate::recover::execute::{Execution, execute};
use crate::recover::plan::plan;
use crate::recover::sink::{Destination, drop_template, kept_templates};
use crate::rewind::find_difference;

/// How long one statement may run while the schema is made.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

/// The databases of every server, in one of which the others can be renamed.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

impl Protected {
    /// Until the last step the old database is as it was, and nothing is lost if one of the steps fails.
    pub async fn reset_anew(&mut self) -> Result<()> {
        let marked = self.marked.as_ref().ok_or_else(|| Error::internal("there is no mark"))?;
        let mark = marked.name.clone();
        if self.origin.as_ref().is_some_and(|origin| origin.mark != mark) {
            self.drop_origin().await?;
        }
        let name = self.source.dbname().to_owned();
        let (recovered, former) = (format!("{name}_backwhen_reset"), format!("{name}_backwhen_former"));
        let maintenance = maintenance(&self.source).await?;
        for leftover in [&recovered, &former] {
            drop_database(&maintenance, leftover).await?;
        }
        self.recover_into(&Moment::Mark(mark), &recovered).await?;
        self.leave_database().await?;
        exchange(&maintenance, &name, &recovered, &former).await?;
        self.follow_again().await
    }

    /// Forgets the history from which the database was recovered anew, and drops the templates.
    pub async fn drop_origin(&mut self) -> Result<()> {
        let origin = self.origin.take();
        let histories = [&self.history].into_iter().chain(origin.as_ref().map(|origin| &origin.history));
        for identity in histories.map(History::identity) {
            let templates = kept_templates(&self.source, identity).await?;
            for template in templates.iter().filter(|template| template.is_of(&identity.id)) {
                drop_template(&self.source, &template.name).await?;
            }
        }
        Ok(())
    }

    async fn recover_into(&self, moment: &Moment, name: &str) -> Result<()> {
        let history = self.origin.as_ref().map_or(&self.history, |origin| &origin.history);
        let plan = plan(&Reading::open(history)?, moment, false, &[])?;
        let execution = Execution {
            tools: (*self.tools).clone(),
            destination: Destination::Postgres(self.source.with_dbname(name)),
            scratch: None,
            replay_limit: REPLAY_LIMIT,
            create: true,
            strict: true,
            create_roles: false,
            schema_only: false,
            into_schema: None,
            amend: None,
            template: Some(find_difference()),
            reads_all_back: false,
            jobs: 2,
            progress: Arc::new(Silent),
            interrupt: CancellationToken::new(),
        };
        execute(plan, execution).await.map(drop)
    }
}

async fn maintenance(source: &Conninfo) -> Result<Session> {
    let other = MAINTENANCE.iter().find(|name| **name != source.dbname()).copied().unwrap_or_default();
    Session::connect_utf8(&source.with_dbname(other), "rewind").await
}

async fn drop_database(session: &Session, name: &str) -> Result<()> {
    run(session, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(name))).await
}

/// Ends the sessions in the old database, and gives the recovered one its name.
async fn exchange(session: &Session, name: &str, recovered: &str, former: &str) -> Result<()> {
    let (name, recovered, former) = (quote_ident(name), quote_ident(recovered), quote_ident(former));
    // Nobody may come in between the end of the last session and the renaming.
    run(session, &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")).await?;
    let done = rename(session, &name, &recovered, &former).await;
    if done.is_err() {
        run(session, &format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")).await?;
        return done;
    }
    run(session, &format!("DROP DATABASE {former}")).await
}

async fn rename(session: &Session, name: &str, recovered: &str, former: &str) -> Result<()> {
    let end = "SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity WHERE datname = $1";
    let bare = name.trim_matches('"').replace("\"\"", "\"");
    let ended = session.query(end, &[&bare]).await;
    ended.map_err(|error| server_error("cannot end the sessions of the tests", error))?;
    run(session, &format!("ALTER DATABASE {name} RENAME TO {former}")).await?;
    let renamed = run(session, &format!("ALTER DATABASE {recovered} RENAME TO {name}")).await;
    if renamed.is_err() {
        run(session, &format!("ALTER DATABASE {former} RENAME TO {name}")).await?;
    }
    renamed
}

async fn run(session: &Session, statement: &str) -> Result<()> {
    let done = session.batch_execute(statement).await;
    done.map_err(|error| server_error("cannot exchange the database", error))
}
