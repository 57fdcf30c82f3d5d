use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::Kind;
use crate::store::sealed::StoreKey;

fn cipher(name: &str) -> GrowingCipher {
    GrowingCipher::new(StoreKey::of_byte(1).beside(), name.to_owned())
}

/// A file with a segment of these parts, each written alone, and where each ends in the file.
fn grown(parts: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
    let (mut file, mut end) = cipher("one").begin().unwrap();
    let ends = parts.iter().map(|part| {
        file.extend(cipher("one").seal(&[part], &mut end).unwrap());
        assert_eq!(end.at, file.len() as u64);
        end.at
    });
    let ends = ends.collect();
    (file, ends)
}

fn parts(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(seed);
    let part = |_| (0..random.random_range(1..400)).map(|n| b"CANARY in a row; "[n % 17]).collect();
    (0..count).map(part).collect()
}

fn open(file: &[u8]) -> Result<GrownSegment> {
    cipher("one").open(Box::new(file.to_vec()), "one.open")
}

fn content(file: &[u8]) -> Vec<u8> {
    let segment = open(file).unwrap();
    let mut bytes = vec![0; segment.size() as usize];
    segment.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_and_nobody_else_can_read_it() {
    for parts in [parts(1, 30), vec![vec![7; 3 * MOST + 5], vec![8; MOST]], vec![]] {
        let (file, ends) = grown(&parts);
        let plain = parts.concat();
        assert_eq!(content(&file), plain);
        let frames: usize = parts.iter().map(|part| part.len().div_ceil(MOST)).sum();
        assert_eq!(file.len(), HEAD + plain.len() + frames * (FRAME_HEAD + TAG));
        assert!(!file.windows(6).any(|bytes| bytes == b"CANARY"));
        let end = cipher("one").end(&file, "one.open").unwrap();
        assert_eq!((end.len, end.at), (plain.len() as u64, ends.last().copied().unwrap_or(HEAD as u64)));
    }
}

/// A segment that is too long to be kept in memory is read by its frames.
#[test]
fn ranges_are_read_alike_whether_the_segment_is_kept_in_memory_or_not() {
    let parts = parts(2, 40);
    let (file, _) = grown(&parts);
    let mut segment = open(&file).unwrap();
    let plain = parts.concat();
    for kept in [true, false] {
        segment.kept = segment.kept.filter(|_| kept);
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..500 {
            let from = random.random_range(0..plain.len());
            let upto = random.random_range(from..=plain.len());
            let mut bytes = vec![9; upto - from];
            segment.read_exact_at(&mut bytes, from as u64).unwrap();
            assert_eq!(bytes, plain[from..upto]);
        }
        let beyond = segment.read_exact_at(&mut [0], plain.len() as u64).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    }
}

#[test]
fn a_file_that_was_cut_short_holds_what_was_whole_and_zeros() {
    let parts = parts(4, 8);
    let (file, ends) = grown(&parts);
    for len in HEAD..=file.len() {
        let whole = ends.iter().take_while(|end| **end <= len as u64).count();
        let (plain, found) = (parts[..whole].concat(), content(&file[..len]));
        assert_eq!(found[..plain.len()], plain, "{len}");
        // The bytes that do not open are told, so that the journal knows of a torn end.
        let torn = len as u64 - whole.checked_sub(1).map_or(HEAD as u64, |last| ends[last]);
        assert_eq!(found[plain.len()..], vec![0; torn as usize], "{len}");
    }
    for len in 0..HEAD {
        assert_eq!(open(&file[..len]).unwrap_err().kind(), Kind::Damaged, "{len}");
    }
}

#[test]
fn a_frame_that_was_changed_reads_as_zeros_and_the_others_as_they_were() {
    let parts = parts(5, 6);
    let (file, ends) = grown(&parts);
    let plain = parts.concat();
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 0x20;
        if at < HEAD {
            let opened = open(&changed);
            match at {
                0..8 => assert_eq!(opened.unwrap_err().kind(), Kind::Damaged),
                8 => assert_eq!(opened.unwrap_err().kind(), Kind::Refused, "a newer version"),
                // The random bytes: no frame opens.
                16.. => assert!(content(&changed).iter().all(|byte| *byte == 0)),
                _ => {}
            }
            continue;
        }
        let bad = ends.iter().position(|end| at < *end as usize).unwrap();
        // A frame vouches for the tag of the one before it.
        let is_tag = at + TAG >= ends[bad] as usize;
        let found = content(&changed);
        let mut offset = 0;
        for (number, part) in parts.iter().enumerate() {
            let is_bad = number == bad || (is_tag && number == bad + 1);
            let expected = if is_bad { vec![0; part.len()] } else { part.clone() };
            // Behind the last frame that opens there may be more zeros than there were bytes.
            let there = found.get(offset..(offset + part.len()).min(found.len())).unwrap();
            assert_eq!(there, expected, "byte {at}, part {number}");
            offset += part.len();
        }
        assert!(found.len() >= plain.len());
        assert!(found[plain.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn no_frame_is_moved_left_out_repeated_or_put_into_another_segment() {
    let parts = vec![vec![1; 50], vec![2; 50], vec![3; 50]];
    let (file, ends) = grown(&parts);
    let frame = |number: usize| {
        let from = number.checked_sub(1).map_or(HEAD, |before| ends[before] as usize);
        file[from..ends[number] as usize].to_vec()
    };
    let head = &file[..HEAD];
    let with = |frames: &[usize]| {
        let file = [head, &frames.iter().map(|number| frame(*number)).collect::<Vec<_>>().concat()].concat();
        content(&file)
    };
    let zeros = |len: usize| vec![0_u8; len];
    let whole = 50 + FRAME_HEAD + TAG;
    assert_eq!(with(&[0, 1, 2]), parts.concat());
    assert_eq!(with(&[0, 2]), [vec![1; 50], zeros(whole)].concat(), "left out");
    assert_eq!(with(&[1, 0, 2]), zeros(3 * whole), "exchanged");
    assert_eq!(with(&[0, 1, 1]), [vec![1; 50], vec![2; 50], zeros(whole)].concat(), "repeated");
    // The same bytes at the same place of another file of the same segment.
    let (other, _) = grown(&parts);
    let mixed = [&file[..ends[0] as usize], &other[ends[0] as usize..]].concat();
    assert_eq!(content(&mixed), [vec![1; 50], zeros(2 * whole)].concat(), "of another file");
    let renamed = cipher("two").open(Box::new(file.clone()), "two.open").unwrap();
    assert_eq!(renamed.frames.len(), 0, "another name");
    let other_key = GrowingCipher::new(StoreKey::of_byte(2).beside(), "one".into());
    assert_eq!(other_key.open(Box::new(file), "one.open").unwrap().frames.len(), 0, "another key");
}

/// Does what a cut wants, but for the steps after the first `steps`.
fn apply(file: &mut Vec<u8>, cut: &GrowingCut, steps: usize) {
    if steps > 0 {
        file.truncate(cut.keep as usize);
    }
    if steps > 1 {
        file.extend(&cut.write);
    }
}

#[test]
fn a_cut_at_any_byte_keeps_what_is_before_it_at_every_instant_and_the_segment_goes_on() {
    let parts = parts(6, 4);
    let plain = parts.concat();
    let (file, ends) = grown(&parts);
    let one = cipher("one");
    let id = one.end(&file, "one.open").unwrap().id();
    for len in 0..=plain.len() {
        let cut = one.cut(&file, id, len as u64).unwrap();
        for steps in 0..=2 {
            let mut torn = file.clone();
            apply(&mut torn, &cut, steps);
            assert_eq!(content(&torn)[..len], plain[..len], "{len} after {steps} steps");
        }
        let mut done = file.clone();
        apply(&mut done, &cut, 2);
        assert_eq!(content(&done), plain[..len], "{len}");
        assert_eq!(one.end(&done, "one.open").unwrap().len, len as u64);
        let mut end = cut.end;
        assert_eq!(end.at, done.len() as u64);
        let before = done.clone();
        done.extend(one.seal(&[b"and ", b"more"], &mut end).unwrap());
        assert_eq!(content(&done), [&plain[..len], b"and more"].concat(), "{len}");
        // The bytes that were cut off do not come back behind what is left of them.
        let old = [&before[..], &file[before.len().min(file.len())..]].concat();
        assert_eq!(content(&old)[..len], plain[..len]);
        // A second cut, through what the first one has written.
        let again = one.cut(&done, id, len as u64 + 3).unwrap();
        apply(&mut done, &again, 2);
        assert_eq!(content(&done), [&plain[..len], b"and"].concat(), "{len}");
    }
    // Behind an end that does not open, only a cut goes on.
    let torn = &file[..file.len() - 3];
    let whole = parts[..3].concat();
    let cut = one.cut(&torn, id, whole.len() as u64).unwrap();
    assert_eq!((cut.keep, cut.end.at), (ends[2], ends[2]));
    assert_eq!(one.cut(&torn, id, plain.len() as u64).unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// Bytes of anybody: nothing is believed, and nothing panics or takes more memory than the file has bytes.
#[test]
fn arbitrary_bytes_make_no_segment() {
    let (file, _) = grown(&parts(7, 5));
    let mut random = StdRng::seed_from_u64(8);
    for _ in 0..2_000 {
        let mut bytes = file.clone();
        for _ in 0..random.random_range(1..12) {
            let at = random.random_range(HEAD..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 => bytes.truncate(at + 1),
                2 => bytes.extend_from_within(HEAD..at),
                _ => drop(bytes.splice(at..at, *b"BWFR\xff\xff\0\0\xff\xff\xff\xff\xff\0\0\0")),
            }
        }
        assert!(content(&bytes).len() <= bytes.len());
    }
}

fn fixture() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/growing-v1/one.open")
}

#[test]
#[ignore = "it writes the fixture, which is done once for a version"]
fn write_the_fixture() {
    let one = cipher("one");
    let (mut file, mut end) = one.begin().unwrap();
    let long = vec![b'x'; MOST + 100];
    file.extend(one.seal(&[b"the first ", b"write"], &mut end).unwrap());
    file.extend(one.seal(&[&long], &mut end).unwrap());
    let cut = one.cut(&file, end.id(), 15 + 20).unwrap();
    apply(&mut file, &cut, 2);
    let mut end = cut.end;
    file.extend(one.seal(&[b", and the last one"], &mut end).unwrap());
    file.extend(b"BWFR and then the power failed");
    std::fs::create_dir_all(fixture().parent().unwrap()).unwrap();
    std::fs::write(fixture(), file).unwrap();
}

#[test]
fn the_fixture_stays_readable_for_ever() {
    let file = std::fs::read(fixture()).unwrap();
    let expected = [&b"the first write"[..], &[b'x'; 20], b", and the last one", &[0; 30]].concat();
    assert_eq!(content(&file), expected);
}
