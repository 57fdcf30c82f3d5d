//! Where rows wait that take each other's unique values.

/// A column in which rows wait, and what they hold there meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parking {
    pub column: usize,
    pub value: FreeValue,
}

/// A value that no row has or shall have, and that differs from row to row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeValue {
    Null,
    /// A number above all others.
    Number,
    /// The text of a random UUID.
    Text,
    Uuid,
}

impl FreeValue {
    /// The values that a column can hold while its row waits; `None` if no such value of the type is known.
    pub(super) fn of(type_oid: u32, takes_null: bool) -> Option<FreeValue> {
        const INT8: u32 = 20;
        const INT2: u32 = 21;
        const INT4: u32 = 23;
        const TEXT: u32 = 25;
        const VARCHAR: u32 = 1043;
        const NUMERIC: u32 = 1700;
        const UUID: u32 = 2950;
        match type_oid {
            _ if takes_null => Some(FreeValue::Null),
            INT2 | INT4 | INT8 | NUMERIC => Some(FreeValue::Number),
            TEXT | VARCHAR => Some(FreeValue::Text),
            UUID => Some(FreeValue::Uuid),
            _ => None,
        }
    }
}
