//! How a role is taken in several stores.
//!
//! Who wants a role alone needs leases in a quorum of stores; who wants to remove objects, in all. A store that refuses is
//! outvoted, as it may only remember a process that is dead. A reader shares its role in `m + 1` stores: one is left if m are
//! lost, and one is enough to keep an `expire` away, which needs all.

use std::sync::Arc;
use std::time::Duration;

use super::Dispersed;
use super::member::Member;
use super::members::{Answers, Question, first_error};
use super::roles::HeldRole;
use crate::error::{Error, Kind, Result};
use crate::store::{Lease, Role};

/// A store may take this long to give a lease: it watches an earlier holder for a while.
const WATCH: Duration = Duration::from_secs(60);

/// Once enough leases are there, the other stores have this time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who came second in the first store gives the process before it this time to take the others.
const HEAD_START: Duration = Duration::from_secs(2);

/// Stores that do not take a lease back within this time are left with it, until others see that its holder is gone.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// A role in several stores, given back with the value.
struct GivenRole {
    role: Arc<HeldRole>,
    all: Arc<[Arc<Member>]>,
}

impl Drop for GivenRole {
    fn drop(&mut self) {
        give_back(&self.all, self.role.take_all());
    }
}

/// Gives leases back, each in a thread of its store.
fn give_back(all: &Arc<[Arc<Member>]>, leases: Vec<Option<Lease>>) {
    let leases: Vec<_> = leases.into_iter().map(std::sync::Mutex::new).collect();
    let given: Vec<_> =
        (0..leases.len()).filter(|number| leases[*number].lock().is_ok_and(|it| it.is_some())).collect();
    let mut question = Question::new(all, false, move |member| {
        drop(leases[member.number].lock().map(|mut it| it.take()));
        Ok(())
    });
    given.iter().for_each(|number| question.ask(*number));
    question.wait(0, GIVE_BACK, |()| true);
}

impl Dispersed {
    /// Takes a role for the caller alone, and then makes whole what an earlier holder has left in too few stores.
    ///
    /// # Errors
    /// `Locked` if another process has the role; `Unavailable` if too few stores answer.
    pub(super) fn lease_alone(&self, role: Role, command: &str, owner: Option<&str>) -> Result<Lease> {
        let members = self.writable()?;
        let policy = members.dispersal.policy;
        let needed = if role == Role::Objects { policy.stores() } else { policy.quorum() };
        let held = Arc::new(HeldRole::new(role, command, owner, policy.stores(), policy.witnesses()));
        let asking = Arc::clone(&held);
        let mut question = members.question(true, move |_, store| asking.ask(store));
        for number in members.numbers() {
            question.ask(number);
            let first = question.next(WATCH).and_then(|number| question.answers[number].as_ref());
            match first {
                Some(Ok(_)) => break,
                Some(Err(error)) if error.kind() == Kind::Locked && needed == policy.stores() => {
                    return Err(Error::locked(error.message()));
                }
                Some(Err(error)) if error.kind() == Kind::Locked => {
                    std::thread::sleep(HEAD_START);
                    break;
                }
                _ => {}
            }
        }
        let rest: Vec<_> =
            members.numbers().into_iter().filter(|number| question.is_unasked(*number)).collect();
        rest.iter().for_each(|number| question.ask(*number));
        question.wait(needed, PATIENCE, |_| true);
        let mut answers = std::mem::take(&mut question.answers);
        let given = GivenRole { role: Arc::clone(&held), all: Arc::clone(&members.all) };
        for (number, answer) in answers.iter_mut().enumerate() {
            if let Some(lease) = answer.take_if(|it| it.is_ok()).and_then(Result::ok) {
                given.role.give(number, lease);
            }
        }
        let count = given.role.count();
        if count < needed {
            return Err(self.refused_role(count, needed, &answers));
        }
        members.roles.add(&held);
        if matches!(role, Role::Capture | Role::Checkpoint) {
            self.strengthen(&members)?;
        }
        Ok(Lease::new(given))
    }

    fn refused_role(&self, given: usize, needed: usize, answers: &Answers<Lease>) -> Error {
        let errors = || answers.iter().flatten().filter_map(|it| it.as_ref().err());
        let all = self.all.len();
        match errors().find(|error| error.kind() == Kind::Locked) {
            Some(locked) => Error::locked(locked.message()),
            None => Error::unavailable(format!(
                "{given} of {all} stores give a lease, and {needed} must; try again once they answer: {}",
                first_error(answers)
            )),
        }
    }

    /// Shares a role in m+1 stores, or as many as answer.
    ///
    /// # Errors
    /// `Locked` if another process has the role alone in all that answer; `Unavailable` if no store answers.
    pub(super) fn lease_shared(&self, role: Role, patience: Duration) -> Result<Option<Lease>> {
        let Some(members) = self.members()? else { return Ok(None) };
        let mut order = members.numbers();
        order.sort_by_key(|number| members.all[*number].is_last_choice());
        let wanted = members.dispersal.policy.code.m + 1;
        let mut answers = Answers::new();
        for which in [&order[..wanted], &order[wanted..]] {
            answers.extend(members.ask(which, 1, PATIENCE, move |_, store| store.share(role, patience)));
            if answers.iter().flatten().any(|it| it.is_ok()) {
                let given: Vec<_> = answers.into_iter().flatten().flatten().collect();
                if given.iter().all(Option::is_none) {
                    // Where nothing can be locked, nothing can be removed either.
                    return Ok(None);
                }
                let given = given.into_iter().chain(std::iter::repeat_with(|| None)).take(members.all.len());
                return Ok(Some(Lease::new(SharedRole { leases: given.collect(), all: members.all })));
            }
        }
        let refusal = answers.into_iter().flatten().filter_map(Result::err);
        Err(refusal
            .min_by_key(|error| error.kind() != Kind::Locked)
            .unwrap_or_else(|| Error::unavailable("no store answers; try again once they do")))
    }
}

/// Leases of readers, given back with the value.
struct SharedRole {
    leases: Vec<Option<Lease>>,
    all: Arc<[Arc<Member>]>,
}

impl Drop for SharedRole {
    fn drop(&mut self) {
        give_back(&self.all, std::mem::take(&mut self.leases));
    }
}
