//! Checks whether the server still works for a connection on which nothing arrives.
//!
//! While the server reads WAL for a batch, or digests a table, it sends nothing, perhaps for minutes. Silence alone
//! therefore proves nothing. The server is asked on another connection whether the process at the other end is at work,
//! and is not waiting for backwhen to read what the process sends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::SimpleQueryMessage;

use super::stream::{Backend, ReplicationClient, SERVING_PROCESS, parse_serving_process};
use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};

pub struct Liveness {
    source: Conninfo,
    backend: Backend,
    /// How long the server may be silent without being at work.
    patience: Duration,
    heard: Mutex<Instant>,
}

impl Liveness {
    pub fn of(client: &ReplicationClient, source: &Conninfo) -> Liveness {
        Liveness::new(source, client.backend().clone(), client.silence())
    }

    fn new(source: &Conninfo, backend: Backend, patience: Duration) -> Liveness {
        Liveness { source: source.clone(), backend, patience, heard: Mutex::new(ambient::instant()) }
    }

    /// Watches a session that was just opened. It is given up after as long a silence as a replication connection is.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn of_session(session: &Session, source: &Conninfo) -> Result<Liveness> {
        let answer = session.simple_query(SERVING_PROCESS).await;
        let answer = answer.map_err(|error| server_error("cannot ask which process serves us", error))?;
        let served = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                parse_serving_process((0..row.len()).map(|column| row.get(column)))
            }
            _ => None,
        });
        let untold = || Error::unavailable("the server does not say which of its processes serves us");
        let (backend, patience) = served.ok_or_else(untold)?;
        Ok(Liveness::new(source, backend, patience))
    }

    /// Records that something arrived, or that nothing was waited for until now.
    pub fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = ambient::instant();
    }

    fn silent_for(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Waits for an answer of the server.
    ///
    /// # Errors
    /// `Unavailable` once nothing has arrived for too long and the server does not work for the connection.
    pub async fn guard<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        self.heard();
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            error = self.gone() => Err(error),
        }
    }

    /// Waits until nothing has arrived for too long and the server does not work for the connection; returns the error
    /// that says so.
    pub async fn gone(&self) -> Error {
        let step = self.patience / 6;
        loop {
            tokio::time::sleep(step).await;
            if self.silent_for() < step {
                continue;
            }
            match tokio::time::timeout(self.patience / 2, self.is_served()).await {
                Ok(Ok(true)) => self.heard(),
                Ok(Ok(false)) => tracing::debug!("process {} does not work for us", self.backend.pid),
                Ok(Err(error)) => tracing::debug!("nobody tells whether the source works for us: {error}"),
                Err(_) => tracing::debug!("the source does not say whether it works for us"),
            }
            let silent = self.silent_for();
            if silent >= self.patience {
                return Error::unavailable(format!(
                    "the source has been silent for {:.0} s and does not work for this connection",
                    silent.as_secs_f64()
                ));
            }
        }
    }

    async fn is_served(&self) -> Result<bool> {
        let session = Session::connect_utf8(&self.source, "liveness").await?;
        // The time is compared as text, in the time zone in which the connection received it.
        let query = "SELECT state = 'active' AND wait_event IS DISTINCT FROM 'ClientWrite' \
                     FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";
        let row = session.query_opt(query, &[&self.backend.pid, &self.backend.started]).await;
        let row = row.map_err(|error| server_error("cannot look at our own connection", error))?;
        match row {
            Some(row) => Ok(row.get::<_, Option<bool>>(0).unwrap_or(false)),
            // With several hosts, another server may have answered, and that server cannot know the process.
            None => Ok(self.source.hosts().len() > 1),
        }
    }
}
