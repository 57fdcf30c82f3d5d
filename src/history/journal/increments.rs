//! Increments: the open segment of a history in an object store.
//!
//! No store can hold an object that grows, so the bytes of an open segment are put there in pieces, each an object of its
//! own that is called by the segment and the offset at which it begins. Where a piece ends is told by its length, and the
//! next one begins there; as a name can be had only once, two writers cannot both go on. A reader puts the pieces
//! together again in a nameless local file, which only its process can read. An increment begins with a head of 80 bytes, see FORMAT.md.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::name::SegmentName;
use crate::ambient;
use crate::error::{Context, Error, Kind, Result};
use crate::store::{FetchedSegments, Object, ObjectKind, ObjectName, Spool, Store, VeilWriter, cannot_read};

/// A magic word and the version.
const MAGIC: [u8; 8] = *b"BWINC\x01\0\0";
const HEAD: u64 = 80;

/// The bytes of an open segment that one increment holds at most, as it is put from memory.
const LONGEST: u64 = 8 << 20;

/// The number of increments whose bytes are asked for at once when a segment is put together.
const EXPECTED: usize = 64;

/// The digest that stands for the bytes before the first increment.
const NOTHING: [u8; 32] = [0; 32];

/// The head of an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    len: u64,
    /// The digest of the increment before this one.
    before: [u8; 32],
    /// BLAKE3 of `before` and the bytes.
    digest: [u8; 32],
}

impl Head {
    fn of(before: [u8; 32], bytes: &[u8]) -> Head {
        let digest = *blake3::Hasher::new().update(&before).update(bytes).finalize().as_bytes();
        Head { len: bytes.len() as u64, before, digest }
    }

    fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &self.len.to_le_bytes(), &self.before, &self.digest].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Head> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (before, rest) = rest.split_first_chunk::<32>()?;
        Some(Head { len: u64::from_le_bytes(*len), before: *before, digest: *rest.first_chunk::<32>()? })
    }
}

fn object(name: SegmentName, offset: u64) -> ObjectName {
    ObjectName::new(ObjectKind::Increment, format!("{}-{offset:016x}", name.stem()))
}

/// The open segment and the offset that an increment is called by; `None` if no increment has such a name.
fn parse(name: &ObjectName) -> Option<(SegmentName, u64)> {
    let (segment, offset) = name.stem().rsplit_once('-')?;
    let (segment, offset) = (SegmentName::parse(segment, false)?, u64::from_str_radix(offset, 16).ok()?);
    (object(segment, offset) == *name).then_some((segment, offset))
}

/// Lists the offsets of the increments of each open segment, in their order.
fn offsets(store: &dyn Store) -> Result<BTreeMap<SegmentName, Vec<u64>>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for name in store.list_sorted(ObjectKind::Increment)? {
        if let Some((segment, offset)) = parse(&name) {
            found.entry(segment).or_default().push(offset);
        }
    }
    Ok(found)
}

/// Reads an increment, and checks it by itself.
///
/// # Errors
/// `Damaged` if it is missing or not as it was put, `Unavailable` if the store does not answer.
fn read(store: &dyn Store, name: &ObjectName) -> Result<(Head, Vec<u8>)> {
    let mut bytes = store.read(name)?.ok_or_else(|| damaged(store, name, "it is not there"))?;
    let head =
        Head::decode(&bytes).ok_or_else(|| damaged(store, name, "it does not begin as an increment does"))?;
    bytes.drain(..HEAD as usize);
    if head != Head::of(head.before, &bytes) {
        return Err(damaged(store, name, "its digest does not agree with its bytes, or it is cut short"));
    }
    Ok((head, bytes))
}

fn damaged(store: &dyn Store, name: &ObjectName, fault: &str) -> Error {
    Error::damaged(format!(
        "{} is damaged: {fault}; remove it from the bucket, and put it anew with `backwhen copy`",
        store.locate(name)
    ))
}

/// Checks an increment by itself.
///
/// # Errors
/// Fails as [`read`] does.
pub fn check_increment(store: &dyn Store, name: &ObjectName) -> Result<()> {
    read(store, name).map(drop)
}

/// Puts the open segments that lie in increments together, in nameless files in the folder `scratch`. A segment of which
/// the sealed form is there is passed over.
///
/// # Errors
/// `Unavailable` if store or disk do not do their part. Damage is no error until the segment is opened.
pub fn fetch(store: &dyn Store, scratch: &Path) -> Result<Spool> {
    let sealed = store.list(ObjectKind::Segment)?;
    let mut segments = FetchedSegments::new();
    for (name, offsets) in offsets(store)?.into_iter().filter(|(name, _)| !sealed.contains(&name.object())) {
        let file = ambient::nameless_file(scratch).and_then(VeilWriter::new);
        let mut file =
            file.context(Kind::Unavailable, || format!("cannot make a file in {}", scratch.display()))?;
        let content = match join(store, name, &offsets, &mut file) {
            Err(error) if error.kind() == Kind::Damaged && store.holds(&name.object())? => {
                let place = store.locate(&name.object());
                return Err(Error::unavailable(format!("{place} was sealed while it was read; try again")));
            }
            Err(error) if error.kind() == Kind::Damaged => Err(error.message().to_owned()),
            joined => joined.map(|()| Ok(file.veiled()))?,
        };
        segments.insert(name.stem(), content);
    }
    Ok(Spool::fetched(segments))
}

/// Writes the increments of one segment one behind the other.
fn join(store: &dyn Store, name: SegmentName, offsets: &[u64], file: &mut impl Write) -> Result<()> {
    let (mut before, mut end) = (NOTHING, 0);
    let objects: Vec<_> = offsets.iter().map(|&offset| object(name, offset)).collect();
    for (number, (&offset, object)) in offsets.iter().zip(&objects).enumerate() {
        if number % EXPECTED == 0 {
            store.expect(&objects[number..objects.len().min(number + EXPECTED)]);
        }
        let (head, bytes) = read(store, object)?;
        if (offset, head.before) != (end, before) {
            return Err(damaged(store, object, "it does not go on where the increment before it ends"));
        }
        file.write_all(&bytes)
            .context(Kind::Unavailable, || "cannot write a local copy of a segment".into())?;
        (before, end) = (head.digest, offset + head.len);
    }
    Ok(())
}

/// The increments of one open segment in a store, as far as they are known to be the segment's own bytes.
#[derive(Debug)]
pub(super) struct IncrementChain {
    name: SegmentName,
    /// The digest of the increment that ends at `at`.
    before: [u8; 32],
    at: u64,
    /// The number of increments up to `at`.
    count: usize,
    /// The bytes of the segment that were put since [`IncrementChain::send`] last told.
    sent: u64,
}

impl IncrementChain {
    /// Finds the increments that are there, compares them with the segment in `object`, and puts those that are missing
    /// between them.
    ///
    /// # Errors
    /// `Refused` if the increments are not of this segment, `Damaged` if they do not join, `Unavailable` if the segment cannot
    /// be read or the store does not take them.
    pub(super) fn find(store: &dyn Store, name: SegmentName, object: &dyn Object) -> Result<IncrementChain> {
        let there = offsets(store)?.remove(&name).unwrap_or_default();
        let mut chain = IncrementChain { name, before: NOTHING, at: 0, count: 0, sent: 0 };
        for (number, offset) in there.iter().enumerate() {
            chain.put_up_to(store, object, *offset)?;
            chain.pass(store, object, *offset, number + 1 == there.len())?;
        }
        Ok(chain)
    }

    /// The number of increments.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Puts the bytes of the segment that the store lacks of its first `end`. Returns how many were put, with those that
    /// [`IncrementChain::find`] has put.
    ///
    /// # Errors
    /// `Refused` if the store has more bytes of the segment, or other bytes than `object`: another process has put them.
    /// `Unavailable` if the segment cannot be read or the store does not take an increment; what was put before it counts.
    pub(super) fn send(&mut self, store: &dyn Store, object: &dyn Object, end: u64) -> Result<u64> {
        if self.at > end {
            return Err(self.forked(store, self.at));
        }
        self.put_up_to(store, object, end)?;
        Ok(std::mem::take(&mut self.sent))
    }

    fn put_up_to(&mut self, store: &dyn Store, object: &dyn Object, end: u64) -> Result<()> {
        while self.at < end {
            let bytes = self.bytes(object, end.min(self.at + LONGEST))?;
            let head = Head::of(self.before, &bytes);
            let name = self::object(self.name, self.at);
            match store.put_new(&name, &[head.encode(), bytes].concat()) {
                // An earlier put of this process may have succeeded although its answer was lost. If another process has put
                // this increment, its bytes differ, unless both follow the same segment.
                Err(error) if error.kind() == Kind::Internal && store.holds(&name)? => {
                    self.pass(store, object, self.at, true)?;
                }
                put => {
                    put?;
                    self.sent += head.len;
                    self.go_on(head);
                }
            }
        }
        Ok(())
    }

    fn go_on(&mut self, head: Head) {
        (self.before, self.at, self.count) = (head.digest, self.at + head.len, self.count + 1);
    }

    /// Passes the increment at `offset`, which is there. The digest of the last one stands for all before it.
    fn pass(&mut self, store: &dyn Store, object: &dyn Object, offset: u64, is_last: bool) -> Result<()> {
        let name = self::object(self.name, offset);
        let size = store.size(&name)?.and_then(|size| size.checked_sub(HEAD));
        let size = size.ok_or_else(|| damaged(store, &name, "it is cut short"))?;
        if offset != self.at {
            return Err(damaged(store, &name, "it does not go on where the increment before it ends"));
        }
        if self.at + size > object.size() {
            return Err(self.forked(store, offset));
        }
        let head = Head::of(self.before, &self.bytes(object, self.at + size)?);
        if is_last && read_head(store, &name)? != head {
            return Err(self.forked(store, offset));
        }
        self.go_on(head);
        Ok(())
    }

    fn bytes(&self, object: &dyn Object, end: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (end - self.at) as usize];
        let read: io::Result<()> = object.read_exact_at(&mut bytes, self.at);
        read.map_err(|_| Error::unavailable("a segment became shorter while it was copied; try again"))?;
        Ok(bytes)
    }

    fn forked(&self, store: &dyn Store, offset: u64) -> Error {
        Error::refused(format!(
            "{} is not of this journal: the two histories have gone separate ways; copy to a new prefix",
            store.locate(&object(self.name, offset))
        ))
    }
}

fn read_head(store: &dyn Store, name: &ObjectName) -> Result<Head> {
    let missing = || damaged(store, name, "it does not begin as an increment does");
    let mut bytes = [0; HEAD as usize];
    let opened = store.open(name)?.ok_or_else(missing)?;
    opened.read_exact_at(&mut bytes, 0).map_err(|error| cannot_read(&store.locate(name), error))?;
    Head::decode(&bytes).ok_or_else(missing)
}

/// Whether there are increments of an open segment.
///
/// # Errors
/// `Unavailable` if the store cannot be listed.
pub(super) fn is_there(store: &dyn Store, name: SegmentName) -> Result<bool> {
    Ok(offsets(store)?.contains_key(&name))
}

/// Removes the increments of an open segment. Where the bucket does not let any object go, they stay: the sealed segment
/// counts.
///
/// # Errors
/// `Unavailable` if the store does not answer.
pub(super) fn remove(store: &dyn Store, name: SegmentName) -> Result<()> {
    let there = offsets(store)?.remove(&name).unwrap_or_default();
    // The last one first, so that what is left at any instant is a beginning of the segment.
    let names: Vec<_> = there.into_iter().rev().map(|offset| object(name, offset)).collect();
    match store.remove(&names) {
        Err(error) if error.kind() == Kind::Refused => {
            tracing::debug!("increments of a sealed segment stay: {error}");
            Ok(())
        }
        removed => removed,
    }
}
