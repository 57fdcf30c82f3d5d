//! The bytes of an encrypted object: frames, each sealed by itself, and a trailer. See FORMAT.md.
//!
//! Frames are counted from the end, so that they lie where the pieces lie that an object store's cache keeps, and so that an
//! object's footer and the trailer are one piece.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::ambient;
use crate::error::{Error, Result};
use crate::store::{Object, cannot_read};

/// The bytes of a sealed frame. All frames but the first one and the last one have so many.
const FRAME: u64 = 64 << 10;

/// The bytes that the cipher adds to each frame.
const TAG: u64 = 16;

/// Nonce, length, version, four zeros, and the magic word.
pub(super) const TRAILER: u64 = 40;

/// The bytes of the object in a full frame, and in the last frame, which the trailer follows.
const FULL: u64 = FRAME - TAG;
const LAST: u64 = FULL - TRAILER;

const MAGIC: [u8; 8] = *b"BWSEALED";

/// The version of the format, which every frame vouches for.
const VERSION: u32 = 1;

/// At most so many frames are read with one request.
const RUN: u64 = 32;

/// The places of the frames of an object of a given length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    len: u64,
    frames: u64,
    /// The bytes of the object in the first frame.
    first: u64,
}

impl Shape {
    pub(super) fn of(len: u64) -> Shape {
        let before_last = len.saturating_sub(LAST);
        let others = before_last.div_ceil(FULL);
        let first = if others == 0 { len } else { before_last - (others - 1) * FULL };
        Shape { len, frames: others + 1, first }
    }

    /// The shape of an object whose sealed form has `size` bytes; `None` if no sealed form has.
    pub(super) fn of_sealed(size: u64) -> Option<Shape> {
        let shape = Shape::of(Shape::len_of_sealed(size));
        (shape.sealed_size() == Some(size)).then_some(shape)
    }

    /// The length of an object by the size of its sealed form. Only [`Shape::of_sealed`] tells whether a sealed form has
    /// such a size.
    pub(super) fn len_of_sealed(size: u64) -> u64 {
        size.saturating_sub(size.div_ceil(FRAME) * TAG + TRAILER)
    }

    /// `None` for a length that no object can have.
    fn sealed_size(&self) -> Option<u64> {
        self.len.checked_add(self.frames.checked_mul(TAG)?)?.checked_add(TRAILER)
    }

    fn plain_start(&self, frame: u64) -> u64 {
        if frame == 0 { 0 } else { self.first + (frame - 1) * FULL }
    }

    fn plain_end(&self, frame: u64) -> u64 {
        if frame + 1 == self.frames { self.len } else { self.plain_start(frame + 1) }
    }

    fn sealed_start(&self, frame: u64) -> u64 {
        self.plain_start(frame) + frame * TAG
    }

    fn sealed_end(&self, frame: u64) -> u64 {
        self.plain_end(frame) + (frame + 1) * TAG
    }

    /// The frame in which the byte at `offset` lies.
    fn frame_at(&self, offset: u64) -> u64 {
        if offset < self.first { 0 } else { ((offset - self.first) / FULL + 1).min(self.frames - 1) }
    }
}

/// What is wrong with the bytes of an encrypted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SealFault {
    /// There is no trailer: the object was not encrypted, or has lost its end.
    NoTrailer,
    /// The length in the trailer is not that of the bytes.
    Length,
    /// A newer backwhen wrote it.
    Version(u32),
    /// The bytes are not as a holder of the key wrote them under this name.
    Forged,
}

impl fmt::Display for SealFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SealFault::NoTrailer => f.write_str(
                "it does not end as an encrypted object does: it was cut short, or put there without encryption by somebody else",
            ),
            SealFault::Length => f.write_str("it is shorter or longer than it was written"),
            SealFault::Version(version) => {
                write!(f, "its encryption has version {version}, this backwhen knows up to {VERSION}; update backwhen")
            }
            SealFault::Forged => f.write_str(
                "its bytes were changed, or it is another object under this name: they do not open with the copy's key",
            ),
        }
    }
}

impl SealFault {
    /// The error for an object at `place`.
    pub(super) fn at(self, place: &str) -> Error {
        match self {
            SealFault::Version(_) => Error::refused(format!("{place}: {self}")),
            _ => Error::damaged(format!("{place} is damaged: {self}")),
        }
    }
}

/// The cipher for the objects of one store.
#[derive(Clone)]
pub(in crate::store) struct DataCipher(XChaCha20Poly1305);

impl DataCipher {
    pub(super) fn new(key: &[u8; 32]) -> DataCipher {
        DataCipher(XChaCha20Poly1305::new(&(*key).into()))
    }

    /// Seals a short text with a nonce of its own before it. `what` must be given again to open it.
    pub(in crate::store) fn seal_text(&self, what: &str, text: &[u8]) -> Result<Vec<u8>> {
        let nonce: [u8; 24] = ambient::random()?;
        Ok([&nonce[..], &self.seal_with(&nonce, what.as_bytes(), text)?].concat())
    }

    /// Opens what [`DataCipher::seal_text`] has sealed; `None` if it was changed.
    pub(in crate::store) fn open_text(&self, what: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<24>()?;
        self.open_with(nonce, what.as_bytes(), sealed)
    }

    /// Seals bytes under a nonce that is used once. `subject` must be given again to open them.
    pub(super) fn seal_with(&self, nonce: &[u8; 24], subject: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.0.encrypt(&XNonce::from(*nonce), Payload { msg: plain, aad: subject });
        sealed.map_err(|_| Error::internal("bytes are too long to be encrypted"))
    }

    /// Opens what [`DataCipher::seal_with`] has sealed; `None` if it was changed.
    pub(super) fn open_with(&self, nonce: &[u8; 24], subject: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: subject }).ok()
    }

    fn frame(&self, of: &Sealing<'_>, frame: u64) -> (XNonce, Vec<u8>) {
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&of.prefix);
        nonce[16..].copy_from_slice(&frame.to_le_bytes());
        let is_last = u8::from(frame + 1 == of.shape.frames);
        let numbers = [&of.shape.len.to_le_bytes()[..], &frame.to_le_bytes(), &[is_last]].concat();
        (XNonce::from(nonce), [&VERSION.to_le_bytes()[..], &numbers, of.name.as_bytes()].concat())
    }

    fn seal_frame(&self, of: &Sealing<'_>, frame: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let (nonce, aad) = self.frame(of, frame);
        let sealed = self.0.encrypt(&nonce, Payload { msg: plain, aad: &aad });
        sealed.map_err(|_| Error::internal("a frame is too long to be encrypted"))
    }

    fn open_frame(&self, of: &Sealing<'_>, frame: u64, sealed: &[u8]) -> Result<Vec<u8>, SealFault> {
        let (nonce, aad) = self.frame(of, frame);
        self.0.decrypt(&nonce, Payload { msg: sealed, aad: &aad }).map_err(|_| SealFault::Forged)
    }
}

/// The facts about an object for which each of its frames vouches.
struct Sealing<'a> {
    /// The name of the object, as `packs/STEM.pack`.
    name: &'a str,
    shape: Shape,
    prefix: [u8; 16],
}

impl Sealing<'_> {
    fn trailer(&self) -> Vec<u8> {
        let version = [&VERSION.to_le_bytes()[..], &[0; 4]].concat();
        [&self.prefix[..], &self.shape.len.to_le_bytes(), &version, &MAGIC].concat()
    }

    /// Reads the trailer of an object of `size` bytes.
    fn read<'a>(name: &'a str, size: u64, trailer: &[u8]) -> Result<Sealing<'a>, SealFault> {
        let rest = trailer.strip_suffix(&MAGIC).ok_or(SealFault::NoTrailer)?;
        let (prefix, rest) = rest.split_first_chunk::<16>().ok_or(SealFault::NoTrailer)?;
        let (len, rest) = rest.split_first_chunk::<8>().ok_or(SealFault::NoTrailer)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(SealFault::NoTrailer)?;
        let version = u32::from_le_bytes(*version);
        if version > VERSION {
            return Err(SealFault::Version(version));
        }
        if version != VERSION || rest != [0; 4] {
            return Err(SealFault::Forged);
        }
        let shape = Shape::of_sealed(size).filter(|shape| shape.len == u64::from_le_bytes(*len));
        Ok(Sealing { name, shape: shape.ok_or(SealFault::Length)?, prefix: *prefix })
    }
}

/// Seals the object `name`, piece by piece, from its bytes in `plain`.
///
/// # Errors
/// `Internal` without randomness; otherwise the errors of reading and writing.
pub(super) fn seal_into(
    cipher: &DataCipher,
    name: &str,
    plain: &dyn Object,
    sealed: &mut dyn Write,
) -> Result<io::Result<()>> {
    let sealing = Sealing { name, shape: Shape::of(plain.size()), prefix: ambient::random()? };
    let mut piece = Vec::new();
    for frame in 0..sealing.shape.frames {
        let (start, end) = (sealing.shape.plain_start(frame), sealing.shape.plain_end(frame));
        piece.resize((end - start) as usize, 0);
        if let Err(error) = plain.read_exact_at(&mut piece, start) {
            return Ok(Err(error));
        }
        if let Err(error) = sealed.write_all(&cipher.seal_frame(&sealing, frame, &piece)?) {
            return Ok(Err(error));
        }
    }
    Ok(sealed.write_all(&sealing.trailer()))
}

/// Seals the bytes of the object `name`.
///
/// # Errors
/// `Internal` without randomness.
pub(super) fn seal(cipher: &DataCipher, name: &str, plain: &[u8]) -> Result<Vec<u8>> {
    let mut sealed = Vec::new();
    // Writing to memory does not fail.
    let _ = seal_into(cipher, name, &plain, &mut sealed)?;
    Ok(sealed)
}

/// Opens the sealed bytes of the object `name`.
pub(super) fn open(cipher: &DataCipher, name: &str, sealed: &[u8]) -> Result<Vec<u8>, SealFault> {
    let frames_end = sealed.len().checked_sub(TRAILER as usize).ok_or(SealFault::NoTrailer)?;
    let sealing = Sealing::read(name, sealed.len() as u64, &sealed[frames_end..])?;
    let mut plain = Vec::with_capacity(sealing.shape.len as usize);
    for frame in 0..sealing.shape.frames {
        let range = sealing.shape.sealed_start(frame) as usize..sealing.shape.sealed_end(frame) as usize;
        let bytes = sealed.get(range).ok_or(SealFault::Length)?;
        plain.extend(cipher.open_frame(&sealing, frame, bytes)?);
    }
    Ok(plain)
}

/// An encrypted object that is open for reading. A range is read by the frames that it touches.
pub(super) struct SealedObject {
    object: Box<dyn Object>,
    cipher: DataCipher,
    name: String,
    place: String,
    shape: Shape,
    prefix: [u8; 16],
    /// The frame that was opened last: short ranges follow each other.
    recent: Mutex<Option<(u64, Arc<[u8]>)>>,
}

impl SealedObject {
    /// Reads the trailer and the last frame of an object whose sealed form is `object`: that the object is as long as the
    /// trailer says is vouched for by a frame. An object store answers both with one request.
    ///
    /// # Errors
    /// `Damaged` if it is not the sealed form of an object, `Unavailable` if the store does not answer.
    pub(super) fn new(
        object: Box<dyn Object>,
        cipher: DataCipher,
        name: String,
        place: String,
    ) -> Result<SealedObject> {
        let size = object.size();
        let mut trailer = [0; TRAILER as usize];
        let Some(start) = size.checked_sub(TRAILER) else { return Err(SealFault::NoTrailer.at(&place)) };
        let failed = |error: io::Error| cannot_read(&place, error);
        object.read_exact_at(&mut trailer, start).map_err(failed)?;
        let sealing = Sealing::read(&name, size, &trailer).map_err(|fault| fault.at(&place))?;
        let (shape, prefix) = (sealing.shape, sealing.prefix);
        let recent = Mutex::default();
        let opened = SealedObject { object, cipher, name, place: place.clone(), shape, prefix, recent };
        opened.frames(shape.frames - 1, shape.frames - 1, &mut |_, _| {}).map_err(failed)?;
        Ok(opened)
    }

    fn recent(&self, frame: u64) -> Option<Arc<[u8]>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.as_ref().filter(|(number, _)| *number == frame).map(|(_, plain)| Arc::clone(plain))
    }

    /// Opens the frames from `first` to `last`, and calls `each` with every one.
    fn frames(&self, first: u64, last: u64, each: &mut dyn FnMut(u64, &[u8])) -> io::Result<()> {
        if let Some(known) = self.recent(first) {
            each(first, &known);
            return if first == last { Ok(()) } else { self.frames(first + 1, last, each) };
        }
        let start = self.shape.sealed_start(first);
        let mut sealed = vec![0; (self.shape.sealed_end(last) - start) as usize];
        self.object.read_exact_at(&mut sealed, start)?;
        let sealing = Sealing { name: &self.name, shape: self.shape, prefix: self.prefix };
        for frame in first..=last {
            let from = (self.shape.sealed_start(frame) - start) as usize;
            let to = (self.shape.sealed_end(frame) - start) as usize;
            let opened = self.cipher.open_frame(&sealing, frame, &sealed[from..to]);
            let plain = opened
                .map_err(|fault| io::Error::new(ErrorKind::InvalidData, fault.at(&self.place).to_string()))?;
            each(frame, &plain);
            if frame == last {
                *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Some((frame, plain.into()));
            }
        }
        Ok(())
    }
}

impl Object for SealedObject {
    fn size(&self) -> u64 {
        self.shape.len
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.shape.len);
        let end = end.ok_or(ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        while at < end {
            let first = self.shape.frame_at(at);
            let last = self.shape.frame_at(end - 1).min(first + RUN - 1);
            self.frames(first, last, &mut |frame, plain| {
                let start = self.shape.plain_start(frame);
                let upto = end.min(start + plain.len() as u64);
                let piece = &plain[(at - start) as usize..(upto - start) as usize];
                bytes[(at - offset) as usize..(upto - offset) as usize].copy_from_slice(piece);
                at = upto;
            })?;
        }
        Ok(())
    }
}

impl fmt::Debug for SealedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedObject({})", self.place)
    }
}
