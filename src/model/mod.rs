//! Plain data: positions, moments, tables and changes. The module depends only on `error`.

pub mod change;
pub mod database;
pub mod definition;
pub mod inexact;
pub mod lsn;
pub mod moment;
pub mod pattern;
pub mod schema;
pub mod schema_digests;
pub mod sequence;
pub mod snapshot;
pub mod spelling;
pub mod written;
mod zone;

pub use change::{Message, Relation, RelationColumn, Tuple, Value};
pub use database::DatabaseFacts;
pub use definition::{ColumnFacts, TableFacts};
pub use inexact::{Inexact, LeftOut};
pub use lsn::Lsn;
pub use moment::{Edge, Moment, PgTime};
pub use pattern::Selection;
pub use schema::{Column, Grade, RowIdentity, Storage, Table};
pub use sequence::{SequenceOwner, SequenceState};
pub use snapshot::Snapshot;
