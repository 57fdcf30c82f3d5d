//! Ranges of keys.

/// The rows whose sort keys lie from one key to before another; see [`KeyShape`](crate::codec::key::KeyShape).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    from: Vec<u8>,
    /// Exclusive; `None` for no bound.
    to: Option<Vec<u8>>,
}

impl KeyRange {
    /// All rows.
    pub fn all() -> KeyRange {
        KeyRange::default()
    }

    /// The rows from `from` to before `to`, or to the last one.
    pub fn between(from: &[u8], to: Option<&[u8]>) -> KeyRange {
        KeyRange { from: from.to_vec(), to: to.map(<[u8]>::to_vec) }
    }

    /// The rows with exactly this key.
    pub fn of(key: &[u8]) -> KeyRange {
        KeyRange { from: key.to_vec(), to: Some([key, &[0]].concat()) }
    }

    pub(super) fn from(&self) -> &[u8] {
        &self.from
    }

    pub(super) fn begins_after(&self, key: &[u8]) -> bool {
        // Most ranges have no beginning, and to compare bytes with nothing is dear.
        !self.from.is_empty() && *key < *self.from
    }

    pub(super) fn ends_before(&self, key: &[u8]) -> bool {
        self.to.as_deref().is_some_and(|to| key >= to)
    }

    pub(super) fn to(&self) -> Option<&[u8]> {
        self.to.as_deref()
    }
}
