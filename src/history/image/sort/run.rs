//! Sorted rows on disk, in unnamed files that are gone with the process, and that only this process can read.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use crate::ambient;
use crate::error::{Context, Kind, Result};
use crate::store::{VeilWriter, VeiledFile};

/// The level of compression. Runs are written and read once, so speed counts more than size.
const LEVEL: i32 = -1;

const BUFFER: usize = 64 << 10;

/// A run that is being written.
pub struct RunWriter {
    out: BufWriter<zstd::Encoder<'static, VeilWriter>>,
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl RunWriter {
    pub fn create(scratch: &Path) -> Result<RunWriter> {
        let encoder = ambient::nameless_file(scratch).and_then(VeilWriter::new).and_then(|file| {
            let mut encoder = zstd::Encoder::new(file, LEVEL)?;
            encoder.include_checksum(true)?;
            Ok(encoder)
        });
        let encoder = encoder.context(Kind::Unavailable, || {
            format!("cannot sort in the scratch folder {}", scratch.display())
        })?;
        Ok(RunWriter { out: BufWriter::with_capacity(BUFFER, encoder), last: None })
    }

    /// Whether rows that begin with this one may follow.
    pub fn can_take(&self, (key, line): (&[u8], &[u8])) -> bool {
        self.last.as_ref().is_some_and(|(last_key, last_line)| (&last_key[..], &last_line[..]) <= (key, line))
    }

    /// Remembers the last row, for [`RunWriter::can_take`].
    pub fn note_last(&mut self, (key, line): (&[u8], &[u8])) {
        self.last = Some((key.to_vec(), line.to_vec()));
    }

    /// Writes a row. Key and line must be shorter than 4 GiB each.
    pub fn push(&mut self, (key, line): (&[u8], &[u8])) -> Result<()> {
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        lengths[4..].copy_from_slice(&(line.len() as u32).to_le_bytes());
        self.out
            .write_all(&lengths)
            .and_then(|()| self.out.write_all(key))
            .and_then(|()| self.out.write_all(line))
            .context(Kind::Unavailable, cannot_write)
    }

    pub fn finish(self) -> Result<Run> {
        let encoder = self
            .out
            .into_inner()
            .map_err(|error| error.into_error())
            .context(Kind::Unavailable, cannot_write)?;
        let file = encoder.finish().context(Kind::Unavailable, cannot_write)?;
        Ok(Run { file: file.veiled() })
    }
}

fn cannot_write() -> String {
    "cannot write to the scratch folder; is the disk full?".into()
}

/// A run that is written.
pub struct Run {
    file: VeiledFile,
}

/// A run that is being read, one row at a time.
pub struct RunReader {
    input: BufReader<zstd::Decoder<'static, BufReader<Box<dyn Read + Send>>>>,
    key: Vec<u8>,
    line: Vec<u8>,
}

impl RunReader {
    pub fn open(run: Run) -> Result<RunReader> {
        let file: Box<dyn Read + Send> = Box::new(run.file.into_reader());
        let decoder = zstd::Decoder::new(file).context(Kind::Unavailable, cannot_read)?;
        let input = BufReader::with_capacity(BUFFER, decoder);
        Ok(RunReader { input, key: Vec::new(), line: Vec::new() })
    }

    /// Goes to the next row; false if there is none.
    pub fn advance(&mut self) -> Result<bool> {
        self.read().context(Kind::Unavailable, cannot_read)
    }

    /// Returns the row that [`RunReader::advance`] went to.
    pub fn row(&self) -> (&[u8], &[u8]) {
        (&self.key, &self.line)
    }

    fn read(&mut self) -> io::Result<bool> {
        let mut lengths = [0; 8];
        // No byte is the end of the run; a part of the lengths is a fault.
        if self.input.read(&mut lengths[..1])? == 0 {
            return Ok(false);
        }
        self.input.read_exact(&mut lengths[1..])?;
        let [a, b, c, d, e, f, g, h] = lengths;
        fill(&mut self.input, &mut self.key, u32::from_le_bytes([a, b, c, d]))?;
        fill(&mut self.input, &mut self.line, u32::from_le_bytes([e, f, g, h]))?;
        Ok(true)
    }
}

/// Reads `len` bytes, and takes memory only as they come.
fn fill(input: &mut impl Read, into: &mut Vec<u8>, len: u32) -> io::Result<()> {
    into.clear();
    let read = input.take(len.into()).read_to_end(into)?;
    if read < len as usize { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn cannot_read() -> String {
    "cannot read back what was sorted in the scratch folder; check that disk".into()
}
