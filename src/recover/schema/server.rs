//! Which server takes the scratch database.

use super::roles::SourceRoles;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::pgtools::{LocalServer, Tools};

/// A server to replay on.
pub enum ScratchServer {
    /// One that somebody named: it is somebody's, is trusted with what the source's roles wrote, and is left as it
    /// was.
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
        roles: &SourceRoles,
    ) -> Result<ScratchServer> {
        if let Some(info) = given {
            return Ok(ScratchServer::Given(info));
        }
        let major = source.server_major;
        let programs = tools.for_server(major).ok_or_else(|| {
            Error::refused(format!(
                "definitions changed since the checkpoint and are replayed on a server of our own, of PostgreSQL \
                 {major} or newer, and no such programs are installed here (apt-get install postgresql-{major}, dnf \
                 install postgresql{major}-server, brew install postgresql@{major}); install them, or name a server \
                 that you trust with what the source's roles wrote with --scratch CONN"
            ))
        })?;
        let server = LocalServer::start(programs, &roles.bootstrap()).await?;
        Ok(ScratchServer::Ours(Box::new(server)))
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

    /// What a person should know of it.
    pub fn notes(&self) -> Vec<String> {
        match self {
            ScratchServer::Given(_) => vec![
                "definitions were replayed on the server that --scratch names, which is trusted with what the source's \
                 roles wrote"
                    .to_owned(),
            ],
            ScratchServer::Ours(server) => {
                let open = server.open_to_it().iter();
                open.map(|open| format!("the server that definitions were replayed on was not shut off from {open}"))
                    .collect()
            }
        }
    }

    /// Lets go of it.
    pub async fn stop(self) {
        if let ScratchServer::Ours(server) = self {
            server.stop().await;
        }
    }
}
