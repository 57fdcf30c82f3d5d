//! Templates on a target: the way from one to another moment, and those that no recovery can use any more.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::ui;
use crate::connect::Conninfo;
use crate::error::{Error, Result};
use crate::model::{Lsn, Moment};
use crate::past::Reading;
use crate::recover::amend::{Amend, Amending, TableChange};
use crate::recover::chosen_template::FindDifference;
use crate::recover::plan::Plan;
use crate::recover::sink::{drop_template, kept_templates};
use crate::rewind::{AppliedChange, Difference, Direction};

/// Finds how a copy of a template becomes the database of a plan.
pub(super) fn find_difference() -> Arc<FindDifference> {
    Arc::new(|plan: &Plan, from: Lsn| {
        let past = plan.past.reading().at(&Moment::Lsn(from), false)?;
        let (wanted, epoch) = (plan.past.until(), plan.past.stretch().epoch.number);
        let difference = if from <= wanted {
            Difference::read(past, wanted, Direction::Forward)?
        } else {
            let wanted = plan.past.reading().before(epoch, wanted)?;
            Difference::read(wanted, from, Direction::Backward)?
        };
        Ok(Arc::new(NetDifference(Mutex::new(Some(difference)))) as Arc<dyn Amend>)
    })
}

/// The change of rows that leads from a template's moment to another.
struct NetDifference(Mutex<Option<Difference>>);

impl Amend for NetDifference {
    fn amend<'a>(&'a self, target: &'a Conninfo) -> Amending<'a> {
        Box::pin(async move {
            let change = |it: AppliedChange| TableChange {
                table: it.change.table,
                rows: it.change.rows,
                digest: it.change.digest,
                is_read_back: it.is_read_back,
            };
            let difference = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            let difference =
                difference.ok_or_else(|| Error::internal("a difference leads to one recovery only"))?;
            Ok(difference.apply(target).await?.into_iter().map(change).collect())
        })
    }
}

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
