//! Records, of which a block's payload consists. See FORMAT.md.

use super::fault::SegmentFault;
use crate::model::{Lsn, PgTime};

const MESSAGE: u8 = b'w';
const IDLE: u8 = b'i';
const RELATION: u8 = b'r';

/// The length of an idle mark in bytes.
const IDLE_LEN: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Message(&'a [u8]),
    Idle { lsn: Lsn, time: PgTime },
    Relation(&'a [u8]),
}

pub(super) fn put_message(out: &mut Vec<u8>, message: &[u8]) {
    put(out, MESSAGE, message);
}

pub(super) fn put_relation(out: &mut Vec<u8>, message: &[u8]) {
    put(out, RELATION, message);
}

pub(super) fn put_idle(out: &mut Vec<u8>, lsn: Lsn, time: PgTime) {
    let mut bytes = [0; IDLE_LEN];
    bytes[..8].copy_from_slice(&lsn.0.to_le_bytes());
    bytes[8..].copy_from_slice(&time.0.to_le_bytes());
    put(out, IDLE, &bytes);
}

fn put(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads numbers and stretches from bytes that may be hostile.
pub(super) struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> ByteReader<'a> {
        ByteReader { bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Returns the bytes that have not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Option<u64> {
        match self.bytes.get(self.at) {
            // Most numbers take one byte.
            Some(byte) if *byte < 0x80 => {
                self.at += 1;
                Some(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a varint length and that many bytes.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.take(usize::try_from(len).ok()?)
    }
}

/// The records of a block's raw bytes, in order. The iterator ends after the first bad record.
pub(super) struct Records<'a>(ByteReader<'a>);

impl<'a> Records<'a> {
    pub(super) fn new(raw: &'a [u8]) -> Records<'a> {
        Records::from(raw, 0)
    }

    /// The records from an offset that [`Records::offset`] returned.
    pub(super) fn from(raw: &'a [u8], offset: usize) -> Records<'a> {
        Records(ByteReader { bytes: raw, at: offset })
    }

    /// The offset of the next record in the raw bytes.
    pub(super) fn offset(&self) -> usize {
        self.0.at
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let kind = self.0.take(1)?[0];
        let bytes = self.0.counted()?;
        match kind {
            MESSAGE => Some(Record::Message(bytes)),
            RELATION => Some(Record::Relation(bytes)),
            IDLE if bytes.len() == IDLE_LEN => {
                let mut bytes = ByteReader::new(bytes);
                Some(Record::Idle { lsn: Lsn(bytes.u64()?), time: PgTime(bytes.u64()?.cast_signed()) })
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, SegmentFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let at = self.0.at;
        let record = self.record().ok_or_else(|| {
            self.0.at = self.0.bytes.len();
            SegmentFault::bad(format!("no record at {at} in the block"))
        });
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_overlong_ones_are_refused() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(ByteReader::new(&out).varint(), Some(value));
            assert_eq!(ByteReader::new(&out[..out.len() - 1]).varint(), None);
        }
        assert_eq!(ByteReader::new(&[0xff; 11]).varint(), None);
        assert_eq!(
            ByteReader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint(),
            None
        );
    }

    #[test]
    fn records_come_back_and_cut_ones_are_refused() {
        let mut raw = Vec::new();
        put_message(&mut raw, b"hello");
        put_idle(&mut raw, Lsn(7), PgTime(-8));
        put_relation(&mut raw, b"R");
        let records: Vec<_> = Records::new(&raw).map(Result::unwrap).collect();
        let expected = [
            Record::Message(b"hello"),
            Record::Idle { lsn: Lsn(7), time: PgTime(-8) },
            Record::Relation(b"R"),
        ];
        assert_eq!(records, expected);
        assert!(Records::new(&raw[..raw.len() - 1]).last().unwrap().is_err());
        assert!(Records::new(b"x\0").next().unwrap().is_err());
    }
}
