//! Decodes the messages of the `pgoutput` plugin.
//!
//! The decoder covers protocol versions 1 to 4 without `streaming` and `two_phase`, which backwhen never asks for.
//! Source: PostgreSQL documentation, "Logical Replication Message Formats".

use crate::model::change::OldTuple;
use crate::model::{Lsn, Message, PgTime, Relation, RelationColumn, Tuple, Value};

/// The bytes are not a message of the requested protocol version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pgoutput message: {what} at byte {at} of {length}")]
pub struct DecodeError {
    pub what: &'static str,
    pub at: usize,
    pub length: usize,
}

/// Decodes one message; the tuple values borrow from `bytes`.
///
/// # Errors
/// [`DecodeError`] if the message has an unknown part, is too short, or has bytes left over.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader { bytes, at: 0 };
    let message = reader.message()?;
    match reader.bytes.len() - reader.at {
        0 => Ok(message),
        _ => Err(reader.fail("bytes left over")),
    }
}

/// Returns a name from bytes in the server's encoding. Where they are not UTF-8, each byte becomes the letter of that
/// number: the name is not as a person would write it, but different names stay different.
pub fn stream_name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(name) => name.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail(&self, what: &'static str) -> DecodeError {
        DecodeError { what, at: self.at, length: self.bytes.len() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        if rest.len() < count {
            return Err(self.fail("cut short"));
        }
        self.at += count;
        Ok(&rest[..count])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("took exactly N"))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    fn time(&mut self) -> Result<PgTime, DecodeError> {
        self.array().map(|bytes| PgTime(i64::from_be_bytes(bytes)))
    }

    fn c_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.fail("unended string"))?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    fn name(&mut self) -> Result<String, DecodeError> {
        self.c_bytes().map(stream_name)
    }

    fn message(&mut self) -> Result<Message<'a>, DecodeError> {
        match self.u8()? {
            b'B' => {
                let (final_lsn, commit_time, xid) = (self.lsn()?, self.time()?, self.u32()?);
                Ok(Message::Begin { final_lsn, commit_time, xid })
            }
            b'C' => {
                let _flags = self.u8()?;
                let (commit_lsn, end_lsn, commit_time) = (self.lsn()?, self.lsn()?, self.time()?);
                Ok(Message::Commit { commit_lsn, end_lsn, commit_time })
            }
            b'O' => {
                self.lsn()?;
                self.c_bytes()?;
                Ok(Message::Origin)
            }
            b'R' => self.relation().map(Message::Relation),
            b'Y' => {
                self.u32()?;
                self.c_bytes()?;
                self.c_bytes()?;
                Ok(Message::Type)
            }
            b'I' => {
                let relation = self.u32()?;
                self.expect(b'N')?;
                Ok(Message::Insert { relation, new: self.tuple()? })
            }
            b'U' => self.update(),
            b'D' => {
                let relation = self.u32()?;
                let kind = self.u8()?;
                let old = self.old_tuple(kind)?;
                Ok(Message::Delete { relation, old })
            }
            b'T' => self.truncate(),
            b'M' => self.logical(),
            _ => Err(self.fail("unknown message type")),
        }
    }

    fn expect(&mut self, tag: u8) -> Result<(), DecodeError> {
        if self.u8()? == tag { Ok(()) } else { Err(self.fail("unexpected tuple kind")) }
    }

    fn relation(&mut self) -> Result<Relation, DecodeError> {
        let (oid, schema, name, replica_identity) = (self.u32()?, self.name()?, self.name()?, self.u8()?);
        // An empty string stands for pg_catalog.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        let count = self.u16()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let in_identity = self.u8()? & 1 == 1;
            let (name, type_oid, type_modifier) = (self.name()?, self.u32()?, self.i32()?);
            columns.push(RelationColumn { name, type_oid, type_modifier, in_identity });
        }
        Ok(Relation { oid, schema, name, replica_identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let count = usize::from(self.u16()?);
        // Each value takes at least one byte, so a false count cannot make this allocate much.
        let mut values = Vec::with_capacity(count.min(self.bytes.len() - self.at));
        for _ in 0..count {
            values.push(match self.u8()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b't' => {
                    let length = self.u32()?;
                    Value::Text(self.take(length as usize)?)
                }
                _ => return Err(self.fail("unknown value kind")),
            });
        }
        Ok(Tuple(values))
    }

    fn old_tuple(&mut self, kind: u8) -> Result<OldTuple<'a>, DecodeError> {
        match kind {
            b'K' => self.tuple().map(OldTuple::Key),
            b'O' => self.tuple().map(OldTuple::Full),
            _ => Err(self.fail("unknown old tuple kind")),
        }
    }

    fn update(&mut self) -> Result<Message<'a>, DecodeError> {
        let relation = self.u32()?;
        let mut kind = self.u8()?;
        let mut old = None;
        if kind != b'N' {
            old = Some(self.old_tuple(kind)?);
            kind = self.u8()?;
        }
        if kind != b'N' {
            return Err(self.fail("unexpected tuple kind"));
        }
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message<'a>, DecodeError> {
        let (count, options) = (self.u32()?, self.u8()?);
        let mut relations = Vec::new();
        for _ in 0..count {
            relations.push(self.u32()?);
        }
        Ok(Message::Truncate { relations, cascade: options & 1 != 0, restart_identity: options & 2 != 0 })
    }

    fn logical(&mut self) -> Result<Message<'a>, DecodeError> {
        let flags = self.u8()?;
        let (lsn, prefix, length) = (self.lsn()?, self.c_bytes()?, self.u32()?);
        let content = self.take(length as usize)?;
        Ok(Message::Logical { transactional: flags & 1 == 1, lsn, prefix, content })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn insert() -> Vec<u8> {
        let mut bytes = b"I\0\0\x40\x01N\0\x03t\0\0\0\x02hi".to_vec();
        bytes.extend(b"nu");
        bytes
    }

    #[test]
    fn decodes_a_row() {
        let new = Tuple(vec![Value::Text(b"hi"), Value::Null, Value::Unchanged]);
        assert_eq!(decode(&insert()), Ok(Message::Insert { relation: 0x4001, new }));
    }

    #[test]
    fn decodes_a_key_change() {
        let bytes = b"U\0\0\0\x07K\0\x01t\0\0\0\x011N\0\x01t\0\0\0\x012";
        let old = Some(OldTuple::Key(Tuple(vec![Value::Text(b"1")])));
        let new = Tuple(vec![Value::Text(b"2")]);
        assert_eq!(decode(bytes), Ok(Message::Update { relation: 7, old, new }));
    }

    #[test]
    fn refuses_short_long_and_unknown_messages() {
        let whole = insert();
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "took {end} bytes for a message");
        }
        let mut long = whole;
        long.push(0);
        assert_eq!(decode(&long).unwrap_err().what, "bytes left over");
        assert!(decode(b"?").is_err());
    }

    #[test]
    fn survives_any_bytes() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..20_000 {
            let length = random.random_range(0..64);
            let mut bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
            if let Some(first) = bytes.first_mut() {
                *first = b"BCORYIUDTM"[random.random_range(0..10)];
            }
            let _ = decode(&bytes);
        }
    }
}
