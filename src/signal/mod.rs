#![doc = include_str!("FORMAT.md")]

pub mod key;
mod message;
pub mod retold;
pub mod sql;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::schema::quote_ident;
use crate::model::schema_digests::DigestChanges;
use crate::model::{Lsn, PgTime, SequenceState, Table, TableFacts};
use key::MessageKey;
pub use message::COMMON_TYPES;
use retold::Retold;

/// The prefix of messages that name a moment: a [`MarkSignal`].
pub const MARK: &str = "backwhen.mark";
/// The prefix of heartbeats, which tie the server's clock to its WAL: a [`HeartbeatSignal`].
pub const HEARTBEAT: &str = "backwhen.heartbeat";
/// The prefix of messages with a [`SequenceSample`].
pub const SEQUENCES: &str = "backwhen.sequences";
/// The prefix of messages about a schema change: a [`DefinitionSignal`].
pub const DEFINITION: &str = "backwhen.ddl";
/// The prefix of messages with rows that the stream does not carry: a [`RowsSignal`].
pub const ROWS: &str = "backwhen.rows";
/// The prefix of messages with a [`RolesSignal`].
pub const ROLES: &str = "backwhen.roles";
/// The prefix of messages with a [`DigestsSignal`].
pub const DIGESTS: &str = "backwhen.digests";
/// The prefix of messages with a [`RewindSignal`].
pub const REWIND: &str = "backwhen.rewind";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkSignal {
    pub name: String,
}

/// Says that this transaction is a rewind or an undo by backwhen, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewindSignal {
    /// The position to which rows were put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Lsn>,
    /// The numbers of the transactions that were taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undone: Vec<u64>,
}

/// The content of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatSignal {
    /// The digest of the source's definitions, read before this heartbeat was written.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// Says that the server's roles have changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolesSignal {
    /// A digest of the roles as the catalogs had them, read before the list of roles.
    pub digest: String,
    /// The digest of the file `schemas/DIGEST.sql` that lists the roles. That file is in the history before this
    /// message is written. So a role that can write messages but not into the history can only name a list that once
    /// was true.
    pub globals: String,
}

impl RolesSignal {
    /// Reads a message of transaction `xid`; `None` if backwhen did not write it.
    pub fn read(key: &MessageKey, xid: u32, content: &[u8]) -> Option<RolesSignal> {
        serde_json::from_slice(key.verified(ROLES.as_bytes(), xid, content)?).ok()
    }
}

/// Digests of the source's definitions: what is not as in the set of digests before.
///
/// The digests show exactly the transactions that `snapshot` shows, wherever the message lies in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestsSignal {
    /// The transactions that the digests show, as [`Snapshot::parse`](crate::model::Snapshot::parse) reads them.
    pub snapshot: String,
    /// The digest of the catalogs' definitions, as in the heartbeats.
    pub fingerprint: String,
    /// The name of the set of digests that this one follows: a checkpoint's, or that of an earlier message.
    pub follows: String,
    pub changes: DigestChanges,
}

impl DigestsSignal {
    /// Reads a message of transaction `xid`; `None` if backwhen did not write it.
    pub fn read(key: &MessageKey, xid: u32, content: &[u8]) -> Option<DigestsSignal> {
        serde_json::from_slice(key.verified(DIGESTS.as_bytes(), xid, content)?).ok()
    }
}

/// The sequences that changed since the previous sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSample {
    /// The sequences were read no earlier than this position.
    pub sampled: Lsn,
    /// Whether the sample is complete. Then a sequence that is missing from it no longer exists.
    #[serde(default)]
    pub complete: bool,
    pub sequences: Vec<SequenceState>,
    /// The state of each sequence, by oid.
    #[serde(default)]
    pub dropped: Vec<u32>,
}

/// How one statement of the application changed the database's schema, as the event triggers saw it when the
/// statement ended. The signal lies in the statement's transaction, between the rows before and after the statement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionSignal {
    /// The server's name of the command, like `ALTER TABLE`.
    pub tag: String,
    pub statement: Statement,
    /// The objects that the statement made or changed, as far as the server lists them; the objects of an extension's
    /// script are left out.
    #[serde(default)]
    pub objects: Vec<DefinedObject>,
    /// The tables that the statement made or may have changed, as they stood just after it.
    #[serde(default)]
    pub tables: Vec<DefinedTable>,
    /// The oids of the relations that the statement dropped.
    #[serde(default)]
    pub dropped: Vec<u32>,
    /// The bare names of the objects of every kind that the statement itself named and dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_names: Vec<String>,
    /// The relations among `dropped`, with their schemas, quoted as SQL needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_identities: Vec<(u32, String)>,
    /// Indexes, sequences and other objects that moved into another schema, or whose schema was renamed: the relation
    /// with which they moved (0 for everything in the schema), their oids and bare names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<(u32, u32, String)>,
    /// The values that read differently from here on, although no row was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retold: Option<Retold>,
    /// What the triggers could not do, in the server's words.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// The tag of a message that the triggers wrote but that this version cannot read.
const UNREADABLE: &str = "a statement that cannot be read";

impl DefinitionSignal {
    /// Reads a message of the source's triggers in transaction `xid`. Returns `None` if the triggers did not write
    /// it, since anybody may write a message. If they did but it cannot be read, the signal's `trouble` says so; this
    /// affects no other statement.
    ///
    /// `earlier` holds the messages before this one in its transaction, the latest first: a long text is sent only
    /// once.
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
        // Where the caller could not be trusted, older versions sent neither text nor role.
        if statement.query.is_empty()
            && !statement.role.is_empty()
            && let Some(first) = earlier.find(same)
        {
            statement.query = Arc::clone(&first.statement.query);
        }
        Some(signal)
    }

    /// Returns the table as it is if the statement made it, or a table above it, a partition no longer; otherwise `None`.
    ///
    /// An ALTER TABLE of a partitioned table describes all its partitions, but not those that it detaches. After the last
    /// one no description is left, so that one goes on to count as a partition.
    pub fn detaches(&self, table: &Table) -> Option<Table> {
        let is_described = || self.tables.iter().any(|it| it.facts.oid == table.oid);
        let is_altered = |above: &(String, String)| {
            let names = |it: &DefinedObject| it.tag == "ALTER TABLE" && is_identity(&it.identity, above);
            self.objects.iter().any(names)
                && self.tables.iter().any(|it| it.facts.partition_of.contains(above))
        };
        let left = table.partition_of.iter().position(is_altered).filter(|_| !is_described())?;
        let mut table = table.clone();
        table.partition_of.truncate(left);
        Some(table)
    }

    /// Whether this signal stands for a message that could not be read.
    pub fn is_unreadable(&self) -> bool {
        self.tag == UNREADABLE
    }
}

/// Whether a text is `schema.name`, each with or without quotes.
fn is_identity(text: &str, (schema, name): &(String, String)) -> bool {
    let rest_of = |text: &str, name: &str| -> Option<String> {
        text.strip_prefix(name).or_else(|| text.strip_prefix(&quote_ident(name))).map(str::to_owned)
    };
    let rest = rest_of(text, schema).and_then(|rest| rest_of(rest.strip_prefix('.')?, name));
    rest.is_some_and(|rest| rest.is_empty())
}

/// A schema change with the transaction that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionChange {
    /// The transaction's commit LSN, and its end LSN.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    /// The transaction's commit time.
    pub time: PgTime,
    /// The transaction's number, with its epoch if the message is signed.
    pub xid: u64,
    pub signal: DefinitionSignal,
}

/// Where a schema change came from, and the settings under which its statement must be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The text that the client sent: perhaps several statements, or a call of a function that ran this one. The
    /// message leaves the text out if it is long and an earlier message of this transaction, with the same `started`
    /// and `process`, already has it ([`DefinitionSignal::read`] fills it in). The text is also empty if `role` is,
    /// because the caller could not be trusted. All signals of one text share it: there may be hundreds, and the text
    /// may have megabytes.
    pub query: Arc<str>,
    /// The server's context of the command, innermost first; empty if the client sent the command itself.
    #[serde(default)]
    pub context: String,
    /// When the client's message arrived, in microseconds since 1970. Together with the process, it tells apart two
    /// client messages with the same text.
    pub started: i64,
    pub process: i32,
    /// The role that ran the command (`current_user`), and the role that logged in (`session_user`).
    pub role: String,
    pub login: String,
    /// `search_path` and other settings that decide what a statement means.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedObject {
    /// The catalog that lists the object: by name such as `pg_class` in messages of version 1, by its oid from
    /// version 2 on.
    pub catalog: String,
    pub oid: u32,
    /// The command to which the server attributes the object, like `CREATE INDEX` within a `CREATE TABLE`.
    pub tag: String,
    /// The kind of object, like `table`, `index`, `table constraint`.
    pub kind: String,
    /// The object's name with its schema, quoted as SQL needs it.
    #[serde(default)]
    pub identity: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinedTable {
    #[serde(flatten)]
    pub facts: TableFacts,
    /// Whether the table's changes are in the stream from here on.
    #[serde(default)]
    pub published: bool,
    /// Whether all of the table's rows follow as [`RowsSignal`]s, since the statement gave it rows or values that are
    /// not in the stream.
    #[serde(default)]
    pub image: bool,
}

/// Some of a table's rows, as lines of COPY text with all stored columns in `attnum` order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsSignal<'a> {
    pub table: u32,
    /// Whether these are the table's first rows: they replace everything that the table held before.
    pub first: bool,
    pub lines: &'a [u8],
}

impl<'a> RowsSignal<'a> {
    /// Parses the body: `OID FIRST\n` with FIRST as `t` or `f`, then the lines.
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
    fn digests_are_read_as_they_were_written() {
        let body = include_bytes!("fixtures/digests.json");
        let signal = DigestsSignal::read(&key(), 3, &key().sign(DIGESTS, 3, body)).unwrap();
        assert!(crate::model::Snapshot::parse(&signal.snapshot).unwrap().shows(745));
        assert_eq!(signal.changes["view public.gone"], None);
        assert_eq!(signal.changes["table public.\"Ö\""].as_ref().unwrap().len(), 3);
        assert_eq!(
            serde_json::to_value(&signal).unwrap(),
            serde_json::from_slice::<serde_json::Value>(body).unwrap()
        );
        assert_eq!(DigestsSignal::read(&key(), 4, &key().sign(DIGESTS, 3, body)), None);
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
