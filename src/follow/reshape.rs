//! How a schema change makes lines of the table as it was lines of the table as it is.

use super::retelling::{ColumnRetelling, LateValues, column};
use crate::codec::copy_text::{self, NULL, push_escaped};
use crate::codec::key::KeyShape;
use crate::codec::retell::Doubts;
use crate::error::{Error, Result};
use crate::model::{Table, TableFacts};

/// The origin of each column of the new lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    places: Vec<Place>,
    /// Whether rows keep their keys, byte for byte, and so their order.
    pub keeps_keys: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A column of the old lines, by number.
    Old(usize),
    /// The same, and how the text of its values changes.
    Retold(usize, Vec<ColumnRetelling>),
    /// A column that was added: the COPY text that every older row has in it.
    Added(Box<[u8]>),
}

impl Reshape {
    /// `None` if the lines stay as they are.
    pub(super) fn between(before: &Table, now: &Table, facts: &TableFacts) -> Option<Reshape> {
        let place = |number: usize| match old_place(before, now, number) {
            Some(old) => Place::Old(old),
            None => Place::Added(missing(facts, now.columns[number].number)),
        };
        let places: Vec<_> = (0..now.columns.len()).map(place).collect();
        let same_keys = same_keys(&KeyShape::of(before), &KeyShape::of(now), &places);
        let unmoved = places.len() == before.columns.len()
            && places.iter().enumerate().all(|(number, place)| *place == Place::Old(number));
        match (unmoved, KeyShape::of(before) == KeyShape::of(now)) {
            (true, true) => None,
            // A bag's rows are their own keys, so they keep them only if nothing changes.
            (unmoved, _) => Some(Reshape { places, keeps_keys: same_keys && (unmoved || keyed(now)) }),
        }
    }

    /// Matches the columns of two states of a table by number, whatever happened to the values in between. Rows of before
    /// have NULL in the columns that were added.
    pub fn by_number(before: &Table, now: &Table) -> Reshape {
        let place = |number| old_place(before, now, number).map_or(Place::Added(NULL.into()), Place::Old);
        let places: Vec<_> = (0..now.columns.len()).map(place).collect();
        let keeps_keys = same_keys(&KeyShape::of(before), &KeyShape::of(now), &places);
        Reshape { keeps_keys: keeps_keys && keyed(now), places }
    }

    /// The table's rows stay, except that the text of some columns' values changes.
    pub(super) fn retold(table: &Table, columns: &[(usize, ColumnRetelling)]) -> Reshape {
        let place = |number| match columns.iter().find(|(at, _)| *at == number) {
            Some((_, step)) => Place::Retold(number, vec![step.clone()]),
            None => Place::Old(number),
        };
        let in_key = |number: &usize| match KeyShape::of(table) {
            KeyShape::Columns(key) => key.iter().any(|(column, _)| column == number),
            KeyShape::WholeRow => true,
        };
        Reshape {
            places: (0..table.columns.len()).map(place).collect(),
            keeps_keys: !columns.iter().any(|(number, _)| in_key(number)),
        }
    }

    /// Corrects the values that older rows have in added columns: they were read before the statement's transaction
    /// ended.
    pub(super) fn correct(&mut self, late: &LateValues) {
        for (number, step) in late.columns() {
            if let Some(Place::Added(text)) = self.places.get_mut(*number) {
                *text = column(std::slice::from_ref(step), text, &mut Doubts::default()).into();
            }
        }
    }

    /// Whether the text of values changes.
    pub fn retells(&self) -> bool {
        self.places.iter().any(|place| matches!(place, Place::Retold(..)))
    }

    /// This reshape, and then `next`.
    pub fn then(self, next: Reshape) -> Reshape {
        let place = |place| match place {
            Place::Old(number) => self.places[number].clone(),
            Place::Retold(number, steps) => self.places[number].clone().then(steps),
            added @ Place::Added(_) => added,
        };
        Reshape {
            keeps_keys: self.keeps_keys && next.keeps_keys,
            places: next.places.into_iter().map(place).collect(),
        }
    }

    /// Returns the new line of `old`. Doubts about its values are not kept.
    ///
    /// # Errors
    /// The errors of [`Reshape::push`].
    pub fn reshaped(&self, old: &[u8]) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        self.push(old, &mut line, &mut Doubts::default())?;
        Ok(line)
    }

    /// Appends the new line of `old` to `line`.
    ///
    /// # Errors
    /// `Damaged` if the old line has too few columns.
    pub fn push(&self, old: &[u8], line: &mut Vec<u8>, doubts: &mut Doubts) -> Result<()> {
        let columns: Vec<_> = copy_text::columns(old).collect();
        let old = |at: usize| {
            let column = columns.get(at).copied();
            column.ok_or_else(|| Error::damaged("a row has fewer columns than its table had"))
        };
        for (number, place) in self.places.iter().enumerate() {
            if number > 0 {
                line.push(b'\t');
            }
            match place {
                Place::Added(text) => line.extend_from_slice(text),
                Place::Old(at) => line.extend_from_slice(old(*at)?),
                Place::Retold(at, steps) => line.extend_from_slice(&column(steps, old(*at)?, doubts)),
            }
        }
        Ok(())
    }
}

impl Place {
    fn then(self, steps: Vec<ColumnRetelling>) -> Place {
        match self {
            Place::Old(number) => Place::Retold(number, steps),
            Place::Retold(number, before) => Place::Retold(number, [before, steps].concat()),
            Place::Added(text) => Place::Added(column(&steps, &text, &mut Doubts::default()).into()),
        }
    }
}

fn old_place(before: &Table, now: &Table, number: usize) -> Option<usize> {
    before.columns.iter().position(|old| now.columns[number].is_same_as(old))
}

fn missing(facts: &TableFacts, number: i16) -> Box<[u8]> {
    let column = facts.columns.iter().find(|column| column.number == number);
    match column.and_then(crate::model::ColumnFacts::missing_bytes) {
        None => NULL.into(),
        Some(text) => {
            let mut escaped = Vec::new();
            push_escaped(&mut escaped, &text);
            escaped.into()
        }
    }
}

fn keyed(table: &Table) -> bool {
    matches!(KeyShape::of(table), KeyShape::Columns(_))
}

fn same_keys(before: &KeyShape, now: &KeyShape, places: &[Place]) -> bool {
    match (before, now) {
        (KeyShape::WholeRow, KeyShape::WholeRow) => true,
        (KeyShape::Columns(before), KeyShape::Columns(now)) => {
            let from = |(column, kind): &(usize, _)| match places[*column] {
                Place::Old(old) => Some((old, *kind)),
                Place::Retold(..) | Place::Added(_) => None,
            };
            now.len() == before.len()
                && now.iter().zip(before).all(|(now, before)| from(now) == Some(*before))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ColumnFacts;

    /// Columns as `number name`, types int4; the identity by numbers, `None` for the whole row.
    fn facts(columns: &[(i16, &str)], identity: Option<&[i16]>) -> TableFacts {
        let column = |(number, name): &(i16, &str)| ColumnFacts {
            number: *number,
            name: (*name).into(),
            type_oid: 23,
            ..ColumnFacts::default()
        };
        TableFacts {
            replica_identity: if identity.is_some() { 'd' } else { 'f' },
            identity: identity.map(<[i16]>::to_vec),
            columns: columns.iter().map(column).collect(),
            ..TableFacts::default()
        }
    }

    fn between(before: &TableFacts, now: &TableFacts) -> Option<Reshape> {
        let table = |facts: &TableFacts| facts.table(|_| String::new());
        Reshape::between(&table(before), &table(now), now)
    }

    fn reshaped(reshape: &Reshape, line: &str) -> String {
        let mut out = Vec::new();
        reshape.push(line.as_bytes(), &mut out, &mut Doubts::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_renamed_column_is_the_same_and_changes_nothing() {
        let key = Some(&[1_i16][..]);
        assert_eq!(between(&facts(&[(1, "a"), (2, "b")], key), &facts(&[(1, "x"), (2, "y")], key)), None);
    }

    #[test]
    fn a_column_dropped_and_added_again_is_another() {
        let key = Some(&[1_i16][..]);
        let before = facts(&[(1, "a"), (2, "b")], key);
        let mut now = facts(&[(1, "a"), (3, "b")], key);
        now.columns[1].missing = Some("tab\there".into());
        let reshape = between(&before, &now).unwrap();
        assert!(reshape.keeps_keys);
        assert_eq!(reshaped(&reshape, "1\told"), "1\ttab\\there");
        now.columns[1].missing = None;
        assert_eq!(reshaped(&between(&before, &now).unwrap(), "1\told"), "1\t\\N");
    }

    #[test]
    fn another_key_or_a_bags_other_columns_need_sorting() {
        let columns = [(1, "a"), (2, "b")];
        let by = |key: Option<&[i16]>| facts(&columns, key);
        assert!(!between(&by(Some(&[1])), &by(Some(&[2]))).unwrap().keeps_keys);
        assert!(!between(&by(Some(&[1])), &by(None)).unwrap().keeps_keys);
        let wider = facts(&[(1, "a"), (2, "b"), (3, "c")], None);
        assert!(!between(&by(None), &wider).unwrap().keeps_keys);
        // The key's column moves up, and is the same all the same.
        let narrower = facts(&[(2, "b")], Some(&[2]));
        assert!(between(&by(Some(&[2])), &narrower).unwrap().keeps_keys);
    }

    #[test]
    fn two_reshapes_are_one() {
        let key = Some(&[2_i16][..]);
        let first = facts(&[(1, "a"), (2, "b")], key);
        let mut second = facts(&[(2, "b"), (3, "c")], key);
        second.columns[1].missing = Some("7".into());
        let third = facts(&[(2, "b"), (3, "c"), (4, "d")], key);
        let both = between(&first, &second).unwrap().then(between(&second, &third).unwrap());
        assert_eq!(reshaped(&both, "1\t2"), "2\t7\t\\N");
    }

    #[test]
    fn a_table_may_lose_all_columns_and_gain_some() {
        let none = facts(&[], None);
        let one = facts(&[(2, "a")], None);
        assert_eq!(reshaped(&between(&none, &one).unwrap(), ""), "\\N");
        assert_eq!(reshaped(&between(&one, &none).unwrap(), "5"), "");
    }
}
