//! What was told since the last look, read from the history's own slot.

use std::collections::BTreeMap;

use backwhen::codec::pgoutput;
use backwhen::model::Message;
use backwhen::signal::key::MessageKey;
use backwhen::signal::{self, DefinedTable, DefinitionSignal, RowsSignal};

use crate::support::{Backwhen, Server};

/// A history of an empty database; no capture reads its slot.
pub struct Source {
    pub backwhen: Backwhen,
    key: MessageKey,
    slot: String,
}

/// In the order of the log.
#[derive(Debug, Default)]
pub struct Told {
    pub signals: Vec<DefinitionSignal>,
    /// The lines of a table's last image.
    pub rows: BTreeMap<u32, Vec<u8>>,
    pub inserts: usize,
    /// Of these, the ones of which the last signal before them says other columns.
    pub misplaced: usize,
    pub unsigned: usize,
}

impl Source {
    pub fn new(server: &Server) -> Source {
        Source::of(server, &server.fresh_database("ddl"), &[])
    }

    pub fn of(server: &Server, database: &str, arguments: &[&str]) -> Source {
        let backwhen = Backwhen::new(server, database);
        backwhen.ok(&[&["init", "--source", &backwhen.source()], arguments].concat());
        let identity = std::fs::read(backwhen.history().join("history.json")).unwrap();
        let identity: backwhen::history::Identity = serde_json::from_slice(&identity).unwrap();
        Source { backwhen, slot: identity.slot(), key: identity.message_key() }
    }

    pub fn slot(&self) -> &str {
        &self.slot
    }

    pub fn psql(&self, sql: &str) -> String {
        self.backwhen.server().psql(self.backwhen.database(), sql)
    }

    /// Runs the statements, and says what came of them.
    pub fn run(&self, sql: &str) -> Told {
        self.psql(sql);
        self.told()
    }

    pub fn told(&self) -> Told {
        let slot = &self.slot;
        let query = format!(
            "SET bytea_output = hex; SET client_encoding = 'SQL_ASCII'; \
             SELECT data FROM pg_logical_slot_get_binary_changes('{slot}', NULL, NULL, 'proto_version', '1', \
                    'publication_names', (SELECT string_agg(pubname, ',') FROM pg_publication WHERE pubname ~ '^{slot}'),
                    'messages', 'true')"
        );
        let mut told = Told::default();
        let mut xid = 0;
        for line in self.psql(&query).lines() {
            let bytes = line.strip_prefix("\\x").expect("bytes in hexadecimal");
            let byte = |at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..bytes.len()).step_by(2).map(byte).collect();
            let message = pgoutput::decode(&bytes).unwrap();
            if let Message::Begin { xid: begun, .. } = message {
                xid = begun;
            }
            told.take(&self.key, xid, message);
        }
        told
    }
}

impl Told {
    fn take(&mut self, key: &MessageKey, xid: u32, message: Message<'_>) {
        let (prefix, content) = match message {
            Message::Logical { prefix, content, .. } => (prefix, content),
            Message::Insert { relation, new } => {
                let tables = self.signals.iter().rev().flat_map(|signal| &signal.tables);
                let told = tables.into_iter().find(|table| table.facts.oid == relation);
                self.misplaced += usize::from(told.is_some_and(|it| it.facts.columns.len() != new.0.len()));
                return self.inserts += 1;
            }
            _ => return,
        };
        // Stands after each of ours, only to keep its place.
        if prefix == b"backwhen.after" {
            return assert!(content.is_empty());
        }
        let Some(body) = key.verified(prefix, xid, content) else { return self.unsigned += 1 };
        if prefix == signal::DEFINITION.as_bytes() {
            let text = String::from_utf8_lossy(body);
            let read = DefinitionSignal::read(key, xid, content, std::iter::empty()).expect("it is ours");
            assert!(!read.trouble.as_deref().unwrap_or_default().contains("cannot be read"), "{text}");
            self.signals.push(read);
        } else {
            assert_eq!(prefix, signal::ROWS.as_bytes());
            let rows = RowsSignal::decode(body).expect("rows are well formed");
            let lines = self.rows.entry(rows.table).or_default();
            if rows.first {
                lines.clear();
            }
            lines.extend_from_slice(rows.lines);
        }
    }

    pub fn tags(&self) -> Vec<&str> {
        self.signals.iter().map(|signal| &*signal.tag).collect()
    }

    /// The only one.
    pub fn signal(&self) -> &DefinitionSignal {
        assert_eq!(self.signals.len(), 1, "{:?}", self.tags());
        &self.signals[0]
    }

    /// The last that was said of a table.
    pub fn table(&self, name: &str) -> &DefinedTable {
        let all = self.signals.iter().rev().flat_map(|signal| &signal.tables);
        all.into_iter().find(|table| table.facts.name == name).unwrap_or_else(|| panic!("nothing of {name}"))
    }

    pub fn assert_no_trouble(&self) {
        for signal in &self.signals {
            assert_eq!(signal.trouble, None, "{signal:?}");
        }
        assert_eq!(self.unsigned, 0);
    }
}
