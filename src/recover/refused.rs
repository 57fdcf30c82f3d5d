//! The objects that a target refused.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Inexact;
use crate::model::schema_digests::{DifferenceKind, SchemaDifference};

/// The greatest length of a reason.
const WORDS: usize = 600;

/// An object that a recovery left out, or made in a weaker form, because its target refused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Whether the list of what is not exact has this object, perhaps with more that differs.
    pub fn is_named_by(&self, inexact: &Inexact) -> bool {
        inexact.what == self.what && inexact.why.starts_with(&self.why)
    }

    /// Whether a difference between definitions is nothing but that this object was refused. pg_dump says
    /// `TRIGGER public.t name` where the digests say `trigger name on public.t`.
    pub fn explains(&self, difference: &SchemaDifference) -> bool {
        if let Some(placed) = self.what.strip_prefix("tablespace of ") {
            let is_place = |parts: &BTreeSet<String>| parts.iter().all(|part| part == "tablespace");
            return matches!(&difference.kind, DifferenceKind::Parts(parts) if is_place(parts))
                && words(placed) == words(&difference.object);
        }
        words(&self.what) == words(&difference.object)
    }
}

/// Returns the kind and the names in a description of an object, in the same order for all descriptions.
fn words(described: &str) -> Vec<String> {
    let mut words: Vec<_> = described
        .replace(", ", ",")
        .split_whitespace()
        .map(|word| word.replace('"', "").to_lowercase())
        .filter(|word| !KINDS_AND_LINKS.contains(&&**word))
        .collect();
    words.sort_unstable();
    words
}

/// Words that only one of the two descriptions has.
const KINDS_AND_LINKS: &[&str] = &["on", "fk", "check", "procedural", "table", "for"];

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

    pub fn is_empty(&self) -> bool {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_explains_its_own_difference_only() {
        let explains = |what: &str, object: &str, kind: &DifferenceKind| {
            let refused = RefusedObject { what: what.into(), why: "w".into(), sql: String::new() };
            refused.explains(&SchemaDifference { object: object.into(), kind: kind.clone() })
        };
        let missing = DifferenceKind::Missing;
        for (what, object) in [
            ("TRIGGER public.t g", "trigger g on public.t"),
            ("FK CONSTRAINT public.t of_u", "table constraint of_u on public.t"),
            ("FUNCTION public.f(integer, text)", "function public.f(integer,text)"),
            ("PROCEDURAL LANGUAGE l", "language l"),
            ("TABLE public.a b", "table public.\"a b\""),
        ] {
            assert!(explains(what, object, &missing), "{what}");
        }
        assert!(!explains("TRIGGER public.t g", "trigger g on public.u", &missing));
        assert!(!explains("VIEW public.t", "table public.t", &missing));
        let parts = |part: &str| DifferenceKind::Parts(BTreeSet::from([part.to_owned()]));
        assert!(explains("tablespace of TABLE public.t", "table public.t", &parts("tablespace")));
        assert!(!explains("tablespace of TABLE public.t", "table public.t", &parts("owner")));
    }
}
