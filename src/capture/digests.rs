//! Tells the digests of the source's definitions in the stream, once definitions have changed.

use tokio::time::Instant;

use super::known_source::KnownSource;
use crate::ambient;
use crate::connect::Session;
use crate::error::{Context, Kind, Result};
use crate::model::schema_digests::SchemaDigests;
use crate::pgtools;
use crate::signal::key::MessageKey;
use crate::signal::{self, DigestsSignal};
use crate::source::inspect;
use crate::source::messages::write;

/// The definitions are digested at most this share of the time, however large the schema is.
pub(super) const DIGEST_SHARE: u32 = 50;

/// A message with more bytes than this is not written: the next checkpoint has the digests too.
const LARGEST: usize = 16 << 20;

/// The last digests that the stream or the newest checkpoint tells.
#[derive(Default)]
pub(super) struct ToldDigests {
    /// The digests, and the fingerprint of the same definitions; `None` if those of the newest checkpoint are the last.
    last: Option<(String, SchemaDigests)>,
    next: Option<Instant>,
}

impl ToldDigests {
    /// From here on the newest checkpoint has the last digests.
    pub fn begin_at_checkpoint(&mut self) {
        self.last = None;
    }

    /// Tells what has changed in the definitions since the last digests, which takes no more than its share of the time.
    /// If definitions change faster than they can be digested, nothing is told.
    ///
    /// # Errors
    /// `Unavailable` if the source fails.
    pub async fn tell(
        &mut self,
        session: &Session,
        key: &MessageKey,
        fingerprint: &str,
        checkpoint: &KnownSource,
    ) -> Result<()> {
        let of_checkpoint = || Some((&checkpoint.fingerprint, checkpoint.digests.as_ref()?));
        let last =
            self.last.as_ref().map(|(fingerprint, digests)| (fingerprint, digests)).or_else(of_checkpoint);
        // Without digests in the newest checkpoint, there is nothing that a message could follow.
        let Some((_, last)) = last.filter(|(last, _)| *last != fingerprint) else { return Ok(()) };
        if self.next.is_some_and(|next| ambient::instant() < next) {
            return Ok(());
        }
        let started = ambient::instant();
        let taken = take(session, fingerprint, last).await?;
        self.next = Some(ambient::instant() + started.elapsed() * DIGEST_SHARE);
        let Some((signal, digests)) = taken else { return Ok(()) };
        let body = serde_json::to_string(&signal);
        let body = body.context(Kind::Internal, || "cannot write of the definitions".into())?;
        if body.len() <= LARGEST {
            write(session, key, &[(signal::DIGESTS, &body)]).await?;
            let (count, s) = (signal.changes.len(), if signal.changes.len() == 1 { "" } else { "s" });
            tracing::info!("digests of {count} object{s} whose definitions have changed are in the stream");
            self.last = Some((signal.fingerprint, digests));
        }
        Ok(())
    }
}

/// Digests the definitions; `None` if they changed meanwhile. The server reads texts as of now, not under a snapshot, so
/// the digests are those of a snapshot only if no change became visible from before it was taken until after the last text.
async fn take(
    session: &Session,
    fingerprint: &str,
    last: &SchemaDigests,
) -> Result<Option<(DigestsSignal, SchemaDigests)>> {
    let snapshot = inspect::snapshot(session).await?;
    let digests = match pgtools::schema_digests(session).await {
        Ok(digests) => digests,
        Err(error) => {
            tracing::debug!("the definitions are digested later: {error}");
            return Ok(None);
        }
    };
    if inspect::fingerprint(session).await? != fingerprint {
        return Ok(None);
    }
    let (fingerprint, follows) = (fingerprint.to_owned(), last.name());
    let signal = DigestsSignal { snapshot, fingerprint, follows, changes: digests.changes_since(last) };
    Ok(Some((signal, digests)))
}
