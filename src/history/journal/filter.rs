//! A set of hashes in ten bits for each, which is right about every hash in it and wrong about one of 256 others. See
//! FORMAT.md.

use super::record::{ByteReader, put_varint};

/// The number of values that a bucket tells apart: what is left of a hash is a bucket and one byte.
const BUCKET: u128 = 256;

/// Encodes a set. Sorts the hashes, and removes repeated ones.
pub(super) fn encode(hashes: &mut Vec<u64>) -> Vec<u8> {
    hashes.sort_unstable();
    hashes.dedup();
    let count = hashes.len();
    let mut out = Vec::with_capacity(count + count / 4 + 10);
    put_varint(&mut out, count as u64);
    let mut buckets = vec![0; (2 * count).div_ceil(8)];
    for (number, hash) in hashes.iter().enumerate() {
        let (bucket, low) = place(*hash, count as u64);
        out.push(low);
        let bit = bucket as usize + number;
        buckets[bit / 8] |= 1 << (bit % 8);
    }
    out.extend(buckets);
    out
}

/// The bucket of a hash among `count`, and its value in the bucket. A larger hash has no smaller place.
fn place(hash: u64, count: u64) -> (u64, u8) {
    let value = (u128::from(hash) * u128::from(count) * BUCKET) >> 64;
    ((value / BUCKET) as u64, (value % BUCKET) as u8)
}

/// A set that was encoded.
#[derive(Clone, Copy)]
pub(super) struct Filter<'a> {
    count: usize,
    /// One byte of each hash, in the order of the hashes.
    lows: &'a [u8],
    /// For each bucket a bit 1 for each of its hashes, and a bit 0.
    buckets: &'a [u8],
}

impl<'a> Filter<'a> {
    /// Reads a set; `None` if the bytes are none.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Filter<'a>> {
        let mut bytes = ByteReader::new(bytes);
        let count = usize::try_from(bytes.varint()?).ok()?;
        let lows = bytes.take(count)?;
        let buckets = bytes.take((2 * count).div_ceil(8))?;
        bytes.is_empty().then_some(Filter { count, lows, buckets })
    }

    /// Whether the set may hold the hash. If not, the set does not hold it.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let (bucket, low) = place(hash, self.count as u64);
        let Some(start) = self.start_of(bucket as usize) else { return false };
        let in_bucket = (start..).take_while(|bit| self.bit(*bit));
        in_bucket.map(|bit| bit - bucket as usize).any(|number| self.lows.get(number) == Some(&low))
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
        for count in [0, 1, 2, 7, 8, 100, 20_000] {
            let mut hashes: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
            hashes.extend(hashes.clone());
            let wanted = hashes.clone();
            let bytes = encode(&mut hashes);
            assert!(bytes.len() <= count * 10 / 8 + 8, "{count}");
            let filter = Filter::decode(&bytes).unwrap();
            assert!(wanted.iter().all(|hash| filter.may_hold(*hash)), "{count}");
            let others = (0..10_000).filter(|_| filter.may_hold(random.next_u64())).count();
            assert!(others < 80, "{others} of 10,000 with {count}");
        }
    }

    #[test]
    fn the_largest_and_the_smallest_hash_are_found() {
        let bytes = encode(&mut vec![u64::MAX, 0, u64::MAX - 1]);
        let filter = Filter::decode(&bytes).unwrap();
        assert!([0, u64::MAX - 1, u64::MAX].iter().all(|hash| filter.may_hold(*hash)));
    }
}
