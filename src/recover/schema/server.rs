//! Chooses the server for the scratch database.

use super::roles::SourceRoles;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::pgtools::{Installation, LocalServer, ServerDemands, Tools};

/// A server on which statements are replayed.
pub enum ScratchServer {
    /// A server that the user named: it belongs to somebody, is trusted with statements that the source's roles
    /// wrote, and is left as it was.
    Given(Conninfo),
    /// A short-lived server of our own.
    Ours(Box<LocalServer>),
}

impl ScratchServer {
    /// Returns the given server, or starts one from programs that are installed here.
    ///
    /// # Errors
    /// Fails with `Refused`, and says what to type, if no programs are installed, or if we are root and no other user
    /// can run them.
    pub async fn find(
        given: Option<Conninfo>,
        tools: &Tools,
        source: &DatabaseFacts,
        roles: &SourceRoles,
    ) -> Result<ScratchServer> {
        ScratchServer::find_for(given, tools, source, roles, 0).await
    }

    /// The same, for a server that is to hold so many bytes of rows.
    ///
    /// # Errors
    /// Fails when [`ScratchServer::find`] does.
    pub async fn find_for(
        given: Option<Conninfo>,
        tools: &Tools,
        source: &DatabaseFacts,
        roles: &SourceRoles,
        room: u64,
    ) -> Result<ScratchServer> {
        if let Some(info) = given {
            return Ok(ScratchServer::Given(info));
        }
        let advice =
            ", or name a server that you trust with what the source's roles wrote with --scratch CONN";
        let programs = programs_for(tools, source.server_major, advice)?;
        let demands = ServerDemands { room, ..ServerDemands::default() };
        let server = LocalServer::start_as(programs, &roles.bootstrap(), &demands).await?;
        Ok(ScratchServer::Ours(Box::new(server)))
    }

    pub fn info(&self) -> &Conninfo {
        match self {
            ScratchServer::Given(info) => info,
            ScratchServer::Ours(server) => server.info(),
        }
    }

    /// Whether the server exists only for this replay.
    pub fn is_ours(&self) -> bool {
        matches!(self, ScratchServer::Ours(_))
    }

    /// Returns the note that a person should read.
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

    /// Stops the server, if it is our own.
    pub async fn stop(self) {
        if let ScratchServer::Ours(server) = self {
            server.stop().await;
        }
    }
}

/// Returns the programs of a server that can take definitions of this major version. `advice` follows the command that
/// installs them.
///
/// # Errors
/// Fails with `Refused`, and says what to type, if no such programs are installed.
pub(in crate::recover) fn programs_for<'a>(
    tools: &'a Tools,
    major: u32,
    advice: &str,
) -> Result<&'a Installation> {
    tools.for_server(major).ok_or_else(|| {
        Error::refused(format!(
            "a server of our own is needed, of PostgreSQL {major} or newer, and no such programs are installed here (apt-get install postgresql-{major}, dnf \
             install postgresql{major}-server, brew install postgresql@{major}); install them{advice}"
        ))
    })
}
