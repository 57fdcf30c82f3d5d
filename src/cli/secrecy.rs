//! The options that say how copies are encrypted, and with what they are opened.

use std::path::PathBuf;

use clap::Args;

use super::EVERYWHERE;
use crate::error::Result;
use crate::store::sealed::{self, IdentitySource, NewCopy, Recipient, Secrecy};

/// The options that name the identity with which encrypted copies are opened.
#[derive(Args)]
pub(super) struct IdentityOptions {
    /// The file with the identity that opens an encrypted copy, as `age-keygen` writes it, and which no other user may
    /// read; the first encrypted copy makes it if it is not there
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_IDENTITY_FILE", value_name = "FILE", conflicts_with = "identity_command")]
    identity_file: Option<PathBuf>,
    /// A program that prints what would be in the identity file, such as 'age -d identity.age' or one that asks a vault;
    /// it is run by the shell, once for each command
    #[arg(long, global = true, help_heading = EVERYWHERE, env = "BACKWHEN_IDENTITY_COMMAND", value_name = "PROGRAM")]
    identity_command: Option<String>,
}

impl IdentityOptions {
    pub(super) fn source(self) -> Option<IdentitySource> {
        match (self.identity_file, self.identity_command) {
            (Some(file), _) => Some(IdentitySource::File(file)),
            (None, command) => command.map(IdentitySource::of_command),
        }
    }
}

/// The options that say whether a new copy is encrypted, and for whom.
#[derive(Args, Clone)]
pub(super) struct EncryptionOptions {
    /// Encrypt the copy, if it is not there yet; this is the default for an object store if an identity is named
    #[arg(long, env = "BACKWHEN_ENCRYPT", conflicts_with = "no_encrypt")]
    encrypt: bool,
    /// Make a copy that everybody who can read the bucket can read, and go on with one, although an identity is named
    #[arg(long, env = "BACKWHEN_NO_ENCRYPT")]
    no_encrypt: bool,
    /// Encrypt the copy, and also let the holder of this public key (age1...) open it; may be given several times
    #[arg(long, env = "BACKWHEN_RECIPIENT", value_name = "KEY", value_delimiter = ',', value_parser = parse_recipient, conflicts_with = "no_encrypt")]
    recipient: Vec<Recipient>,
}

/// The options that say whether a new history is encrypted, and for whom.
#[derive(Args, Clone)]
pub(super) struct NewHistoryOptions {
    /// Encrypt the history: nothing that capture writes can be read without the identity, which every command needs from then
    /// on
    #[arg(long, env = "BACKWHEN_ENCRYPT")]
    encrypt: bool,
    /// Encrypt the history, and also let the holder of this public key (age1...) open it; may be given several times
    #[arg(long, env = "BACKWHEN_RECIPIENT", value_name = "KEY", value_delimiter = ',', value_parser = parse_recipient)]
    recipient: Vec<Recipient>,
}

impl NewHistoryOptions {
    /// Who names a recipient means an encrypted history.
    pub(super) fn wants_encryption(&self) -> bool {
        self.encrypt || !self.recipient.is_empty()
    }

    /// # Errors
    /// `Usage` if the history is to be encrypted, and no identity is named.
    pub(super) fn secrecy(&self, identities: Option<IdentitySource>) -> Result<Secrecy> {
        if self.wants_encryption() && identities.is_none() {
            return Err(sealed::wants_identity_for_history());
        }
        Ok(Secrecy::new(identities, NewCopy::default(), self.recipient.clone()))
    }
}

pub(super) fn parse_recipient(text: &str) -> Result<Recipient, String> {
    Recipient::parse(text).ok_or_else(|| {
        "write a public key as `age-keygen` shows it, age1 and 58 more letters and digits".to_owned()
    })
}

impl EncryptionOptions {
    /// # Errors
    /// `Usage` if an encrypted copy is wanted, or others are to open it, and no identity is named.
    pub(super) fn secrecy(&self, identities: Option<IdentitySource>) -> Result<Secrecy> {
        if identities.is_none() && (self.encrypt || !self.recipient.is_empty()) {
            return Err(sealed::wants_identity());
        }
        // Who names a recipient means an encrypted copy.
        let new_copy = match (self.encrypt || !self.recipient.is_empty(), self.no_encrypt) {
            (true, _) => NewCopy::Encrypted,
            (false, true) => NewCopy::Plain,
            (false, false) => NewCopy::ByIdentity,
        };
        Ok(Secrecy::new(identities, new_copy, self.recipient.clone()))
    }
}
