//! Reckons what the target's server has room for: how many sessions make small tables at once, and how much memory an index
//! may take while it is built.

use crate::connect::{Session, server_error};
use crate::error::Result;

/// Up to this major version the server waits for the disk once for each index that it builds, so also for each table that has
/// a TOAST table. Sessions that wait at the same time wait for less. Later versions use the processor alone.
const WAITS_FOR_EACH_INDEX: u32 = 16;

/// The number of sessions that are worth it while the server waits for the disk.
const SESSIONS_WHILE_WAITING: usize = 16;

/// The number of sessions otherwise, and on a server with few connections left.
const SESSIONS: usize = 4;

/// At most this share of the free connections is used: rows and statements have sessions of their own, and so do others.
const SHARE_OF_CONNECTIONS: i64 = 4;

/// With fewer entries or tables in one transaction, beginning and ending it takes longer than the waiting that more
/// sessions save; with more, the transaction holds many locks.
const IN_ONE_TRANSACTION: usize = 50;

/// The sort of an index takes at most this much memory: more than the server's own default of 64 MiB, which makes it write
/// half sorted runs of a few million rows to the disk and read them again.
const INDEX_MEMORY: i64 = 256 << 20;

/// An entry of an index takes about this many bytes while it is sorted, if its columns are short.
const BYTES_OF_ENTRY: u64 = 64;

/// One session of several holds at most this many locks: four on each table, with its TOAST table, its indexes and room for
/// a second index.
const LOCKS_OF_SESSION: i64 = 4 * IN_ONE_TRANSACTION as i64;

/// At most this share of the server's locks is taken, as the server may give all of them to others.
const SHARE_OF_LOCKS: i64 = 2;

/// Selects the number of connections that are free for this user, the number of locks that the server can hold, and the
/// bytes of `shared_buffers` and `maintenance_work_mem`.
const ROOM: &str = "
SELECT least(pg_catalog.current_setting('max_connections')::int8
                 - pg_catalog.current_setting('superuser_reserved_connections')::int8 - taken.by_all,
             CASE WHEN r.rolconnlimit >= 0 AND NOT r.rolsuper THEN r.rolconnlimit - taken.by_us END),
       pg_catalog.current_setting('max_locks_per_transaction')::int8
           * (pg_catalog.current_setting('max_connections')::int8 + pg_catalog.current_setting('max_prepared_transactions')::int8),
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')),
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem'))
  FROM pg_catalog.pg_roles r,
       LATERAL (SELECT pg_catalog.count(a.datid) AS by_all,
                       pg_catalog.count(*) FILTER (WHERE a.usesysid = r.oid) AS by_us
                  FROM pg_catalog.pg_stat_activity a) taken
 WHERE r.rolname = current_user";

/// The room that the target's server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The number of sessions that make small tables, or load them, at the same time.
    pub sessions: usize,
    /// The value of `maintenance_work_mem` in bytes for a session that builds an index.
    index_memory: i64,
}

impl Room {
    /// Asks the server. `jobs` indexes of large tables are built at the same time.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server does not answer.
    pub async fn of(session: &Session, server_major: u32, jobs: usize) -> Result<Room> {
        let row = session.query_one(ROOM, &[]).await;
        let row = row.map_err(|error| server_error("cannot ask what the server has room for", error))?;
        Ok(Room {
            sessions: sessions(server_major, row.get(0), row.get(1)),
            index_memory: index_memory(jobs, row.get(2), row.get(3)),
        })
    }

    /// The statement that prepares a session for building indexes.
    pub fn settings(&self) -> String {
        format!("SET maintenance_work_mem = '{}kB'", self.index_memory / 1024)
    }

    /// Whether the sort of so many rows needs no disk. Parallel workers do not help such a sort: each writes its share of the
    /// rows to the disk, and all cores have other tables to load.
    pub fn sorts_in_memory(&self, rows: u64) -> bool {
        i64::try_from(rows.saturating_mul(BYTES_OF_ENTRY)).is_ok_and(|bytes| bytes <= self.index_memory)
    }
}

fn sessions(server_major: u32, free_connections: i64, locks: i64) -> usize {
    let worth = if server_major <= WAITS_FOR_EACH_INDEX { SESSIONS_WHILE_WAITING } else { SESSIONS };
    let room = (free_connections / SHARE_OF_CONNECTIONS).min(locks / SHARE_OF_LOCKS / LOCKS_OF_SESSION);
    usize::try_from(room).unwrap_or(0).clamp(SESSIONS, worth)
}

/// All builders together take no more than the server's buffers are, by which its administrator tells how large it is, unless
/// the server's own setting lets them.
fn index_memory(jobs: usize, shared_buffers: i64, own_setting: i64) -> i64 {
    let share = shared_buffers / i64::try_from(jobs.max(1)).unwrap_or(i64::MAX);
    own_setting.max(share.min(INDEX_MEMORY))
}

/// Returns how many of `count` tables or entries go into one transaction, so that all `sessions` have as many.
pub(in crate::recover) fn in_one_transaction(count: usize, sessions: usize) -> usize {
    let sessions = count.div_ceil(IN_ONE_TRANSACTION).clamp(1, sessions.max(1));
    let rounds = count.div_ceil(sessions * IN_ONE_TRANSACTION).max(1);
    count.div_ceil(sessions * rounds).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_sessions_only_where_the_server_waits_and_has_connections_and_locks() {
        assert_eq!(sessions(15, 97, 6400), 16, "the server's own defaults");
        assert_eq!(sessions(15, 30, 6400), 7);
        assert_eq!(sessions(15, 3, 6400), 4);
        assert_eq!(sessions(15, -5, 6400), 4);
        assert_eq!(sessions(15, 97, 2400), 6);
        assert_eq!(sessions(15, 97, 300), 4);
        assert_eq!(sessions(17, 97, 6400), 4);
    }

    #[test]
    fn the_memory_of_all_builders_is_bounded_by_the_servers_buffers() {
        let mib = 1 << 20;
        assert_eq!(index_memory(2, 8192 * mib, 64 * mib), 256 * mib);
        assert_eq!(index_memory(2, 256 * mib, 64 * mib), 128 * mib);
        assert_eq!(index_memory(8, 128 * mib, 64 * mib), 64 * mib);
        assert_eq!(index_memory(2, 8192 * mib, 1024 * mib), 1024 * mib, "the server's own setting is kept");
        let room = Room { sessions: 4, index_memory: 256 * mib };
        assert_eq!(room.settings(), "SET maintenance_work_mem = '262144kB'");
        assert!(room.sorts_in_memory(4 * 1024 * 1024) && !room.sorts_in_memory(4 * 1024 * 1024 + 1));
        assert!(!room.sorts_in_memory(u64::MAX));
    }

    #[test]
    fn all_sessions_have_as_many_tables_and_no_transaction_more_than_fifty() {
        assert_eq!(in_one_transaction(1000, 16), 32);
        assert_eq!(in_one_transaction(1000, 4), 50);
        assert_eq!(in_one_transaction(122, 16), 41);
        assert_eq!(in_one_transaction(1, 16), 1);
        assert_eq!(in_one_transaction(0, 0), 1);
        for count in 1..2000 {
            for sessions in 1..20 {
                let each = in_one_transaction(count, sessions);
                assert!((1..=IN_ONE_TRANSACTION).contains(&each), "{count} over {sessions}");
            }
        }
    }
}
