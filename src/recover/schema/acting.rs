//! A session that takes up the settings and the role under which each statement ran on the source.

use std::collections::BTreeMap;

use crate::connect::{Conninfo, Session, server_error};
use crate::error::Result;
use crate::history::signal::Statement;
use crate::model::schema::quote_ident;

/// Wanted where they are permitted and known: the application's own triggers and event triggers stay
/// silent, and nothing is checked or synced that need not be.
const WANTED: &[&str] = &[
    "SET session_replication_role = replica",
    "SET event_triggers = off",
    "SET synchronous_commit = off",
    "SET client_min_messages = error",
    "SET lc_messages = 'C'",
];

/// Ours to choose, whatever the source had.
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
    // A body may name what came and went within its transaction.
    "check_function_bodies",
];

pub(super) struct Acting {
    pub session: Session,
    settings: BTreeMap<String, String>,
    role: Option<String>,
}

impl Acting {
    /// # Errors
    /// `Unavailable` if the server cannot be reached.
    pub async fn open(info: &Conninfo) -> Result<Acting> {
        let session = Session::connect_utf8(info, "replay").await?;
        for wanted in WANTED {
            if let Err(error) = session.batch_execute(wanted).await {
                tracing::debug!("{}", server_error(format!("{wanted} is not possible"), error));
            }
        }
        session
            .batch_execute("SET check_function_bodies = off")
            .await
            .map_err(|error| server_error("cannot prepare the replaying session", error))?;
        Ok(Acting { session, settings: BTreeMap::new(), role: None })
    }

    /// Takes up the statement's settings; those that this server does not know are left.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn take_settings(&mut self, statement: &Statement) -> Result<()> {
        if statement.settings == self.settings {
            return Ok(());
        }
        // Some settings are for a superuser only.
        self.take_role(None).await?;
        let gone: Vec<_> =
            self.settings.keys().filter(|name| !statement.settings.contains_key(*name)).cloned().collect();
        for name in gone {
            let _ = self.session.batch_execute(&format!("RESET {}", setting_name(&name))).await;
        }
        for (name, value) in &statement.settings {
            if OURS.contains(&name.as_str()) || self.settings.get(name) == Some(value) {
                continue;
            }
            let set = "SELECT pg_catalog.set_config($1, $2, false)";
            if let Err(error) = self.session.query(set, &[name, value]).await {
                if error.is_closed() {
                    return Err(server_error("cannot take up a statement's settings", error));
                }
                tracing::debug!("{}", server_error(format!("setting {name} is not taken up"), error));
            }
        }
        self.settings = statement.settings.clone();
        Ok(())
    }

    /// Acts for a role, or as ourselves; whether that was permitted.
    ///
    /// # Errors
    /// `Unavailable` if the server fails.
    pub async fn take_role(&mut self, role: Option<&str>) -> Result<bool> {
        if self.role.as_deref() == role {
            return Ok(true);
        }
        let failed = |error| server_error("cannot change the role", error);
        if self.role.take().is_some() {
            self.session.batch_execute("RESET ROLE").await.map_err(failed)?;
        }
        let Some(role) = role else { return Ok(true) };
        match self.session.batch_execute(&format!("SET ROLE {}", quote_ident(role))).await {
            Ok(()) => {
                self.role = Some(role.to_owned());
                Ok(true)
            }
            Err(error) if error.is_closed() => Err(failed(error)),
            Err(_) => Ok(false),
        }
    }

    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }
}

/// An extension's setting has a dot in its name.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote_ident).collect::<Vec<_>>().join(".")
}
