//! The form of encrypted objects that a reader without the key meets first: `history.json` and `copy.json`.
//!
//! They are JSON with a format number that no earlier version knows, so that an earlier backwhen says that it must be
//! updated, and this one that an identity is wanted.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// The format number of `history.json` in an encrypted copy.
pub const ENCRYPTED_FORMAT: u32 = 4;

const BEFORE: &str = "{\n  \"format\": 4,\n  \"encrypted\": \"";
const AFTER: &str = "\"\n}\n";

pub(super) fn close(sealed: &[u8]) -> Vec<u8> {
    format!("{BEFORE}{}{AFTER}", STANDARD_NO_PAD.encode(sealed)).into_bytes()
}

/// The sealed bytes in an envelope; `None` if it is no envelope.
pub(super) fn open(envelope: &[u8]) -> Option<Vec<u8>> {
    let text = envelope.strip_prefix(BEFORE.as_bytes())?.strip_suffix(AFTER.as_bytes())?;
    STANDARD_NO_PAD.decode(text).ok()
}

/// How many sealed bytes there are in an envelope of `size` bytes.
pub(super) fn sealed_size(size: u64) -> u64 {
    size.saturating_sub((BEFORE.len() + AFTER.len()) as u64) * 3 / 4
}

/// Whether an object is the envelope of an encrypted one.
pub fn is_envelope(bytes: &[u8]) -> bool {
    bytes.starts_with(BEFORE.as_bytes())
}
