//! The objects that a target refused.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::Inexact;

/// The greatest length of a reason.
const WORDS: usize = 600;

/// An object that a recovery left out, or made in a weaker form, because its target refused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedObject {
    /// The object: `FK CONSTRAINT public.orders orders_customer_fkey`.
    pub what: String,
    pub why: String,
    /// The statements that make the object as it was; empty if no statement can.
    pub sql: String,
}

impl RefusedObject {
    pub fn note(&self) -> String {
        format!("{}: {}", self.what, self.why)
    }

    pub fn as_inexact(&self) -> Inexact {
        Inexact { what: self.what.clone(), why: self.why.clone() }
    }
}

/// The objects that were refused so far.
#[derive(Debug, Default)]
pub(super) struct RefusedObjects {
    /// Whether the first one ends the recovery.
    pub strict: bool,
    /// Whether rows are left out on purpose, so that a foreign key may be broken although it was valid on the source.
    pub is_part: bool,
    objects: Mutex<Vec<RefusedObject>>,
    /// Remarks, for a person, on objects that are as they were on the source nevertheless.
    notes: Mutex<Vec<String>>,
}

impl RefusedObjects {
    pub fn new(strict: bool, is_part: bool) -> RefusedObjects {
        RefusedObjects { strict, is_part, ..RefusedObjects::default() }
    }

    /// # Errors
    /// Fails with `Refused` if nothing may be left out.
    pub fn add(&self, what: String, why: impl ToString, sql: String) -> Result<()> {
        // A function of the application chooses its own words.
        let why: String = why.to_string().chars().take(WORDS).collect();
        if self.strict {
            return Err(Error::refused(format!(
                "the target refuses {what}: {why}; mend that, or have all else recovered by leaving --strict away"
            )));
        }
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).push(RefusedObject { what, why, sql });
        Ok(())
    }

    /// Adds objects whose absence ends no recovery: a role with few rights can give others nothing.
    pub fn add_all(&self, objects: Vec<RefusedObject>) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).extend(objects);
    }

    pub fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn take(&self) -> Vec<RefusedObject> {
        std::mem::take(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
