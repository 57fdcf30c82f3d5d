//! Opens a database whose rows are still to come; see `recover::on_demand`.

use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::recover::refused::RefusedObject;

use super::PostgresSink;
use super::place::BuildPlace;
use super::unfinished::OPENED;

impl PostgresSink {
    /// The session for statements.
    pub(in crate::recover) fn session(&self) -> &Session {
        &self.session
    }

    /// # Errors
    /// Fails with `Refused` if the user is no superuser.
    pub(in crate::recover) fn require_superuser(&self) -> Result<()> {
        if self.guard.is_some() && matches!(self.place, BuildPlace::TemporaryName(_)) {
            return Ok(());
        }
        Err(Error::refused(
            "--on-demand needs a superuser on the target: it loads rows past triggers and foreign keys while others use the \
             database; connect as one, or leave --on-demand away",
        ))
    }

    /// The statement that gives the database its own comment, once all is loaded.
    pub(in crate::recover) fn own_comment(&self) -> String {
        match &self.place {
            BuildPlace::TemporaryName(aside) => aside.own_comment(&self.definitions, self.final_name()),
            BuildPlace::Marked { .. } => String::new(),
        }
    }

    /// The connection to the database once it has its name.
    pub(in crate::recover) fn final_connection(&self) -> Conninfo {
        self.info.with_dbname(self.final_name())
    }

    /// Gives the database the properties of the source's. What the server refuses is left out.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(in crate::recover) async fn give_properties(&self) -> Result<()> {
        match &self.place {
            BuildPlace::TemporaryName(aside) => aside.take_properties(&self.definitions, &self.refused).await,
            BuildPlace::Marked { .. } => self.require_superuser(),
        }
    }

    /// Gives the database its name.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable`; the database then still has its temporary name.
    pub(in crate::recover) async fn open(&self) -> Result<()> {
        let comment = format!(
            "{OPENED}; backwhen status --target shows which; if nothing loads them, go on with: backwhen recover --resume"
        );
        match &self.place {
            BuildPlace::TemporaryName(aside) => aside.open(&comment).await,
            BuildPlace::Marked { .. } => self.require_superuser(),
        }
    }

    /// Adds an object to those that the recovery leaves out.
    ///
    /// # Errors
    /// Fails with `Refused` if nothing may be left out.
    pub(in crate::recover) fn leave_out(&self, what: String, why: &str, sql: String) -> Result<()> {
        self.refused.add(what, why, sql)
    }

    /// Returns the objects that were left out since this was asked last.
    pub(in crate::recover) fn take_refused(&self) -> Vec<RefusedObject> {
        self.refused.take()
    }

    /// Returns the session for statements, and the session that holds the lock on the name.
    ///
    /// # Errors
    /// Fails with `Internal` if the database has no temporary name.
    pub(in crate::recover) fn into_opened(self) -> Result<(Session, Session)> {
        match self.place {
            BuildPlace::TemporaryName(aside) => Ok((self.session, aside.into_lock())),
            BuildPlace::Marked { .. } => Err(Error::internal("a marked database was opened")),
        }
    }
}
