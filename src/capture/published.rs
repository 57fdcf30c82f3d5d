//! Whether somebody altered the publications between two looks, though they are as they should be again: what
//! was changed meanwhile, the stream did not carry.

use serde::{Deserialize, Serialize};

use super::continuity::Newest;
use crate::connect::Session;
use crate::error::Result;
use crate::source::publication::{Memberships, Publications, Written};
use crate::source::triggers::Triggers;

/// What the last look found, kept with the live state, so that a later capture knows it too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imprint {
    /// A new epoch has new publications.
    pub epoch: u32,
    pub rows: Vec<Written>,
    /// How often somebody took a table out, as the event triggers have it.
    #[serde(default)]
    pub taken_out: i64,
    /// Tables that were found to have been taken out and put back.
    #[serde(default)]
    pub altered: Vec<String>,
}

/// What a look finds.
pub struct Look {
    rows: Vec<Written>,
    taken_out: i64,
    members: Memberships,
}

impl Look {
    /// # Errors
    /// `Unavailable` if the source fails.
    pub async fn at(session: &Session, slot: &str, newest: &Newest) -> Result<Look> {
        let publications = Publications::of_slot(slot);
        let rows = publications.written(session).await?;
        let taken_out = Triggers::of_slot(slot).taken_out(session).await?;
        Ok(Look { rows, taken_out, members: publications.memberships(session, &newest.tables).await? })
    }

    /// The tables of which changes may be missing since the last look in this epoch. `members`: what that one
    /// found, if memberships come and go by nobody's doing but our own.
    pub fn altered(&self, epoch: u32, last: Option<&Imprint>, members: Option<&Memberships>) -> Vec<String> {
        let last = last.filter(|last| last.epoch == epoch);
        let known = last.iter().flat_map(|last| last.altered.clone());
        let mut altered: Vec<_> = known.collect();
        let mut rows = last.iter().flat_map(|last| last.rows.iter().zip(&self.rows));
        if rows.any(|(before, now)| before.was_altered(now))
            || last.is_some_and(|last| last.taken_out < self.taken_out)
        {
            altered.extend(self.members.values().map(|(_, name)| name.clone()));
        }
        for (place, (before, _)) in members.into_iter().flatten() {
            altered.extend(
                self.members.get(place).filter(|(now, _)| now != before).map(|(_, name)| name.clone()),
            );
        }
        altered.sort();
        altered.dedup();
        altered
    }

    /// To be kept: what was found altered stays so until a new epoch has begun.
    pub fn imprint(&self, epoch: u32, altered: Vec<String>) -> Imprint {
        Imprint { epoch, rows: self.rows.clone(), taken_out: self.taken_out, altered }
    }

    pub fn into_members(self) -> Memberships {
        self.members
    }
}

/// What to say of it.
pub fn message(altered: &[String]) -> String {
    format!(
        "somebody altered backwhen's publications: for a while they may not have carried all of {}",
        altered.join(", ")
    )
}
