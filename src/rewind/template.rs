//! The way from a template, which an earlier recovery kept on the target, to the moment of another recovery.

use std::sync::{Arc, Mutex, PoisonError};

use super::difference::{AppliedChange, Difference, Direction};
use crate::connect::Conninfo;
use crate::error::Error;
use crate::model::{Lsn, Moment};
use crate::recover::amend::{Amend, Amending, TableChange};
use crate::recover::chosen_template::FindDifference;
use crate::recover::plan::Plan;

/// Finds how a copy of a template becomes the database of a plan.
pub fn find_difference() -> Arc<FindDifference> {
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
