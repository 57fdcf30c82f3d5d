//! Reads ranges of an object in an object store.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::bucket::Bucket;
use crate::store::Object;

/// Ranges of fewer bytes than this are read as a part of a chunk of this many, so that a header and its neighbours, or
/// a footer and its list, are one request. Longer ranges are requests of their own.
const CHUNK: u64 = 64 << 10;

/// An object is a few chunks at its beginning and its end; with more in memory than this, the oldest goes.
const CHUNKS: usize = 4;

/// An object that is open for reading, with the size that it had when it was opened.
#[derive(Debug)]
pub(super) struct RemoteObject {
    bucket: Bucket,
    key: String,
    size: u64,
    /// Chunks that were read, by their offsets; the newest stands last.
    chunks: Mutex<Vec<(u64, Bytes)>>,
}

impl RemoteObject {
    pub(super) fn new(bucket: Bucket, key: String, size: u64) -> RemoteObject {
        RemoteObject { bucket, key, size, chunks: Mutex::default() }
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = range.end - range.start;
        let bytes = self.bucket.get_range(&self.key, range).map_err(io::Error::other)?;
        let bytes = bytes.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(ErrorKind::UnexpectedEof.into()) }
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
