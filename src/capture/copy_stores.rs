//! How the stores stand that a standing copy is dispersed over.
//!
//! Only the lists of the stores tell what each lacks. They are read when the copy begins, soon after a store has failed, again
//! and again while something is lacking, and seldom otherwise. A bucket's list is kept from one look to the next, with what
//! this process has put since, and is asked for anew only seldom: it costs requests.

use std::time::Duration;

use super::live::{CopyLive, CopyStore};
use crate::ambient::{self, Steady};
use crate::store::Dispersed;

/// After a failure of a store, or while one lacks something, the stores are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Without any sign of trouble they are looked at so often: a store may lack what was never sent to it.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// While something is lacking, buckets are listed anew so often, as another process may have made it again.
const LIST_EVERY: Duration = Duration::from_secs(600);

/// The last look at the stores of one copy.
#[derive(Default)]
pub(super) struct CopyStores {
    looked: Option<Steady>,
    listed: Option<Steady>,
    /// The number of failures of all stores when they were looked at.
    failures: u64,
    is_whole: bool,
}

impl CopyStores {
    /// Looks at the stores if it is time to, and writes down what each lacks. Returns whether anything is new.
    pub fn look(&mut self, dispersed: &Dispersed, shown: &mut CopyLive) -> bool {
        let failures = dispersed.failures();
        let is_quiet = self.is_whole && failures == self.failures;
        let pause = if is_quiet { LOOK_AT_LEAST_EVERY } else { LOOK_EVERY };
        if self.looked.is_some_and(|at| at.elapsed() < pause) {
            return false;
        }
        if !self.is_whole && self.listed.is_none_or(|at| at.elapsed() >= LIST_EVERY) {
            dispersed.list_again();
            self.listed = Some(ambient::instant());
        }
        let before = (std::mem::take(&mut shown.stores), shown.could_lose);
        match dispersed.glance() {
            Ok(survey) => {
                shown.could_lose = Some(survey.could_lose);
                let stores = survey.stores.into_iter();
                shown.stores = stores
                    .map(|it| CopyStore { store: it.store, away: it.away, lacks: Some(it.lacks) })
                    .collect();
            }
            Err(_) => {
                shown.could_lose = None;
                let stores = dispersed.away().into_iter();
                shown.stores = stores.map(|(store, away)| CopyStore { store, away, lacks: None }).collect();
            }
        }
        self.is_whole = shown.stores.iter().all(CopyStore::is_whole);
        self.looked = Some(ambient::instant());
        self.failures = dispersed.failures();
        before != (shown.stores.clone(), shown.could_lose)
    }
}
