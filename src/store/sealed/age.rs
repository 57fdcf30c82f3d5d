//! The part of the age format (age-encryption.org/v1) that wraps a short text for one X25519 recipient.
//!
//! The program `age` opens what is written here, and its key files are read. The crate `age` would bring some hundred
//! crates, most of them for the translation of its messages.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::{Bech32, Hrp};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::ambient;
use crate::error::{Error, Result};

const RECIPIENT: &str = "age";
const IDENTITY: &str = "age-secret-key-";

/// The first line of the format, and the beginning of the second.
const HEAD: &str = "age-encryption.org/v1\n-> X25519 ";
const MAC_LINE: &str = "\n---";

/// A longer text would need several chunks.
const LONGEST: usize = 64 << 10;

/// A public key, for which something is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipient(PublicKey);

/// A secret key, which opens what was encrypted for its recipient.
#[derive(Clone)]
pub struct AgeIdentity(StaticSecret);

impl Recipient {
    /// Parses `age1…`; `None` if it is no such key.
    pub fn parse(text: &str) -> Option<Recipient> {
        let key = Recipient(PublicKey::from(decode(RECIPIENT, text)?));
        // One key has one text.
        (key.to_string() == text).then_some(key)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bech32::encode_lower::<Bech32>(Hrp::parse_unchecked(RECIPIENT), self.0.as_bytes());
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl AgeIdentity {
    /// Makes a new one.
    ///
    /// # Errors
    /// `Internal` without randomness.
    pub fn random() -> Result<AgeIdentity> {
        Ok(AgeIdentity(StaticSecret::from(ambient::random::<32>()?)))
    }

    /// Parses `AGE-SECRET-KEY-1…`; `None` if it is no such key.
    pub fn parse(text: &str) -> Option<AgeIdentity> {
        Some(AgeIdentity(StaticSecret::from(decode(IDENTITY, text)?)))
    }

    pub fn recipient(&self) -> Recipient {
        Recipient(PublicKey::from(&self.0))
    }

    /// The text of the secret key, for its file.
    pub(super) fn secret_text(&self) -> String {
        let text = bech32::encode_upper::<Bech32>(Hrp::parse_unchecked(IDENTITY), self.0.as_bytes());
        text.unwrap_or_default()
    }

    /// The secret that only this identity and that of `other` have in common; `None` for a recipient that is no key.
    pub(super) fn shared(&self, other: &Recipient) -> Option<[u8; 32]> {
        let shared = self.0.diffie_hellman(&other.0);
        shared.was_contributory().then(|| shared.to_bytes())
    }
}

impl fmt::Debug for AgeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgeIdentity(of {})", self.recipient())
    }
}

fn decode(prefix: &str, text: &str) -> Option<[u8; 32]> {
    let parsed = bech32::primitives::decode::CheckedHrpstring::new::<Bech32>(text).ok()?;
    let is_ours = parsed.hrp().as_str().eq_ignore_ascii_case(prefix);
    is_ours.then(|| parsed.byte_iter().collect::<Vec<_>>())?.try_into().ok()
}

fn derive(salt: &[u8], secret: &[u8], what: &str) -> [u8; 32] {
    let mut key = [0; 32];
    // 32 bytes are never too many.
    let _ = Hkdf::<Sha256>::new(Some(salt), secret).expand(what.as_bytes(), &mut key);
    key
}

fn header_mac(file_key: &[u8], header: &str) -> Option<Hmac<Sha256>> {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&derive(&[], file_key, "header")).ok()?;
    mac.update(header.as_bytes());
    Some(mac)
}

fn wrap_key(shared: &[u8; 32], ephemeral: &[u8; 32], recipient: &Recipient) -> ChaCha20Poly1305 {
    let salt = [&ephemeral[..], recipient.bytes()].concat();
    ChaCha20Poly1305::new(&derive(&salt, shared, "age-encryption.org/v1/X25519").into())
}

/// The cipher and the nonce of the only chunk.
fn payload_cipher(file_key: &[u8], nonce: &[u8]) -> (ChaCha20Poly1305, Nonce) {
    let mut chunk = [0; 12];
    chunk[11] = 1;
    (ChaCha20Poly1305::new(&derive(nonce, file_key, "payload").into()), Nonce::from(chunk))
}

/// Encrypts a short text for a recipient.
///
/// # Errors
/// `Internal` without randomness, `Refused` for a recipient that is no key.
pub(super) fn encrypt(text: &[u8], recipient: &Recipient) -> Result<Vec<u8>> {
    let file_key: [u8; 16] = ambient::random()?;
    encrypt_with(text, recipient, &AgeIdentity::random()?, &file_key, &ambient::random()?)
}

fn encrypt_with(
    text: &[u8],
    recipient: &Recipient,
    ephemeral: &AgeIdentity,
    file_key: &[u8; 16],
    nonce: &[u8; 16],
) -> Result<Vec<u8>> {
    let failed =
        || Error::refused(format!("nothing can be encrypted for {recipient}: it is no key of a person"));
    let shared = ephemeral.shared(recipient).ok_or_else(failed)?;
    let public = ephemeral.recipient();
    let wrapped = wrap_key(&shared, public.bytes(), recipient).encrypt(&Nonce::default(), &file_key[..]);
    let wrapped = STANDARD_NO_PAD.encode(wrapped.map_err(|_| failed())?);
    let header = format!("{HEAD}{}\n{wrapped}{MAC_LINE}", STANDARD_NO_PAD.encode(public.bytes()));
    let mac = header_mac(file_key, &header).ok_or_else(failed)?.finalize().into_bytes();
    let (cipher, chunk) = payload_cipher(file_key, nonce);
    let sealed = cipher.encrypt(&chunk, text).map_err(|_| failed())?;
    let header = format!("{header} {}\n", STANDARD_NO_PAD.encode(mac));
    Ok([header.as_bytes(), nonce, &sealed].concat())
}

/// Opens what [`encrypt`] has encrypted for this identity's recipient; `None` if it is anything else, or was changed.
pub(super) fn decrypt(sealed: &[u8], identity: &AgeIdentity) -> Option<Vec<u8>> {
    let rest = sealed.strip_prefix(HEAD.as_bytes())?;
    let (ephemeral, rest) = split_line(rest)?;
    let (wrapped, rest) = split_line(rest)?;
    let (mac, payload) = split_line(rest.strip_prefix(b"--- ")?)?;
    let header_len = sealed.len() - rest.len() + 3;
    let header = std::str::from_utf8(&sealed[..header_len]).ok()?;
    let public =
        Recipient(PublicKey::from(<[u8; 32]>::try_from(STANDARD_NO_PAD.decode(ephemeral).ok()?).ok()?));
    let wrapped = STANDARD_NO_PAD.decode(wrapped).ok().filter(|wrapped| wrapped.len() == 32)?;
    let cipher = wrap_key(&identity.shared(&public)?, public.bytes(), &identity.recipient());
    let file_key = cipher.decrypt(&Nonce::default(), &wrapped[..]).ok()?;
    header_mac(&file_key, header)?.verify_slice(&STANDARD_NO_PAD.decode(mac).ok()?).ok()?;
    let (nonce, chunk) = payload.split_at_checked(16).filter(|(_, chunk)| chunk.len() <= LONGEST)?;
    let (cipher, number) = payload_cipher(&file_key, nonce);
    cipher.decrypt(&number, chunk).ok()
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests;
