//! Whether somebody altered the publications between two looks, though they are as they should be again: what
//! was changed meanwhile, the stream did not carry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::known_source::KnownSource;
use crate::connect::Session;
use crate::error::Result;
use crate::history::Identity;
use crate::source::publication::{Memberships, PublicationRow, Publications};
use crate::source::triggers::Triggers;

/// The publications as the last check found them. The live state keeps them, so that a later capture knows them too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPublications {
    /// A new epoch has new publications.
    pub epoch: u32,
    pub rows: Vec<PublicationRow>,
    /// How often a table was taken out of a publication by anybody but capture, as the event triggers count it.
    #[serde(default)]
    pub taken_out: i64,
    /// The tables by their memberships' oids, if nobody but capture has a reason to change them: with event triggers,
    /// tables move from one publication to the other in the application's own transactions.
    #[serde(default)]
    pub members: BTreeMap<u32, u32>,
    /// Tables that were found to have been taken out and put back.
    #[serde(default)]
    pub altered: Vec<String>,
}

/// The publications as the source has them now, to be compared with those of the last check.
pub struct PublicationCheck {
    rows: Vec<PublicationRow>,
    taken_out: i64,
    members: Memberships,
    has_event_triggers: bool,
}

impl PublicationCheck {
    /// # Errors
    /// `Unavailable` if the source fails.
    pub async fn at(
        session: &Session,
        identity: &Identity,
        newest: &KnownSource,
    ) -> Result<PublicationCheck> {
        let slot = identity.slot();
        let publications = Publications::of_slot(&slot);
        Ok(PublicationCheck {
            rows: publications.rows(session).await?,
            taken_out: Triggers::of_slot(&slot).taken_out(session).await?,
            members: publications.memberships(session, &newest.tables).await?,
            has_event_triggers: identity.has_event_triggers(),
        })
    }

    /// Returns the tables whose changes since the last check in this epoch may be missing.
    pub fn altered(&self, epoch: u32, last: Option<&KnownPublications>) -> Vec<String> {
        let last = last.filter(|last| last.epoch == epoch);
        let known = last.iter().flat_map(|last| last.altered.clone());
        let mut altered: Vec<_> = known.collect();
        let mut rows = last.iter().flat_map(|last| &last.rows);
        if rows.any(|before| !self.rows.iter().any(|now| !before.was_altered(now)))
            // Fewer than before: the count was lost in a crash, and what it would have shown with it.
            || last.is_some_and(|last| last.taken_out != self.taken_out)
        {
            altered.extend(self.members.values().map(|(_, name)| name.clone()));
        }
        let memberships = last.iter().flat_map(|last| &last.members);
        for (_, table) in memberships.filter(|(membership, _)| !self.members.contains_key(membership)) {
            altered
                .extend(self.members.values().filter(|(now, _)| now == table).map(|(_, name)| name.clone()));
        }
        altered.sort();
        altered.dedup();
        altered
    }

    /// To be kept: what was found altered stays so until a new epoch has begun.
    pub fn known(&self, epoch: u32, altered: Vec<String>) -> KnownPublications {
        let members = self.members.iter().map(|(membership, (table, _))| (*membership, *table));
        let members = members.filter(|_| !self.has_event_triggers).collect();
        KnownPublications { epoch, rows: self.rows.clone(), taken_out: self.taken_out, members, altered }
    }
}

/// Returns the message that names the tables.
pub fn message(altered: &[String]) -> String {
    format!(
        "somebody altered backwhen's publications: for a while they may not have carried all of {}",
        altered.join(", ")
    )
}
