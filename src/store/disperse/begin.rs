//! How a dispersal begins, and how its stores are found to belong together.

use std::sync::Arc;

use super::census::{Census, too_many_away};
use super::mark::{Dispersal, Mark};
use super::members::{Answers, Members, Question, failures};
use super::{Dispersed, PATIENCE, lock};
use crate::ambient;
use crate::error::{Error, Result};
use crate::store::ObjectKind;

impl Dispersed {
    /// The stores, by their marks; `None` if no store has one.
    ///
    /// # Errors
    /// `Unavailable` if more than m stores do not answer, `Refused` if the marks do not agree.
    pub(super) fn members(&self) -> Result<Option<Members>> {
        let mut known = lock(&self.members);
        if known.is_some() {
            return Ok(known.clone());
        }
        let marks = self.marks(self.policy.code.k);
        if failures(&marks) > self.policy.code.m {
            return Err(too_many_away(self.policy, &marks));
        }
        let found: Vec<_> =
            marks.into_iter().enumerate().filter_map(|(number, mark)| Some((number, mark?.ok()??))).collect();
        let Some((_, first)) = found.first() else { return Ok(None) };
        // Whoever gave the stores their marks was cut short: there is nothing yet.
        if found.len() < self.policy.code.k && !self.has_shards() {
            return Ok(None);
        }
        let members = self.members_of(&first.id);
        for (number, mark) in &found {
            mark.check(&self.all[*number].url, &members.dispersal, *number)?;
            self.all[*number].accept();
        }
        *known = Some(members.clone());
        Ok(Some(members))
    }

    /// Reads the marks. Once `enough` were read, only those are waited for that are quick.
    fn marks(&self, enough: usize) -> Answers<Option<Mark>> {
        let mut question = Question::new(&self.all, true, |member| Mark::read(member.bare()));
        (0..self.all.len()).for_each(|number| question.ask(number));
        question.wait(enough, PATIENCE, |_| true);
        std::mem::take(&mut question.answers)
    }

    /// Whether a store that answers has any shard, marked or not.
    fn has_shards(&self) -> bool {
        let mut question = Question::new(&self.all, true, |member| member.bare().list(ObjectKind::Shard));
        (0..self.all.len()).for_each(|number| question.ask(number));
        question.wait(self.all.len(), PATIENCE, |_| true);
        question.answers.iter().flatten().any(|list| list.as_ref().is_ok_and(|list| !list.is_empty()))
    }

    pub(super) fn members_of(&self, id: &str) -> Members {
        let dispersal = Arc::new(Dispersal { id: id.to_owned(), policy: self.policy });
        let (all, roles, drafts) = (Arc::clone(&self.all), Arc::clone(&self.roles), Arc::clone(&self.drafts));
        Members { all, dispersal, roles, drafts }
    }

    /// The stores, for a process that writes to them. The dispersal is begun if no store has anything yet.
    ///
    /// # Errors
    /// `Unavailable` if the dispersal is still to be begun and not all stores answer.
    pub(super) fn writable(&self) -> Result<Members> {
        let mut is_begun = lock(&self.is_begun);
        if let Some(members) = self.members()?
            && (*is_begun || !Census::take(&members, self.policy.code.k, PATIENCE)?.holders.is_empty())
        {
            *is_begun = true;
            return Ok(members);
        }
        let members = self.begin()?;
        *is_begun = true;
        *lock(&self.members) = Some(members.clone());
        Ok(members)
    }

    /// Gives all stores their marks. That of the first store decides which of two processes begins.
    fn begin(&self) -> Result<Members> {
        let without = |error: Error| {
            Error::new(
                error.kind(),
                format!("a dispersed history begins once all its stores answer: {error}"),
            )
        };
        let mut marks = self.marks(self.all.len());
        if let Some(Err(error)) = marks.iter_mut().filter_map(Option::take).find(Result::is_err) {
            return Err(without(error));
        }
        let (first, begun) = (self.all[0].bare(), lock(&self.members).clone());
        let id = match (begun, Mark::read(first)?) {
            (Some(begun), _) => begun.dispersal.id.clone(),
            (None, Some(mark)) => mark.id,
            (None, None) => {
                let id = format!("{:032x}", u128::from_be_bytes(ambient::random()?));
                self.all[0].begin(&self.members_of(&id).dispersal).or_else(|error| {
                    match Mark::read(first) {
                        Ok(Some(_)) => Ok(()),
                        _ => Err(without(error)),
                    }
                })?;
                Mark::read(first)?.map_or(id, |mark| mark.id)
            }
        };
        let members = self.members_of(&id);
        self.all.iter().try_for_each(|member| member.begin(&members.dispersal).map_err(without))?;
        Ok(members)
    }
}
