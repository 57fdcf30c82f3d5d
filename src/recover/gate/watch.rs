//! Sees who waits at a gate, and opens it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::{Context, Error, Kind, Result};

use super::{Content, GATE_LIMIT, Gate, GatedTable, OpenedGate, OwnedRelation};

/// The pause between two questions who waits, soon after somebody has waited. A wait becomes longer by half of it on average.
const INTERVAL: Duration = Duration::from_millis(10);

/// The pause when nobody has waited for some time.
const LONGEST_INTERVAL: Duration = Duration::from_millis(50);

/// Selects the relations that somebody waits for, with the processes that wait.
const WANTED: &str = "
SELECT l.relation, pg_catalog.array_agg(l.pid) FROM pg_catalog.pg_locks l
 WHERE NOT l.granted AND l.locktype = 'relation'
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
 GROUP BY 1";

/// An event at a gate, for the person who asked for the past.
#[derive(Debug)]
pub enum GateEvent {
    Opened(OpenedGate),
    /// The relations cannot be loaded, and stay locked.
    Failed {
        relations: Vec<String>,
        error: Error,
    },
}

/// The gates of one database.
pub struct Gates {
    watcher: Session,
    closed: BTreeMap<usize, Gate>,
    /// The gates that hold a relation, by its oid.
    by_oid: HashMap<u32, Vec<usize>>,
    opening: JoinSet<(usize, Result<OpenedGate, (Gate, Error)>)>,
    /// Gates that cannot be opened: whoever waits there is sent away.
    failed: BTreeMap<usize, Gate>,
    /// The gates at which somebody has waited.
    wanted: BTreeSet<usize>,
    pause: Duration,
}

impl Gates {
    /// Closes gates before all of these tables and views.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server does not give the sessions and locks.
    pub async fn close(info: &Conninfo, tables: Vec<GatedTable>, views: Vec<OwnedRelation>) -> Result<Gates> {
        Gates::close_each(info, divided(tables, views, GATE_LIMIT)).await
    }

    /// Closes a gate for each of the contents, which are opened in this order if nobody waits.
    ///
    /// # Errors
    /// `Unavailable` or `Refused` if the server does not give the sessions and locks.
    pub(in crate::recover) async fn close_each(info: &Conninfo, contents: Vec<Content>) -> Result<Gates> {
        let gates = try_join_all(contents.into_iter().map(|content| Gate::close(info, content))).await?;
        let closed: BTreeMap<_, _> = gates.into_iter().enumerate().collect();
        let mut by_oid: HashMap<u32, Vec<usize>> = HashMap::new();
        for (number, gate) in &closed {
            gate.content.oids().into_iter().for_each(|oid| by_oid.entry(oid).or_default().push(*number));
        }
        Ok(Gates {
            watcher: Session::connect_utf8(info, "gates").await?,
            by_oid,
            closed,
            opening: JoinSet::new(),
            failed: BTreeMap::new(),
            wanted: BTreeSet::new(),
            pause: INTERVAL,
        })
    }

    /// Opens the gates at which somebody waits, for as long as the future is polled.
    ///
    /// # Errors
    /// `Unavailable` if the server fails: then a table may be seen empty, and nobody may be shown more.
    pub async fn watch(&mut self, tell: &(dyn Fn(GateEvent) + Send + Sync)) -> Result<()> {
        loop {
            self.step(tell).await?;
        }
    }

    /// Opens all gates: those at which somebody waits at once, the others in their order, `jobs` at a time.
    ///
    /// # Errors
    /// `Unavailable` if the server fails: then the database is not finished.
    pub(in crate::recover) async fn open_all(
        &mut self,
        jobs: usize,
        tell: &(dyn Fn(GateEvent) + Send + Sync),
    ) -> Result<()> {
        let jobs = ambient::test_number("BACKWHEN_TEST_UNASKED").map_or(jobs.max(1), |jobs| jobs as usize);
        loop {
            while self.opening.len() < jobs
                && let Some(number) = self.closed.keys().next().copied()
            {
                self.open(number);
            }
            if self.opening.is_empty() && self.closed.is_empty() {
                return Ok(());
            }
            self.step(tell).await?;
        }
    }

    /// Opens the gates at which somebody waits now, and takes note of one that has opened.
    async fn step(&mut self, tell: &(dyn Fn(GateEvent) + Send + Sync)) -> Result<()> {
        self.require_locks()?;
        let wanted = self.wanted().await?;
        self.pause = if wanted.is_empty() { LONGEST_INTERVAL.min(self.pause * 101 / 100) } else { INTERVAL };
        for (oid, processes) in wanted {
            let numbers = self.by_oid.get(&oid).cloned().unwrap_or_default();
            if numbers.iter().any(|number| self.failed.contains_key(number)) {
                self.send_away(&processes).await?;
            }
            self.wanted.extend(&numbers);
            numbers.into_iter().for_each(|number| self.open(number));
        }
        tokio::select! {
            Some(done) = self.opening.join_next() => {
                let (number, opened) = done.context(Kind::Internal, || "a loading task failed".into())?;
                self.take(number, opened, tell);
            }
            () = tokio::time::sleep(self.pause) => {}
        }
        Ok(())
    }

    /// Begins to open a gate, if it is closed.
    fn open(&mut self, number: usize) {
        let Some(gate) = self.closed.remove(&number) else { return };
        self.opening.spawn(async move { (number, gate.open().await) });
    }

    /// Waits until the gates that are opening are open.
    ///
    /// # Errors
    /// `Internal` if a loading task fails.
    pub async fn settle(&mut self, tell: &(dyn Fn(GateEvent) + Send + Sync)) -> Result<()> {
        while let Some(done) = self.opening.join_next().await {
            let (number, opened) = done.context(Kind::Internal, || "a loading task failed".into())?;
            self.take(number, opened, tell);
        }
        Ok(())
    }

    fn take(
        &mut self,
        number: usize,
        opened: Result<OpenedGate, (Gate, Error)>,
        tell: &(dyn Fn(GateEvent) + Send + Sync),
    ) {
        match opened {
            Ok(opened) => {
                let opened = OpenedGate { wanted: self.wanted.contains(&number), ..opened };
                self.by_oid.values_mut().for_each(|gates| gates.retain(|gate| *gate != number));
                tell(GateEvent::Opened(opened));
            }
            Err((gate, error)) => {
                tell(GateEvent::Failed { relations: gate.content.names(), error });
                self.failed.insert(number, gate);
            }
        }
    }

    async fn wanted(&self) -> Result<Vec<(u32, Vec<i32>)>> {
        let rows = self.watcher.query(WANTED, &[]).await;
        let rows = rows.map_err(|error| server_error("cannot see which tables are asked for", error))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Cancels the statements of processes that wait for what cannot be loaded.
    async fn send_away(&self, processes: &[i32]) -> Result<()> {
        let sql = "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.unnest($1::int4[]) AS pid";
        let done = self.watcher.query(sql, &[&processes]).await;
        done.map(drop).map_err(|error| server_error("cannot cancel statements", error))
    }

    /// A gate whose session has ended has let go of its locks.
    fn require_locks(&self) -> Result<()> {
        let lost = self.closed.values().chain(self.failed.values()).find(|gate| gate.session.is_closed());
        match lost {
            None => Ok(()),
            Some(gate) => Err(Error::unavailable(format!(
                "the session that held {} has ended: the server was restarted, or somebody ended the session",
                gate.content.names().join(", ")
            ))),
        }
    }
}

/// Gives each of the largest tables a gate of its own; the others share as many gates again. Views come in an order in which
/// each may be filled from those before it.
fn divided(mut tables: Vec<GatedTable>, views: Vec<OwnedRelation>, limit: usize) -> Vec<Content> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.folded.size_hint().1));
    let rest = tables.split_off(tables.len().min(limit));
    let of_tables = |some: &[GatedTable]| Content { tables: some.to_vec(), ..Content::default() };
    let mut contents: Vec<_> = tables.chunks(1).map(of_tables).collect();
    let together = rest.len().div_ceil(limit).max(1);
    contents.extend(rest.chunks(together).map(of_tables));
    let together = views.len().div_ceil(limit).max(1);
    let of_views = |some: &[OwnedRelation]| Content { views: some.to_vec(), ..Content::default() };
    contents.extend(views.chunks(together).map(of_views));
    contents
}
