//! `backwhen key`

use std::path::Path;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::secrecy::parse_recipient;
use super::{Surroundings, ui};
use crate::ambient;
use crate::error::{Error, Result};
use crate::history::HistoryPlace;
use crate::store::Store;
use crate::store::sealed::{self, Identities, IdentitySource, OpenedKey, Recipient};

/// List, add or remove those who can open an encrypted copy, exchange the own identity, or check that it opens the copy
///
/// The data is not touched: each recipient has the key of the copy in an object of its own. Whoever has opened the copy once
/// may have kept its key, so removing a recipient does not shut out who has copied the key; for that, make a new copy.
#[derive(Args, Clone)]
pub struct KeyCommand {
    /// Show for whom the copy is encrypted, which needs no identity; let a recipient open it, or say of the key for the own
    /// identity that it is right; take a recipient's key away; put a new identity in the place of the own one; open the copy
    #[arg(value_enum)]
    action: KeyAction,
    /// With add and remove: a public key (age1...); with rotate: the file of the new identity, which is made if it is not
    /// there
    #[arg(value_name = "KEY|FILE")]
    subject: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeyAction {
    List,
    Add,
    Remove,
    Rotate,
    Check,
}

#[derive(Serialize)]
struct KeyReport {
    place: String,
    recipients: Vec<String>,
    /// A public name of the copy's key, the same for all recipients; `None` if no identity was named.
    key: Option<String>,
    /// The identity that opens the copy.
    opened_by: Option<String>,
    /// Who says that the key is the copy's own.
    vouched_by: Option<String>,
    /// A sentence on what the command has done.
    #[serde(skip)]
    done: String,
}

impl KeyCommand {
    pub async fn run(self, at: &Surroundings) -> Result<()> {
        let (place, source) = (at.history_place()?, at.identities.clone());
        let key = at.key()?;
        let work = ambient::blocking("working on keys", move || {
            let store = place.outer_store()?;
            let report = self.act(&place, &*store, source)?;
            if self.action == KeyAction::Check {
                place.history(key.as_ref())?;
            }
            Ok(report)
        });
        let shown = work.await?;
        at.ui.result(&shown, || describe(&shown))
    }

    fn act(
        &self,
        place: &HistoryPlace,
        store: &dyn Store,
        source: Option<IdentitySource>,
    ) -> Result<KeyReport> {
        let name = place.to_string();
        if !sealed::is_encrypted(store)? {
            return Err(Error::refused(format!(
                "{name} is not an encrypted copy, and so has no keys; make one with: backwhen copy --encrypt --to PLACE"
            )));
        }
        let opened = match (&source, self.action) {
            (None, KeyAction::List) => None,
            (None, _) => return Err(sealed::needs_identity(store, &name)),
            (Some(source), KeyAction::List) => sealed::find(store, &source.read()?, &name).ok(),
            (Some(source), _) => Some(sealed::find(store, &source.read()?, &name)?),
        };
        let (opened, done) = match opened {
            None => (None, String::new()),
            Some(opened) => {
                let (opened, done) = self.change(store, opened, &name)?;
                (Some(opened), done)
            }
        };
        Ok(KeyReport {
            recipients: sealed::recipients(store)?.iter().map(Recipient::to_string).collect(),
            key: opened.as_ref().map(|opened| opened.key.id()),
            opened_by: opened.as_ref().map(|opened| opened.identity.recipient().to_string()),
            vouched_by: opened.as_ref().map(|opened| opened.vouched_by.to_string()),
            place: name,
            done,
        })
    }

    /// Does what is asked, and returns the key as the identity finds it afterwards.
    fn change(&self, store: &dyn Store, opened: OpenedKey, place: &str) -> Result<(OpenedKey, String)> {
        let own = opened.identity.clone();
        // A key that may be an attacker's is passed on to nobody.
        let takes_it_on = self.action == KeyAction::Add && self.recipient()? == own.recipient();
        if matches!(self.action, KeyAction::Add | KeyAction::Rotate) && !takes_it_on {
            sealed::check_is_own(&opened, place)?;
        }
        let done = match self.action {
            KeyAction::List => return Ok((opened, String::new())),
            KeyAction::Check => "the identity opens the copy, and its history.json was read".to_owned(),
            KeyAction::Add => {
                let to = self.recipient()?;
                if sealed::add(store, &opened, &own, &to)? {
                    format!("{to} can open the copy")
                } else {
                    format!("{to} could open the copy before")
                }
            }
            KeyAction::Remove => {
                let whose = self.recipient()?;
                sealed::remove(store, &whose, place)?;
                format!(
                    "{whose} finds no key in the copy any more; whoever has kept the key still can read it"
                )
            }
            KeyAction::Rotate => return rotate(store, opened, self.subject()?, place),
        };
        if takes_it_on {
            let vouched_by = own.recipient();
            return Ok((OpenedKey { vouched_by, ..opened }, done));
        }
        Ok((opened, done))
    }

    fn subject(&self) -> Result<&str> {
        self.subject.as_deref().ok_or_else(|| {
            Error::usage(
                "name whose key it is about: backwhen key add|remove age1..., or backwhen key rotate FILE",
            )
        })
    }

    fn recipient(&self) -> Result<Recipient> {
        let text = self.subject()?;
        parse_recipient(text).map_err(|advice| Error::usage(format!("{text} is no recipient: {advice}")))
    }
}

/// Wraps the key for the new identity, which vouches for it, and takes the old identity's away.
fn rotate(store: &dyn Store, opened: OpenedKey, file: &str, place: &str) -> Result<(OpenedKey, String)> {
    let source = IdentitySource::File(Path::new(file).to_owned());
    let (identities, _): (Identities, bool) = source.read_or_make()?;
    let (new, old) = (identities.first().clone(), opened.identity.recipient());
    if new.recipient() == old {
        return Err(Error::usage(format!(
            "{file} holds the identity that opens the copy already; name a new file"
        )));
    }
    sealed::add(store, &opened, &new, &new.recipient())?;
    sealed::remove(store, &old, place)?;
    let done =
        format!("from now on name {file} with --identity-file; {old} finds no key in the copy any more");
    Ok((OpenedKey { vouched_by: new.recipient(), identity: new, ..opened }, done))
}

fn describe(shown: &KeyReport) -> String {
    let mut text = String::new();
    for recipient in &shown.recipients {
        let own = if shown.opened_by.as_ref() == Some(recipient) { "  (your identity)" } else { "" };
        text.push_str(&format!("recipient  {recipient}{own}\n"));
    }
    if let (Some(key), Some(by)) = (&shown.key, &shown.vouched_by) {
        text.push_str(&format!("key        {key}, vouched for by {by}\n"));
    }
    text.push_str(&shown.done);
    if shown.done.is_empty() {
        text.push_str(&format!(
            "{} can be opened by {} recipient(s)",
            ui::printable(&shown.place),
            shown.recipients.len()
        ));
    }
    text
}
