//! Reads ranges of an object in an object store.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::blocks::CachedObject;
use super::bucket::Bucket;
use crate::store::Object;

/// Ranges of fewer bytes than this are read as a part of a chunk of this many, so that a header and its neighbours, or
/// a footer and its list, are one request. Longer ranges are requests of their own.
const CHUNK: u64 = 64 << 10;

/// An object is a few chunks at its beginning and its end; with more in memory than this, the oldest goes.
const CHUNKS: usize = 4;

/// Once this many ranges have been asked for that each begin where the one before ends, the object is read ahead.
const RUN: u32 = 2;

/// The number of bytes that are read ahead in one request.
const WINDOW: u64 = 2 << 20;

/// Bytes that were read ahead, and what tells whether it is worth while.
#[derive(Debug, Default)]
struct ReadAhead {
    begin: u64,
    bytes: Bytes,
    /// The offset at which the last range ended.
    next: u64,
    /// How many ranges in a row have begun where the one before ended.
    run: u32,
}

impl ReadAhead {
    /// Notes that a range is asked for, and returns its bytes if they have been read ahead.
    fn take(&mut self, range: &Range<u64>) -> Option<Bytes> {
        self.run = if range.start == self.next { self.run + 1 } else { 0 };
        self.next = range.end;
        let from = range.start.checked_sub(self.begin)? as usize;
        let len = (range.end - range.start) as usize;
        (from + len <= self.bytes.len()).then(|| self.bytes.slice(from..from + len))
    }
}

/// An object that is open for reading, with the size that it had when it was opened.
#[derive(Debug)]
pub(super) struct RemoteObject {
    bucket: Bucket,
    key: String,
    size: u64,
    cached: Option<CachedObject>,
    /// Chunks that were read, by their offsets; the newest stands last.
    chunks: Mutex<Vec<(u64, Bytes)>>,
    ahead: Mutex<ReadAhead>,
}

impl RemoteObject {
    pub(super) fn new(bucket: Bucket, key: String, size: u64, cached: Option<CachedObject>) -> RemoteObject {
        RemoteObject { bucket, key, size, cached, chunks: Mutex::default(), ahead: Mutex::default() }
    }

    /// Fetches the first and the last chunk, so that they need no request later.
    pub(super) fn fetch_ends(&self) -> io::Result<()> {
        self.chunk(0)?;
        if self.size > CHUNK { self.chunk(self.size - CHUNK).map(drop) } else { Ok(()) }
    }

    /// Returns all bytes of the object, if they have been fetched already.
    pub(super) fn whole(&self) -> Option<Bytes> {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks
            .iter()
            .find(|(at, bytes)| *at == 0 && bytes.len() as u64 == self.size)
            .map(|(_, bytes)| bytes.clone())
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.cached {
            Some(cached) => cached.read(range, |range| self.request(range)),
            None => self.request(range),
        }
    }

    fn request(&self, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = range.end - range.start;
        let bytes = self.bucket.get_range(&self.key, range).map_err(io::Error::other)?;
        let bytes = bytes.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Returns the bytes of a range if they have been read ahead, or if it is time to read ahead. Other threads that read the
    /// object are not kept waiting meanwhile.
    fn read_ahead(&self, range: Range<u64>) -> io::Result<Option<Bytes>> {
        let ahead = || self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, run) = {
            let mut ahead = ahead();
            (ahead.take(&range), ahead.run)
        };
        if known.is_some() || run < RUN || range.end - range.start >= WINDOW {
            return Ok(known);
        }
        let bytes = self.fetch(range.start..self.size.min(range.start + WINDOW))?;
        let mut ahead = ahead();
        (ahead.begin, ahead.bytes) = (range.start, bytes.clone());
        Ok(Some(bytes.slice(..(range.end - range.start) as usize)))
    }

    /// Returns the chunk that begins at `offset`; the last one ends with the object.
    fn chunk(&self, offset: u64) -> io::Result<Bytes> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = chunks.iter().find(|(at, _)| *at == offset) {
            return Ok(known.clone());
        }
        let bytes = self.fetch(offset..self.size.min(offset + CHUNK))?;
        if chunks.len() >= CHUNKS {
            chunks.remove(0);
        }
        chunks.push((offset, bytes.clone()));
        Ok(bytes)
    }
}

impl Object for RemoteObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(known) = self.read_ahead(offset..end)? {
            bytes.copy_from_slice(&known);
            return Ok(());
        }
        if end - offset >= CHUNK {
            bytes.copy_from_slice(&self.fetch(offset..end)?);
            return Ok(());
        }
        // Counted from the end, so that a footer and the list before it lie in one chunk.
        let first = |at: u64| (self.size - at).next_multiple_of(CHUNK).min(self.size);
        let mut at = offset;
        while at < end {
            let begin = self.size - first(at);
            let chunk = self.chunk(begin)?;
            let (from, to) = (at - begin, (begin + chunk.len() as u64).min(end));
            let piece = &chunk[from as usize..(to - begin) as usize];
            bytes[(at - offset) as usize..(to - offset) as usize].copy_from_slice(piece);
            at = to;
        }
        Ok(())
    }
}
