//! How a statement changed the text of values that it did not write: the member `retold` of a
//! [`DefinitionSignal`](super::DefinitionSignal).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Types whose values read differently from the statement's transaction on, and all types that contain them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retold {
    /// The types that the statement changed, as they were before the statement, by oid.
    #[serde(default)]
    pub before: BTreeMap<u32, TypeBefore>,
    /// The same types as they are now, and the types that contain them, by oid.
    #[serde(default)]
    pub types: BTreeMap<u32, TypeFacts>,
    /// Whether labels are the hexadecimal digits of their bytes, because the database's encoding is not UTF-8.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hex: bool,
    /// The changes that the triggers could not describe, in the source's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TypeBefore {
    /// An enum: each label's oid, which renaming the label does not change, and its text.
    Enum(Vec<(u32, String)>),
    /// A composite type: the numbers of its attributes.
    Composite(Vec<i16>),
    /// A reg* type: the oids of the objects that read differently, and how each of them read before. The reader of
    /// the history adds the entry for `regclass`, as the source sends no old names of relations. The source sends the
    /// other types; the map is empty if all names are unchanged.
    Names(Vec<(u32, String)>),
    /// The row type of a relation.
    Row {
        /// The numbers of the columns that the transaction dropped, up to the statement's end.
        dropped: Vec<i16>,
        /// Whether the transaction may have added columns. Added columns come last, so the number of a value's
        /// attributes tells which of them the value has.
        grown: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TypeFacts {
    Enum(Vec<(u32, String)>),
    /// Values of a reg* type: each oid reads as this text.
    Names(Vec<(u32, String)>),
    /// An array: the elements' type, and the delimiter between elements.
    Array(u32, String),
    Domain(u32),
    Range(u32),
    Multirange(u32),
    /// A composite type: each attribute's number and type.
    Composite(Vec<(i16, u32)>),
}

impl Retold {
    /// Whether the message changes no value: it says only how new types are composed, or that the names by which
    /// values are written are unchanged.
    pub fn changes_nothing(&self) -> bool {
        let before =
            self.before.values().all(|it| matches!(it, TypeBefore::Names(names) if names.is_empty()));
        let mut now = self.types.values();
        before && now.all(|it| !matches!(it, TypeFacts::Names(names) if !names.is_empty()))
    }

    /// Returns the bytes of a label in the database's encoding; `None` if they cannot be read.
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
