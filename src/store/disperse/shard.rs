//! A shard: the pieces that one store has of an object, and a tail that says which they are and checks them.
#![doc = include_str!("FORMAT.md")]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use super::code::{Code, PIECE, Stripes};
use super::policy::is_coded;
use crate::error::{Context, Error, Kind, Result};
use crate::store::{NewFile, Object, ObjectKind, ObjectName, Store};

/// A magic word and the version.
const MAGIC: [u8; 8] = *b"BWSHARD\x01";

/// The end of a tail, without the digests of the pieces before it.
const FIXED: usize = 120;

/// The bytes of the fixed end that the last digest covers.
const COVERED: usize = FIXED - 32;

/// Stands for the history's own folder in the name of a shard.
const ROOT: &str = "root";

type Digest = [u8; 32];

/// The name of a shard of an object: `shards/packs.NAME.pack.3.shard`, or `shards/epochs.0001.json.shard` of a copy.
pub(super) fn shard_name(name: &ObjectName, index: usize) -> ObjectName {
    let (folder, _) = name.kind().place();
    let folder = if folder.is_empty() { ROOT } else { folder };
    let number = if is_coded(name.kind()) { format!(".{index}") } else { String::new() };
    ObjectName::new(ObjectKind::Shard, format!("{folder}.{}{number}", name.file_name()))
}

/// The object that a shard is named by, and the number of the shard; `None` if no shard has such a name.
pub(super) fn object_of(shard: &ObjectName) -> Option<(ObjectName, usize)> {
    let (folder, file) = shard.stem().split_once('.')?;
    let parse = |file: &str| {
        let path = if folder == ROOT { file.to_owned() } else { format!("{folder}/{file}") };
        // The wrapped keys of an encrypted store are no objects of the history.
        let key = || (folder == ObjectKind::StoreKey.place().0).then(|| ObjectKind::StoreKey.object_in(file));
        ObjectName::parse(&path).or_else(|| key()?)
    };
    let copy = parse(file).filter(|name| !is_coded(name.kind())).map(|name| (name, 0));
    let coded = || {
        let (file, number) = file.rsplit_once('.')?;
        Some((parse(file).filter(|name| is_coded(name.kind()))?, number.parse().ok()?))
    };
    copy.or_else(coded).filter(|(name, index)| shard_name(name, *index) == *shard)
}

/// The facts that a shard states about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub code: Code,
    pub index: usize,
    /// The length of the whole object.
    pub len: u64,
    /// The digest of the whole object.
    pub whole: Digest,
    /// The digest of the object's name, so that no shard can stand in for another object's.
    name: Digest,
    pieces: Vec<Digest>,
}

impl Tail {
    fn stripes(&self) -> Stripes {
        Stripes::new(self.code, self.len)
    }

    /// Whether two shards are of the same bytes under the same name.
    pub fn is_of_same(&self, other: &Tail) -> bool {
        (self.code, self.len, self.whole, self.name) == (other.code, other.len, other.whole, other.name)
    }

    /// The tail of a small object's copies, of which there are `stores`.
    #[cfg(test)]
    pub fn of_copy(name: &ObjectName, bytes: &[u8], stores: usize) -> Tail {
        let code = Code { k: 1, m: stores - 1 };
        let sinks = vec![Some(Sink::Memory(Vec::new()))];
        make_shards(code, name, &mut &*bytes, bytes.len() as u64, sinks).unwrap().remove(0).1
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.pieces.concat();
        let fixed = bytes.len();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[self.code.k as u8, self.code.m as u8, self.index as u8, 0]);
        bytes.extend_from_slice(&(PIECE as u32).to_le_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(&self.whole);
        bytes.extend_from_slice(&self.name);
        debug_assert_eq!(bytes.len() - fixed, COVERED);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads the tail of an object that is named as a shard of `name`.
    fn read(object: &dyn Object, name: &ObjectName) -> io::Result<Tail> {
        let damaged =
            || io::Error::new(ErrorKind::InvalidData, "it does not end as a shard of this object does");
        let size = object.size();
        let at = size.checked_sub(FIXED as u64).ok_or_else(damaged)?;
        let mut fixed = [0; FIXED];
        object.read_exact_at(&mut fixed, at)?;
        let rest = fixed.strip_prefix(&MAGIC).ok_or_else(damaged)?;
        let (&[k, m, index, _], rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (piece, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (len, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (whole, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (of, digest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (code, len) = (Code { k: k.into(), m: m.into() }, u64::from_le_bytes(*len));
        let is_sane = k > 0 && m > 0 && usize::from(index) < code.shards() && len < 1 << 48;
        if !is_sane || u64::from(u32::from_le_bytes(*piece)) != PIECE || *of != name_digest(name) {
            return Err(damaged());
        }
        let stripes = Stripes::new(code, len);
        if stored_len(stripes) != size {
            return Err(damaged());
        }
        let mut pieces = vec![0; stripes.count() as usize * 32];
        object.read_exact_at(&mut pieces, stripes.shard_len())?;
        if blake3::hash(&[&pieces[..], &fixed[..COVERED]].concat()).as_bytes()[..] != *digest {
            return Err(damaged());
        }
        let pieces = pieces.as_chunks::<32>().0.to_vec();
        Ok(Tail { code, index: index.into(), len, whole: *whole, name: *of, pieces })
    }
}

/// The bytes of a shard with its tail.
pub(super) fn stored_len(stripes: Stripes) -> u64 {
    stripes.shard_len() + stripes.count() * 32 + FIXED as u64
}

fn name_digest(name: &ObjectName) -> Digest {
    *blake3::hash(name.to_string().as_bytes()).as_bytes()
}

/// A shard that is open for reading.
#[derive(Debug)]
pub(super) struct OpenShard {
    object: Box<dyn Object>,
    pub tail: Tail,
}

impl OpenShard {
    /// Opens a shard in one of the stores; `None` if it is not there.
    ///
    /// # Errors
    /// `Damaged` if it is not what its name says, `Unavailable` if the store does not answer.
    pub fn open(store: &dyn Store, name: &ObjectName, index: usize) -> Result<Option<OpenShard>> {
        let shard = shard_name(name, index);
        let Some(object) = store.open(&shard)? else { return Ok(None) };
        let failed = |error: io::Error| fault(store, &shard, error);
        let tail = Tail::read(&*object, name).map_err(failed)?;
        if tail.index != index {
            return Err(failed(ErrorKind::InvalidData.into()));
        }
        Ok(Some(OpenShard { object, tail }))
    }

    /// Reads the bytes of a run of stripes, and checks each piece.
    ///
    /// # Errors
    /// `InvalidData` if a piece is damaged; otherwise it fails as the store does.
    pub fn read(&self, run: &Range<u64>) -> io::Result<Vec<u8>> {
        let stripes = self.tail.stripes();
        let begin = stripes.offset(run.start);
        let mut bytes = vec![0; (stripes.offset(run.end) - begin) as usize];
        self.object.read_exact_at(&mut bytes, begin)?;
        for stripe in run.clone() {
            let piece =
                (stripes.offset(stripe) - begin) as usize..(stripes.offset(stripe + 1) - begin) as usize;
            if *blake3::hash(&bytes[piece]).as_bytes() != self.tail.pieces[stripe as usize] {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("its piece {stripe} is damaged")));
            }
        }
        Ok(bytes)
    }

    /// Reads every piece.
    ///
    /// # Errors
    /// Fails as [`OpenShard::read`] does.
    pub fn check(&self) -> io::Result<()> {
        (0..self.tail.stripes().count()).try_for_each(|stripe| self.read(&(stripe..stripe + 1)).map(drop))
    }
}

/// Tells damage from a store that does not answer.
pub(super) fn fault(store: &dyn Store, shard: &ObjectName, error: io::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Kind::Damaged,
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("cannot read {}", store.locate(shard))).caused_by(error)
}

/// The bytes that become a shard: in memory, or in a local file.
pub(super) enum Payload {
    Memory(Arc<[u8]>),
    File(NewFile),
}

impl Payload {
    /// Puts a shard into a store.
    ///
    /// # Errors
    /// Fails as [`Store::put_new`] does.
    pub fn put(self, store: &dyn Store, shard: &ObjectName) -> Result<()> {
        let file = match self {
            Payload::Memory(bytes) => return store.put_new(shard, &bytes),
            Payload::File(file) => file,
        };
        let failed = || format!("cannot write {}", store.locate(shard));
        let mut source = File::open(file.path()).context(Kind::Unavailable, failed)?;
        let mut draft = store.draft(ObjectKind::Shard)?;
        io::copy(&mut source, &mut draft).context(Kind::Unavailable, failed)?;
        store.put_file(shard, draft)
    }
}

/// A shard that is being made.
pub(super) enum Sink {
    Memory(Vec<u8>),
    File(NewFile),
}

impl Sink {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Sink::Memory(memory) => memory.extend_from_slice(bytes),
            Sink::File(file) => {
                let written = file.write_all(bytes);
                written.context(Kind::Unavailable, || format!("cannot write {}", file.path().display()))?;
            }
        }
        Ok(())
    }
}

impl From<Sink> for Payload {
    fn from(sink: Sink) -> Payload {
        match sink {
            Sink::Memory(bytes) => Payload::Memory(bytes.into()),
            Sink::File(file) => Payload::File(file),
        }
    }
}

/// Makes the shards of one object, run by run.
pub(super) struct ShardWriter {
    code: Code,
    stripes: Stripes,
    /// The sinks, by the numbers of their shards; `None` for shards that are not wanted.
    sinks: Vec<Option<Sink>>,
    pieces: Vec<Vec<Digest>>,
    whole: blake3::Hasher,
}

impl ShardWriter {
    /// `sinks` are for the shards from 0 on. Shards beyond them are not made.
    pub fn new(code: Code, len: u64, sinks: Vec<Option<Sink>>) -> ShardWriter {
        let pieces = vec![Vec::new(); sinks.len()];
        ShardWriter { code, stripes: Stripes::new(code, len), sinks, pieces, whole: blake3::Hasher::new() }
    }

    /// Writes a run of stripes, of which `bytes` are the object's.
    ///
    /// # Errors
    /// `Unavailable` if a disk does not take a shard.
    pub fn write(&mut self, run: &Range<u64>, bytes: &[u8]) -> Result<()> {
        self.whole.update(bytes);
        let (stripes, mut shards) = (self.stripes, self.stripes.spread(run, bytes));
        if self.sinks.len() > self.code.k {
            shards.extend(self.code.encode(&shards)?);
        }
        let begin = stripes.offset(run.start);
        for (index, (shard, sink)) in shards.iter().zip(&mut self.sinks).enumerate() {
            for stripe in run.clone() {
                let piece =
                    (stripes.offset(stripe) - begin) as usize..(stripes.offset(stripe + 1) - begin) as usize;
                self.pieces[index].push(*blake3::hash(&shard[piece]).as_bytes());
            }
            sink.as_mut().map_or(Ok(()), |sink| sink.append(shard))?;
        }
        Ok(())
    }

    /// Ends the shards, and returns them with their tails.
    ///
    /// # Errors
    /// `Unavailable` if a disk does not take a tail.
    pub fn finish(self, name: &ObjectName, len: u64) -> Result<Vec<(Option<Payload>, Tail)>> {
        let whole = *self.whole.finalize().as_bytes();
        let mut made = Vec::new();
        for (index, (sink, pieces)) in self.sinks.into_iter().zip(self.pieces).enumerate() {
            let tail = Tail { code: self.code, index, len, whole, name: name_digest(name), pieces };
            let ended = |mut sink: Sink| sink.append(&tail.encode()).map(|()| Payload::from(sink));
            made.push((sink.map(ended).transpose()?, tail));
        }
        Ok(made)
    }
}

/// Makes the shards of an object of `len` bytes that `source` gives.
///
/// # Errors
/// `Unavailable` if `source` ends early, or a disk does not take the shards.
pub(super) fn make_shards(
    code: Code,
    name: &ObjectName,
    source: &mut dyn Read,
    len: u64,
    sinks: Vec<Option<Sink>>,
) -> Result<Vec<(Option<Payload>, Tail)>> {
    let (stripes, mut writer) = (Stripes::new(code, len), ShardWriter::new(code, len, sinks));
    for run in stripes.runs() {
        let part = stripes.bytes(&run);
        let mut bytes = vec![0; (part.end - part.start) as usize];
        let read = source.read_exact(&mut bytes);
        read.context(Kind::Unavailable, || format!("cannot read {name} to store it"))?;
        writer.write(&run, &bytes)?;
    }
    writer.finish(name, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_named_by_its_object_and_its_number() {
        for kind in ObjectKind::ALL.into_iter().chain([ObjectKind::StoreKey]) {
            let name = ObjectName::new(kind, kind.only_stem().unwrap_or("a.b"));
            let shard = shard_name(&name, if is_coded(kind) { 3 } else { 0 });
            assert_eq!(object_of(&shard), Some((name, if is_coded(kind) { 3 } else { 0 })));
        }
        assert_eq!(shard_name(&ObjectName::epoch(1), 2).to_string(), "shards/epochs.0001.json.shard");
        for stem in
            ["packs.a.pack", "packs.a.pack.x", "packs.a.pack.03", "epochs.0001.json.1", "root.x.json", "a"]
        {
            assert_eq!(object_of(&ObjectName::new(ObjectKind::Shard, stem)), None, "{stem}");
        }
    }
}
