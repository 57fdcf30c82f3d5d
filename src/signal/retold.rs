//! What a statement did to the text of values that it did not write: the member `retold` of a
//! [`DefinitionSignal`](super::DefinitionSignal).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Types whose values read otherwise from the statement's transaction on, and all that are made of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retold {
    /// By oid: the types that the statement changed, as they were before it.
    #[serde(default)]
    pub before: BTreeMap<u32, TypeBefore>,
    /// By oid: the same types as they are now, and the types through which they are in others.
    #[serde(default)]
    pub types: BTreeMap<u32, TypeFacts>,
    /// Labels are told as the hexadecimal digits of their bytes, since the database's encoding is not UTF-8.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hex: bool,
    /// What could not be told, in the source's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TypeBefore {
    /// Of an enum: each label's oid, which a new name leaves alone, and its text.
    Enum(Vec<(u32, String)>),
    /// Of a composite type: the numbers of its attributes.
    Composite(Vec<i16>),
    /// Of a reg* type: the oids of the objects that read otherwise, and how each read. Of `regclass` the reader of the
    /// history adds this, as the source tells no old names of relations. Those of other types are told, and empty
    /// if all names are as they were.
    Names(Vec<(u32, String)>),
    /// Of a relation's row type.
    Row {
        /// The numbers of the columns that the transaction dropped, up to the statement's end.
        dropped: Vec<i16>,
        /// It may have gained some. They are the last ones, so the number of a value's attributes tells which
        /// it has.
        grown: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TypeFacts {
    Enum(Vec<(u32, String)>),
    /// How values of a reg* type read that are these oids.
    Names(Vec<(u32, String)>),
    /// Of these elements, with this letter between them.
    Array(u32, String),
    Domain(u32),
    Range(u32),
    Multirange(u32),
    /// Each attribute's number and type.
    Composite(Vec<(i16, u32)>),
}

impl Retold {
    /// Whether the message tells nothing that became of values: only how new types are put together, or that the names
    /// which values are written by are as they were.
    pub fn changes_nothing(&self) -> bool {
        let before =
            self.before.values().all(|it| matches!(it, TypeBefore::Names(names) if names.is_empty()));
        let mut now = self.types.values();
        before && now.all(|it| !matches!(it, TypeFacts::Names(names) if !names.is_empty()))
    }

    /// The bytes of a label, in the database's encoding; `None` if it is told in no way that can be read.
    pub fn label_bytes(&self, label: &str) -> Option<Vec<u8>> {
        if !self.hex {
            return Some(label.as_bytes().to_vec());
        }
        let digit = |at| u8::from_str_radix(label.get(at..at + 2)?, 16).ok();
        (0..label.len()).step_by(2).map(digit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_may_be_told_as_bytes() {
        let text = Retold::default();
        assert_eq!(text.label_bytes("ä").as_deref(), Some("ä".as_bytes()));
        let hex = Retold { hex: true, ..Retold::default() };
        assert_eq!(hex.label_bytes("e461").as_deref(), Some(&b"\xe4a"[..]));
        assert_eq!(hex.label_bytes("e46"), None);
        assert_eq!(hex.label_bytes("ä"), None);
    }
}
