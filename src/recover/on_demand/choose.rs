//! Chooses the tables that stand behind gates. The others are loaded before the database is open.
//!
//! Relations that must open at the same instant are a group: a partitioned table with its partitions, a table with those
//! that inherit from it, and a materialised view with all that it reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::ambient;
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::recover::gate::{Content, GatedTable, OwnedRelation, running_code};

const READS: &str = include_str!("reads.sql");

/// A group with more than this many bytes may stand behind a gate. Smaller ones are loaded sooner than somebody asks for them.
const GATE_ABOVE: u64 = 1 << 20;

/// The most gates. Each takes a session, and one that somebody waits for takes some of the machine.
const GATE_LIMIT: i64 = 48;

/// The sessions that are left to the application whatever happens.
const SESSIONS_LEFT: i64 = 10;

/// The locks that one gate may need: a table's, those of its indexes, and those of its partitions.
const LOCKS: i64 = 64;

/// Selects the free connections of the server, and the locks for which it has room.
const BOUNDS: &str = "
SELECT pg_catalog.current_setting('max_connections')::int8
       - (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
       pg_catalog.current_setting('max_locks_per_transaction')::int8 * (pg_catalog.current_setting('max_connections')::int8
       + pg_catalog.current_setting('max_prepared_transactions')::int8)";

/// The tables and views of a database, divided.
#[derive(Default)]
pub(super) struct Choice {
    /// The tables that are loaded before the database is open.
    pub before: Vec<GatedTable>,
    /// The materialised views that are filled before the database is open, in their order.
    pub views_before: Vec<OwnedRelation>,
    /// The tables and views behind each gate.
    pub gated: Vec<Content>,
    /// The materialised views that cannot be filled as of the moment.
    pub unfilled: Vec<OwnedRelation>,
    pub notes: Vec<String>,
}

#[derive(Default)]
struct Group {
    content: Content,
    runs_code: bool,
}

impl Group {
    fn weight(&self) -> u64 {
        self.content.tables.iter().map(|table| table.folded.weight()).sum()
    }

    fn name(&self) -> String {
        self.content.names().into_iter().next().unwrap_or_default()
    }
}

/// Relations that are joined into groups, each known by one of its members.
#[derive(Default)]
struct Joined(BTreeMap<u32, u32>);

impl Joined {
    fn group_of(&self, mut relation: u32) -> u32 {
        while let Some(next) = self.0.get(&relation) {
            relation = *next;
        }
        relation
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.group_of(one), self.group_of(other));
        if one != other {
            self.0.insert(one, other);
        }
    }
}

/// Divides tables and views. Views come in an order in which each may be filled from those before it.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(super) async fn choose(
    session: &Session,
    tables: Vec<GatedTable>,
    views: Vec<OwnedRelation>,
    jobs: usize,
) -> Result<Choice> {
    let mut joined = Joined::default();
    for table in &tables {
        table.ancestors.iter().for_each(|above| joined.join(table.oid, above.oid));
    }
    let opaque = join_views(session, &views, &mut joined).await?;
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let code = running_code(session, &oids).await?;
    let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
    for table in tables {
        let group = groups.entry(joined.group_of(table.oid)).or_default();
        group.runs_code |= code.contains(&table.oid);
        group.content.tables.push(table);
    }
    let mut choice = Choice::default();
    let mut opaque_views = Vec::new();
    for view in views {
        if opaque.contains(&view.relation.oid) {
            opaque_views.push(view);
        } else {
            groups.entry(joined.group_of(view.relation.oid)).or_default().content.views.push(view);
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.weight()));
    choice.divide(groups, limit(session, jobs).await?);
    // A function may read a table that is not loaded yet.
    let views = if choice.gated.is_empty() { &mut choice.views_before } else { &mut choice.unfilled };
    views.extend(opaque_views);
    Ok(choice)
}

impl Choice {
    /// Takes the largest groups, which come first, behind gates.
    fn divide(&mut self, groups: Vec<Group>, limit: usize) {
        let above = ambient::test_number("BACKWHEN_TEST_GATE_ABOVE").unwrap_or(GATE_ABOVE);
        for group in groups {
            let is_large = group.weight() > above;
            if is_large && !group.runs_code && self.gated.len() < limit {
                self.gated.push(group.content);
                continue;
            }
            if is_large {
                let why = if group.runs_code {
                    "it has a domain, or calls a function of the application's when rows are loaded"
                        .to_owned()
                } else {
                    format!(
                        "the server has room for {limit} gates, which larger tables have (max_connections, \
                             max_locks_per_transaction)"
                    )
                };
                self.notes.push(format!("{} was loaded before the database was open: {why}", group.name()));
            }
            self.before.extend(group.content.tables);
            self.views_before.extend(group.content.views);
        }
    }
}

/// Joins views with what they read. Returns those that may read more than the catalogs tell.
async fn join_views(
    session: &Session,
    views: &[OwnedRelation],
    joined: &mut Joined,
) -> Result<BTreeSet<u32>> {
    let oids: Vec<u32> = views.iter().map(|view| view.relation.oid).collect();
    let rows = session.query(READS, &[&oids]).await;
    let rows = rows.map_err(|error| server_error("cannot see what materialised views read", error))?;
    let mut opaque = BTreeSet::new();
    for row in rows {
        let (view, relation, is_opaque): (u32, u32, bool) = (row.get(0), row.get(1), row.get(2));
        joined.join(view, relation);
        if is_opaque {
            opaque.insert(view);
        }
    }
    Ok(opaque)
}

/// The number of gates for which the server has room.
async fn limit(session: &Session, jobs: usize) -> Result<usize> {
    let row = session.query_one(BOUNDS, &[]).await;
    let row = row.map_err(|error| server_error("cannot read the limits of the server", error))?;
    let (sessions, locks): (i64, i64) = (row.get(0), row.get(1));
    let sessions = (sessions - SESSIONS_LEFT - jobs as i64) / 2;
    Ok(sessions.min(locks / LOCKS).clamp(0, GATE_LIMIT) as usize)
}
