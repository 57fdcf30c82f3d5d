//! The SQL of the event triggers, which [`source::triggers`](crate::source::triggers) fills in and installs. In each text
//! `{slot}` stands for the name of the history's slot.

/// Marks the rest of a transaction as backwhen's own doing, of which the event triggers do not tell.
pub const OWN: &str = include_str!("own.sql");
/// Brings the table of an older version up to date.
pub const OLDER: &str = include_str!("older.sql");
/// Drops what a newer version could not replace in place.
pub const CLEAR: &str = include_str!("clear.sql");
/// The table that holds what the event triggers know of their history.
pub const TABLE: &str = include_str!("table.sql");
/// The functions that the server calls at each event.
pub const EVENTS: &str = include_str!("events.sql");
/// Signs, keeps and writes messages, and puts a statement's message together.
pub const TELL: &str = include_str!("tell.sql");
/// Writes rows that the stream does not carry.
pub const ROWS: &str = include_str!("rows.sql");
/// Tells which stored values read otherwise after a statement.
pub const RETOLD: &str = include_str!("retold.sql");
/// Finds the relations that a statement may have changed, and publishes tables.
pub const AFFECTED: &str = include_str!("affected.sql");
/// Describes the tables that a statement changed.
pub const DEFINITION: &str = include_str!("definition.sql");
/// Creates the event triggers themselves.
pub const TRIGGERS: &str = include_str!("triggers.sql");
/// Drops what is left once the event triggers are gone.
pub const REMOVE: &str = include_str!("remove.sql");
