//! Decides whether backwhen wrote a logical message. Any role that may connect to the source may write messages with
//! any prefix, so every message that decides a recovery is signed. See FORMAT.md.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::{DEFINITION, DIGESTS, HEARTBEAT, MARK, REWIND, ROLES, ROWS, SEQUENCES};

/// Which messages a history trusts, by the number in its `history.json`: with this number, only signed messages of
/// the transaction that wrote them.
pub const SIGNED: u32 = 2;

/// The bytes with which a signed message begins.
const SIGNED_HEAD: &[u8] = b"2 ";
/// The number of hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
/// The greatest length of a mark's name, in bytes. A longer name is refused.
pub const MARK_LIMIT: usize = 1024;
/// The greatest length of a message, in bytes. A longer one is ignored in the stream: the triggers write none.
const MESSAGE_LIMIT: usize = 64 << 20;
/// The greatest length of a signed message's header, in bytes: the head, digest, transaction number and separators.
const HEADER_LIMIT: usize = 128;

/// Tells messages that backwhen wrote from other messages.
#[derive(Clone, PartialEq, Eq)]
pub struct MessageKey {
    secret: String,
    signed_only: bool,
}

/// The secret must not appear in logs.
impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageKey").field("signed_only", &self.signed_only).finish_non_exhaustive()
    }
}

impl MessageKey {
    /// Makes the key from a history's secret. `messages` is the number in `history.json`.
    pub fn new(secret: &str, messages: u32) -> MessageKey {
        MessageKey { secret: secret.to_owned(), signed_only: messages >= SIGNED }
    }

    /// Returns a message's body with our signature before it. `transaction` is the number of the transaction that
    /// writes it.
    pub fn sign(&self, prefix: &str, transaction: u64, body: &[u8]) -> Vec<u8> {
        let transaction = transaction.to_string();
        let digest = self.digest(prefix.as_bytes(), transaction.as_bytes(), body).finalize().into_bytes();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        [SIGNED_HEAD, hex.as_bytes(), b" ", transaction.as_bytes(), b"\n", body].concat()
    }

    /// Returns the body of a message in transaction `xid`, if backwhen wrote the message in that transaction.
    pub fn verified<'a>(&self, prefix: &[u8], xid: u32, content: &'a [u8]) -> Option<&'a [u8]> {
        if content.starts_with(SIGNED_HEAD) {
            return self.signed_body(prefix, xid, content);
        }
        if self.signed_only {
            return None;
        }
        // Earlier versions wrote messages in this form.
        let is_sealed = !self.secret.is_empty();
        match prefix {
            _ if prefix == DEFINITION.as_bytes() || prefix == ROWS.as_bytes() => self.sealed_body(content),
            _ if prefix == ROLES.as_bytes() && is_sealed => self.sealed_body(content),
            _ if prefix == DIGESTS.as_bytes() => None,
            _ => Some(content),
        }
    }

    fn signed_body<'a>(&self, prefix: &[u8], xid: u32, content: &'a [u8]) -> Option<&'a [u8]> {
        let SignedMessage { digits, transaction, body } = SignedMessage::parse(content)?;
        // The stream carries only the lower half of the transaction number.
        if number(transaction)? as u32 != xid {
            return None;
        }
        let digest = bytes_of_hex(digits)?;
        self.digest(prefix, transaction, body).verify_slice(&digest).ok().map(|()| body)
    }

    fn digest(&self, prefix: &[u8], transaction: &[u8], body: &[u8]) -> Hmac<Sha256> {
        let mut digest =
            Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("a key of any length will do");
        for part in [prefix, b"\n", transaction, b"\n", body] {
            digest.update(part);
        }
        digest
    }

    /// Returns the body of a message as version 1 sealed it. An empty secret seals nothing.
    fn sealed_body<'a>(&self, content: &'a [u8]) -> Option<&'a [u8]> {
        if self.secret.is_empty() {
            return None;
        }
        let (seal, rest) = content.split_at_checked(DIGITS)?;
        let body = rest.strip_prefix(b"\n")?;
        let digest =
            Sha256::new().chain_update(&self.secret).chain_update(body).chain_update(&self.secret).finalize();
        let expected: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        (seal == expected.as_bytes()).then_some(body)
    }

    /// Whether the journal keeps a message of the stream. Messages of other programs tell a recovery nothing, and any
    /// role that may connect could fill the history with them.
    pub fn admits(&self, prefix: &[u8], transaction: Option<u32>, content: &[u8]) -> bool {
        let known = [MARK, HEARTBEAT, SEQUENCES, DEFINITION, ROWS, ROLES, DIGESTS, REWIND];
        let is_ours = known.iter().any(|it| it.as_bytes() == prefix);
        let Some(xid) = transaction.filter(|_| is_ours) else { return false };
        let limit = if prefix == MARK.as_bytes() {
            HEADER_LIMIT + 8 * MARK_LIMIT
        } else if prefix == ROWS.as_bytes() {
            // A message of one row may be as long as the server permits.
            usize::MAX
        } else {
            MESSAGE_LIMIT + HEADER_LIMIT
        };
        content.len() <= limit && self.verified(prefix, xid, content).is_some()
    }

    /// The two keys that the source's triggers sign with: the secret, padded with zeros, with each byte XORed with
    /// 0x36 and with 0x5c (RFC 2104).
    ///
    /// # Panics
    /// If the secret is longer than a block of SHA-256; the secrets of histories have 64 bytes.
    pub fn halves(&self) -> ([u8; 64], [u8; 64]) {
        let mut block = [0; 64];
        block[..self.secret.len()].copy_from_slice(self.secret.as_bytes());
        (block.map(|byte| byte ^ 0x36), block.map(|byte| byte ^ 0x5c))
    }
}

/// The parts of a signed message, whose signature is not checked yet.
struct SignedMessage<'a> {
    digits: &'a [u8],
    transaction: &'a [u8],
    body: &'a [u8],
}

impl SignedMessage<'_> {
    fn parse(content: &[u8]) -> Option<SignedMessage<'_>> {
        let rest = content.strip_prefix(SIGNED_HEAD)?;
        let end = memchr::memchr(b'\n', &rest[..rest.len().min(HEADER_LIMIT - SIGNED_HEAD.len())])?;
        let (digits, transaction) = rest[..end].split_at_checked(DIGITS)?;
        Some(SignedMessage { digits, transaction: transaction.strip_prefix(b" ")?, body: &rest[end + 1..] })
    }
}

fn number(transaction: &[u8]) -> Option<u64> {
    std::str::from_utf8(transaction).ok()?.parse().ok()
}

/// Returns the number, with its epoch, of the transaction that wrote a message that the journal has kept; `None` if the
/// message has no signature.
pub fn transaction_of(content: &[u8]) -> Option<u64> {
    number(SignedMessage::parse(content)?.transaction)
}

/// Returns the body of a message that the journal has kept: the part after the signature, or the whole message if it
/// has none.
pub fn body_of(content: &[u8]) -> &[u8] {
    SignedMessage::parse(content).map_or(content, |message| message.body)
}

fn bytes_of_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digits = std::str::from_utf8(digits).ok()?;
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(messages: u32) -> MessageKey {
        MessageKey::new("secret", messages)
    }

    #[test]
    fn only_what_is_signed_in_this_transaction_under_this_prefix_is_ours() {
        let signed = key(SIGNED).sign(MARK, 7 << 32 | 3, b"{}");
        assert_eq!(key(SIGNED).verified(MARK.as_bytes(), 3, &signed), Some(&b"{}"[..]));
        assert_eq!(key(0).verified(MARK.as_bytes(), 3, &signed), Some(&b"{}"[..]));
        assert_eq!(key(SIGNED).verified(MARK.as_bytes(), 4, &signed), None);
        assert_eq!(key(SIGNED).verified(HEARTBEAT.as_bytes(), 3, &signed), None);
        assert_eq!(MessageKey::new("another", SIGNED).verified(MARK.as_bytes(), 3, &signed), None);
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert_eq!(key(SIGNED).verified(MARK.as_bytes(), 3, &changed), None, "byte {at}");
            assert_eq!(key(SIGNED).verified(MARK.as_bytes(), 3, &signed[..at]), None, "length {at}");
        }
    }

    #[test]
    fn the_halves_of_the_key_make_the_same_signature() {
        let (inner, outer) = key(SIGNED).halves();
        let within = Sha256::new().chain_update(inner).chain_update(b"backwhen.ddl\n3\n{}").finalize();
        let digest = Sha256::new().chain_update(outer).chain_update(within).finalize();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(key(SIGNED).sign(DEFINITION, 3, b"{}"), format!("2 {hex} 3\n{{}}").into_bytes());
    }

    #[test]
    fn older_histories_are_read_as_they_were() {
        // As PostgreSQL computes it: encode(sha256('secret' || '{}' || 'secret'), 'hex').
        let seal = "70e4560dc43d6b33";
        let digest = Sha256::digest(b"secret{}secret");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(hex.starts_with(seal));
        let sealed = format!("{hex}\n{{}}").into_bytes();
        assert_eq!(key(0).verified(DEFINITION.as_bytes(), 3, &sealed), Some(&b"{}"[..]));
        assert_eq!(key(SIGNED).verified(DEFINITION.as_bytes(), 3, &sealed), None);
        assert_eq!(MessageKey::new("", 0).verified(DEFINITION.as_bytes(), 3, &sealed), None);
        assert_eq!(key(0).verified(DEFINITION.as_bytes(), 3, b"{}"), None);
        assert_eq!(key(0).verified(MARK.as_bytes(), 3, b"{}"), Some(&b"{}"[..]));
        assert_eq!(key(0).verified(ROLES.as_bytes(), 3, b"{}"), None);
        assert_eq!(MessageKey::new("", 0).verified(ROLES.as_bytes(), 3, b"{}"), Some(&b"{}"[..]));
    }

    #[test]
    fn the_journal_takes_only_our_own_messages_within_bounds() {
        let key = key(SIGNED);
        let signed = |prefix: &str, body: &[u8]| key.sign(prefix, 3, body);
        assert!(key.admits(MARK.as_bytes(), Some(3), &signed(MARK, b"{}")));
        assert!(!key.admits(MARK.as_bytes(), None, &signed(MARK, b"{}")), "outside of a transaction");
        assert!(!key.admits(MARK.as_bytes(), Some(3), &signed(MARK, &[b'm'; 9 * MARK_LIMIT])));
        assert!(!key.admits(b"backwhen.other", Some(3), &signed("backwhen.other", b"{}")));
        assert!(!key.admits(b"somebody's", Some(3), b"{}"));
        assert!(key.admits(ROWS.as_bytes(), Some(3), &signed(ROWS, &vec![b'r'; MESSAGE_LIMIT + 999])));
        assert!(!key.admits(
            DEFINITION.as_bytes(),
            Some(3),
            &signed(DEFINITION, &vec![b'r'; MESSAGE_LIMIT + HEADER_LIMIT])
        ));
    }

    #[test]
    fn the_body_stands_behind_a_signature() {
        let signed = key(SIGNED).sign(MARK, 7 << 32 | 3, b"{}");
        assert_eq!((body_of(&signed), transaction_of(&signed)), (&b"{}"[..], Some(7 << 32 | 3)));
        assert_eq!(transaction_of(b"{}"), None);
        assert_eq!(body_of(b"{}"), b"{}");
        assert_eq!(body_of(b"2 without an end"), b"2 without an end");
    }
}
