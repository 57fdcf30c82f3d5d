//! The erasure code: how the bytes of an object lie in its shards, and how missing ones are made again.
//!
//! An object is cut into stripes of `k` pieces. Shard `j` of the first `k` has piece `j` of each stripe, so that these
//! shards hold the plain bytes; the other `m` hold what the code makes of the pieces of each stripe. A run of stripes is
//! coded at once, as the code works on each column of 64 bytes by itself.

use std::ops::Range;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::error::{Context, Error, Kind, Result};

/// The bytes of a piece. Only the last stripe has shorter ones. A range is read in whole pieces, as each has its digest.
pub(super) const PIECE: u64 = 64 << 10;

/// An object is coded in runs of this many stripes, so that memory is bounded.
pub(super) const RUN: u64 = 16;

/// The length of a piece is a multiple of this: the code's own columns.
const COLUMN: u64 = 64;

/// How many shards hold the bytes, and how many more there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub k: usize,
    pub m: usize,
}

impl Code {
    pub fn shards(self) -> usize {
        self.k + self.m
    }

    /// Makes the other shards of the first `k`, for one run of stripes.
    ///
    /// # Errors
    /// `Internal` if the code refuses these numbers.
    pub fn encode(self, data: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let len = data[0].len();
        if self.k == 1 || len == 0 {
            return Ok(vec![data[0].clone(); self.m]);
        }
        let failed = || "the erasure code failed; please report this".to_owned();
        let mut encoder = ReedSolomonEncoder::new(self.k, self.m, len).context(Kind::Internal, failed)?;
        for shard in data {
            encoder.add_original_shard(shard).context(Kind::Internal, failed)?;
        }
        let coded = encoder.encode().context(Kind::Internal, failed)?;
        Ok(coded.recovery_iter().map(<[u8]>::to_vec).collect())
    }

    /// Fills in the missing ones of the first `k` shards of one run of stripes, of any `k` that are there.
    ///
    /// # Errors
    /// `Internal` if fewer are there.
    pub fn decode(self, shards: &mut [Option<Vec<u8>>]) -> Result<()> {
        if shards[..self.k].iter().all(Option::is_some) {
            return Ok(());
        }
        let failed = || "the erasure code failed; please report this".to_owned();
        let first = shards.iter().flatten().next();
        let len = first.ok_or_else(|| Error::internal(failed()))?.len();
        if self.k == 1 || len == 0 {
            let one = first.cloned();
            shards[..self.k].fill(one);
            return Ok(());
        }
        let mut decoder = ReedSolomonDecoder::new(self.k, self.m, len).context(Kind::Internal, failed)?;
        for (index, shard) in shards.iter().enumerate().filter_map(|(index, it)| Some((index, it.as_ref()?)))
        {
            let added = match index.checked_sub(self.k) {
                Some(beyond) => decoder.add_recovery_shard(beyond, shard),
                None => decoder.add_original_shard(index, shard),
            };
            added.context(Kind::Internal, failed)?;
        }
        let decoded = decoder.decode().context(Kind::Internal, failed)?;
        let restored: Vec<_> =
            decoded.restored_original_iter().map(|(index, bytes)| (index, bytes.to_vec())).collect();
        restored.into_iter().for_each(|(index, bytes)| shards[index] = Some(bytes));
        Ok(())
    }
}

/// How an object of a length lies in its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stripes {
    k: u64,
    len: u64,
}

impl Stripes {
    pub fn new(code: Code, len: u64) -> Stripes {
        Stripes { k: code.k as u64, len }
    }

    /// The bytes of the object in a whole stripe.
    fn width(self) -> u64 {
        self.k * PIECE
    }

    /// The number of stripes, which is also the number of pieces of each shard.
    pub fn count(self) -> u64 {
        self.len.div_ceil(self.width())
    }

    /// All stripes, in runs.
    pub fn runs(self) -> impl Iterator<Item = Range<u64>> {
        (0..self.count()).step_by(RUN as usize).map(move |begin| begin..self.count().min(begin + RUN))
    }

    /// The bytes of each shard, without its tail.
    pub fn shard_len(self) -> u64 {
        let last = (self.len % self.width()).div_ceil(self.k).next_multiple_of(COLUMN);
        self.len / self.width() * PIECE + last
    }

    /// The offset at which a piece of a shard begins.
    pub fn offset(self, stripe: u64) -> u64 {
        (stripe * PIECE).min(self.shard_len())
    }

    fn piece_len(self, stripe: u64) -> u64 {
        self.offset(stripe + 1) - self.offset(stripe)
    }

    /// The stripes in which a range of the object lies.
    pub fn around(self, range: &Range<u64>) -> Range<u64> {
        range.start / self.width()..range.end.div_ceil(self.width())
    }

    /// The bytes of the object that stripes hold.
    pub fn bytes(self, stripes: &Range<u64>) -> Range<u64> {
        stripes.start * self.width()..(stripes.end * self.width()).min(self.len)
    }

    /// The data shards that hold a range of the object, and the stripes of each.
    pub fn needed(self, range: &Range<u64>) -> Vec<(usize, Range<u64>)> {
        let mut needed: Vec<(usize, Range<u64>)> = Vec::new();
        for stripe in self.around(range) {
            let (begin, piece) = (stripe * self.width(), self.piece_len(stripe));
            for shard in 0..self.k {
                let (from, to) = (begin + shard * piece, begin + (shard + 1) * piece);
                if to.min(self.len) <= range.start || from >= range.end {
                    continue;
                }
                match needed.iter_mut().find(|(known, _)| *known == shard as usize) {
                    Some((_, stripes)) => stripes.end = stripe + 1,
                    None => needed.push((shard as usize, stripe..stripe + 1)),
                }
            }
        }
        needed
    }

    /// Lays the bytes of a run of stripes out in the data shards; the last pieces are filled up with zeros.
    pub fn spread(self, stripes: &Range<u64>, bytes: &[u8]) -> Vec<Vec<u8>> {
        let len = (self.offset(stripes.end) - self.offset(stripes.start)) as usize;
        let mut shards = vec![Vec::with_capacity(len); self.k as usize];
        let mut rest = bytes;
        for stripe in stripes.clone() {
            let piece = self.piece_len(stripe) as usize;
            for shard in &mut shards {
                let (part, behind) = rest.split_at(piece.min(rest.len()));
                shard.extend_from_slice(part);
                shard.resize(shard.len() + piece - part.len(), 0);
                rest = behind;
            }
        }
        shards
    }

    /// Puts the bytes of a run of stripes together again from the data shards.
    pub fn join(self, stripes: &Range<u64>, shards: &[Vec<u8>]) -> Vec<u8> {
        let (part, begin) = (self.bytes(stripes), self.offset(stripes.start));
        let mut bytes = Vec::with_capacity((part.end - part.start) as usize);
        for stripe in stripes.clone() {
            let piece = (self.offset(stripe) - begin) as usize..(self.offset(stripe + 1) - begin) as usize;
            shards.iter().for_each(|shard| bytes.extend_from_slice(&shard[piece.clone()]));
        }
        bytes.truncate((part.end - part.start) as usize);
        bytes
    }

    /// Copies the part of `range` that a piece holds into `target`, which is that range.
    pub fn place(self, stripe: u64, shard: usize, piece: &[u8], range: &Range<u64>, target: &mut [u8]) {
        let begin = stripe * self.width() + shard as u64 * self.piece_len(stripe);
        let (from, to) = (begin.max(range.start), (begin + piece.len() as u64).min(range.end));
        if from < to {
            let source = &piece[(from - begin) as usize..(to - begin) as usize];
            target[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_k_shards_make_the_object() {
        for (k, m) in [(1, 1), (1, 2), (2, 1), (3, 2), (4, 2), (6, 3)] {
            let code = Code { k, m };
            for len in [0, 1, 63, 64, 65, 1000, PIECE * k as u64, PIECE * k as u64 + 1, 700_001] {
                let bytes: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
                let stripes = Stripes::new(code, len);
                let all = 0..stripes.count();
                let data = stripes.spread(&all, &bytes);
                assert!(data.iter().all(|shard| shard.len() as u64 == stripes.shard_len()), "{k}+{m} {len}");
                let shards = [data.clone(), code.encode(&data).unwrap()].concat();
                for lost in 0..code.shards() {
                    let mut left: Vec<_> = shards.iter().cloned().map(Some).collect();
                    (0..m).for_each(|next| left[(lost + next) % (k + m)] = None);
                    code.decode(&mut left).unwrap();
                    assert!((0..k).all(|index| left[index].as_ref() == Some(&data[index])), "{k}+{m} {len}");
                    let data: Vec<_> = left.into_iter().take(k).flatten().collect();
                    assert!(stripes.join(&all, &data) == bytes, "{k}+{m} {len}");
                }
            }
        }
    }

    #[test]
    fn runs_of_stripes_are_coded_as_single_stripes_are() {
        let code = Code { k: 3, m: 2 };
        let bytes: Vec<u8> = (0..3 * PIECE * 3 + 1000).map(|at| (at % 253) as u8).collect();
        let stripes = Stripes::new(code, bytes.len() as u64);
        let whole = code.encode(&stripes.spread(&(0..4), &bytes)).unwrap();
        let mut joined = vec![Vec::new(); 2];
        for stripe in 0..4 {
            let run = stripe..stripe + 1;
            let part = stripes.bytes(&run);
            let coded =
                code.encode(&stripes.spread(&run, &bytes[part.start as usize..part.end as usize])).unwrap();
            joined.iter_mut().zip(coded).for_each(|(shard, part)| shard.extend(part));
        }
        assert!(whole == joined);
    }
}
