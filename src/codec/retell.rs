//! Values whose text changes although no statement writes them: `ALTER TYPE … RENAME VALUE` renames a label of an
//! enum, and adding or dropping an attribute of a composite type adds it to existing values or removes it from them.
//!
//! A value is parsed as far as the change lies inside it (arrays, composites, ranges and domains of all of them), and
//! written again exactly as the server's output functions write it. The parts that do not change are copied.
//! Source: PostgreSQL documentation, "Array Input and Output Syntax", "Composite Type Input and Output Syntax" and
//! "Range Types, Input/Output".

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Types may nest this deep inside each other; deeper ones are not followed, as a damaged message may contain a
/// cycle.
const DEEPEST: usize = 64;

/// How the values of some types change, by the types' oids. Values of all other types stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retelling {
    pub types: BTreeMap<u32, Shape>,
}

/// How values of a type are written, and how they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An enum: the texts that change, each with its new text.
    Labels(BTreeMap<Vec<u8>, EnumLabel>),
    Array {
        element: u32,
        delimiter: u8,
    },
    /// A domain over this type.
    Domain(u32),
    /// A range of this subtype.
    Range(u32),
    /// A multirange of ranges of this type.
    Multirange(u32),
    /// A composite type: how a value changes, by the number of attributes that the value has.
    Composite(BTreeMap<usize, CompositeAttributes>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumLabel {
    pub now: Vec<u8>,
    /// Whether the text has also been another label's, so that a value cannot tell which label it means.
    pub doubtful: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompositeAttributes {
    /// For each attribute that the type has now: its type, and its position in the value; `None` for an attribute
    /// that was added later, and so is NULL.
    pub now: Vec<(u32, Option<usize>)>,
    /// Whether the type has had this many attributes at another time too, and different ones.
    pub doubtful: bool,
}

/// A value is not written as the server writes values of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a value is not written as values of its type are")]
pub struct UnreadableValue;

/// The doubts that arose while values were rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// The types of values that may have to be read differently.
    pub types: BTreeSet<u32>,
    /// Whether a value could not be parsed, and so stayed as it was.
    pub unreadable: bool,
}

impl Doubts {
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && !self.unreadable
    }
}

type Outcome<'a> = Result<Cow<'a, [u8]>, UnreadableValue>;

impl Retelling {
    /// Returns the text that a value of the type has now.
    pub fn value<'a>(&self, type_oid: u32, text: &'a [u8], doubts: &mut Doubts) -> Cow<'a, [u8]> {
        let mut found = Doubts::default();
        if let Ok(now) = self.inner(type_oid, text, DEEPEST, &mut found) {
            doubts.types.append(&mut found.types);
            return now;
        }
        doubts.unreadable = true;
        Cow::Borrowed(text)
    }

    fn inner<'a>(&self, type_oid: u32, text: &'a [u8], depth: usize, doubts: &mut Doubts) -> Outcome<'a> {
        let Some(shape) = self.types.get(&type_oid) else { return Ok(Cow::Borrowed(text)) };
        let deeper = depth.checked_sub(1).ok_or(UnreadableValue)?;
        match shape {
            Shape::Labels(labels) => {
                let Some(label) = labels.get(text) else { return Ok(Cow::Borrowed(text)) };
                if label.doubtful {
                    doubts.types.insert(type_oid);
                }
                Ok(if label.now == text { Cow::Borrowed(text) } else { Cow::Owned(label.now.clone()) })
            }
            Shape::Domain(base) => self.inner(*base, text, deeper, doubts),
            Shape::Array { element, delimiter } => {
                let each = &mut |item: &[u8]| Ok(self.inner(*element, item, deeper, doubts)?.into_owned());
                array(text, *delimiter, each).map(Cow::Owned)
            }
            Shape::Range(subtype) => {
                let each = &mut |bound: &[u8]| Ok(self.inner(*subtype, bound, deeper, doubts)?.into_owned());
                let (range, rest) = range(text, each)?;
                if rest.is_empty() { Ok(Cow::Owned(range)) } else { Err(UnreadableValue) }
            }
            Shape::Multirange(range) => {
                let Some(Shape::Range(subtype)) = self.types.get(range) else { return Err(UnreadableValue) };
                let each = &mut |bound: &[u8]| Ok(self.inner(*subtype, bound, deeper, doubts)?.into_owned());
                multirange(text, each).map(Cow::Owned)
            }
            Shape::Composite(by_number) => {
                let now = self.composite(type_oid, text, by_number, deeper, doubts)?;
                Ok(Cow::Owned(now))
            }
        }
    }

    fn composite(
        &self,
        type_oid: u32,
        text: &[u8],
        by_number: &BTreeMap<usize, CompositeAttributes>,
        deeper: usize,
        doubts: &mut Doubts,
    ) -> Result<Vec<u8>, UnreadableValue> {
        let fields = fields(text)?;
        let attributes = match (by_number.get(&fields.len()), by_number.get(&0)) {
            // An attribute that is NULL is written as an empty field.
            (_, Some(none)) if fields.len() == 1 && fields[0].value.is_none() => none,
            (Some(attributes), _) => attributes,
            (None, _) => return Err(UnreadableValue),
        };
        if attributes.doubtful {
            doubts.types.insert(type_oid);
        }
        let mut now = vec![b'('];
        for (number, (attribute, from)) in attributes.now.iter().enumerate() {
            if number > 0 {
                now.push(b',');
            }
            let Some(from) = *from else { continue };
            let field = fields.get(from).ok_or(UnreadableValue)?;
            let Some(value) = &field.value else { continue };
            match self.inner(*attribute, value, deeper, doubts)? {
                same if same == *value => now.extend_from_slice(field.raw),
                other => push_doubled(&mut now, &other, b"(),"),
            }
        }
        now.push(b')');
        Ok(now)
    }
}

/// A value inside another: its text as written there, and the value that this text means; `None` for NULL.
struct Field<'a> {
    raw: &'a [u8],
    value: Option<Cow<'a, [u8]>>,
}

/// Returns the fields of a composite value. There is always at least one, as the value of a type without attributes
/// is written like one NULL.
fn fields(text: &[u8]) -> Result<Vec<Field<'_>>, UnreadableValue> {
    let mut rest = text.strip_prefix(b"(").ok_or(UnreadableValue)?;
    let mut found = Vec::new();
    loop {
        let (field, after) = field(rest, b",)")?;
        found.push(field);
        match after {
            [b',', after @ ..] => rest = after,
            [b')'] => return Ok(found),
            _ => return Err(UnreadableValue),
        }
    }
}

/// Reads a field up to one of the bytes in `ends`, and returns it with the rest of the text, which begins with that
/// byte.
fn field<'a>(text: &'a [u8], ends: &[u8]) -> Result<(Field<'a>, &'a [u8]), UnreadableValue> {
    if text.first() != Some(&b'"') {
        let end = text.iter().position(|byte| ends.contains(byte)).ok_or(UnreadableValue)?;
        let (raw, after) = text.split_at(end);
        if raw.iter().any(|byte| b"\"\\(".contains(byte)) {
            return Err(UnreadableValue);
        }
        return Ok((Field { raw, value: (end > 0).then_some(Cow::Borrowed(raw)) }, after));
    }
    let mut value = Vec::new();
    let mut at = 1;
    loop {
        match (text.get(at), text.get(at + 1)) {
            (Some(b'"'), Some(b'"')) | (Some(b'\\'), Some(b'\\')) => {
                value.push(text[at]);
                at += 2;
            }
            (Some(b'"'), _) => break,
            (Some(b'\\') | None, _) => return Err(UnreadableValue),
            (Some(byte), _) => {
                value.push(*byte);
                at += 1;
            }
        }
    }
    let (raw, after) = text.split_at(at + 1);
    match after.first() {
        Some(next) if ends.contains(next) => Ok((Field { raw, value: Some(value.into()) }, after)),
        _ => Err(UnreadableValue),
    }
}

/// Returns the array with each element replaced by the result of `each`.
fn array(
    text: &[u8],
    delimiter: u8,
    each: &mut dyn FnMut(&[u8]) -> Result<Vec<u8>, UnreadableValue>,
) -> Result<Vec<u8>, UnreadableValue> {
    let mut now = Vec::with_capacity(text.len());
    let mut at = 0;
    if text.first() == Some(&b'[') {
        // The array's text may begin with the bounds of its dimensions.
        at = text.iter().position(|byte| *byte == b'=').ok_or(UnreadableValue)? + 1;
        now.extend_from_slice(&text[..at]);
    }
    let mut depth = 0_usize;
    // This is true after `{` or a delimiter: an element or a `{` must follow.
    let mut due = true;
    while let Some(byte) = text.get(at).copied() {
        match byte {
            b'{' if due => depth += 1,
            b'}' if depth > 0 && (!due || text[at - 1] == b'{') => {
                depth -= 1;
                due = false;
            }
            byte if byte == delimiter && depth > 0 && !due => due = true,
            _ if depth > 0 && due => {
                at += element(&text[at..], delimiter, each, &mut now)?;
                due = false;
                continue;
            }
            _ => return Err(UnreadableValue),
        }
        now.push(byte);
        at += 1;
        if depth == 0 {
            break;
        }
    }
    if depth == 0 && at == text.len() && !due { Ok(now) } else { Err(UnreadableValue) }
}

/// Appends the element with which `text` begins, and returns how many bytes of `text` the element took.
fn element(
    text: &[u8],
    delimiter: u8,
    each: &mut dyn FnMut(&[u8]) -> Result<Vec<u8>, UnreadableValue>,
    now: &mut Vec<u8>,
) -> Result<usize, UnreadableValue> {
    let (value, length) = match text.first() {
        Some(b'"') => unquoted_element(text)?,
        _ => {
            let ends = |byte: &u8| *byte == delimiter || *byte == b'}';
            let end = text.iter().position(ends).ok_or(UnreadableValue)?;
            if end == 0 || text[..end].iter().any(|byte| b"{\"\\".contains(byte)) {
                return Err(UnreadableValue);
            }
            (Cow::Borrowed(&text[..end]), end)
        }
    };
    let raw = &text[..length];
    if raw == b"NULL" {
        now.extend_from_slice(raw);
        return Ok(length);
    }
    let new = each(&value)?;
    if new == *value {
        now.extend_from_slice(raw);
    } else {
        push_element(now, &new, delimiter);
    }
    Ok(length)
}

fn unquoted_element(text: &[u8]) -> Result<(Cow<'_, [u8]>, usize), UnreadableValue> {
    let mut value = Vec::new();
    let mut at = 1;
    loop {
        match text.get(at).ok_or(UnreadableValue)? {
            b'"' => return Ok((value.into(), at + 1)),
            b'\\' => {
                value.push(*text.get(at + 1).ok_or(UnreadableValue)?);
                at += 2;
            }
            byte => {
                value.push(*byte);
                at += 1;
            }
        }
    }
}

/// Returns the range with which `text` begins, with each bound replaced by the result of `each`, and the rest of the
/// text.
fn range<'a>(
    text: &'a [u8],
    each: &mut dyn FnMut(&[u8]) -> Result<Vec<u8>, UnreadableValue>,
) -> Result<(Vec<u8>, &'a [u8]), UnreadableValue> {
    if let Some(rest) = text.strip_prefix(b"empty") {
        return Ok((b"empty".to_vec(), rest));
    }
    let (opening, rest) = text.split_first().ok_or(UnreadableValue)?;
    if !b"[(".contains(opening) {
        return Err(UnreadableValue);
    }
    let mut now = vec![*opening];
    let (lower, rest) = field(rest, b",")?;
    push_bound(&mut now, &lower, each)?;
    now.push(b',');
    let (upper, rest) = field(&rest[1..], b")]")?;
    push_bound(&mut now, &upper, each)?;
    let (closing, rest) = rest.split_first().ok_or(UnreadableValue)?;
    now.push(*closing);
    Ok((now, rest))
}

fn push_bound(
    now: &mut Vec<u8>,
    bound: &Field<'_>,
    each: &mut dyn FnMut(&[u8]) -> Result<Vec<u8>, UnreadableValue>,
) -> Result<(), UnreadableValue> {
    let Some(value) = &bound.value else { return Ok(()) };
    let new = each(value)?;
    if new == **value {
        now.extend_from_slice(bound.raw);
    } else {
        push_doubled(now, &new, b"()[],");
    }
    Ok(())
}

fn multirange(
    text: &[u8],
    each: &mut dyn FnMut(&[u8]) -> Result<Vec<u8>, UnreadableValue>,
) -> Result<Vec<u8>, UnreadableValue> {
    let mut rest = text.strip_prefix(b"{").ok_or(UnreadableValue)?;
    if rest == b"}" {
        return Ok(text.to_vec());
    }
    let mut now = vec![b'{'];
    loop {
        let (one, after) = range(rest, each)?;
        now.extend_from_slice(&one);
        match after {
            [b',', after @ ..] => rest = after,
            [b'}'] => break,
            _ => return Err(UnreadableValue),
        }
        now.push(b',');
    }
    now.push(b'}');
    Ok(now)
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || (9..=13).contains(&byte)
}

/// Writes a value as in the fields of composites and the bounds of ranges: in quotes if it contains a byte of
/// `special`.
fn push_doubled(now: &mut Vec<u8>, value: &[u8], special: &[u8]) {
    let odd = |byte: &u8| b"\"\\".contains(byte) || special.contains(byte) || is_space(*byte);
    if !value.is_empty() && !value.iter().any(odd) {
        return now.extend_from_slice(value);
    }
    now.push(b'"');
    for byte in value {
        if b"\"\\".contains(byte) {
            now.push(*byte);
        }
        now.push(*byte);
    }
    now.push(b'"');
}

fn push_element(now: &mut Vec<u8>, value: &[u8], delimiter: u8) {
    let odd = |byte: &u8| b"\"\\{}".contains(byte) || *byte == delimiter || is_space(*byte);
    if !value.is_empty() && !value.eq_ignore_ascii_case(b"NULL") && !value.iter().any(odd) {
        return now.extend_from_slice(value);
    }
    now.push(b'"');
    for byte in value {
        if b"\"\\".contains(byte) {
            now.push(b'\\');
        }
        now.push(*byte);
    }
    now.push(b'"');
}

#[cfg(test)]
mod tests;
