//! Restores everything around the rows: definitions, sequences and views.

use std::collections::{BTreeSet, HashSet};

use crate::connect::{Conninfo, server_error};
use crate::error::{Error, Kind, Result};
use crate::pgtools::Tools;
use crate::recover::archive::{AfterRows, Section};

use super::super::{ArchiveDefinitions, SequenceValue};
use super::retry::{Retry, attempt, complaints, errors_in};
use super::{PostgresSink, quoted};
use crate::model::Inexact;

impl PostgresSink {
    /// # Errors
    /// Fails with `Refused` and pg_restore's own words.
    pub async fn pre_data(&self) -> Result<Vec<Inexact>> {
        self.name_missing_places().await?;
        self.make_plain_tables().await?;
        self.make_in_order().await?;
        self.restore_from(&self.definitions, Section::PreData, AfterRows::Whole, 1).await?;
        self.make_missing(false).await?;
        self.fit_tables().await?;
        self.guard_rows().await
    }

    /// Lends the application's functions, if a superuser recovers.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub async fn guard_rows(&self) -> Result<Vec<Inexact>> {
        match &self.guard {
            Some(guard) => guard.before_rows(&self.session, &self.definitions).await,
            None => Ok(Vec::new()),
        }
    }

    /// `exact` names the tables that have exactly the rows of the source.
    ///
    /// # Errors
    /// Fails when [`PostgresSink::pre_data`] does.
    pub async fn post_data(&self, jobs: usize, step: AfterRows, exact: &HashSet<String>) -> Result<()> {
        let keys = if step == AfterRows::Names { Vec::new() } else { self.keys_as_on_source(exact) };
        self.ours().extend(keys.iter().map(|key| key.id));
        self.restore_from(&self.definitions, Section::PostData, step, jobs).await?;
        // Tables that are loaded from here on have their indexes.
        self.no_more_indexes();
        let refused = self.make_keys(&keys).await?;
        let left = refused.union(&self.comments_on_ours()).copied().collect();
        self.retry(&self.definitions, Section::PostData, step, &left).await?;
        if step == AfterRows::Names { Ok(()) } else { self.make_missing(true).await }
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

    pub(super) async fn restore_from(
        &self,
        definitions: &ArchiveDefinitions,
        section: Section,
        step: AfterRows,
        jobs: usize,
    ) -> Result<()> {
        // The entries of another archive have other numbers.
        let is_whole = std::ptr::eq(definitions, &raw const self.definitions);
        let restoring = Restoring {
            definitions,
            step,
            tools: &self.tools,
            info: &self.info,
            server_major: self.facts.server_major,
            options: self.place.child_options(&self.info),
            ours: if is_whole { self.ours().clone() } else { BTreeSet::new() },
        };
        let jobs = (jobs > 1).then(|| format!("--jobs={jobs}"));
        let complaints = restoring.run(section, jobs).await?;
        self.retry(definitions, section, step, &complaints).await
    }

    async fn retry(
        &self,
        definitions: &ArchiveDefinitions,
        section: Section,
        step: AfterRows,
        complaints: &BTreeSet<i32>,
    ) -> Result<()> {
        let (session, tables, refused) = (&self.session, &self.tables, &self.refused);
        let sections = &[section, Section::None];
        Retry { session, definitions, tables, refused, sections, step }.run(complaints).await
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
    /// Fails with `Unavailable` if the server fails, and with `Refused` if nothing may be left out.
    pub async fn refresh_materialized_views(&self, views: &[(String, String)]) -> Result<()> {
        if let Some(guard) = self.guard.as_ref().filter(|_| !views.is_empty()) {
            guard.before_views(&self.session).await?;
        }
        if !views.is_empty() {
            // The application's own queries run as the server would run them.
            self.execute("RESET jit", || "cannot prepare for filling views".into()).await?;
        }
        for (schema, name) in views {
            let sql = format!("REFRESH MATERIALIZED VIEW {};", quoted(schema, name));
            if let Some(fault) = attempt(&self.session, &sql).await? {
                self.refused.add(format!("rows of MATERIALIZED VIEW {schema}.{name}"), fault, sql)?;
            }
        }
        if views.is_empty() {
            return Ok(());
        }
        self.execute("SET jit = off", || "cannot go on after filling views".into()).await
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
    /// The entries that are made without pg_restore.
    pub ours: BTreeSet<i32>,
}

impl Restoring<'_> {
    /// Restores the chosen entries of one section, with further arguments for pg_restore. Returns those that are left:
    /// of which pg_restore complains, or which are not made as the archive says.
    ///
    /// # Errors
    /// Fails with `Refused` or `Unavailable` and pg_restore's own words if it could not go on.
    pub async fn run(
        &self,
        section: Section,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<BTreeSet<i32>> {
        let tool = self.definitions.tool(self.tools, self.server_major)?;
        tool.keeps_require_auth(self.info)?;
        let name = self.info.dbname().replace('\\', "\\\\").replace('\'', "\\'");
        let redefined = self.definitions.redefined();
        let is_before_rows = section == Section::PreData;
        let left: BTreeSet<i32> =
            if is_before_rows { redefined.keys().copied().collect() } else { BTreeSet::new() };
        let without = left.union(&self.ours).copied().collect();
        if !self.definitions.leaves(section, self.step, &without) {
            return Ok(left);
        }
        let child = self
            .definitions
            .restore(tool, section, self.step, &without)?
            .connects_to(self.info)
            .args(["--no-password", "--verbose"])
            .arg(format!("--dbname=dbname='{name}'"))
            .env("PGOPTIONS", &self.options)
            .args(arguments);
        let (status, words) = child.arg(&self.definitions.archive.path).finish().await?;
        if status.success() {
            return Ok(left);
        }
        // libpq's own words are English here: see `Child::new`.
        let lost = words.contains("connection to server") || words.contains("server closed the connection");
        match complaints(&words).filter(|_| !lost) {
            // Settings that an older server does not have are the first statements, and belong to no entry.
            Some(complaints) => Ok(complaints.into_iter().chain(left).collect()),
            None => {
                let kind = if lost { Kind::Unavailable } else { Kind::Refused };
                Err(Error::new(kind, errors_in(&words)))
            }
        }
    }
}
