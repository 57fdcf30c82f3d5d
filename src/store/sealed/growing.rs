//! The bytes of an encrypted open segment, the only file of a history that grows. See FORMAT.md.
//!
//! Each write becomes one frame or several, which nobody without the key can make, change or move. What does not open reads
//! as zeros, as long as it may have been: the journal, which knows what was synced, tells a torn end from damage.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};

use super::frames::DataCipher;
use crate::ambient;
use crate::error::{Error, Result};
use crate::store::Object;

const MAGIC: [u8; 8] = *b"BWGROWS\0";
const VERSION: u32 = 1;

/// The magic word, the version, four zeros, and 16 random bytes.
const HEAD: usize = 32;

const FRAME_MAGIC: [u8; 4] = *b"BWFR";

/// The magic word of a frame, its length (4), its offset (8) and its nonce (24).
const FRAME_HEAD: usize = 40;

/// The bytes that the cipher adds to each frame.
const TAG: usize = 16;

/// A frame holds at most so many bytes of the segment.
const MOST: usize = 64 << 10;

/// A segment of at most so many bytes is decrypted once, when it is opened; of a longer one, each frame when it is read.
const KEPT: u64 = 32 << 20;

/// The cipher for one open segment.
#[derive(Clone)]
pub(in crate::store) struct GrowingCipher {
    cipher: DataCipher,
    /// The segment that the bytes belong to, which each frame vouches for.
    name: String,
}

/// The end of an open segment's file, from which its writer goes on.
#[derive(Clone, Debug)]
pub(in crate::store) struct GrowingEnd {
    /// The random bytes of the file.
    id: [u8; 16],
    /// The bytes of the segment so far.
    pub len: u64,
    /// The bytes of the file so far.
    pub at: u64,
    /// The tag of the last frame, which the next one vouches for.
    tag: [u8; TAG],
}

/// The place of a frame, and what it holds of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    offset: u64,
    len: usize,
    /// The offset in the file at which the frame begins.
    at: u64,
}

impl Frame {
    fn end(&self) -> u64 {
        self.offset + self.len as u64
    }

    fn file_end(&self) -> u64 {
        self.at + (FRAME_HEAD + self.len + TAG) as u64
    }
}

/// The change of a file that [`GrowingCipher::cut`] wants.
#[derive(Debug)]
pub(in crate::store) struct GrowingCut {
    /// The file is to have so many bytes.
    pub keep: u64,
    /// The bytes that are to be written behind these.
    pub write: Vec<u8>,
    pub end: GrowingEnd,
}

impl fmt::Debug for GrowingCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrowingCipher({})", self.name)
    }
}

impl GrowingCipher {
    pub fn new(cipher: DataCipher, name: String) -> GrowingCipher {
        GrowingCipher { cipher, name }
    }

    /// Begins a segment: returns the bytes with which its file begins.
    ///
    /// # Errors
    /// `Internal` without randomness.
    pub fn begin(&self) -> Result<(Vec<u8>, GrowingEnd)> {
        let id: [u8; 16] = ambient::random()?;
        let head = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 4], &id].concat();
        let end = GrowingEnd { id, len: 0, at: head.len() as u64, tag: id };
        Ok((head, end))
    }

    /// Seals bytes that follow `end`, which moves on.
    ///
    /// # Errors
    /// `Internal` without randomness.
    pub fn seal(&self, parts: &[&[u8]], end: &mut GrowingEnd) -> Result<Vec<u8>> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut sealed = Vec::with_capacity(len + (len / MOST + 1) * (FRAME_HEAD + TAG));
        let mut plain = Vec::with_capacity(len.min(MOST));
        for mut part in parts.iter().copied() {
            while !part.is_empty() {
                let (piece, rest) = part.split_at(part.len().min(MOST - plain.len()));
                plain.extend_from_slice(piece);
                part = rest;
                if plain.len() == MOST {
                    self.seal_frame(&plain, end, &mut sealed)?;
                    plain.clear();
                }
            }
        }
        if !plain.is_empty() {
            self.seal_frame(&plain, end, &mut sealed)?;
        }
        Ok(sealed)
    }

    fn seal_frame(&self, plain: &[u8], end: &mut GrowingEnd, sealed: &mut Vec<u8>) -> Result<()> {
        let nonce: [u8; 24] = ambient::random()?;
        let subject = self.subject(&end.id, end.len, plain.len(), &end.tag);
        let bytes = self.cipher.seal_with(&nonce, &subject, plain)?;
        sealed.extend_from_slice(&FRAME_MAGIC);
        sealed.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        sealed.extend_from_slice(&end.len.to_le_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&bytes);
        end.tag.copy_from_slice(&bytes[plain.len()..]);
        end.len += plain.len() as u64;
        end.at += (FRAME_HEAD + bytes.len()) as u64;
        Ok(())
    }

    /// The subject that a frame vouches for: the segment, its file, the frame's place, and the frame before it in the file.
    fn subject(&self, id: &[u8; 16], offset: u64, len: usize, before: &[u8; TAG]) -> Vec<u8> {
        let numbers =
            [&VERSION.to_le_bytes()[..], &offset.to_le_bytes(), &(len as u32).to_le_bytes()].concat();
        [&numbers[..], id, before, self.name.as_bytes()].concat()
    }

    /// Opens the frame that begins at `at` in the file; `None` if no frame does that opens.
    fn open_frame(
        &self,
        file: &FileBytes<'_>,
        id: &[u8; 16],
        at: u64,
    ) -> io::Result<Option<(Frame, Vec<u8>)>> {
        let mut head = [0; FRAME_HEAD + TAG];
        // The tag of the frame before it, or the random bytes of the file, end where the frame begins.
        let begin = at - TAG as u64;
        if begin + head.len() as u64 > file.size || file.read(&mut head, begin)?.is_none() {
            return Ok(None);
        }
        let (before, head) = head.split_first_chunk::<TAG>().expect("it is longer");
        let Some(frame) = frame_of(head, at).filter(|frame| frame.file_end() <= file.size) else {
            return Ok(None);
        };
        let mut sealed = vec![0; frame.len + TAG];
        if file.read(&mut sealed, at + FRAME_HEAD as u64)?.is_none() {
            return Ok(None);
        }
        let nonce = head.last_chunk::<24>().expect("it is longer");
        let subject = self.subject(id, frame.offset, frame.len, before);
        Ok(self.cipher.open_with(nonce, &subject, &sealed).map(|plain| (frame, plain)))
    }

    /// Reads the head of the file, and returns the file's random bytes.
    fn head(&self, file: &FileBytes<'_>, place: &str) -> Result<[u8; 16]> {
        let mut head = [0; HEAD];
        let read = if file.size < HEAD as u64 { Ok(None) } else { file.read(&mut head, 0) };
        let read = read.map_err(|error| crate::store::cannot_read(place, error))?;
        let rest = read.and_then(|()| head.strip_prefix(&MAGIC));
        let Some(rest) = rest else {
            return Err(Error::damaged(format!(
                "{place} is damaged: it does not begin as an encrypted segment does; it was put there without encryption by \
                 somebody else, or its beginning was changed"
            )));
        };
        let (version, rest) = rest.split_first_chunk::<4>().expect("the head is longer");
        match u32::from_le_bytes(*version) {
            VERSION => Ok(*rest.last_chunk::<16>().expect("the head is longer")),
            version if version > VERSION => Err(Error::refused(format!(
                "{place}: its encryption has version {version}, this backwhen knows up to {VERSION}; update backwhen"
            ))),
            _ => Err(Error::damaged(format!("{place} is damaged: its encryption has version 0"))),
        }
    }

    /// Finds the frames of a file, and calls `each` with every one and its bytes.
    fn scan(
        &self,
        file: &FileBytes<'_>,
        id: [u8; 16],
        each: &mut dyn FnMut(Frame, &[u8]),
    ) -> io::Result<Scanned> {
        let mut scanned = Scanned { frames: Vec::new(), file_end: HEAD as u64, size: file.size };
        let mut at = HEAD as u64;
        while at < file.size {
            let opened = self.open_frame(file, &id, at)?;
            match opened.filter(|(frame, _)| scanned.takes(frame)) {
                Some((frame, plain)) => {
                    // The beginning of a frame that was cut in its middle stands behind it once more, up to the cut.
                    scanned.frames.retain(|before| before.offset < frame.offset);
                    scanned.frames.push(frame);
                    scanned.file_end = frame.file_end();
                    at = scanned.file_end;
                    each(frame, &plain);
                }
                None => match file.find_magic(at + 1)? {
                    Some(found) => at = found,
                    None => break,
                },
            }
        }
        Ok(scanned)
    }

    /// Opens a segment, of which the file has the bytes of `object` now.
    ///
    /// # Errors
    /// `Damaged` if the file does not begin as an encrypted segment does, `Refused` if a newer backwhen wrote it,
    /// `Unavailable` if the disk does not read.
    pub fn open(&self, object: Box<dyn Object>, place: &str) -> Result<GrownSegment> {
        let file = FileBytes::new(&*object);
        let id = self.head(&file, place)?;
        let mut kept = Vec::new();
        let mut keep = |frame: Frame, plain: &[u8]| {
            if frame.end() <= KEPT {
                kept.resize(frame.offset as usize, 0);
                kept.extend_from_slice(plain);
            }
        };
        let scanned =
            self.scan(&file, id, &mut keep).map_err(|error| crate::store::cannot_read(place, error))?;
        drop(file);
        let len = scanned.len();
        let kept = (len <= KEPT).then(|| {
            kept.resize(len as usize, 0);
            kept
        });
        Ok(GrownSegment {
            object,
            cipher: self.clone(),
            id,
            frames: scanned.frames,
            len,
            kept,
            recent: Mutex::default(),
        })
    }

    /// Finds the end of a file, for its writer.
    ///
    /// # Errors
    /// Fails as [`GrowingCipher::open`] does.
    pub fn end(&self, object: &dyn Object, place: &str) -> Result<GrowingEnd> {
        let file = FileBytes::new(object);
        let id = self.head(&file, place)?;
        let failed = |error: io::Error| crate::store::cannot_read(place, error);
        let scanned = self.scan(&file, id, &mut |_, _| {}).map_err(failed)?;
        let last = scanned.frames.last();
        self.end_after(&file, id, last.map_or(0, Frame::end), scanned.file_end).map_err(failed)
    }

    fn end_after(&self, file: &FileBytes<'_>, id: [u8; 16], len: u64, at: u64) -> io::Result<GrowingEnd> {
        let mut tag = [0; TAG];
        file.read(&mut tag, at - TAG as u64)?.ok_or(ErrorKind::UnexpectedEof)?;
        Ok(GrowingEnd { id, len, at, tag })
    }

    /// Tells how a file is made to hold the first `len` bytes of its segment and no more. Nothing of these is gone at any
    /// instant: where a cut goes through a frame, its beginning is written once more behind all that is kept.
    ///
    /// # Errors
    /// `InvalidInput` if the segment has no such bytes; otherwise the errors of reading.
    pub fn cut(&self, object: &dyn Object, id: [u8; 16], len: u64) -> io::Result<GrowingCut> {
        let file = FileBytes::new(object);
        let mut inside = None;
        let scanned = self.scan(&file, id, &mut |frame, plain| {
            if frame.offset < len && len < frame.end() {
                inside = Some((frame, plain[..(len - frame.offset) as usize].to_vec()));
            }
        })?;
        if let Some((frame, plain)) = inside.filter(|(frame, _)| scanned.frames.contains(frame)) {
            let mut end = self.end_after(&file, id, frame.offset, scanned.file_end)?;
            let write = self.seal(&[&plain], &mut end).map_err(io::Error::other)?;
            return Ok(GrowingCut { keep: scanned.file_end, write, end });
        }
        let keep = if len == 0 { HEAD as u64 } else { scanned.file_end_at(len)? };
        Ok(GrowingCut { keep, write: Vec::new(), end: self.end_after(&file, id, len, keep)? })
    }
}

impl GrowingEnd {
    pub fn id(&self) -> [u8; 16] {
        self.id
    }
}

fn frame_of(head: &[u8], at: u64) -> Option<Frame> {
    let rest = head.strip_prefix(&FRAME_MAGIC)?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (offset, _) = rest.split_first_chunk::<8>()?;
    let frame = Frame { offset: u64::from_le_bytes(*offset), len: u32::from_le_bytes(*len) as usize, at };
    (frame.len <= MOST && frame.len > 0).then_some(frame)
}

/// The frames of a file that open.
struct Scanned {
    frames: Vec<Frame>,
    /// The offset in the file at which the last frame ends.
    file_end: u64,
    /// The bytes of the file.
    size: u64,
}

impl Scanned {
    /// Whether a frame can stand here. Between frames there can be no more bytes of the segment than bytes of the file
    /// that do not open, so that nobody makes a short file look long.
    fn takes(&self, frame: &Frame) -> bool {
        let end = self.frames.last().map_or(0, Frame::end);
        match frame.offset.checked_sub(end) {
            Some(gap) => gap <= frame.at - self.file_end,
            None => self.frames.iter().any(|before| before.offset == frame.offset),
        }
    }

    /// The bytes of the segment, with what does not open behind the last frame.
    fn len(&self) -> u64 {
        self.frames.last().map_or(0, Frame::end) + (self.size - self.file_end)
    }

    /// The offset in the file at which the frame ends that holds the last of the first `len` bytes.
    fn file_end_at(&self, len: u64) -> io::Result<u64> {
        let frame = self.frames.iter().find(|frame| frame.end() == len);
        frame.map(Frame::file_end).ok_or_else(|| ErrorKind::InvalidInput.into())
    }
}

/// The bytes of a file, read in large pieces one after the other.
struct FileBytes<'a> {
    object: &'a dyn Object,
    size: u64,
    /// At least so many bytes are read at once.
    ahead: u64,
    /// The piece that was read last, and where it begins.
    piece: RefCell<(u64, Vec<u8>)>,
}

/// A file that is read from its beginning to its end is read in pieces of so many bytes.
const PIECE: u64 = 1 << 20;

impl<'a> FileBytes<'a> {
    fn new(object: &'a dyn Object) -> FileBytes<'a> {
        FileBytes { object, size: object.size(), ahead: PIECE, piece: RefCell::default() }
    }

    /// Reads no more than is asked for, as suits single frames.
    fn without_reading_ahead(object: &'a dyn Object) -> FileBytes<'a> {
        FileBytes { ahead: 0, ..FileBytes::new(object) }
    }

    /// Fills `bytes`; `None` if the file has become shorter meanwhile.
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<Option<()>> {
        let mut piece = self.piece.borrow_mut();
        let end = at + bytes.len() as u64;
        if at < piece.0 || end > piece.0 + piece.1.len() as u64 {
            let wanted = self.ahead.max(bytes.len() as u64).min(self.size.saturating_sub(at));
            piece.0 = at;
            piece.1.resize(wanted as usize, 0);
            if let Err(error) = self.object.read_exact_at(&mut piece.1, at) {
                piece.1.clear();
                return if error.kind() == ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
            }
        }
        let from = (at - piece.0) as usize;
        let found = piece.1.get(from..from + bytes.len());
        Ok(found.map(|found| bytes.copy_from_slice(found)))
    }

    /// Returns where the next magic word of a frame lies, at or after `at`.
    fn find_magic(&self, mut at: u64) -> io::Result<Option<u64>> {
        let mut chunk = vec![0; 64 << 10];
        while at + FRAME_MAGIC.len() as u64 <= self.size {
            let size = chunk.len().min((self.size - at) as usize);
            if self.read(&mut chunk[..size], at)?.is_none() {
                return Ok(None);
            }
            let mut words = chunk[..size].windows(FRAME_MAGIC.len());
            if let Some(found) = words.position(|bytes| bytes == FRAME_MAGIC) {
                return Ok(Some(at + found as u64));
            }
            // A magic word can lie across two chunks.
            at += (size - (FRAME_MAGIC.len() - 1)) as u64;
        }
        Ok(None)
    }
}

/// An encrypted open segment that is open for reading.
pub(in crate::store) struct GrownSegment {
    object: Box<dyn Object>,
    cipher: GrowingCipher,
    id: [u8; 16],
    frames: Vec<Frame>,
    len: u64,
    /// All bytes of a segment that is not long.
    kept: Option<Vec<u8>>,
    /// The frame that was opened last, by its place in the file: short ranges follow each other.
    recent: Mutex<Option<(u64, Arc<[u8]>)>>,
}

impl GrownSegment {
    /// Opens a frame; `None` if its writer has cut it off since.
    fn frame(&self, frame: &Frame) -> io::Result<Option<Arc<[u8]>>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plain)) = recent.as_ref().filter(|(at, _)| *at == frame.at) {
            return Ok(Some(Arc::clone(plain)));
        }
        let file = FileBytes::without_reading_ahead(&*self.object);
        let Some((_, plain)) = self.cipher.open_frame(&file, &self.id, frame.at)? else { return Ok(None) };
        let plain: Arc<[u8]> = plain.into();
        *recent = Some((frame.at, Arc::clone(&plain)));
        Ok(Some(plain))
    }
}

impl Object for GrownSegment {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(kept) = &self.kept {
            return kept.read_exact_at(bytes, offset);
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(ErrorKind::UnexpectedEof)?;
        bytes.fill(0);
        let first = self.frames.partition_point(|frame| frame.end() <= offset);
        for frame in self.frames[first..].iter().take_while(|frame| frame.offset < end) {
            // Bytes that were cut off since read as zeros, as those behind a cut may.
            let Some(plain) = self.frame(frame)? else { continue };
            let (from, upto) = (offset.max(frame.offset), end.min(frame.offset + plain.len() as u64));
            if from < upto {
                let piece = &plain[(from - frame.offset) as usize..(upto - frame.offset) as usize];
                bytes[(from - offset) as usize..(upto - offset) as usize].copy_from_slice(piece);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GrownSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrownSegment({}, {} bytes)", self.cipher.name, self.len)
    }
}

#[cfg(test)]
mod tests;
