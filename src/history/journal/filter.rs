//! A set of hashes in few bits for each, which is right about every hash in it and wrong about few others. See FORMAT.md.

use super::record::{ByteReader, put_varint};

/// Encodes a set, with `bits` bits of what tells the hashes of a bucket apart: the set is wrong about one of 2^bits other
/// hashes, and takes two bits more for each hash. Sorts the hashes, and removes repeated ones.
pub(super) fn encode(hashes: &mut Vec<u64>, bits: u32) -> Vec<u8> {
    hashes.sort_unstable();
    hashes.dedup();
    let count = hashes.len();
    let mut out = Vec::with_capacity(lows_len(count, bits) + count / 4 + 10);
    put_varint(&mut out, count as u64);
    let mut buckets = vec![0; (2 * count).div_ceil(8)];
    // The low bits of hashes that do not fill a byte yet.
    let (mut waiting, mut filled) = (0_u64, 0);
    for (number, hash) in hashes.iter().enumerate() {
        let (bucket, low) = place(*hash, count as u64, bits);
        waiting |= low << filled;
        filled += bits;
        while filled >= 8 {
            out.push(waiting as u8);
            (waiting, filled) = (waiting >> 8, filled - 8);
        }
        let bit = bucket as usize + number;
        buckets[bit / 8] |= 1 << (bit % 8);
    }
    if filled > 0 {
        out.push(waiting as u8);
    }
    out.extend(buckets);
    out
}

fn lows_len(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(8)
}

/// The bucket of a hash among `count`, and its low bits, by which it is told from others in the bucket. A larger hash has
/// no smaller place.
fn place(hash: u64, count: u64, bits: u32) -> (u64, u64) {
    let value = ((u128::from(hash) * u128::from(count)) << bits) >> 64;
    ((value >> bits) as u64, value as u64 & ((1 << bits) - 1))
}

/// A set that was encoded.
#[derive(Clone, Copy)]
pub(super) struct Filter<'a> {
    count: usize,
    bits: u32,
    /// The low bits of each hash, in the order of the hashes.
    lows: &'a [u8],
    /// For each bucket a bit 1 for each of its hashes, and a bit 0.
    buckets: &'a [u8],
}

impl<'a> Filter<'a> {
    /// Reads a set that was encoded with as many bits; `None` if the bytes are none.
    pub(super) fn decode(bytes: &'a [u8], bits: u32) -> Option<Filter<'a>> {
        let mut bytes = ByteReader::new(bytes);
        Filter::read(&mut bytes, bits).filter(|_| bytes.is_empty())
    }

    /// Reads the set that comes next.
    pub(super) fn read(bytes: &mut ByteReader<'a>, bits: u32) -> Option<Filter<'a>> {
        let count = usize::try_from(bytes.varint()?).ok().filter(|count| *count <= bytes.remaining())?;
        let lows = bytes.take(lows_len(count, bits))?;
        let buckets = bytes.take((2 * count).div_ceil(8))?;
        Some(Filter { count, bits, lows, buckets })
    }

    /// Whether the set may hold the hash. If not, the set does not hold it.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let (bucket, low) = place(hash, self.count as u64, self.bits);
        let Some(start) = self.start_of(bucket as usize) else { return false };
        let in_bucket = (start..).take_while(|bit| self.bit(*bit));
        in_bucket.map(|bit| bit - bucket as usize).any(|number| self.low(number) == Some(low))
    }

    /// The low bits of a hash, which lie in at most three bytes.
    fn low(&self, number: usize) -> Option<u64> {
        let (first, bits) = (number * self.bits as usize, self.bits as usize);
        let bytes = self.lows.get(first / 8..(first + bits).div_ceil(8))?;
        let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some(value >> (first % 8) & ((1 << bits) - 1))
    }

    /// The first bit of a bucket, which comes after as many bits 0 as there are buckets before.
    fn start_of(&self, bucket: usize) -> Option<usize> {
        let mut before = 0;
        for (at, byte) in self.buckets.iter().enumerate() {
            let zeros = byte.count_zeros() as usize;
            if before + zeros >= bucket {
                return (at * 8..).find(|bit| {
                    let is_start = before == bucket;
                    before += usize::from(!self.bit(*bit));
                    is_start
                });
            }
            before += zeros;
        }
        None
    }

    fn bit(&self, bit: usize) -> bool {
        self.buckets.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    #[test]
    fn every_hash_is_found_and_few_others_are() {
        let mut random = StdRng::seed_from_u64(11);
        for bits in [8, 12] {
            for count in [0, 1, 2, 7, 8, 100, 20_000] {
                let mut hashes: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
                hashes.extend(hashes.clone());
                let wanted = hashes.clone();
                let bytes = encode(&mut hashes, bits);
                assert!(bytes.len() <= count * (bits as usize + 2) / 8 + 8, "{count}");
                let filter = Filter::decode(&bytes, bits).unwrap();
                assert!(wanted.iter().all(|hash| filter.may_hold(*hash)), "{count} of {bits}");
                let others = (0..100_000).filter(|_| filter.may_hold(random.next_u64())).count();
                let most = 2 * (100_000 >> bits);
                assert!(others <= most, "{others} of 100,000 with {count}, {bits} bits");
            }
        }
    }

    #[test]
    fn the_largest_and_the_smallest_hash_are_found() {
        for bits in [8, 12] {
            let bytes = encode(&mut vec![u64::MAX, 0, u64::MAX - 1], bits);
            let filter = Filter::decode(&bytes, bits).unwrap();
            assert!([0, u64::MAX - 1, u64::MAX].iter().all(|hash| filter.may_hold(*hash)));
        }
    }
}
