use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::frames::*;
use super::*;
use crate::store::kind_of_failure;

const NAME: &str = "packs/one.pack";

fn cipher() -> DataCipher {
    StoreKey::of_byte(1).data()
}

fn bytes(random: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes[..]);
    bytes
}

/// Lengths around every border of frames.
fn lengths() -> Vec<usize> {
    let borders = [0, 65_480, 65_480 + 65_520, 65_480 + 2 * 65_520, 200_000];
    borders.into_iter().flat_map(|at: usize| [at.saturating_sub(1), at, at + 1, at + 17]).collect()
}

fn sealed_object(sealed: Vec<u8>) -> Result<SealedObject> {
    SealedObject::new(Box::new(sealed), cipher(), NAME.into(), "memory".into())
}

#[test]
fn objects_of_every_length_are_read_as_they_were_sealed() {
    let mut random = StdRng::seed_from_u64(1);
    for len in lengths() {
        let plain = bytes(&mut random, len);
        let sealed = seal(&cipher(), NAME, &plain).unwrap();
        assert!(open(&cipher(), NAME, &sealed).unwrap() == plain, "{len}");
        assert_eq!(Shape::of_sealed(sealed.len() as u64), Some(Shape::of(len as u64)), "{len}");
        assert!(sealed.len() <= len + 56 + len / 4_000, "{len}: {}", sealed.len());
        let object = sealed_object(sealed).unwrap();
        assert_eq!(object.size(), len as u64);
        for _ in 0..6 {
            let from = random.random_range(0..=len);
            let longest = if random.random_bool(0.5) { 300 } else { len };
            let to = random.random_range(from..=len.min(from + longest));
            let mut range = vec![0; to - from];
            object.read_exact_at(&mut range, from as u64).unwrap();
            assert!(range == plain[from..to], "{len}: {from}..{to}");
        }
        let beyond = object.read_exact_at(&mut [0; 2], len as u64 - u64::from(len > 0)).unwrap_err();
        assert_eq!(beyond.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn no_size_is_that_of_two_lengths() {
    let mut before = None;
    for len in (0..400_000_u64).step_by(7).chain(65_400..65_700).chain(130_900..131_200) {
        let size = seal_size(len);
        assert_eq!(Shape::of_sealed(size), Some(Shape::of(len)), "{len}");
        assert_eq!(Shape::len_of_sealed(size), len);
        assert!(before.is_none_or(|(known, then)| (known < len) == (then < size)), "{len}");
        before = Some((len, size));
    }
    for size in [0, 1, 39, 40, 55] {
        assert_eq!(Shape::of_sealed(size), None, "{size}");
        assert_eq!(Shape::len_of_sealed(size), 0);
    }
    for len in [u64::MAX, u64::MAX - 1, 1 << 63] {
        let _ = (Shape::of(len), Shape::of_sealed(len), Shape::len_of_sealed(len));
    }
}

fn seal_size(len: u64) -> u64 {
    // The trailer, and a tag for the last 65,480 bytes and for each 65,520 before them.
    len + 40 + 16 * (1 + len.saturating_sub(65_480).div_ceil(65_520))
}

/// Frames that are left out, doubled, exchanged within an object or between two, and every byte that can be flipped.
#[test]
fn what_was_moved_cut_or_flipped_does_not_open() {
    let mut random = StdRng::seed_from_u64(2);
    let plain = bytes(&mut random, 65_480 + 65_520 * 2 + 5);
    let sealed = seal(&cipher(), NAME, &plain).unwrap();
    let again = seal(&cipher(), NAME, &plain).unwrap();
    let starts = [0, 21, 21 + 65_536, 21 + 2 * 65_536, sealed.len() - 40, sealed.len()];
    let part = |number: usize| &sealed[starts[number]..starts[number + 1]];
    let other = |number: usize| &again[starts[number]..starts[number + 1]];
    let fails = |what: &str, parts: &[&[u8]]| {
        let bytes = parts.concat();
        assert!(open(&cipher(), NAME, &bytes).is_err(), "{what}");
        let ranged = sealed_object(bytes).and_then(|object| {
            let mut range = vec![0; object.size() as usize];
            let read = object.read_exact_at(&mut range, 0);
            read.map_err(|error| Error::new(kind_of_failure(&error), error.to_string()))
        });
        assert_eq!(ranged.unwrap_err().kind(), Kind::Damaged, "{what}");
    };
    let all = [part(0), part(1), part(2), part(3), part(4)];
    assert!(open(&cipher(), NAME, &all.concat()).unwrap() == plain);
    fails("exchanged", &[part(0), part(2), part(1), part(3), part(4)]);
    fails("left out", &[part(0), part(1), part(3), part(4)]);
    fails("without the first", &[part(1), part(2), part(3), part(4)]);
    fails("without the last", &[part(0), part(1), part(2), part(4)]);
    fails("doubled", &[part(0), part(1), part(1), part(3), part(4)]);
    fails("of another sealing", &[part(0), other(1), part(2), part(3), part(4)]);
    fails("another trailer", &[part(0), part(1), part(2), part(3), other(4)]);
    fails("another end", &[part(0), part(1), part(2), other(3), other(4)]);
    for at in (0..sealed.len()).step_by(9_973).chain(sealed.len() - 60..sealed.len()) {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1 << random.random_range(0..8);
        // A newer version is refused, and not called damage.
        assert!(open(&cipher(), NAME, &flipped).is_err(), "byte {at}");
    }
    for cut in (0..sealed.len()).step_by(20_011).chain(sealed.len() - 60..sealed.len()) {
        assert!(open(&cipher(), NAME, &sealed[..cut]).is_err(), "cut at {cut}");
    }
    assert_eq!(open(&cipher(), "packs/two.pack", &sealed), Err(SealFault::Forged));
    assert_eq!(open(&StoreKey::of_byte(2).data(), NAME, &sealed), Err(SealFault::Forged));
}

#[test]
fn a_newer_version_is_refused_with_what_to_do() {
    let mut sealed = seal(&cipher(), NAME, b"text").unwrap();
    let at = sealed.len() - 16;
    sealed[at] = 2;
    let said = open(&cipher(), NAME, &sealed).unwrap_err().at("memory");
    assert!(said.kind() == Kind::Refused && said.message().contains("update backwhen"), "{said}");
}

/// The length of an object is believed only if a frame vouches for it.
#[test]
fn an_object_that_was_made_empty_is_no_empty_object() {
    let trailer = seal(&cipher(), NAME, b"").unwrap().split_off(16);
    for tag in [[0; 16], [7; 16]] {
        let forged = [&tag[..], &trailer].concat();
        assert_eq!(sealed_object(forged).unwrap_err().kind(), Kind::Damaged);
    }
}

/// A range needs only the frames that it touches.
#[test]
fn damage_elsewhere_does_not_keep_a_range_from_being_read() {
    let plain = vec![7; 65_480 + 65_520 * 3];
    let mut sealed = seal(&cipher(), NAME, &plain).unwrap();
    sealed[65_536 * 2 + 9] ^= 1;
    let object = sealed_object(sealed).unwrap();
    assert_eq!(object.size(), plain.len() as u64);
    let mut range = vec![0; 100];
    for at in [0, 65_520 * 2 - 100, 65_520 * 3] {
        object.read_exact_at(&mut range, at as u64).unwrap();
        assert_eq!(range, [7; 100]);
    }
    let said = object.read_exact_at(&mut range, 65_520 * 2 - 1).unwrap_err();
    assert_eq!(kind_of_failure(&said), Kind::Damaged);
}

#[test]
fn an_encrypted_object_of_any_bytes() {
    let seeds = vec![seal(&cipher(), NAME, b"").unwrap(), seal(&cipher(), NAME, &[7; 300]).unwrap()];
    crate::hostile::throw("encrypted objects", seeds, |bytes| {
        let whole = open(&cipher(), NAME, bytes).is_ok();
        let ranged = sealed_object(bytes.to_vec()).is_ok_and(|object| {
            let mut range = vec![0; object.size() as usize];
            object.read_exact_at(&mut range, 0).is_ok()
        });
        assert_eq!(whole, ranged);
        format!("{whole}")
    });
}
