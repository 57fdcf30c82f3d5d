//! The few facts that the journal reads from pgoutput messages: where transactions begin and end, which tables they touch,
//! and backwhen's own logical messages. No row is looked at.

use crate::model::{Lsn, PgTime};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeekedMessage<'a> {
    Begin {
        commit_lsn: Lsn,
        time: PgTime,
        xid: u32,
    },
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
    },
    Relation {
        oid: u32,
        schema: &'a [u8],
        name: &'a [u8],
    },
    Insert {
        oid: u32,
    },
    Update {
        oid: u32,
    },
    Delete {
        oid: u32,
    },
    Truncate {
        oids: &'a [[u8; 4]],
    },
    Logical {
        transactional: bool,
        lsn: Lsn,
        prefix: &'a [u8],
        content: &'a [u8],
    },
    /// A Type or an Origin message.
    Other,
}

/// Reads the facts of a message; `None` for bytes that are no message of pgoutput without streaming and two-phase.
pub(super) fn peek(message: &[u8]) -> Option<PeekedMessage<'_>> {
    let (&tag, rest) = message.split_first()?;
    let mut rest = MessageReader(rest);
    Some(match tag {
        b'I' => PeekedMessage::Insert { oid: rest.u32()? },
        b'U' => PeekedMessage::Update { oid: rest.u32()? },
        b'D' => PeekedMessage::Delete { oid: rest.u32()? },
        b'B' => PeekedMessage::Begin {
            commit_lsn: Lsn(rest.u64()?),
            time: PgTime(rest.u64()?.cast_signed()),
            xid: rest.u32()?,
        },
        b'C' => {
            rest.take(1)?;
            PeekedMessage::Commit { commit_lsn: Lsn(rest.u64()?), end_lsn: Lsn(rest.u64()?) }
        }
        b'R' => PeekedMessage::Relation { oid: rest.u32()?, schema: rest.cstr()?, name: rest.cstr()? },
        b'T' => {
            let count = rest.u32()? as usize;
            rest.take(1)?;
            PeekedMessage::Truncate { oids: rest.take(count.checked_mul(4)?)?.as_chunks().0 }
        }
        b'M' => {
            let transactional = rest.take(1)?[0] & 1 != 0;
            let lsn = Lsn(rest.u64()?);
            let prefix = rest.cstr()?;
            let len = rest.u32()? as usize;
            PeekedMessage::Logical { transactional, lsn, prefix, content: rest.take(len)? }
        }
        b'Y' | b'O' => PeekedMessage::Other,
        _ => return None,
    })
}

struct MessageReader<'a>(&'a [u8]);

impl<'a> MessageReader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }

    fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_are_refused_at_every_length() {
        let mut logical = b"M\x01\0\0\0\0\0\0\0\x09backwhen.mark\0\0\0\0\x02".to_vec();
        logical.extend(b"{}");
        for message in [
            &b"B\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\x07"[..],
            b"C\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06",
            b"R\0\0\0\x05public\0t\0",
            b"I\0\0\0\x05",
            b"T\0\0\0\x02\0\0\0\0\x01\0\0\0\x02",
            &logical,
        ] {
            assert!(peek(message).is_some());
            for len in 0..message.len() {
                assert_eq!(peek(&message[..len]), None);
            }
        }
        assert_eq!(peek(b"S\0\0\0\0\0"), None);
    }
}
