//! `dispersal.json`: which dispersal a store is of, and its place in it.

use serde::{Deserialize, Serialize};

use super::code::Code;
use super::policy::Policy;
use crate::error::{Context, Error, Kind, Result};
use crate::store::{ObjectKind, ObjectName, Store};

/// The version of `dispersal.json`.
const FORMAT: u32 = 1;

/// One dispersal: all its stores have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dispersal {
    /// 32 random hexadecimal digits.
    pub id: String,
    pub policy: Policy,
}

/// The content of `dispersal.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    format: u32,
    pub id: String,
    k: usize,
    m: usize,
    tolerate: usize,
    number: usize,
}

impl Mark {
    pub fn new(dispersal: &Dispersal, number: usize) -> Mark {
        let Policy { code: Code { k, m }, tolerate } = dispersal.policy;
        Mark { format: FORMAT, id: dispersal.id.clone(), k, m, tolerate, number }
    }

    pub fn name() -> ObjectName {
        ObjectName::only(ObjectKind::Dispersal)
    }

    /// Reads the mark of a store; `None` if the store has none.
    ///
    /// # Errors
    /// `Damaged` if it is no mark, `Unavailable` if the store does not answer.
    pub fn read(store: &dyn Store) -> Result<Option<Mark>> {
        let Some(bytes) = store.read(&Mark::name())? else { return Ok(None) };
        let place = || {
            let place = store.locate(&Mark::name());
            format!("{place} is damaged; remove it, and run: backwhen repair --refill STORE")
        };
        serde_json::from_slice(&bytes).context(Kind::Damaged, place).map(Some)
    }

    /// Puts the mark, or finds the one that another process has put.
    ///
    /// # Errors
    /// `Unavailable` if the store does not take it.
    pub fn put(&self, store: &dyn Store) -> Result<()> {
        let bytes = serde_json::to_vec(self).context(Kind::Internal, || "cannot write a mark".into())?;
        match store.put_new(&Mark::name(), &bytes) {
            Err(error) if error.kind() == Kind::Internal => Ok(()),
            put => put,
        }
    }

    /// Checks that a store at this place of the list may have this mark.
    ///
    /// # Errors
    /// `Refused` if the store is of another dispersal, or named at another place or with other numbers.
    pub fn check(&self, url: &str, expected: &Dispersal, number: usize) -> Result<()> {
        if *self == Mark::new(expected, number) {
            return Ok(());
        }
        if self.format > FORMAT {
            return Err(Error::refused(format!("{url} was written by a newer backwhen; update backwhen")));
        }
        let Policy { code, tolerate } = expected.policy;
        Err(Error::refused(format!(
            "{url} is store {} of a dispersal{} with k={},m={},tolerate={}, and is named as store {number} of one with \
             k={},m={},tolerate={tolerate}; name the stores and the numbers as they were named first, in their order",
            self.number,
            if self.id == expected.id { "" } else { " of another history" },
            self.k,
            self.m,
            self.tolerate,
            code.k,
            code.m,
        )))
    }
}
