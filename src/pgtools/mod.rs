//! PostgreSQL's own client programs: only they write and read schema archives.
//!
//! Several majors can be installed side by side. A dump needs the server's major or a newer one; the same major is
//! best, because a newer pg_dump writes settings that an older server refuses.

mod account;
mod child;
mod cluster;
mod confine;
mod digests;
mod dump;
mod extras;
mod facts;
mod install;
mod local;

pub use child::Child;
pub use digests::{schema_digests, schema_digests_over};
pub use dump::{dump_definitions, dump_globals, dump_schema};
pub use extras::{MaterializedView, materialized_views, roles_used};
pub use install::{FOLDER_VARIABLE, Installation, Tools};
pub use local::{LocalServer, ServerDemands};
