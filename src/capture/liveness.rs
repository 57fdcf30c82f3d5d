//! Whether the server still works for a connection on which nothing comes.
//!
//! While it reads the log for a batch it says nothing, for minutes perhaps, so silence alone tells nothing. It
//! is asked on another connection: whether the process at the other end is at work, and not waiting for us to
//! take what it sends.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Error, Result};
use crate::source::stream::{Backend, ReplicationClient};

pub struct Liveness {
    source: Conninfo,
    backend: Backend,
    /// So long it may be silent without being at work.
    patience: Duration,
    heard: Cell<Instant>,
}

impl Liveness {
    pub fn of(client: &ReplicationClient, source: &Conninfo) -> Liveness {
        let (backend, patience) = (client.backend().clone(), client.silence());
        Liveness { source: source.clone(), backend, patience, heard: Cell::new(Instant::now()) }
    }

    /// Something came, or nothing was waited for.
    pub fn heard(&self) {
        self.heard.set(Instant::now());
    }

    /// Waits for what the server is to answer.
    ///
    /// # Errors
    /// As [`Liveness::gone`]'s.
    pub async fn guard<T>(&self, answer: impl Future<Output = T>) -> Result<T> {
        self.heard();
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            error = self.gone() => Err(error),
        }
    }

    /// Returns, with what to say, once nothing has come for too long and the server does not work for it.
    pub async fn gone(&self) -> Error {
        let step = self.patience / 6;
        loop {
            tokio::time::sleep(step).await;
            if self.heard.get().elapsed() < step {
                continue;
            }
            match tokio::time::timeout(self.patience / 2, self.is_served()).await {
                Ok(Ok(true)) => self.heard(),
                Ok(Ok(false)) => tracing::debug!("process {} does not work for us", self.backend.pid),
                Ok(Err(error)) => tracing::debug!("nobody tells whether the source works for us: {error}"),
                Err(_) => tracing::debug!("the source does not say whether it works for us"),
            }
            let silent = self.heard.get().elapsed();
            if silent >= self.patience {
                return Error::unavailable(format!(
                    "the source has been silent for {:.0} s and does not work for this connection",
                    silent.as_secs_f64()
                ));
            }
        }
    }

    async fn is_served(&self) -> Result<bool> {
        let session = Session::connect_utf8(&self.source, "capture").await?;
        // As text, in the zone that the replication connection was told it in.
        let query = "SELECT state = 'active' AND wait_event IS DISTINCT FROM 'ClientWrite' \
                     FROM pg_catalog.pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";
        let row = session.query_opt(query, &[&self.backend.pid, &self.backend.started]).await;
        let row = row.map_err(|error| server_error("cannot look at our own connection", error))?;
        match row {
            Some(row) => Ok(row.get::<_, Option<bool>>(0).unwrap_or(false)),
            // Another server may have answered, which cannot know.
            None => Ok(self.source.hosts().len() > 1),
        }
    }
}
