//! Leases of a dispersed store.
//!
//! Who wants a role alone takes it in each store that answers, and has it only if these are as many as a put needs: all but
//! those that are tolerated. Two such sets of stores always have stores in common, at least as many as there are stores
//! beyond twice the tolerated ones, so two processes have one role at a time only if all of these lie. A store whose lease was
//! lost refuses the process's puts. Removing objects needs every store, and a reader that shares a role in one store keeps
//! others from that; it takes m+1, so that m may be lost.

use super::members::Members;
use super::{Dispersed, PATIENCE};
use crate::error::{Error, Kind, Result};
use crate::store::{Lease, Role};
use std::time::Duration;

/// A store may take this long to give a lease; it watches an earlier holder for 30 s.
const WATCH: Duration = Duration::from_secs(120);

impl Dispersed {
    /// Takes a role in enough stores.
    ///
    /// # Errors
    /// `Locked` if another process has the role in one of the stores; `Unavailable` if too few stores answer.
    pub(super) fn lease_alone(&self, role: Role, command: &str, owner: Option<&str>) -> Result<Lease> {
        let members = self.writable()?;
        let needed = if role == Role::Objects { self.all.len() } else { self.quorum() };
        let (command, owner) = (command.to_owned(), owner.map(str::to_owned));
        let take = move |_: usize, store: &dyn crate::store::Store| match &owner {
            Some(owner) => store.lease_as(role, &command, owner),
            None => store.lease(role, &command),
        };
        // Of two processes, the one that is first in the first store that both reach goes on.
        let mut given = Vec::new();
        let mut rest = members.numbers().into_iter();
        let mut first_failure = None;
        for number in rest.by_ref() {
            match members.ask_one(number, |store| take(number, store)) {
                Ok(lease) => {
                    given.push(lease);
                    break;
                }
                Err(error) if error.kind() == Kind::Locked => return Err(error),
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        let rest: Vec<_> = rest.collect();
        let answers = members.ask(&rest, rest.len().min(needed), WATCH, take);
        for answer in answers.into_iter().flatten() {
            match answer {
                Ok(lease) => given.push(lease),
                Err(error) if error.kind() == Kind::Locked => return Err(error),
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        if given.len() >= needed {
            return Ok(Lease::new(given));
        }
        let why = first_failure.map_or_else(String::new, |error| format!(": {error}"));
        Err(Error::unavailable(format!(
            "{} of {} stores give this role, and {needed} must; try again once they answer{why}",
            given.len(),
            self.all.len()
        )))
    }

    /// Shares a role in m+1 stores, or as many as answer.
    ///
    /// # Errors
    /// `Locked` if another process has the role alone in one of them; `Unavailable` if no store answers.
    pub(super) fn lease_shared(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        let Some(members) = self.members()? else { return Ok(None) };
        let given = share_in(&members, self.code.m + 1, role, patience)?;
        Ok((!given.is_empty()).then(|| Lease::new(given)))
    }
}

fn share_in(members: &Members, wanted: usize, role: Role, patience: Duration) -> Result<Vec<Lease>> {
    let (mut given, mut answered, mut failure) = (Vec::new(), 0, None);
    let numbers = members.numbers();
    let (first, others) = numbers.split_at(wanted.min(numbers.len()));
    let mut batches = std::iter::once(first.to_vec()).chain(others.iter().map(|it| vec![*it]));
    while answered < wanted
        && let Some(which) = batches.next()
    {
        let shared = members.ask(&which, which.len(), PATIENCE, move |_, store| store.share(role, patience));
        for share in shared.into_iter().flatten() {
            match share {
                Ok(lease) => {
                    answered += 1;
                    given.extend(lease);
                }
                Err(error) if error.kind() == Kind::Locked => return Err(error),
                Err(error) => failure = Some(error),
            }
        }
    }
    match failure {
        Some(error) if answered == 0 => Err(error),
        _ => Ok(given),
    }
}
