//! Files that only this process can read: rows and definitions that do not fit into memory, or that are not objects yet.
//!
//! A file is encrypted in pages under a random key that is nowhere but in memory and goes with the value. So a disk that is
//! stolen, or the leftover of a killed process, shows nothing of the source. A page that somebody has changed does not open.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};

use super::Object;
use crate::ambient;

/// The bytes of a page before it is encrypted.
const PAGE: usize = 64 << 10;

/// The bytes that the cipher adds to a page.
const TAG: u64 = 16;

/// An encrypted file that is being written, from its beginning to its end. The last page stays in memory.
pub struct VeilWriter {
    file: Arc<File>,
    cipher: ChaCha20Poly1305,
    pages: u64,
    last: Vec<u8>,
}

impl VeilWriter {
    /// Makes an empty file of `file`, which must be open for reading and writing.
    ///
    /// # Errors
    /// Fails without randomness.
    pub fn new(file: File) -> io::Result<VeilWriter> {
        let key: [u8; 32] = ambient::random().map_err(io::Error::other)?;
        Ok(VeilWriter {
            file: Arc::new(file),
            cipher: ChaCha20Poly1305::new(&key.into()),
            pages: 0,
            last: Vec::with_capacity(PAGE),
        })
    }

    /// The bytes that were written.
    pub fn size(&self) -> u64 {
        self.pages * PAGE as u64 + self.last.len() as u64
    }

    /// Returns the file as it is now, to be read.
    pub fn veiled(&self) -> VeiledFile {
        VeiledFile {
            file: Arc::clone(&self.file),
            cipher: self.cipher.clone(),
            pages: self.pages,
            last: self.last.as_slice().into(),
            recent: Arc::default(),
        }
    }

    fn write_page(&mut self) -> io::Result<()> {
        let sealed = self.cipher.encrypt(&nonce(self.pages), &self.last[..]);
        let sealed = sealed.map_err(|_| io::Error::other("a page is too long to be encrypted"))?;
        self.file.write_all_at(&sealed, place(self.pages))?;
        self.pages += 1;
        self.last.clear();
        Ok(())
    }
}

/// Each file has a key of its own, so a page's number is used once under a key.
fn nonce(page: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&page.to_le_bytes());
    Nonce::from(nonce)
}

fn place(page: u64) -> u64 {
    page * (PAGE as u64 + TAG)
}

impl Write for VeilWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full page is written once more bytes come: if that fails, none of these were taken.
        if self.last.len() == PAGE {
            self.write_page()?;
        }
        let taken = bytes.len().min(PAGE - self.last.len());
        self.last.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// The last page is in memory, and need not be on the disk to be read.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An encrypted file that is being read. A clone is the same file.
#[derive(Clone)]
pub struct VeiledFile {
    file: Arc<File>,
    cipher: ChaCha20Poly1305,
    pages: u64,
    last: Arc<[u8]>,
    /// The page that was opened last, as short ranges follow each other.
    recent: Arc<Mutex<Option<(u64, Arc<[u8]>)>>>,
}

impl VeiledFile {
    /// Reads from `start` to before `end`, one piece after the other.
    pub fn reader(&self, start: u64, end: u64) -> impl Read + '_ {
        VeilReader { file: self, at: start, end: end.min(self.size()) }
    }

    /// Reads the file from its beginning to its end.
    pub fn into_reader(self) -> impl Read + Send + 'static {
        VeilReader { at: 0, end: self.size(), file: self }
    }

    fn page(&self, number: u64) -> io::Result<Arc<[u8]>> {
        if number == self.pages {
            return Ok(Arc::clone(&self.last));
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = recent.as_ref().filter(|(known, _)| *known == number) {
            return Ok(Arc::clone(page));
        }
        let mut sealed = vec![0; PAGE + TAG as usize];
        self.file.read_exact_at(&mut sealed, place(number))?;
        let opened = self.cipher.decrypt(&nonce(number), &sealed[..]);
        let page: Arc<[u8]> = opened
            .map_err(|_| {
                io::Error::new(ErrorKind::InvalidData, "somebody has changed a temporary file of backwhen")
            })?
            .into();
        *recent = Some((number, Arc::clone(&page)));
        Ok(page)
    }
}

impl Object for VeiledFile {
    fn size(&self) -> u64 {
        self.pages * PAGE as u64 + self.last.len() as u64
    }

    fn read_exact_at(&self, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        while !bytes.is_empty() {
            // A file whose length is a multiple of the page's has its last page in memory.
            let number = (offset / PAGE as u64).min(self.pages);
            let page = self.page(number)?;
            let from = (offset - number * PAGE as u64) as usize;
            let taken = bytes.len().min(page.len() - from);
            let (piece, rest) = bytes.split_at_mut(taken);
            piece.copy_from_slice(&page[from..from + taken]);
            bytes = rest;
            offset += taken as u64;
        }
        Ok(())
    }
}

impl fmt::Debug for VeiledFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VeiledFile({} bytes)", self.size())
    }
}

struct VeilReader<F> {
    file: F,
    at: u64,
    end: u64,
}

impl<F: std::borrow::Borrow<VeiledFile>> Read for VeilReader<F> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let taken = (self.end.saturating_sub(self.at)).min(bytes.len() as u64) as usize;
        self.file.borrow().read_exact_at(&mut bytes[..taken], self.at)?;
        self.at += taken as u64;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(len: usize) -> (Vec<u8>, File, VeiledFile) {
        let file = tempfile::tempfile().unwrap();
        let mut veil = VeilWriter::new(file.try_clone().unwrap()).unwrap();
        let plain: Vec<u8> = (0..len).map(|n| b"CANARY of a row "[n % 16]).collect();
        plain.chunks(7_001).for_each(|piece| veil.write_all(piece).unwrap());
        assert_eq!(veil.size(), len as u64);
        (plain, file, veil.veiled())
    }

    #[test]
    fn what_is_written_is_read_back_and_cannot_be_read_in_the_file() {
        for len in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 17] {
            let (plain, file, veiled) = written(len);
            let mut all = vec![0; len];
            veiled.read_exact_at(&mut all, 0).unwrap();
            assert_eq!(all, plain, "{len}");
            let (mut some, from) = (Vec::new(), len as u64 / 3);
            veiled.reader(from, len as u64 + 9).read_to_end(&mut some).unwrap();
            assert_eq!(some, plain[from as usize..], "{len}");
            assert!(veiled.read_exact_at(&mut [0], len as u64).is_err());
            let mut stored = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut stored, 0).unwrap();
            assert!(!stored.windows(6).any(|bytes| bytes == b"CANARY"), "{len}");
            let mut whole = Vec::new();
            veiled.into_reader().read_to_end(&mut whole).unwrap();
            assert_eq!(whole, plain);
        }
    }

    #[test]
    fn a_page_that_was_changed_or_moved_does_not_open() {
        let (_, file, veiled) = written(3 * PAGE);
        let mut page = vec![0; PAGE + TAG as usize];
        file.read_exact_at(&mut page, 0).unwrap();
        file.write_all_at(&page, place(1)).unwrap();
        file.write_all_at(&[page[9] ^ 1], 9).unwrap();
        for offset in [0, PAGE as u64] {
            let error = veiled.read_exact_at(&mut [0; 10], offset).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{offset}");
        }
    }
}
