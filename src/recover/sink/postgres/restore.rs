//! Restores everything around the rows: definitions, sequences and views.

use crate::connect::{Conninfo, server_error};
use crate::error::{Error, Kind, Result};
use crate::pgtools::{Tools, failure};
use crate::recover::archive::{AfterRows, Section};

use super::super::{ArchiveDefinitions, SequenceValue};
use super::{PostgresSink, quoted};
use crate::model::Inexact;

/// The first major version of pg_restore that sets a parameter which older servers do not have.
const SETS_TRANSACTION_TIMEOUT: u32 = 17;

impl PostgresSink {
    /// # Errors
    /// Fails with `Refused` and pg_restore's own words.
    pub async fn pre_data(&self) -> Result<Vec<Inexact>> {
        self.restore_from(&self.definitions, Section::PreData, AfterRows::Whole, 1).await?;
        match &self.guard {
            Some(guard) => guard.before_rows(&self.session, &self.definitions.made_after_rows()).await,
            None => Ok(Vec::new()),
        }
    }

    /// # Errors
    /// Fails when [`PostgresSink::pre_data`] does.
    pub async fn post_data(&self, jobs: usize, step: AfterRows) -> Result<()> {
        self.restore_from(&self.definitions, Section::PostData, step, jobs).await
    }

    /// # Errors
    /// Fails when [`PostgresSink::pre_data`] does.
    pub async fn large_objects(&self) -> Result<()> {
        if let Some(apart) = &self.definitions.large_objects {
            // Up to version 16 pg_restore creates large objects before their data.
            self.restore_from(apart, Section::PreData, AfterRows::Whole, 1).await?;
            return self.restore_from(apart, Section::Data, AfterRows::Whole, 1).await;
        }
        if !self.definitions.selection.has_large_objects(&self.definitions.archive.toc) {
            return Ok(());
        }
        self.restore_from(&self.definitions, Section::Data, AfterRows::Whole, 1).await
    }

    async fn restore_from(
        &self,
        definitions: &ArchiveDefinitions,
        section: Section,
        step: AfterRows,
        jobs: usize,
    ) -> Result<()> {
        let restoring = Restoring {
            definitions,
            step,
            tools: &self.tools,
            info: &self.info,
            server_major: self.facts.server_major,
            options: self.place.child_options(&self.info),
        };
        let jobs = (jobs > 1).then(|| format!("--jobs={jobs}"));
        restoring.run(section, jobs).await
    }

    /// # Errors
    /// Fails with `Refused` if a sequence does not exist or does not accept its value.
    pub async fn set_sequences(&self, values: &[SequenceValue]) -> Result<Vec<Inexact>> {
        let mut refused = Vec::new();
        for value in values {
            let Err(error) = self.session.batch_execute(&value.statement()).await else { continue };
            let what = format!("sequence {}.{}", value.schema, value.name);
            if error.as_db_error().is_none() {
                return Err(server_error(format!("cannot set {what}"), error));
            }
            let why = server_error("it stands at its start, since the target does not take its value", error);
            refused.push(Inexact { what, why: why.to_string() });
        }
        Ok(refused)
    }

    /// # Errors
    /// Fails with `Refused` if the server fails to fill a view.
    pub async fn refresh_materialized_views(&self, views: &[(String, String)]) -> Result<()> {
        if let Some(guard) = self.guard.as_ref().filter(|_| !views.is_empty()) {
            guard.before_views(&self.session).await?;
        }
        for (schema, name) in views {
            let sql = format!("REFRESH MATERIALIZED VIEW {}", quoted(schema, name));
            self.execute(&sql, || format!("cannot refresh materialised view {schema}.{name}")).await?;
        }
        Ok(())
    }

    /// # Errors
    /// Fails with `Unavailable` if the server fails to collect statistics.
    pub async fn analyze(&self) -> Result<()> {
        self.execute("ANALYZE", || "cannot analyze the database".into()).await
    }
}

/// How pg_restore connects to a database.
pub(in crate::recover) struct Restoring<'a> {
    pub definitions: &'a ArchiveDefinitions,
    pub step: AfterRows,
    pub tools: &'a Tools,
    pub info: &'a Conninfo,
    pub server_major: u32,
    /// The value of `PGOPTIONS`.
    pub options: String,
}

impl Restoring<'_> {
    /// Restores the chosen entries of one section, with further arguments for pg_restore.
    ///
    /// # Errors
    /// Fails with `Refused` and pg_restore's own words.
    pub async fn run(&self, section: Section, arguments: impl IntoIterator<Item = String>) -> Result<()> {
        let tool = self.definitions.tool(self.tools, self.server_major)?;
        tool.keeps_require_auth(self.info)?;
        let says_too_much =
            tool.major >= SETS_TRANSACTION_TIMEOUT && self.server_major < SETS_TRANSACTION_TIMEOUT;
        let name = self.info.dbname().replace('\\', "\\\\").replace('\'', "\\'");
        let mut child = self
            .definitions
            .restore(tool, section, self.step)?
            .connects_to(self.info)
            .arg("--no-password")
            .arg(format!("--dbname=dbname='{name}'"))
            .env("PGOPTIONS", &self.options)
            .args(arguments);
        if !says_too_much {
            child = child.arg("--exit-on-error");
        }
        let (status, complaint) = child.arg(&self.definitions.archive.path).finish().await?;
        if status.success() || (says_too_much && only_about_transaction_timeout(&complaint)) {
            return Ok(());
        }
        let error = failure("pg_restore", status, &complaint);
        // libpq's own words are English here: see `Child::new`.
        let lost =
            complaint.contains("connection to server") || complaint.contains("server closed the connection");
        let kind = if lost { Kind::Unavailable } else { Kind::Refused };
        Err(Error::new(kind, error.message()))
    }
}

/// Whether every error that pg_restore ignored concerns the parameter that an older server does not have; such a
/// server behaves as the value 0 says anyway. The server's messages are in its own language, so the decision rests on
/// pg_restore's words, which are English: each error is followed by the command that failed.
fn only_about_transaction_timeout(complaint: &str) -> bool {
    let told = |line: &&str| line.starts_with("pg_restore: error:") || line.starts_with("Command was: ");
    let told: Vec<&str> = complaint.lines().filter(told).collect();
    let harmless = |pair: &[&str]| {
        matches!(pair, [error, "Command was: SET transaction_timeout = 0;"]
            if error.starts_with("pg_restore: error:") && error.contains("transaction_timeout"))
    };
    !told.is_empty() && told.chunks(2).all(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_harmless_error_is_let_pass() {
        let harmless = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter \
                        \"transaction_timeout\"\nCommand was: SET transaction_timeout = 0;\npg_restore: warning: errors \
                        ignored on restore: 1\n";
        assert!(only_about_transaction_timeout(harmless));
        let german = harmless
            .replace(
                "ERROR:  unrecognized configuration parameter",
                "FEHLER:  unbekannter Konfigurationsparameter",
            )
            .replace("\"transaction_timeout\"", "»transaction_timeout«");
        assert!(only_about_transaction_timeout(&german));
        let other_command = harmless.replace("Command was: SET", "Command was: CREATE TABLE t (a x); SET");
        assert!(!only_about_transaction_timeout(&other_command));
        let other = format!(
            "{harmless}pg_restore: error: could not execute query: ERROR:  type \"x\" does not exist\n"
        );
        assert!(!only_about_transaction_timeout(&other));
        assert!(!only_about_transaction_timeout(""));
    }
}
