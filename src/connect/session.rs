//! Ordinary sessions: SQL and COPY.

use std::ops::{Deref, DerefMut};

use tokio_postgres::config::{self, SslMode, SslNegotiation};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::choices::{ChannelBinding, SessionAttrs};
use super::conninfo::Conninfo;
use super::fault::{ServerFault, server_error};
use super::guard::{LoginRefusal, LoginWatch};
use super::hosts::Host;
use super::login::{Login, LoginFailure, log_in};
use super::pinned;
use super::tap::{CopyPart, Tap, TappedTransport};
use super::transport::{ReadyTls, Transport};
use crate::error::Result;

/// Asks what a session must know of its server.
const ABOUT_SERVER: &str = "SELECT pg_catalog.current_setting('server_encoding') AS encoding, pg_catalog.pg_is_in_recovery() AS in_recovery, \
     pg_catalog.pg_backend_pid() AS process";

/// Makes the server pass text in its own encoding.
const OWN_ENCODING: &str = "SELECT pg_catalog.set_config('client_encoding', \
                            pg_catalog.current_setting('server_encoding'), false); ";

/// A session with the pinned settings. It ends when it is dropped.
pub struct Session {
    client: Client,
    encoding: String,
    process: i32,
    tap: Tap,
}

/// Opens a session whose `client_encoding` is the server's own encoding, so that COPY passes bytes unconverted. In a
/// database that is not UTF-8, text read with `query` would not decode: use [`Session::connect_utf8`] for the
/// catalogs.
///
/// `purpose` shows in `pg_stat_activity`, see [`Conninfo::application`].
///
/// # Errors
/// Fails with unavailable if no server could be reached, with refused if the server rejects the login, and with usage
/// for TLS settings that cannot be used.
pub async fn connect(info: &Conninfo, purpose: &str) -> Result<Session> {
    log_in(info, &SessionLogin { purpose, encoding: Encoding::Servers }).await
}

impl Session {
    /// Opens a session as [`connect`] does.
    ///
    /// # Errors
    /// Fails when [`connect`] does.
    pub async fn connect(info: &Conninfo, purpose: &str) -> Result<Session> {
        connect(info, purpose).await
    }

    /// Opens a session whose text is UTF-8, converted by the server. Use it for catalogs and statements, not for
    /// COPY: a SQL_ASCII database would send, or accept, bytes that are not UTF-8.
    ///
    /// # Errors
    /// Fails when [`connect`] does.
    pub async fn connect_utf8(info: &Conninfo, purpose: &str) -> Result<Session> {
        log_in(info, &SessionLogin { purpose, encoding: Encoding::Utf8 }).await
    }

    /// Runs statements, each of them a COPY … TO STDOUT, and passes their data to `take`: the rows of one after the rows
    /// of the other. The server gets all statements in one message.
    ///
    /// # Errors
    /// Fails if the server reports an error or the connection breaks.
    pub async fn copy_out_into(
        &self,
        copies: &[String],
        take: impl FnMut(CopyPart<'_>) + Send + 'static,
    ) -> Result<(), tokio_postgres::Error> {
        let _taking = self.tap.open(take);
        // The tap takes all messages of a COPY, so the client sees statements without a result.
        self.client.batch_execute(&copies.join("; ")).await
    }

    /// Returns the number of the server's process that serves the session.
    pub fn process(&self) -> i32 {
        self.process
    }

    /// Returns the database's own encoding, by PostgreSQL's name (`UTF8`, `LATIN1`, `SQL_ASCII`).
    pub fn server_encoding(&self) -> &str {
        &self.encoding
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Servers,
    Utf8,
}

struct SessionLogin<'a> {
    purpose: &'a str,
    encoding: Encoding,
}

impl Login for SessionLogin<'_> {
    type Session = Session;

    async fn login(
        &self,
        info: &Conninfo,
        host: &Host,
        transport: Transport,
    ) -> Result<Session, LoginFailure> {
        let tap = Tap::default();
        let transport =
            TappedTransport::guarded(transport, tap.clone(), LoginWatch::new(info.require_auth().clone()));
        let (client, connection) =
            self.config(info, host).connect_raw(transport, ReadyTls).await.map_err(failure)?;
        // This task moves the bytes, and ends by itself once the client is gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The client's user gets an error too; this line gives the reason.
                let reason = server_error("a database session ended", error);
                tracing::debug!("{reason}");
            }
        });
        let session = Session { client, encoding: String::new(), process: 0, tap };
        self.settle(info, session).await
    }
}

impl SessionLogin<'_> {
    /// The transport is already set up, with or without TLS, and `Direct` passes it on unchanged.
    fn config(&self, info: &Conninfo, host: &Host) -> Config {
        let mut config = Config::new();
        config
            .user(info.user())
            .dbname(info.dbname())
            .application_name(info.application(self.purpose))
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct)
            .channel_binding(match info.channel_binding() {
                ChannelBinding::Disable => config::ChannelBinding::Disable,
                ChannelBinding::Prefer => config::ChannelBinding::Prefer,
                ChannelBinding::Require => config::ChannelBinding::Require,
            });
        if let Some(password) = info.password(host) {
            config.password(password);
        }
        if let Some(options) = info.setting("options") {
            config.options(options);
        }
        config
    }

    /// Sets everything with one message: a recovery opens a dozen sessions, and each answer is waited for.
    async fn settle(&self, info: &Conninfo, mut session: Session) -> Result<Session, LoginFailure> {
        let encoding = match self.encoding {
            Encoding::Servers => OWN_ENCODING,
            Encoding::Utf8 => "",
        };
        let sql = format!("{}{}; {encoding}{ABOUT_SERVER}", pinned::set_statements(), pinned::NEWER_TIMERS);
        let answers = session.client.simple_query(&sql).await.map_err(failure)?;
        let rows = answers.iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let about = rows.last();
        let text = |name: &str| {
            let text = about.and_then(|row| row.try_get(name).ok().flatten());
            text.ok_or_else(|| LoginFailure::Login("the server does not tell about itself".to_owned()))
        };
        // `default_transaction_read_only` is pinned, so only a standby lets nobody write.
        let in_recovery = text("in_recovery")? == "t";
        suits(info.session_attrs(), in_recovery, in_recovery)?;
        let process = text("process")?.parse();
        session.process =
            process.map_err(|_| LoginFailure::Login("a process without a number".to_owned()))?;
        session.encoding = text("encoding")?.to_owned();
        Ok(session)
    }
}

/// Whether a server is of the kind that `target_session_attrs` demands.
pub(crate) fn suits(wanted: SessionAttrs, in_recovery: bool, read_only: bool) -> Result<(), LoginFailure> {
    let fits = match wanted {
        SessionAttrs::Any => true,
        SessionAttrs::ReadWrite => !read_only,
        SessionAttrs::ReadOnly => read_only,
        SessionAttrs::Primary => !in_recovery,
        SessionAttrs::Standby => in_recovery,
    };
    let word = || {
        super::choices::SESSION_ATTRS.iter().find(|(_, attrs)| *attrs == wanted).map_or("", |(word, _)| word)
    };
    if fits {
        Ok(())
    } else {
        Err(LoginFailure::Login(format!("the server is not what target_session_attrs={} wants", word())))
    }
}

/// Classifies an error during the login; the server's DETAIL and CONTEXT are left out.
fn failure(error: tokio_postgres::Error) -> LoginFailure {
    if let Some(server) = error.as_db_error() {
        return LoginFailure::Server(ServerFault::from_db(server));
    }
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(cause) if LoginRefusal::of(cause).is_some() => LoginFailure::Login(cause.to_string()),
        Some(cause) if !text.starts_with("authentication") => {
            LoginFailure::Unreachable(std::io::Error::new(cause.kind(), text))
        }
        _ if error.is_closed() => {
            LoginFailure::Unreachable(std::io::Error::other("the server closed the connection"))
        }
        // These are the driver's own words, which no server changes.
        _ if text.contains("password missing") => LoginFailure::Login(NO_PASSWORD.to_owned()),
        _ => LoginFailure::Login(text),
    }
}

pub(crate) const NO_PASSWORD: &str =
    "the server asks for a password and none was found; give it in PGPASSWORD or ~/.pgpass";
