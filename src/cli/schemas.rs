//! `backwhen list schemas`

use serde::Serialize;

use super::{Surroundings, ui};
use crate::error::Result;
use crate::history::History;
use crate::history::definitions::changes_in;
use crate::history::timeline::Timeline;
use crate::model::{Lsn, PgTime};
use crate::recover::schema::headlines;
use crate::signal::{DefinedObject, DefinitionChange};

/// The schema from one statement on.
#[derive(Serialize)]
struct SchemaShown {
    epoch: u32,
    /// The argument for `--to` or `--at` that means the state just after this statement's transaction.
    lsn: Lsn,
    time: PgTime,
    xid: u64,
    tag: String,
    /// The statement's first line, without the contents of its strings; empty if the statement cannot be told from
    /// others.
    statement: String,
    role: String,
    login: String,
    objects: Vec<ObjectShown>,
    tables: Vec<String>,
}

#[derive(Serialize)]
struct ObjectShown {
    kind: String,
    identity: String,
    tag: String,
}

pub fn list(at: &Surroundings, history: &History, timeline: &Timeline) -> Result<()> {
    let key = history.identity().message_key();
    let mut shown = Vec::new();
    for stretch in &timeline.stretches {
        let changes = changes_in(stretch, &key, Lsn::ZERO, Lsn::MAX)?;
        let headlines = headlines(&changes);
        let epoch = stretch.epoch.number;
        shown.extend(changes.into_iter().zip(headlines).map(|(change, line)| show(epoch, change, line)));
    }
    at.ui.list(&shown, || {
        let cells = |it: &SchemaShown| {
            vec![
                it.time.to_string(),
                it.lsn.to_string(),
                it.tag.clone(),
                it.role.clone(),
                it.statement.clone(),
            ]
        };
        let rows: Vec<_> = shown.iter().map(cells).collect();
        ui::table(&["time", "lsn", "command", "role", "statement"], &rows)
    })
}

fn show(epoch: u32, change: DefinitionChange, statement: String) -> SchemaShown {
    let DefinitionChange { end_lsn, time, xid, signal, .. } = change;
    let object = |it: DefinedObject| ObjectShown { kind: it.kind, identity: it.identity, tag: it.tag };
    let tables = signal.tables.iter().map(|it| format!("{}.{}", it.facts.schema, it.facts.name));
    SchemaShown {
        epoch,
        lsn: end_lsn,
        time,
        xid,
        tables: tables.collect(),
        tag: signal.tag,
        statement,
        role: signal.statement.role,
        login: signal.statement.login,
        objects: signal.objects.into_iter().map(object).collect(),
    }
}
