//! Puts a test database back between tests: rows, sequences, and what a test made.
//!
//! A [`TestDatabase`] follows a database with a history of its own. After the schema is made and the seed data is in,
//! [`mark`](TestDatabase::mark) keeps that state; [`reset`](TestDatabase::reset) puts the database back to it, in place,
//! in a time that follows what the test changed and not the size of the database. Tests may commit, use as many
//! connections as they like, truncate, and change the schema.
//!
//! ```no_run
//! use backwhen::testing::TestDatabase;
//!
//! # fn migrate(_: &str) {}
//! # fn first_test(_: &str) {}
//! # fn second_test(_: &str) {}
//! # fn main() -> Result<(), backwhen::testing::Error> {
//! let mut database = TestDatabase::protect("host=localhost user=postgres dbname=shop_test")?;
//! let connection = database.connection().to_owned();
//! migrate(&connection);
//! database.mark("seeded")?;
//! first_test(&connection);
//! database.reset()?;
//! second_test(&connection);
//! let reset = database.reset()?;
//! println!("{} rows put back in {:?}", reset.rows, reset.took);
//! # Ok(())
//! # }
//! ```
//!
//! # What a reset does
//! 1. If only rows and sequences changed, these go back in one transaction, while writers of these tables wait.
//! 2. If a test made tables, columns, views, functions or other objects, they are dropped first, and the definitions are
//!    compared with those of the mark.
//! 3. If a test dropped or changed objects that the mark had, or if some rows cannot be put back in place, the whole
//!    database is recovered under another name and takes the place of the old one. Sessions in the old one end. This takes
//!    seconds, and needs a role that may create databases. [`Reset::how`] tells which of the three it was.
//!
//! [`Reset::not_reset`] names what no reset puts back: rows of unlogged and foreign tables, large objects, and the
//! contents of materialised views.
//!
//! # What is stable
//! The items of this module keep to semantic versioning. The crate's other modules are the inside of a program, and may
//! change with every release. Of [`Error`], `Display`, `Debug` and `std::error::Error` are stable.
//!
//! The calls block. They may be made from any thread, also from one that runs async code, which then waits.

mod anew;
mod protected;
mod report;

use std::path::PathBuf;

use protected::Protected;

pub use crate::error::Error;
use crate::error::Result;
pub use report::{HowReset, Reset};

/// A database that can be reset. It is let go of when this value is dropped: its history is removed, and so is everything
/// that backwhen made in it.
pub struct TestDatabase {
    /// `None` only while the value is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    protected: Protected,
}

/// Options for a [`TestDatabase`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    programs: Option<PathBuf>,
}

impl Options {
    pub fn new() -> Options {
        Options::default()
    }

    /// The only folder from which PostgreSQL's programs (pg_dump, pg_restore, and those of a server) are taken. Otherwise
    /// the folder in `BACKWHEN_PG_BIN` is, or they are looked for in `PATH` and where packages install them.
    #[must_use]
    pub fn programs(mut self, folder: impl Into<PathBuf>) -> Options {
        self.programs = Some(folder.into());
        self
    }

    /// Does what [`TestDatabase::protect`] does.
    ///
    /// # Errors
    /// Fails when that does.
    pub fn protect(&self, connection: &str) -> Result<TestDatabase> {
        TestDatabase::begin(|| Protected::of(connection, self.programs.as_deref()))
    }

    /// Does what [`TestDatabase::start`] does.
    ///
    /// # Errors
    /// Fails when that does.
    pub fn start(&self) -> Result<TestDatabase> {
        TestDatabase::begin(|| Protected::on_own_server(self.programs.as_deref()))
    }
}

impl TestDatabase {
    /// Follows a database that exists. `connection` is a connection string or URI, as libpq takes it. The server needs
    /// `wal_level = logical`, and the role must be a superuser, or one that may make event triggers and has REPLICATION.
    ///
    /// # Errors
    /// Fails if the database cannot be followed; the message says what mends it.
    pub fn protect(connection: &str) -> Result<TestDatabase> {
        Options::new().protect(connection)
    }

    /// Starts a short-lived server of its own, of the newest PostgreSQL that is installed, with a database `test`.
    /// Nothing of the server remains.
    ///
    /// # Errors
    /// Fails if no server's programs are installed, or if they do not start.
    pub fn start() -> Result<TestDatabase> {
        Options::new().start()
    }

    fn begin<F>(begin: impl FnOnce() -> F + Send) -> Result<TestDatabase>
    where
        F: Future<Output = Result<Protected>>,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Error::internal("cannot start").caused_by(error))?;
        let protected = apart(|| runtime.block_on(begin()))?;
        Ok(TestDatabase { runtime: Some(runtime), protected })
    }

    /// The connection string of the database, without a password.
    pub fn connection(&self) -> &str {
        self.protected.connection()
    }

    /// Keeps the present state under a name. Later resets lead to it.
    ///
    /// # Errors
    /// Fails if the database has a mark with this name, or if the server fails.
    pub fn mark(&mut self, name: &str) -> Result<()> {
        self.run(async |protected| protected.mark(name).await)
    }

    /// Puts the database back to the last mark. A transaction that is still open and holds locks on changed tables is
    /// waited for, for ten seconds.
    ///
    /// # Errors
    /// Fails if there is no mark, or if the database can be put back neither in place nor anew.
    pub fn reset(&mut self) -> Result<Reset> {
        self.run(async |protected| protected.reset().await)
    }

    /// Lets go of the database, as dropping the value does, and reports what went wrong.
    ///
    /// # Errors
    /// Fails if something stays on the server.
    pub fn stop(mut self) -> Result<()> {
        self.run(async |protected| protected.let_go().await)
    }

    fn run<T: Send>(&mut self, work: impl AsyncFnOnce(&mut Protected) -> Result<T> + Send) -> Result<T> {
        let TestDatabase { runtime, protected } = self;
        let runtime = runtime.as_ref().ok_or_else(|| Error::internal("the database was let go of"))?;
        apart(|| runtime.block_on(work(protected)))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Err(error) = self.run(async |protected| protected.let_go().await) {
            tracing::warn!("{error}");
        }
        // A runtime that is dropped within another one would panic.
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

/// Runs work on a thread of its own: a runtime refuses to block a thread that runs async code.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
