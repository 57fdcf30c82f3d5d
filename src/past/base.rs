//! Chooses the checkpoint from which a recovery starts, and another one if that one is damaged.

use super::Reading;
use crate::error::{Error, Kind, Result};
use crate::history::checkpoint::{Checkpoint, position_of};
use crate::history::timeline::{Stretch, Timeline};
use crate::model::Lsn;

/// Returns the newest usable checkpoint at or before the moment, with a note for each newer one that is unusable. An
/// older checkpoint and more of the journal lead to the same rows.
///
/// # Errors
/// `OutsideWindow` if no checkpoint is old enough, `Damaged` if none of them can be used.
pub(super) fn base(reading: &Reading, stretch: &Stretch, until: Lsn) -> Result<(Checkpoint, Vec<String>)> {
    let timeline = reading.timeline();
    let mut fault = None;
    let mut notes = Vec::new();
    for row in stretch.checkpoints.iter().rev().filter(|row| row.lsn <= until) {
        let known = timeline.unusable.iter().find(|it| it.name == row.id);
        let read = match known {
            Some(unusable) => Err(Error::damaged(unusable.why.clone())),
            None => reading.history().read_checkpoint(&row.id),
        };
        match read {
            Ok(base) => {
                notes.extend(passed_over(timeline, stretch, &base, until));
                return Ok((base, notes));
            }
            Err(error) if error.kind() == Kind::Damaged => {
                notes.push(instead(&row.id, &error.to_string()));
                fault.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(fault.unwrap_or_else(|| Error::outside_window(format!("no checkpoint lies at or before {until}"))))
}

/// Notes the checkpoints between base and moment that are damaged so far that the catalog does not list them.
fn passed_over(timeline: &Timeline, stretch: &Stretch, base: &Checkpoint, until: Lsn) -> Vec<String> {
    let between = |name: &str| {
        let unlisted = !stretch.checkpoints.iter().any(|row| row.id == name);
        unlisted
            && position_of(name)
                .is_some_and(|(epoch, lsn)| epoch == base.epoch && base.lsn <= lsn && lsn <= until)
    };
    let unusable = timeline.unusable.iter().filter(|it| between(&it.name));
    unusable.map(|it| instead(&it.name, &it.why)).collect()
}

fn instead(id: &str, why: &str) -> String {
    format!("checkpoint {id} cannot be used, so an older one and more of the journal are: {why}")
}
