//! A database with a history and a capture of its own.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::report::{HowReset, Reset};
use crate::ambient;
use crate::capture::live::Durability;
use crate::capture::{self, Options, Until};
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;
use crate::model::{Lsn, Moment, Selection};
use crate::past::Reading;
use crate::pgtools::{LocalServer, Tools, schema_digests};
use crate::progress::Silent;
use crate::protect::{Access, begin};
use crate::rewind::{Aim, Amendment, ConflictRule, MarkedState, Part, PutBack, reading_beyond};
use crate::source::amend::AmendSession;
use crate::source::{inspect, messages, sequences};
use crate::store::LocalFolder;

/// How long the history may take to come to where the database is.
const CATCH_UP: Duration = Duration::from_secs(60);

const HEARTBEAT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that another thread of the test starts holds this process's locks, also that of a capture that has ended, from
/// the fork to the exec.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The only role of a server of our own, and the database there.
const SUPERUSER: &str = "postgres";
const DATABASE: &str = "test";

pub(super) struct Protected {
    pub source: Conninfo,
    connection: String,
    pub tools: Arc<Tools>,
    pub history: History,
    /// Has the history in it.
    folder: TempDir,
    capture: Option<RunningCapture>,
    /// `None` only while the database is exchanged.
    session: Option<Arc<Session>>,
    /// The session that put rows back last.
    amending: Option<AmendSession>,
    pub marked: Option<Marked>,
    /// The history in which the mark was set, if the database was recovered anew from it.
    pub origin: Option<Origin>,
    server: Option<LocalServer>,
    is_let_go: bool,
}

/// The state to which a reset leads.
pub(super) struct Marked {
    pub name: String,
    state: MarkedState,
    /// The last reset, if there was one.
    last: Option<PutBack>,
    /// The definitions are known to be those of the mark up to this position.
    since: Lsn,
    /// The parts of the database that no reset puts back.
    not_reset: Vec<String>,
}

/// A history that nobody writes any more. Each recovery anew is from it, so that later ones begin with the template that the
/// first one kept.
pub(super) struct Origin {
    pub mark: String,
    pub history: History,
    /// Has the history in it.
    _folder: TempDir,
}

struct RunningCapture {
    stop: CancellationToken,
    thread: JoinHandle<Result<Lsn>>,
}

impl Protected {
    pub async fn of(connection: &str, programs: Option<&Path>) -> Result<Protected> {
        Protected::begin(Conninfo::parse(connection)?, Tools::find(programs)?, None).await
    }

    pub async fn on_own_server(programs: Option<&Path>) -> Result<Protected> {
        let tools = Tools::find(programs)?;
        let server = LocalServer::start_source(tools.newest_server()?, SUPERUSER).await?;
        let session = Session::connect_utf8(server.info(), "init").await?;
        let made = session.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await;
        made.map_err(|error| server_error("cannot create the database", error))?;
        Protected::begin(server.info().with_dbname(DATABASE), tools, Some(server)).await
    }

    async fn begin(source: Conninfo, tools: Tools, server: Option<LocalServer>) -> Result<Protected> {
        let (tools, folder) = (Arc::new(tools), ambient::temporary_folder()?);
        let history = new_history(&source, &tools, &folder).await?;
        let capture = RunningCapture::start(&history, &source, &tools)?;
        let mut protected = Protected {
            connection: source.without_password(),
            session: None,
            amending: None,
            capture: Some(capture),
            marked: None,
            origin: None,
            is_let_go: false,
            source,
            tools,
            history,
            folder,
            server,
        };
        // An error from here on lets go of the database.
        match Session::connect_utf8(&protected.source, "rewind").await {
            Ok(session) => protected.session = Some(Arc::new(session)),
            Err(error) => {
                protected.let_go().await?;
                return Err(error);
            }
        }
        Ok(protected)
    }

    pub fn connection(&self) -> &str {
        &self.connection
    }

    fn session(&self) -> Result<&Arc<Session>> {
        self.session.as_ref().ok_or_else(|| Error::internal("the session of the tests has ended"))
    }

    pub async fn mark(&mut self, name: &str) -> Result<()> {
        let reading = self.caught_up().await?;
        if reading.timeline().marks().any(|(_, mark)| mark.name == name) {
            return Err(Error::refused(format!("there is a mark {name:?} already; choose another name")));
        }
        capture::mark(&self.history, &self.source, name).await?;
        let digests = schema_digests(self.session()?).await?;
        let past = self.caught_up().await?.at(&Moment::Mark(name.to_owned()), false)?;
        let state = MarkedState { digests, sequences: past.sampled_sequences()? };
        let not_reset = not_reset(self.session()?).await?;
        self.marked =
            Some(Marked { name: name.to_owned(), state, last: None, since: past.until(), not_reset });
        Ok(())
    }

    pub async fn reset(&mut self) -> Result<Reset> {
        let begun = ambient::instant();
        let (how, rows) = match self.reset_in_place().await {
            Err(error) if error.kind() == Kind::Refused && self.marked.is_some() => {
                tracing::info!("the database is recovered anew: {error}");
                self.reset_anew().await?;
                (HowReset::Anew, 0)
            }
            done => done?,
        };
        let not_reset = self.marked.as_ref().map(|marked| marked.not_reset.clone()).unwrap_or_default();
        Ok(Reset { how, rows, took: begun.elapsed(), not_reset })
    }

    async fn reset_in_place(&mut self) -> Result<(HowReset, u64)> {
        self.require_capture()?;
        let amending = self.amending.take();
        let mut reading = self.caught_up().await?;
        let session = self.session()?;
        let marked = self.marked.as_ref().ok_or_else(|| {
            Error::usage("there is no state to go back to; call mark when the test data is in")
        })?;
        let moment = Moment::Mark(marked.name.clone());
        let removal = marked.state.removal(&reading.at(&moment, false)?, marked.since, session).await?;
        let how = if removal.statements.is_empty() { HowReset::InPlace } else { HowReset::Dropped };
        if how == HowReset::Dropped {
            removal.apply(session).await?;
            reading = self.caught_up().await?;
        }
        let (past, aim) = (reading.at(&moment, false)?, Aim::Rewind(Part::default()));
        let catalogs = Arc::clone(session);
        let mut amendment =
            Amendment::plan_after(past, &self.source, catalogs, aim, ConflictRule::Refuse, marked.last)
                .await?;
        amendment.require_whole()?;
        amendment.reuse(amending);
        let applied = amendment.apply().await?;
        sequences::put_back(session, &marked.state.sequences).await?;
        let rows = amendment.counts().iter().map(|it| it.inserted + it.updated + it.deleted).sum();
        let marked = self.marked.as_mut().ok_or_else(|| Error::internal("the mark is gone"))?;
        if let Some(applied) = applied {
            let last = amendment.put_back(applied);
            (marked.last, marked.since) = (Some(last), last.until);
        }
        self.amending = amendment.into_session();
        Ok((how, rows))
    }

    /// Waits until the history holds all that is committed by now.
    async fn caught_up(&self) -> Result<Reading> {
        let session = self.session()?;
        let lsn = messages::wal_end(session).await?;
        reading_beyond(&Reading::open(&self.history)?, session, lsn, CATCH_UP).await
    }

    fn require_capture(&mut self) -> Result<()> {
        match self.capture.take_if(|capture| capture.thread.is_finished()) {
            Some(ended) => Err(ended.join().err().unwrap_or_else(|| Error::internal("capture has ended"))),
            None => Ok(()),
        }
    }

    /// Ends the capture and all sessions, and takes everything of backwhen's off the database.
    pub async fn leave_database(&mut self) -> Result<()> {
        (self.session, self.amending) = (None, None);
        if let Some(capture) = self.capture.take() {
            capture.stop.cancel();
            let joining = ambient::blocking("waiting for the capture", move || capture.join().map(drop));
            if let Err(error) = joining.await {
                tracing::info!("the capture had failed: {error}");
            }
        }
        let until = ambient::instant() + LOCK_PATIENCE;
        loop {
            match begin::leave(&self.history, &self.source, true).await {
                Err(error) if error.kind() == Kind::Locked && ambient::instant() < until => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                left => return left,
            }
        }
    }

    /// Begins anew on the database that has the name now, and sets the mark again.
    pub async fn follow_again(&mut self) -> Result<()> {
        let folder = ambient::temporary_folder()?;
        let history = new_history(&self.source, &self.tools, &folder).await?;
        let (former, former_folder) =
            (std::mem::replace(&mut self.history, history), std::mem::replace(&mut self.folder, folder));
        if self.origin.is_none() {
            let mark = self.marked.as_ref().map(|marked| marked.name.clone()).unwrap_or_default();
            self.origin = Some(Origin { mark, history: former, _folder: former_folder });
        }
        self.capture = Some(RunningCapture::start(&self.history, &self.source, &self.tools)?);
        self.session = Some(Arc::new(Session::connect_utf8(&self.source, "rewind").await?));
        match self.marked.take() {
            Some(marked) => {
                sequences::put_back(self.session()?, &marked.state.sequences).await?;
                self.mark(&marked.name).await
            }
            None => Ok(()),
        }
    }

    pub async fn let_go(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_let_go, true) {
            return Ok(());
        }
        let left = self.leave_database().await;
        if let Some(server) = self.server.take() {
            server.stop().await;
            return Ok(());
        }
        left.and(self.drop_origin().await)
    }
}

/// Names the parts of the database that no reset puts back.
async fn not_reset(session: &Session) -> Result<Vec<String>> {
    let left_out = inspect::inventory(session, &Selection::default()).await?.left_out;
    let (_, views, large_objects) = inspect::schema_extras(session).await?;
    let tables = left_out.iter().map(|it| format!("rows of {} ({})", it.table, it.reason));
    let views = views.iter().map(|(schema, name)| format!("contents of materialised view {schema}.{name}"));
    let objects = (large_objects > 0).then(|| "large objects".to_owned());
    Ok(tables.chain(views).chain(objects).collect())
}

async fn new_history(source: &Conninfo, tools: &Tools, folder: &TempDir) -> Result<History> {
    let access = Access { source, tools, jobs: 2, progress: &Silent };
    let wishes =
        begin::Wishes { include: Vec::new(), exclude: Vec::new(), event_triggers: true, full_identity: true };
    let local = LocalFolder::plain(&folder.path().join("history"));
    let begun = begin::init(&access, &local, wishes, None, &CancellationToken::new()).await?;
    match begun.without_triggers {
        None => Ok(begun.history),
        Some(reason) => {
            begin::leave(&begun.history, source, true).await?;
            Err(Error::refused(format!(
                "event triggers, by which changes of the schema are noticed, cannot be made: {reason}; connect as a \
                 superuser"
            )))
        }
    }
}

impl RunningCapture {
    /// On a thread of its own: while a test blocks, the capture goes on.
    fn start(history: &History, source: &Conninfo, tools: &Arc<Tools>) -> Result<RunningCapture> {
        let stop = CancellationToken::new();
        let options = Options {
            until: Until::Stopped,
            heartbeat: HEARTBEAT,
            patience: PATIENCE,
            jobs: 1,
            max_retained_wal: None,
            also: Vec::new(),
            durable: Durability::Local,
        };
        let (history, source, tools) =
            (history.clone(), source.for_history(&history.identity().slot()), Arc::clone(tools));
        let stopped = stop.clone();
        let capture = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context(Kind::Internal, || "cannot start a capture".into())?;
            runtime.block_on(capture::run(&history, &source, &tools, &options, stopped))
        };
        let thread = std::thread::Builder::new().name("backwhen-capture".into()).spawn(capture);
        let thread = thread.context(Kind::Internal, || "cannot start a thread".into())?;
        Ok(RunningCapture { stop, thread })
    }

    fn join(self) -> Result<Lsn> {
        self.thread.join().unwrap_or_else(|_| Err(Error::internal("the capture panicked")))
    }
}
