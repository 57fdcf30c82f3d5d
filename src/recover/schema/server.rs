//! Which server takes the scratch database.

use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::pgtools::{LocalServer, Tools};

/// A server to replay on.
pub enum ScratchServer {
    /// One that somebody named: it is somebody's, and is left as it was.
    Given(Conninfo),
    /// One of our own, gone afterwards.
    Ours(Box<LocalServer>),
}

impl ScratchServer {
    /// The given one, or one of our own from programs that are installed here.
    ///
    /// # Errors
    /// `Refused`, with what to type, if there are none, or we are root and nobody else is there.
    pub async fn find(
        given: Option<Conninfo>,
        tools: &Tools,
        source: &DatabaseFacts,
    ) -> Result<ScratchServer> {
        if let Some(info) = given {
            return Ok(ScratchServer::Given(info));
        }
        let major = source.server_major;
        let programs = tools.for_server(major).ok_or_else(|| {
            Error::refused(format!(
                "definitions are replayed on a server of PostgreSQL {major} or newer, and none is installed here \
                 (apt-get install postgresql-{major}); install one, or name a server that takes a scratch database \
                 with --scratch CONN"
            ))
        })?;
        LocalServer::start(programs).await.map(|server| ScratchServer::Ours(Box::new(server)))
    }

    pub fn info(&self) -> &Conninfo {
        match self {
            ScratchServer::Given(info) => info,
            ScratchServer::Ours(server) => server.info(),
        }
    }

    /// It is there for this alone.
    pub fn is_ours(&self) -> bool {
        matches!(self, ScratchServer::Ours(_))
    }

    /// Lets go of it.
    pub async fn stop(self) {
        if let ScratchServer::Ours(server) = self {
            server.stop().await;
        }
    }
}
