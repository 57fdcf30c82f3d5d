//! Whether the source can still give everything that comes after the journal's frontier.

use super::known_source::KnownSource;
use super::live;
use super::published::{self, KnownPublications, PublicationCheck};
use crate::ambient;
use crate::connect::{Conninfo, Session};
use crate::error::{Error, Result};
use crate::history::History;
use crate::history::epoch::Epoch;
use crate::model::Lsn;
use crate::source::inspect;
use crate::source::publication::{Pool, Publications};
use crate::source::slot::SlotFacts;
use crate::source::stream::ReplicationClient;
use crate::source::triggers::Triggers;

/// Whether the source still has every change that the history lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuity {
    Whole,
    /// Something between the frontier and the next change cannot be had.
    Lost(Loss),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub why: String,
    /// Tables that the stream did not carry for a while already.
    pub unpublished: Vec<String>,
}

impl Loss {
    /// The loss that is to be made good: one of before, with the tables that a new look adds, or a new one.
    pub fn remember(before: Option<Loss>, found: Continuity) -> Option<Loss> {
        match (before, found) {
            (before, Continuity::Whole) => before,
            (None, Continuity::Lost(found)) => Some(found),
            (Some(mut before), Continuity::Lost(found)) => {
                let new = found.unpublished.into_iter().filter(|table| !before.unpublished.contains(table));
                let new: Vec<_> = new.collect();
                before.unpublished.extend(new);
                Some(before)
            }
        }
    }
}

/// The facts that decide, as the server tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    slot_exists: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    wal_status: Option<String>,
    confirmed: Option<Lsn>,
    plugin: Option<String>,
    pool: Option<Pool>,
    /// Protected tables of which the publications do not carry everything.
    unpublished: Vec<String>,
    /// The tables that the publications may not have carried for a while since the last check.
    altered: Vec<String>,
    published: KnownPublications,
    /// The end of the server's log.
    head: Lsn,
    /// The frontier of the history.
    frontier: Lsn,
    /// The image that the epoch begins with was finished.
    has_image: bool,
}

/// Asks the source.
///
/// # Errors
/// `Refused` if it is another cluster or cannot be captured from; `Unavailable` if it fails.
pub async fn check(
    history: &History,
    epoch: &Epoch,
    source: &Conninfo,
    client: &mut ReplicationClient,
    frontier: Lsn,
) -> Result<ContinuityReport> {
    let newest = KnownSource::read(history).await?;
    let asked = tokio::time::timeout(client.silence(), ask(history, epoch, source, client, &newest));
    let silent = |_| Error::unavailable("the source does not answer; see what lies between here and there");
    let facts = Facts { frontier, has_image: newest.exists, ..asked.await.map_err(silent)?? };
    let continuity = decide(&facts, &epoch.slot);
    let confirmed = facts.confirmed.unwrap_or_default();
    let Facts { head, published, pool, .. } = facts;
    Ok(ContinuityReport { continuity, head, confirmed, published, pool: pool.unwrap_or(Pool::Young) })
}

/// Whether the stream goes on where the history ends, and the positions that show it.
pub struct ContinuityReport {
    pub continuity: Continuity,
    /// The end of the source's WAL.
    pub head: Lsn,
    /// The position that the slot has confirmed.
    pub confirmed: Lsn,
    /// The publications, for later checks.
    pub published: KnownPublications,
    /// The publications that the stream can name.
    pub pool: Pool,
}

/// Asks the source for the facts from which continuity is decided.
async fn ask(
    history: &History,
    epoch: &Epoch,
    source: &Conninfo,
    client: &mut ReplicationClient,
    newest: &KnownSource,
) -> Result<Facts> {
    let server = client.identify_system().await?;
    inspect::same_cluster(&history.identity().source.system_identifier, &server.system_identifier)?;
    if server.timeline != epoch.timeline {
        tracing::info!(
            "the source is on timeline {}; epoch {} began on {}",
            server.timeline,
            epoch.number,
            epoch.timeline
        );
    }
    let session = Session::connect_utf8(source, "capture").await?;
    let publications = Publications::of_slot(&epoch.slot);
    let slot = SlotFacts::read(&session, &epoch.slot).await?;
    if slot.is_standby {
        return Err(Error::refused("the source is a standby; name its primary with --source"));
    }
    let pooled = Triggers::of_slot(&epoch.slot).are_pooled(&session).await?;
    let look = PublicationCheck::at(&session, history.identity(), newest).await?;
    let kept = history.live_state();
    let last = ambient::blocking("reading the live state", move || Ok(live::read(&kept))).await?;
    let last = last.and_then(|live| live.published);
    Ok(Facts {
        slot_exists: slot.exists && slot.in_this_database,
        wal_status: slot.wal_status,
        confirmed: slot.confirmed,
        plugin: slot.plugin,
        pool: Some(publications.pool(&session, &epoch.slot, pooled).await?),
        unpublished: publications.lacking(&session, &newest.tables).await?,
        altered: look.altered(epoch.number, last.as_ref()),
        published: look.known(epoch.number, Vec::new()),
        head: server.flushed,
        ..Facts::default()
    })
}

fn decide(facts: &Facts, slot: &str) -> Continuity {
    let cause = if !facts.slot_exists {
        format!("replication slot {slot} is gone from the source")
    } else if facts.wal_status.as_deref() == Some("lost") || facts.confirmed.is_none() {
        format!("replication slot {slot} was invalidated: the source has removed log that it needed")
    } else if facts.plugin.as_deref() != Some("pgoutput") {
        format!("somebody made a slot {slot} of another kind in the place of backwhen's")
    } else if facts.confirmed > Some(facts.frontier) {
        format!(
            "replication slot {slot} was moved on to {} by somebody else, or made anew; the history ends at {}",
            facts.confirmed.unwrap_or_default(),
            facts.frontier
        )
    } else if facts.head < facts.frontier {
        format!(
            "the source stands at {}, before the end of the history at {}: it was restored from a backup or lost data",
            facts.head, facts.frontier
        )
    } else if facts.pool == Some(Pool::Broken) {
        "backwhen's publications are gone from the source".to_owned()
    } else if !facts.has_image {
        // Killed between the epoch's file and its manifest: no moment of the stream could come back.
        "the image that this epoch was to begin with was never finished".to_owned()
    } else if !facts.unpublished.is_empty() {
        format!(
            "somebody changed backwhen's publications: they do not carry all of {}",
            facts.unpublished.join(", ")
        )
    } else if !facts.altered.is_empty() {
        published::message(&facts.altered)
    } else {
        return Continuity::Whole;
    };
    let unpublished = facts.unpublished.iter().chain(&facts.altered).cloned().collect();
    Continuity::Lost(Loss { why: cause, unpublished })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Facts {
        Facts {
            slot_exists: true,
            wal_status: Some("reserved".into()),
            confirmed: Some(Lsn(100)),
            plugin: Some("pgoutput".into()),
            pool: Some(Pool::Ready),
            unpublished: Vec::new(),
            altered: Vec::new(),
            published: KnownPublications::default(),
            head: Lsn(200),
            frontier: Lsn(100),
            has_image: true,
        }
    }

    #[test]
    fn a_loss_of_before_stands_until_it_is_made_good() {
        let loss = |why: &str, tables: &[&str]| Loss {
            why: why.to_owned(),
            unpublished: tables.iter().map(|table| (*table).to_owned()).collect(),
        };
        let (before, found) = (loss("torn", &["public.a"]), loss("gone", &["public.a", "public.b"]));
        assert_eq!(Loss::remember(None, Continuity::Whole), None);
        assert_eq!(Loss::remember(Some(before.clone()), Continuity::Whole), Some(before.clone()));
        assert_eq!(Loss::remember(None, Continuity::Lost(found.clone())), Some(found.clone()));
        let both = loss("torn", &["public.a", "public.b"]);
        assert_eq!(Loss::remember(Some(before), Continuity::Lost(found)), Some(both));
    }

    #[test]
    fn each_fault_is_a_loss_and_nothing_else_is() {
        assert_eq!(decide(&healthy(), "s"), Continuity::Whole);
        assert_eq!(decide(&Facts { confirmed: Some(Lsn(90)), ..healthy() }, "s"), Continuity::Whole);
        assert_eq!(
            decide(&Facts { wal_status: Some("unreserved".into()), ..healthy() }, "s"),
            Continuity::Whole
        );
        let faults = [
            Facts { slot_exists: false, ..healthy() },
            Facts { wal_status: Some("lost".into()), ..healthy() },
            Facts { confirmed: None, ..healthy() },
            Facts { confirmed: Some(Lsn(101)), ..healthy() },
            Facts { plugin: Some("test_decoding".into()), ..healthy() },
            Facts { head: Lsn(99), ..healthy() },
            Facts { pool: Some(Pool::Broken), ..healthy() },
            Facts { has_image: false, ..healthy() },
            Facts { unpublished: vec!["public.t".into()], ..healthy() },
            Facts { altered: vec!["public.t".into()], ..healthy() },
        ];
        for facts in faults {
            assert!(matches!(decide(&facts, "s"), Continuity::Lost(_)), "{facts:?}");
        }
    }
}
