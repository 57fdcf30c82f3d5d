//! Keeps pieces of remote objects on the local disk, so that a second command need not fetch them again.
//!
//! All commands and processes of a user share one folder. Nothing depends on it: the folder may be deleted at any time, and a
//! file in it is believed only if its digest agrees. No index is kept, so processes have nothing to agree on; each finds the
//! oldest files by their dates when it has added enough to look.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::ambient;

/// An object is kept in pieces of this many bytes, counted from its end; the first piece is shorter.
const PIECE: u64 = 64 << 10;

/// The digest that a file begins with.
const DIGEST: usize = 32;

/// A disk gives a file a multiple of this many bytes.
const DISK_BLOCK: u64 = 4 << 10;

/// A piece that is read again is dated anew if it is older than this. So the oldest pieces are those that nobody has
/// wanted for long, and most reads change nothing on the disk.
const STALE: Duration = Duration::from_secs(60);

/// A file that is still unfinished after this time was left by a process that was killed.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// The ending of an unfinished file.
const TEMPORARY: &str = "tmp";

/// A folder of pieces, of at most about `limit` bytes.
#[derive(Debug)]
pub struct BlockCache {
    folder: PathBuf,
    limit: u64,
    /// The bytes that this process has added. No process adds more than the limit: the pieces that it would push out are
    /// its own.
    added: AtomicU64,
    /// The bytes that were added before this process last removed what is too much.
    trimmed: AtomicU64,
    /// Whether the disk has refused a file, after which this process adds no more.
    is_refused: AtomicBool,
}

/// A piece as it lies on the disk.
struct KeptFile {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

impl BlockCache {
    /// Makes a cache in a folder that need not exist yet.
    pub fn new(folder: &Path, limit: u64) -> BlockCache {
        BlockCache {
            folder: folder.to_owned(),
            limit,
            added: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
            is_refused: AtomicBool::new(false),
        }
    }

    fn path(&self, id: &blake3::Hash) -> PathBuf {
        let hex = id.to_hex();
        self.folder.join(&hex[..2]).join(&hex[2..])
    }

    /// Returns a piece if it is here and whole. A damaged file is removed.
    fn get(&self, id: &blake3::Hash, len: u64) -> Option<Bytes> {
        let path = self.path(id);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::with_capacity(DIGEST + len as usize);
        // A longer file is as wrong as a shorter one, and need not be read to its end.
        let read = Read::by_ref(&mut file).take(DIGEST as u64 + len + 1).read_to_end(&mut bytes);
        let is_whole = read.is_ok_and(|read| read as u64 == DIGEST as u64 + len)
            && digest(id, &bytes[DIGEST..]).as_bytes()[..] == bytes[..DIGEST];
        if !is_whole {
            tracing::debug!("{} is damaged and fetched again", path.display());
            let _ = fs::remove_file(&path);
            return None;
        }
        let now = SystemTime::from(ambient::now());
        let used = file.metadata().and_then(|it| it.modified());
        if used.is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age > STALE)) {
            let _ = file.set_modified(now);
        }
        Some(Bytes::from(bytes).slice(DIGEST..))
    }

    /// Keeps a piece, if the disk takes it.
    fn put(&self, id: &blake3::Hash, bytes: &[u8]) {
        let size = on_disk(bytes.len() as u64);
        if self.is_refused.load(Ordering::Relaxed) || self.added.load(Ordering::Relaxed) + size > self.limit {
            return;
        }
        if let Err(error) = self.write(id, bytes) {
            tracing::debug!("no more is kept in {}: {error}", self.folder.display());
            self.is_refused.store(true, Ordering::Relaxed);
            return;
        }
        let added = self.added.fetch_add(size, Ordering::Relaxed) + size;
        let trimmed = self.trimmed.load(Ordering::Relaxed);
        // The thread that sets the mark removes what is too much; the other threads go on.
        if added - trimmed > self.limit / 16
            && self.trimmed.compare_exchange(trimmed, added, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.trim();
        }
    }

    /// Nothing is synced: a file that a power cut spoils has the wrong digest.
    fn write(&self, id: &blake3::Hash, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(id);
        let unfinished = path.with_extension(format!(
            "{:x}.{TEMPORARY}",
            u64::from_le_bytes(ambient::random().map_err(io::Error::other)?)
        ));
        let content = [digest(id, bytes).as_bytes(), bytes].concat();
        let write = || fs::write(&unfinished, &content).and_then(|()| fs::rename(&unfinished, &path));
        let written = match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path.parent().unwrap_or(&self.folder))?;
                write()
            }
            written => written,
        };
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Removes the pieces that nobody has used for longest, until an eighth of the room is free again.
    fn trim(&self) {
        let mut kept = self.kept();
        let mut total: u64 = kept.iter().map(|it| it.size).sum();
        if total <= self.limit {
            return;
        }
        kept.sort_by_key(|it| it.used);
        for file in kept {
            if total <= self.limit - self.limit / 8 {
                return;
            }
            // Another process may have removed the file.
            let _ = fs::remove_file(&file.path);
            total -= file.size;
        }
    }

    /// Lists the pieces, and removes what killed processes left unfinished.
    fn kept(&self) -> Vec<KeptFile> {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let now = SystemTime::from(ambient::now());
        let mut kept = Vec::new();
        for entry in entries(&self.folder).flat_map(|folder| entries(&folder.path())) {
            let Ok((used, size)) = entry.metadata().and_then(|it| Ok((it.modified()?, it.len()))) else {
                continue;
            };
            let path = entry.path();
            let is_unfinished = path.extension().is_some_and(|it| it == TEMPORARY);
            if is_unfinished && now.duration_since(used).is_ok_and(|age| age > UNFINISHED) {
                let _ = fs::remove_file(&path);
            } else {
                kept.push(KeptFile { used, size: on_disk(size), path });
            }
        }
        kept
    }
}

impl Drop for BlockCache {
    fn drop(&mut self) {
        if self.added.load(Ordering::Relaxed) > self.trimmed.load(Ordering::Relaxed) {
            self.trim();
        }
    }
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(DISK_BLOCK)
}

/// A file that stands in the place of another one has another digest than its own.
fn digest(id: &blake3::Hash, bytes: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(id.as_bytes(), bytes)
}

/// One version of one object, with the cache for its pieces.
#[derive(Clone, Debug)]
pub(super) struct CachedObject {
    cache: Arc<BlockCache>,
    /// Begins the name of every piece.
    name: blake3::Hasher,
    size: u64,
}

impl CachedObject {
    /// Tells the object by its place, by the version that the store has given these bytes, and by its size.
    pub(super) fn new(cache: Arc<BlockCache>, place: &str, version: u128, size: u64) -> CachedObject {
        let mut name = blake3::Hasher::new_derive_key("backwhen 2026-11 pieces of remote objects");
        name.update(&version.to_le_bytes()).update(&size.to_le_bytes()).update(place.as_bytes());
        CachedObject { cache, name, size }
    }

    fn id(&self, piece: &Range<u64>) -> blake3::Hash {
        self.name.clone().update(b"\0").update(&piece.start.to_le_bytes()).finalize()
    }

    fn get(&self, piece: &Range<u64>) -> Option<Bytes> {
        self.cache.get(&self.id(piece), piece.end - piece.start)
    }

    /// The pieces in which the bytes of a range lie, in their order.
    fn pieces(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let (first, last) = ((self.size - 1 - range.start) / PIECE, (self.size - range.end) / PIECE);
        let piece = |number: u64| {
            let end = self.size - number * PIECE;
            end.saturating_sub(PIECE)..end
        };
        (last..=first).rev().map(piece).collect()
    }

    /// Reads a range that lies in the object. `request` is called for each stretch that is not here, with whole pieces.
    pub(super) fn read(
        &self,
        range: Range<u64>,
        request: impl Fn(Range<u64>) -> io::Result<Bytes>,
    ) -> io::Result<Bytes> {
        let pieces = self.pieces(&range);
        let Some(begin) = pieces.first().map(|piece| piece.start) else { return Ok(Bytes::new()) };
        let known: Vec<_> = pieces.iter().map(|piece| self.get(piece)).collect();
        let within = (range.start - begin) as usize..(range.end - begin) as usize;
        let mut found = Vec::new();
        let mut at = 0;
        while at < pieces.len() {
            if let Some(bytes) = &known[at] {
                found.push(bytes.clone());
                at += 1;
                continue;
            }
            let missing = known[at..].iter().take_while(|it| it.is_none()).count();
            let stretch = &pieces[at..at + missing];
            let bytes = request(stretch[0].start..stretch[missing - 1].end)?;
            self.keep(stretch, &bytes);
            found.push(bytes);
            at += missing;
        }
        // Most often all is here or nothing is, and then there is nothing to put together.
        let whole = if found.len() == 1 { found.swap_remove(0) } else { found.concat().into() };
        Ok(whole.slice(within))
    }

    fn keep(&self, pieces: &[Range<u64>], bytes: &Bytes) {
        let begin = pieces.first().map_or(0, |piece| piece.start);
        for piece in pieces {
            let within = (piece.start - begin) as usize..(piece.end - begin) as usize;
            self.cache.put(&self.id(piece), &bytes[within]);
        }
    }

    /// Returns all bytes of the object if all are here.
    pub(super) fn whole(&self) -> Option<Bytes> {
        let missing = |_| Err(io::ErrorKind::NotFound.into());
        self.read(0..self.size, missing).ok()
    }

    /// Keeps all bytes of the object.
    pub(super) fn keep_whole(&self, bytes: &Bytes) {
        if bytes.len() as u64 == self.size {
            self.keep(&self.pieces(&(0..self.size)), bytes);
        }
    }
}

#[cfg(test)]
#[path = "blocks/tests.rs"]
mod tests;
