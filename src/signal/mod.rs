#![doc = include_str!("FORMAT.md")]

pub mod key;
mod message;
pub mod retold;
pub mod sql;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Lsn, PgTime, SequenceState, TableFacts};
use key::MessageKey;
pub use message::COMMON_TYPES;
use retold::Retold;

/// Prefix of a named moment: a [`MarkSignal`].
pub const MARK: &str = "backwhen.mark";
/// Prefix of a sign of life, which ties the server's clock to its log: a [`HeartbeatSignal`].
pub const HEARTBEAT: &str = "backwhen.heartbeat";
/// Prefix of a [`SequenceSample`].
pub const SEQUENCES: &str = "backwhen.sequences";
/// Prefix of a statement that changed definitions: a [`DefinitionSignal`].
pub const DEFINITION: &str = "backwhen.ddl";
/// Prefix of rows that the stream does not carry: a [`RowsSignal`].
pub const ROWS: &str = "backwhen.rows";
/// Prefix of a [`RolesSignal`].
pub const ROLES: &str = "backwhen.roles";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkSignal {
    pub name: String,
}

/// The content of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatSignal {
    /// The digest of the source's definitions, read before this was written.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// The server's roles are others than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolesSignal {
    /// A digest of them as the catalogs had them, read before the list.
    pub digest: String,
    /// `schemas/DIGEST.sql` has them. It is in the history before this is written, so that whoever can
    /// write messages but not into the history can name nothing but what the roles once were.
    pub globals: String,
}

impl RolesSignal {
    /// Reads a message of transaction `xid`; `None` if it is none of ours.
    pub fn read(key: &MessageKey, xid: u32, content: &[u8]) -> Option<RolesSignal> {
        serde_json::from_slice(key.verified(ROLES.as_bytes(), xid, content)?).ok()
    }
}

/// Sequences that changed since the sample before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSample {
    /// They were read no earlier than this position.
    pub sampled: Lsn,
    /// All sequences are here, and those that are not are gone.
    #[serde(default)]
    pub complete: bool,
    pub sequences: Vec<SequenceState>,
    /// By oid.
    #[serde(default)]
    pub dropped: Vec<u32>,
}

/// What one statement of the application changed of the database's definitions, as the event
/// triggers saw it when it ended. It stands in its transaction, between the rows before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionSignal {
    /// As the server names the command, like `ALTER TABLE`.
    pub tag: String,
    pub statement: Statement,
    /// What it made or changed, as far as the server says; nothing of what an extension's script did.
    #[serde(default)]
    pub objects: Vec<DefinedObject>,
    /// The tables that it made or may have changed, as they stood just after it.
    #[serde(default)]
    pub tables: Vec<DefinedTable>,
    /// By oid: the relations that it dropped.
    #[serde(default)]
    pub dropped: Vec<u32>,
    /// The bare names of what the statement itself named and dropped, of every kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_names: Vec<String>,
    /// The relations among `dropped`, with their schemas, quoted as SQL needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_identities: Vec<(u32, String)>,
    /// Indexes, sequences and the like that went into another schema, or whose schema has another name: the relation
    /// with which they went (0 for all that is in the schema), their oids and bare names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<(u32, u32, String)>,
    /// The values that read otherwise from here on, although no row was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retold: Option<Retold>,
    /// What the triggers could not do, in the server's words.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// The tag of a message that the triggers wrote and that cannot be read here.
const UNREADABLE: &str = "a statement that cannot be read";

impl DefinitionSignal {
    /// Reads a message of the source's triggers in transaction `xid`. `None` if it is none of ours: anybody may write
    /// one. One of ours that cannot be read says so as `trouble`; it costs no more than its own statement.
    ///
    /// `earlier` are those before it in its transaction, the latest first: a long text is sent only once.
    pub fn read<'a>(
        key: &MessageKey,
        xid: u32,
        content: &[u8],
        mut earlier: impl Iterator<Item = &'a DefinitionSignal>,
    ) -> Option<DefinitionSignal> {
        let body = key.verified(DEFINITION.as_bytes(), xid, content)?;
        let mut signal = message::decode(body).unwrap_or_else(|error| DefinitionSignal {
            tag: UNREADABLE.into(),
            trouble: Some(format!("the triggers' message cannot be read: {error}")),
            ..DefinitionSignal::default()
        });
        let statement = &mut signal.statement;
        let same = |it: &&DefinitionSignal| {
            let it = &it.statement;
            (it.process, it.started) == (statement.process, statement.started) && !it.query.is_empty()
        };
        // Where the caller could not be trusted, older versions told neither text nor role.
        if statement.query.is_empty()
            && !statement.role.is_empty()
            && let Some(first) = earlier.find(same)
        {
            statement.query = Arc::clone(&first.statement.query);
        }
        Some(signal)
    }

    /// Whether this stands for a message that could not be read.
    pub fn is_unreadable(&self) -> bool {
        self.tag == UNREADABLE
    }
}

/// A change of definitions with the transaction that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionChange {
    /// The transaction's commit LSN, and its end.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    /// Its commit time.
    pub time: PgTime,
    pub xid: u32,
    pub signal: DefinitionSignal,
}

/// Where a change of definitions came from, and under which settings it must be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What the client sent: perhaps several statements, or a call of a function that ran this one.
    /// In the message, empty for a long text that an earlier one of this transaction,
    /// of the same `started` and `process`, already has ([`DefinitionSignal::read`] fills it in); and if
    /// `role` is empty too, for want of trust in the caller.
    /// One text for all that were sent with it: there may be hundreds, and each of megabytes.
    pub query: Arc<str>,
    /// The server's context of the command, innermost first; empty if the client sent it itself.
    #[serde(default)]
    pub context: String,
    /// When the client's message came, in microseconds since 1970: with the process, it tells apart
    /// two messages of the same text.
    pub started: i64,
    pub process: i32,
    /// The role that ran it (`current_user`), and the one that logged in (`session_user`).
    pub role: String,
    pub login: String,
    /// `search_path` and other settings that decide what a statement means.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedObject {
    /// The catalog that it is in: `pg_class` in messages of version 1, its oid from version 2 on.
    pub catalog: String,
    pub oid: u32,
    /// The command that the server credits with it, like `CREATE INDEX` within a `CREATE TABLE`.
    pub tag: String,
    /// Like `table`, `index`, `table constraint`.
    pub kind: String,
    /// Quoted as SQL needs it, with its schema.
    #[serde(default)]
    pub identity: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedTable {
    #[serde(flatten)]
    pub facts: TableFacts,
    /// From here on its changes are in the stream.
    #[serde(default)]
    pub published: bool,
    /// All its rows follow as [`RowsSignal`]s, since the statement gave it rows or values that are
    /// not in the stream.
    #[serde(default)]
    pub image: bool,
}

/// Some of a table's rows, as lines of COPY text with all stored columns in `attnum` order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsSignal<'a> {
    pub table: u32,
    /// These are the first: what the table held before does not count any more.
    pub first: bool,
    pub lines: &'a [u8],
}

impl<'a> RowsSignal<'a> {
    /// `OID FIRST\n` with FIRST as `t` or `f`, then the lines.
    pub fn decode(bytes: &'a [u8]) -> Option<RowsSignal<'a>> {
        let end = memchr::memchr(b'\n', bytes)?;
        let (table, first) = std::str::from_utf8(&bytes[..end]).ok()?.split_once(' ')?;
        let first = match first {
            "t" => true,
            "f" => false,
            _ => return None,
        };
        Some(RowsSignal { table: table.parse().ok()?, first, lines: &bytes[end + 1..] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MessageKey {
        MessageKey::new("secret", super::key::SIGNED)
    }

    #[test]
    fn roles_are_believed_if_they_are_signed() {
        let signal = RolesSignal { digest: "1b".into(), globals: "0a".into() };
        let body = serde_json::to_vec(&signal).unwrap();
        assert_eq!(RolesSignal::read(&key(), 3, &key().sign(ROLES, 3, &body)), Some(signal.clone()));
        assert_eq!(RolesSignal::read(&key(), 3, &body), None);
        assert_eq!(RolesSignal::read(&MessageKey::new("", 0), 3, &body), Some(signal));
    }

    #[test]
    fn a_message_of_ours_that_cannot_be_read_says_so() {
        for body in [&b"{\"tag\":,}"[..], b"", b"[3]", b"\xff", b"[2,[],1,2,[],[],{}]"] {
            let content = key().sign(DEFINITION, 3, body);
            let signal = DefinitionSignal::read(&key(), 3, &content, std::iter::empty()).unwrap();
            assert!(signal.trouble.unwrap().contains("cannot be read"));
            assert_eq!(signal.tag, UNREADABLE);
        }
    }

    #[test]
    fn a_long_text_that_is_sent_once_is_every_signals_own() {
        let message = |started: i64, query: &str, role: &str| {
            let statement =
                Statement { started, query: query.into(), role: role.into(), ..Statement::default() };
            let signal = DefinitionSignal { statement, ..DefinitionSignal::default() };
            key().sign(DEFINITION, 3, &serde_json::to_vec(&signal).unwrap())
        };
        let mut read: Vec<DefinitionSignal> = Vec::new();
        for (started, query, role) in [
            (1, "long", "app"),
            (1, "", "app"),
            (2, "other", "app"),
            (1, "", "app"),
            (1, "", ""),
            (3, "", "app"),
        ] {
            let content = message(started, query, role);
            let signal = DefinitionSignal::read(&key(), 3, &content, read.iter().rev()).unwrap();
            read.push(signal);
        }
        let queries: Vec<_> = read.iter().map(|signal| &*signal.statement.query).collect();
        assert_eq!(queries, ["long", "long", "other", "long", "", ""]);
    }

    #[test]
    fn rows_come_with_their_table() {
        let rows = RowsSignal::decode(b"16400 t\n1\ta\n2\tb\n").unwrap();
        assert_eq!((rows.table, rows.first, rows.lines), (16400, true, &b"1\ta\n2\tb\n"[..]));
        assert_eq!(RowsSignal::decode(b"16400 x\n"), None);
        assert_eq!(RowsSignal::decode(b"16400 t"), None);
    }
}
