//! The spool: the one place for the open segments, which are the only files of a history that grow.
//!
//! No store can hold an object that grows, so the files lie in a local folder. Once a segment is sealed, it is an
//! object of the store, and its open file goes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{self, NewFile, power, unfollowed};
use super::folder::{OpenFile, if_there};
use super::sealed::{GrowingCipher, GrowingEnd, StoreKey};
use super::{Object, ObjectKind, ObjectName, VeiledFile, layout, write_pieces};
use crate::ambient::point;
use crate::error::{Context, Error, Kind, Result};

/// The ending of an open segment's file.
const ENDING: &str = "open";

/// The open segments of a history in an object store as they were put together, by the stems of their names; of a segment
/// that could not be put together, the reason.
pub type FetchedSegments = BTreeMap<String, std::result::Result<VeiledFile, String>>;

/// The open segments of one history, each known by the stem of its name: files in the history's local folder or, of a
/// history in an object store, what was fetched of them, which can only be read.
#[derive(Clone, Debug)]
pub struct Spool {
    root: PathBuf,
    /// The key of an encrypted history.
    key: Option<StoreKey>,
    fetched: Option<Arc<FetchedSegments>>,
}

impl Spool {
    pub fn new(root: &Path) -> Spool {
        Spool { root: root.to_owned(), key: None, fetched: None }
    }

    /// Makes the spool of an encrypted history.
    pub fn sealed(root: &Path, key: &StoreKey) -> Spool {
        Spool { root: root.to_owned(), key: Some(key.clone()), fetched: None }
    }

    /// Makes a spool of segments that were put together from objects.
    pub fn fetched(segments: FetchedSegments) -> Spool {
        Spool { root: PathBuf::new(), key: None, fetched: Some(Arc::new(segments)) }
    }

    /// Whether the segments were put together from objects.
    pub fn is_fetched(&self) -> bool {
        self.fetched.is_some()
    }

    /// # Errors
    /// `Internal` if the segments were put together from objects, where no file grows.
    fn check_is_local(&self) -> Result<()> {
        if self.is_fetched() {
            return Err(Error::internal("an open segment in an object store cannot be written to"));
        }
        Ok(())
    }

    /// The cipher of a segment, in an encrypted history.
    fn cipher(&self, stem: &str) -> Option<GrowingCipher> {
        let key = self.key.as_ref()?;
        Some(GrowingCipher::new(key.beside(), format!("journal/{stem}.{ENDING}")))
    }

    /// The path of a segment. In an encrypted history it has the name of the sealed segment, with another ending.
    fn path(&self, stem: &str) -> PathBuf {
        let name = ObjectName::new(ObjectKind::Segment, stem);
        let name = self.key.as_ref().map_or(name.clone(), |key| key.names().seal(&name));
        layout::journal(&self.root).join(format!("{}.{ENDING}", name.stem()))
    }

    /// The stem that a file's stem stands for.
    fn stem_of(&self, stem: &str) -> Result<String> {
        let Some(key) = &self.key else { return Ok(stem.to_owned()) };
        let opened = key.names().open(&ObjectName::new(ObjectKind::Segment, stem));
        opened.map(|name| name.stem().to_owned()).ok_or_else(|| {
            Error::damaged(format!(
                "{} is no segment of this encrypted history: it was put there by somebody without its key; find out by whom, \
                 and remove it",
                layout::journal(&self.root).join(format!("{stem}.{ENDING}")).display()
            ))
        })
    }

    /// Makes the folder, if it is missing, and removes the files that a killed process left unfinished. Only a process
    /// that has the role of the capture may call this.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not take the folder.
    pub fn prepare(&self) -> Result<()> {
        self.check_is_local()?;
        let folder = layout::journal(&self.root);
        files::create_folder(&folder)?;
        files::remove_temporaries(&folder);
        Ok(())
    }

    /// Lists the stems of the open segments, in no particular order.
    ///
    /// # Errors
    /// `Unavailable` if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<String>> {
        if let Some(fetched) = &self.fetched {
            return Ok(fetched.keys().cloned().collect());
        }
        let folder = layout::journal(&self.root);
        let failed = || format!("cannot read folder {}", folder.display());
        let mut stems = Vec::new();
        let Some(entries) = if_there(fs::read_dir(&folder), &folder)? else { return Ok(stems) };
        for entry in entries {
            let name = entry.context(Kind::Unavailable, failed)?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(ENDING)?.strip_suffix('.'));
            stems.extend(stem.map(|stem| self.stem_of(stem)).transpose()?);
        }
        Ok(stems)
    }

    /// Whether there is an open segment of this name.
    pub fn holds(&self, stem: &str) -> bool {
        self.fetched.as_ref().map_or_else(|| self.path(stem).exists(), |fetched| fetched.contains_key(stem))
    }

    /// Opens an open segment for reading, as long as it is now; `None` if there is none of this name.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not read; `Damaged` if the segment is not encrypted in an encrypted history, `Refused` if
    /// a newer backwhen has encrypted it.
    pub fn open(&self, stem: &str) -> Result<Option<Box<dyn Object>>> {
        if let Some(fetched) = &self.fetched {
            let file = fetched.get(stem).cloned().transpose().map_err(Error::damaged)?;
            return Ok(file.map(|file| Box::new(file) as Box<dyn Object>));
        }
        let path = self.path(stem);
        let Some(file) = if_there(OpenFile::open(&path), &path)? else { return Ok(None) };
        let object: Box<dyn Object> = match self.cipher(stem) {
            Some(cipher) => Box::new(cipher.open(Box::new(file), &self.locate(stem))?),
            None => Box::new(file),
        };
        Ok(Some(object))
    }

    /// Begins an open segment with the first `len` bytes of `object`. The segment is there, durable, once this returns;
    /// cut short, there is nothing of it.
    ///
    /// # Errors
    /// `Internal` if the name is taken, `Unavailable` if `object` cannot be read or the disk does not take its bytes.
    pub fn begin(&self, stem: &str, object: &dyn Object, len: u64) -> Result<()> {
        self.check_is_local()?;
        let path = self.path(stem);
        let mut file = NewFile::create(&path)?;
        let written = match self.cipher(stem) {
            Some(cipher) => SealingWriter::begin(cipher, &mut file)
                .and_then(|mut sealing| write_pieces(&mut sealing, object, len)),
            None => write_pieces(&mut file, object, len),
        };
        written.context(Kind::Unavailable, || format!("cannot write {}", path.display()))?;
        file.publish()
    }

    /// Opens an open segment for its one writer.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be opened; otherwise it fails as [`Spool::open`] does.
    pub fn append(&self, stem: &str) -> Result<Growing> {
        self.check_is_local()?;
        let path = self.path(stem);
        let file = unfollowed().read(true).write(true).open(&path);
        let failed = || format!("cannot open {}", path.display());
        let file = file.context(Kind::Unavailable, failed)?;
        let Some(cipher) = self.cipher(stem) else { return Ok(Growing { file, path, sealing: None }) };
        let object = file.try_clone().and_then(OpenFile::of).context(Kind::Unavailable, failed)?;
        let end = cipher.end(&object, &self.locate(stem))?;
        let sealing = Some(GrowingSeal { cipher, end: Mutex::new(end) });
        Ok(Growing { file, path, sealing })
    }

    /// Makes durable what any process has written to an open segment.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not say that it is.
    pub fn sync(&self, stem: &str) -> Result<()> {
        if self.is_fetched() {
            return Ok(());
        }
        let path = self.path(stem);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.context(Kind::Unavailable, || format!("cannot sync {}", path.display()))
    }

    /// Removes open segments, which are gone for good once this returns. Segments that are already gone are no error. A
    /// removal that is cut short may leave any of them.
    ///
    /// # Errors
    /// `Unavailable` if the disk refuses.
    pub fn remove(&self, stems: &[String]) -> Result<()> {
        self.check_is_local()?;
        let paths: Vec<_> = stems.iter().map(|stem| self.path(stem)).collect();
        files::remove_all(&layout::journal(&self.root), &paths)
    }

    /// Takes a damaged open segment out of the way, as [`Store::set_aside`](super::Store::set_aside) does with an object.
    ///
    /// # Errors
    /// `Unavailable` if the disk refuses.
    pub fn set_aside(&self, stem: &str) -> Result<Option<String>> {
        self.check_is_local()?;
        files::set_aside(&self.path(stem), &layout::damaged(&self.root))
    }

    /// Says where an open segment lies, for messages.
    pub fn locate(&self, stem: &str) -> String {
        match self.fetched {
            Some(_) => format!("the open segment {stem}"),
            None if self.key.is_some() => format!("{}, which is {stem}.{ENDING}", self.path(stem).display()),
            None => self.path(stem).display().to_string(),
        }
    }
}

/// Encrypts what is written to the file of a new segment.
struct SealingWriter<'a> {
    cipher: GrowingCipher,
    end: GrowingEnd,
    file: &'a mut NewFile,
}

impl SealingWriter<'_> {
    fn begin(cipher: GrowingCipher, file: &mut NewFile) -> io::Result<SealingWriter<'_>> {
        let (head, end) = cipher.begin().map_err(io::Error::other)?;
        file.write_all(&head)?;
        Ok(SealingWriter { cipher, end, file })
    }
}

impl Write for SealingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sealed = self.cipher.seal(&[bytes], &mut self.end).map_err(io::Error::other)?;
        self.file.write_all(&sealed).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The state from which the writer of an encrypted segment goes on.
#[derive(Debug)]
struct GrowingSeal {
    cipher: GrowingCipher,
    end: Mutex<GrowingEnd>,
}

/// The file of an open segment, for its one writer. Written bytes count only once they are synced.
#[derive(Debug)]
pub struct Growing {
    file: File,
    path: PathBuf,
    /// The state of the encryption; `None` in a history that is not encrypted.
    sealing: Option<GrowingSeal>,
}

impl Growing {
    /// Writes parts that follow each other at `offset`, which is the end of all that was written before. An encrypted segment
    /// needs fewer bytes for parts that are written together.
    ///
    /// # Errors
    /// Fails as the disk does; `InvalidInput` if an encrypted segment does not end at `offset`.
    pub fn write_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        if let Some(sealing) = &self.sealing {
            return self.write_sealed(sealing, parts, offset);
        }
        for part in parts {
            point("journal.append")?;
            power::writing(&self.path, offset);
            self.file.write_all_at(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn write_sealed(&self, sealing: &GrowingSeal, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut known = sealing.end.lock().unwrap_or_else(PoisonError::into_inner);
        // Bytes behind the end that do not open must be cut off first: they could open once others stand before them.
        if known.len != offset || self.file.metadata()?.len() != known.at {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the segment does not end there"));
        }
        let mut end = known.clone();
        let sealed = sealing.cipher.seal(parts, &mut end).map_err(io::Error::other)?;
        point("journal.append")?;
        power::writing(&self.path, known.at);
        self.file.write_all_at(&sealed, known.at)?;
        *known = end;
        Ok(())
    }

    /// Waits until the bytes are on disk.
    ///
    /// # Errors
    /// Fails as the disk does; nothing is known then of the bytes that were written since the last sync.
    pub fn sync(&self) -> io::Result<()> {
        point("journal.sync")?;
        self.file.sync_data()?;
        power::synced(&self.path);
        point("journal.synced")
    }

    /// Makes the file `len` bytes long, durable: no crash can bring the old end back behind a new one.
    ///
    /// # Errors
    /// Fails as the disk does.
    pub fn cut(&self, len: u64) -> io::Result<()> {
        point("journal.cut")?;
        match &self.sealing {
            Some(sealing) => self.cut_sealed(sealing, len)?,
            None => self.file.set_len(len)?,
        }
        self.file.sync_all()?;
        power::synced(&self.path);
        Ok(())
    }

    fn cut_sealed(&self, sealing: &GrowingSeal, len: u64) -> io::Result<()> {
        let mut known = sealing.end.lock().unwrap_or_else(PoisonError::into_inner);
        let object = OpenFile::of(self.file.try_clone()?)?;
        let cut = sealing.cipher.cut(&object, known.id(), len)?;
        self.file.set_len(cut.keep)?;
        if !cut.write.is_empty() {
            power::writing(&self.path, cut.keep);
            self.file.write_all_at(&cut.write, cut.keep)?;
        }
        *known = cut.end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn an_open_segment_grows_is_cut_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool::new(root.path());
        assert_eq!((spool.list().unwrap(), spool.open("one").unwrap().is_none()), (vec![], true));
        spool.prepare().unwrap();
        std::fs::write(root.path().join("journal/one.open.0123456789abcdef-7.tmp"), "half").unwrap();
        std::fs::write(root.path().join("journal/one.seg"), "sealed").unwrap();
        spool.begin("one", b"header, and more", 6).unwrap();
        assert_eq!(spool.begin("one", b"another", 7).unwrap_err().kind(), Kind::Internal);
        spool.prepare().unwrap();
        assert_eq!(std::fs::read_dir(root.path().join("journal")).unwrap().count(), 2);
        assert_eq!(spool.list().unwrap(), ["one"]);

        let before = spool.open("one").unwrap().unwrap();
        let growing = spool.append("one").unwrap();
        growing.write_at(&[b" and", b" blocks"], 6).unwrap();
        growing.sync().unwrap();
        assert_eq!((before.size(), spool.open("one").unwrap().unwrap().size()), (6, 17));
        assert_eq!(before.read_exact_at(&mut [0], 6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        growing.cut(10).unwrap();
        let mut bytes = [0; 10];
        spool.open("one").unwrap().unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"header and");

        let aside = spool.set_aside("one").unwrap().unwrap();
        assert_eq!(std::fs::read(aside).unwrap(), b"header and");
        assert!(spool.set_aside("one").unwrap().is_none() && !spool.holds("one"));
        spool.begin("two", b"", 0).unwrap();
        spool.remove(&["one".to_owned(), "two".to_owned()]).unwrap();
        assert_eq!(spool.list().unwrap(), Vec::<String>::new());
    }
}
