//! The names of objects in an encrypted store.
//!
//! A stem is encrypted so that the same stem of the same kind always gives the same name, and a name gives its stem back
//! only to a holder of the key. Its beginning is a keyed hash of kind and stem, which is also the nonce of the rest: so a
//! name that nobody with the key has made is told (synthetic nonces, as in RFC 5297).

use bech32::Fe32;
use bech32::primitives::iter::{ByteIterExt, Fe32IterExt};

use crate::store::{ObjectKind, ObjectName};

/// The bytes of the keyed hash in a name.
const HASH: usize = 16;

/// A stem is filled up to a multiple of this, so that a name does not tell its length.
const BLOCK: usize = 16;

/// Letters of names. Stores that do not tell capitals from small letters cannot mix names up.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The keys for names.
#[derive(Clone)]
pub(in crate::store) struct NameCipher {
    hash: [u8; 32],
    stream: [u8; 32],
}

impl NameCipher {
    pub(super) fn new(hash: [u8; 32], stream: [u8; 32]) -> NameCipher {
        NameCipher { hash, stream }
    }

    /// The name under which an object lies in the store. The names of objects of which there is one are no secret.
    pub(in crate::store) fn seal(&self, name: &ObjectName) -> ObjectName {
        if name.kind().only_stem().is_some() {
            return name.clone();
        }
        let mut text = name.stem().as_bytes().to_vec();
        // A stem holds no zero.
        text.resize((text.len() + 1).next_multiple_of(BLOCK), 0);
        let hash = self.hash(name.kind(), &text);
        self.stream(&hash, &mut text);
        ObjectName::new(name.kind(), encode(&[&hash[..], &text].concat()))
    }

    /// The name that [`NameCipher::seal`] has hidden; `None` if it has not made this name.
    pub(in crate::store) fn open(&self, sealed: &ObjectName) -> Option<ObjectName> {
        if sealed.kind().only_stem().is_some() {
            return Some(sealed.clone());
        }
        let mut bytes = decode(sealed.stem())?;
        let (hash, text) = bytes.split_first_chunk_mut::<HASH>()?;
        self.stream(hash, text);
        if blake3::Hash::from_bytes(widen(self.hash(sealed.kind(), text)))
            != blake3::Hash::from_bytes(widen(*hash))
        {
            return None;
        }
        let len = text.iter().position(|byte| *byte == 0)?;
        let name = ObjectName::new(sealed.kind(), std::str::from_utf8(&text[..len]).ok()?);
        // Only one name stands for each object.
        (self.seal(&name) == *sealed).then_some(name)
    }

    fn hash(&self, kind: ObjectKind, text: &[u8]) -> [u8; HASH] {
        let (folder, ending) = kind.place();
        let mut hasher = blake3::Hasher::new_keyed(&self.hash);
        hasher.update(folder.as_bytes()).update(b"\0").update(ending.as_bytes()).update(b"\0").update(text);
        let mut hash = [0; HASH];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..HASH]);
        hash
    }

    /// Encrypts or decrypts a text in place.
    fn stream(&self, nonce: &[u8; HASH], text: &mut [u8]) {
        let mut key = vec![0; text.len()];
        blake3::Hasher::new_keyed(&self.stream).update(nonce).finalize_xof().fill(&mut key);
        text.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    }
}

/// Hashes of this length are compared in the same time wherever they differ.
fn widen(hash: [u8; HASH]) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..HASH].copy_from_slice(&hash);
    wide
}

/// Base 32, without filling.
fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .copied()
        .bytes_to_fes()
        .map(|five_bits| char::from(LETTERS[usize::from(five_bits.to_u8())]))
        .collect()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let five_bits = |letter: u8| {
        let value = LETTERS.iter().position(|it| *it == letter)?;
        Fe32::try_from(value as u8).ok()
    };
    let all: Vec<Fe32> = text.bytes().map(five_bits).collect::<Option<_>>()?;
    let bytes: Vec<u8> = all.into_iter().fes_to_bytes().collect();
    (encode(&bytes) == text).then_some(bytes)
}
