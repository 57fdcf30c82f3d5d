//! Sessions that adopt the settings and the role with which each statement ran on the source.
//!
//! On a server of our own the session logs in as the role, so no statement can leave the role for one with more
//! rights. On a server that the user named, our login role, which has no great rights, switches to the role.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::model::schema::quote_ident;
use crate::signal::Statement;

/// The settings that backwhen chooses, whatever their values on the source.
const OURS: &[&str] = &[
    "role",
    "session_authorization",
    "session_replication_role",
    "event_triggers",
    "client_encoding",
    "client_min_messages",
    "lc_messages",
    "synchronous_commit",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "default_transaction_read_only",
    "transaction_read_only",
    // A function's body may name objects that were created and dropped within its transaction.
    "check_function_bodies",
];

/// The settings of each session. The language of its messages does not matter: errors are told apart by SQLSTATE and
/// routine.
const WANTED: &[&str] =
    &["SET check_function_bodies = off", "SET client_min_messages = error", "SET synchronous_commit = off"];

/// Resets the state that a statement may have left behind in its session.
const AFTERWARDS: &str =
    "ROLLBACK; RESET SESSION AUTHORIZATION; RESET ROLE; SELECT pg_catalog.pg_advisory_unlock_all()";

/// The greatest number of sessions that are kept; beyond it the least recently used one ends.
const SESSIONS: usize = 12;

/// How long to wait for a session that was told to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The least time for a statement, even if many statements of its role ran too long.
const LEAST: Duration = Duration::from_millis(100);

/// How a statement ended.
pub(super) enum RunOutcome {
    Done,
    Failed(tokio_postgres::Error),
    /// The statement was stopped after this time.
    TooLong(Duration),
    /// The statement ended its own session.
    SessionLost,
}

pub(super) struct Sessions {
    /// The connection to the scratch database, as the user that created it.
    info: Conninfo,
    ours: bool,
    /// The sessions, the most recently used one last.
    open: Vec<RoleSession>,
    limit: Duration,
    /// The remaining time of roles whose statements ran too long.
    limits: BTreeMap<String, Duration>,
}

struct RoleSession {
    session: Session,
    process: i32,
    /// The role's name; empty for our login role.
    role: String,
    settings: BTreeMap<String, String>,
}

impl Sessions {
    pub fn new(info: &Conninfo, ours: bool, limit: Duration) -> Sessions {
        Sessions { info: info.clone(), ours, open: Vec::new(), limit, limits: BTreeMap::new() }
    }

    /// Runs a text as an existing role or, without a role, as the user that created the database. `observer` ends a
    /// statement that takes too long.
    ///
    /// # Errors
    /// Fails with `Refused` if no session can be opened for the role.
    pub async fn run(
        &mut self,
        observer: &Session,
        role: &str,
        statement: &Statement,
        text: &str,
    ) -> Result<RunOutcome> {
        let limit = self.limits.get(role).copied().unwrap_or(self.limit);
        let mut session = self.take(role).await?;
        let ended = match timeout(limit, session.run(self.ours, statement, text)).await {
            Ok(ended) => ended,
            Err(_) => {
                self.limits.insert(role.to_owned(), (limit / 2).max(LEAST));
                RunOutcome::TooLong(limit)
            }
        };
        // The next statements may need this session's locks.
        let tidied = !matches!(ended, RunOutcome::TooLong(_)) && session.tidy().await;
        if tidied {
            self.open.push(session);
        } else {
            end(observer, session.process).await;
        }
        Ok(ended)
    }

    /// Returns the session of a role, removed from the kept sessions.
    async fn take(&mut self, role: &str) -> Result<RoleSession> {
        if let Some(at) = self.open.iter().position(|session| session.role == role) {
            let session = self.open.remove(at);
            if !session.session.is_closed() {
                return Ok(session);
            }
        }
        if self.open.len() >= SESSIONS {
            self.open.remove(0);
        }
        let info = if self.ours && !role.is_empty() { self.info.as_user(role) } else { self.info.clone() };
        // The database's owner may have closed it to other roles: the replay continues.
        RoleSession::open(&info, role).await.map_err(|error| Error::refused(error.to_string()))
    }

    /// Whether our login role can act for a role.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn can_act_for(&self, observer: &Session, role: &str) -> Result<bool> {
        let sql =
            "SELECT FROM pg_catalog.pg_roles WHERE rolname = $1 AND pg_catalog.pg_has_role(oid, 'MEMBER')";
        let rows = observer.query(sql, &[&role]).await;
        Ok(!rows.map_err(|error| server_error("cannot read the server's roles", error))?.is_empty())
    }

    /// Ends all sessions, and waits until none of them holds a lock.
    pub async fn close(&mut self, observer: &Session) {
        for session in self.open.drain(..) {
            end(observer, session.process).await;
        }
    }
}

impl RoleSession {
    async fn open(info: &Conninfo, role: &str) -> Result<RoleSession> {
        let session = Session::connect_utf8(info, "replay").await?;
        let failed = |error| server_error("cannot prepare the replaying session", error);
        session.batch_execute(&WANTED.join("; ")).await.map_err(failed)?;
        let row = session.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await.map_err(failed)?;
        Ok(RoleSession { session, process: row.get(0), role: role.to_owned(), settings: BTreeMap::new() })
    }

    async fn run(&mut self, ours: bool, statement: &Statement, text: &str) -> RunOutcome {
        let taken_up = self.take_settings(statement).await;
        let done = match taken_up {
            Ok(()) if !ours && !self.role.is_empty() => {
                let role = format!("SET ROLE {}", quote_ident(&self.role));
                match self.session.batch_execute(&role).await {
                    Ok(()) => self.session.batch_execute(text).await,
                    Err(error) => Err(error),
                }
            }
            Ok(()) => self.session.batch_execute(text).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => RunOutcome::Done,
            Err(error) if error.as_db_error().is_none() || self.session.is_closed() => {
                RunOutcome::SessionLost
            }
            Err(error) => RunOutcome::Failed(error),
        }
    }

    /// Adopts the statement's settings, except those that this server does not have, or allows only to a superuser.
    async fn take_settings(&mut self, statement: &Statement) -> Result<(), tokio_postgres::Error> {
        if statement.settings == self.settings {
            return Ok(());
        }
        let gone = self.settings.keys().filter(|name| !statement.settings.contains_key(*name));
        for name in gone {
            let _ = self.session.batch_execute(&format!("RESET {}", setting_name(name))).await;
        }
        for (name, value) in &statement.settings {
            if OURS.contains(&name.as_str()) || self.settings.get(name) == Some(value) {
                continue;
            }
            let set = "SELECT pg_catalog.set_config($1, $2, false)";
            if let Err(error) = self.session.query(set, &[name, value]).await {
                if error.is_closed() {
                    return Err(error);
                }
                tracing::debug!("{}", server_error(format!("setting {name} is not taken up"), error));
            }
        }
        self.settings = statement.settings.clone();
        Ok(())
    }

    /// Whether the session can be used again.
    async fn tidy(&self) -> bool {
        timeout(END_LIMIT, self.session.batch_execute(AFTERWARDS)).await.is_ok_and(|done| done.is_ok())
    }
}

/// Ends a session of the scratch database, and waits a while until its locks are released.
async fn end(observer: &Session, process: i32) {
    let gone = async {
        let ask =
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = $1";
        while observer.query(ask, &[&process]).await.is_ok_and(|rows| !rows.is_empty()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if timeout(END_LIMIT, gone).await.is_err() {
        tracing::warn!("a session of the scratch server does not end");
    }
}

/// An extension's setting has a dot in its name.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote_ident).collect::<Vec<_>>().join(".")
}
