//! Real PostgreSQL servers, the built `backwhen`, and the truth to compare with.
//!
//! `use crate::support::…` in a test file brings it. Which server a test meets is chosen by
//! `BACKWHEN_TEST_PG`: a local major (`15`), a folder of server programs (`/path/to/bin`), a container
//! image (`docker:postgres:17`, needs the feature `docker-tests`), or nothing: the newest local one.

mod backwhen;
pub mod bank;
mod capture;
mod clock;
#[cfg(feature = "docker-tests")]
mod container;
mod dump;
mod engine;
mod local;
mod meanwhile;
mod programs;
mod proxy;
pub mod s3_faults;
pub mod scan;
mod scratch;
mod seeds;
mod server;
pub mod shop;
pub mod stores;
pub mod untold;
mod waiting;

pub use backwhen::{Backwhen, Output, finish, wait};
pub use capture::Capture;
pub use clock::Clock;
pub use dump::{Difference, Dump, Part, assert_same, compare};
pub use engine::Stop;
pub use local::as_somebody;
pub use meanwhile::meanwhile;
pub use programs::versions;
pub use proxy::Proxy;
pub use scratch::scratch_folder;
pub use seeds::{number_from, seed};
pub use server::{Server, for_each_version, on_oldest_and_newest};
pub use stores::s3;
pub use waiting::{wait_at_most, wait_for};
