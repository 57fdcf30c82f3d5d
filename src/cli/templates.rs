//! Templates on a target that no recovery can use any more.

use serde::Serialize;

use super::ui;
use crate::connect::Conninfo;
use crate::error::Result;
use crate::model::Lsn;
use crate::past::Reading;
use crate::recover::sink::{drop_template, kept_templates};

/// A template of the history on a target's server.
#[derive(Serialize)]
pub(super) struct TemplateFate {
    name: String,
    /// The position of the moment whose rows the template holds; `None` if the recovery that made it was killed.
    lsn: Option<Lsn>,
    /// Why no recovery can use the template; `None` if it stays.
    stale: Option<String>,
    dropped: bool,
}

impl TemplateFate {
    /// Lists the templates of the history, and drops the stale ones with `apply`.
    ///
    /// # Errors
    /// `Unavailable` if the target's server fails.
    pub async fn settle(reading: &Reading, target: &Conninfo, apply: bool) -> Result<Vec<TemplateFate>> {
        let mut fates = Vec::new();
        for template in kept_templates(target, reading.history().identity()).await? {
            let stale = template.staleness(reading)?;
            let dropped = apply && stale.is_some();
            if dropped {
                drop_template(target, &template.name).await?;
            }
            let lsn = template.record.as_ref().map(|record| record.lsn);
            fates.push(TemplateFate { name: template.name, lsn, stale, dropped });
        }
        Ok(fates)
    }

    pub fn describe(&self) -> String {
        let name = ui::printable(&self.name);
        match (&self.stale, self.dropped) {
            (None, _) => format!("template  {name} stays"),
            (Some(why), true) => format!("template  {name} was dropped: {why}"),
            (Some(why), false) => format!("template  {name} is stale: {why}; drop it with --apply"),
        }
    }
}
