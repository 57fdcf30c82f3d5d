//! Decides which logical messages of the stream the journal takes.

use super::peek::{PeekedMessage, peek};
use crate::signal::key::MessageKey;

/// Looks at the stream's messages in their order. Any role that may connect to the source can write logical messages, as
/// many and as long as it likes; the journal takes only the messages that backwhen wrote.
#[derive(Debug)]
pub struct Admission {
    key: MessageKey,
    /// The transaction whose messages are coming in.
    transaction: Option<u32>,
}

impl Admission {
    pub fn new(key: MessageKey) -> Admission {
        Admission { key, transaction: None }
    }

    /// Whether to take this pgoutput message.
    pub fn admits(&mut self, message: &[u8]) -> bool {
        let Some(b'B' | b'C' | b'M') = message.first() else { return true };
        match peek(message) {
            Some(PeekedMessage::Begin { xid, .. }) => self.transaction = Some(xid),
            Some(PeekedMessage::Commit { .. }) => self.transaction = None,
            Some(PeekedMessage::Logical { transactional, prefix, content, .. }) => {
                return self.key.admits(prefix, self.transaction.filter(|_| transactional), content);
            }
            // The block builder refuses such a message, and says why.
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::MARK;
    use crate::signal::key::SIGNED;

    fn logical(transactional: bool, prefix: &str, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [b"M", &[u8::from(transactional)][..], &[0; 8], prefix.as_bytes(), b"\0", &length, content].concat()
    }

    #[test]
    fn only_signed_messages_of_their_own_transaction_are_taken() {
        let key = MessageKey::new("secret", SIGNED);
        let signed = key.sign(MARK, 7, b"{}");
        let mut admission = Admission::new(key);
        let begin = |xid: u32| [&b"B"[..], &[0; 16], &xid.to_be_bytes()].concat();
        let commit = [&b"C"[..], &[0; 25]].concat();
        assert!(!admission.admits(&logical(true, MARK, &signed)), "before any transaction");
        assert!(admission.admits(&begin(7)));
        assert!(admission.admits(&logical(true, MARK, &signed)));
        assert!(!admission.admits(&logical(false, MARK, &signed)));
        assert!(!admission.admits(&logical(true, MARK, b"{}")));
        assert!(!admission.admits(&logical(true, "another's", b"")));
        assert!(admission.admits(b"I\0\0\0\x05") && admission.admits(&commit) && admission.admits(&begin(8)));
        assert!(!admission.admits(&logical(true, MARK, &signed)), "copied into another transaction");
    }
}
