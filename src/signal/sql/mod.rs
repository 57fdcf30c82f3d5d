//! The SQL of the event triggers, which [`source::triggers`](crate::source::triggers) fills in and installs. In each text
//! `{slot}` stands for the name of the history's slot.

/// Marks the rest of a transaction as backwhen's own work, which the event triggers do not tell.
pub const OWN: &str = include_str!("own.sql");
/// Brings the table that an older version created up to date.
pub const OLDER: &str = include_str!("older.sql");
/// Drops the parts of an older installation that a newer version could not replace in place.
pub const CLEAR: &str = include_str!("clear.sql");
/// The table that holds what the event triggers know of their history.
pub const TABLE: &str = include_str!("table.sql");
/// Creates the functions that the server calls at each event.
pub const EVENTS: &str = include_str!("events.sql");
/// Creates the functions that sign, keep and write messages, and that build a statement's message.
pub const TELL: &str = include_str!("tell.sql");
/// Creates the functions that write rows which the stream does not carry.
pub const ROWS: &str = include_str!("rows.sql");
/// Creates the functions that find stored values which read differently after a statement.
pub const RETOLD: &str = include_str!("retold.sql");
/// Creates the functions that find the relations which a statement may have changed, and that publish tables.
pub const AFFECTED: &str = include_str!("affected.sql");
/// Selects the tables whose replica identity `init --full-identity` changes, for the event triggers and for sessions.
pub const IDENTITIES: &str = include_str!("identities.sql");
/// Creates the functions that change replica identities.
pub const IDENTIFY: &str = include_str!("identify.sql");
/// Creates the functions that describe the tables which a statement changed.
pub const DEFINITION: &str = include_str!("definition.sql");
/// Creates the event triggers themselves.
pub const TRIGGERS: &str = include_str!("triggers.sql");
/// Drops the remaining objects once the event triggers are gone.
pub const REMOVE: &str = include_str!("remove.sql");
/// Drops the schema `backwhen` if nothing is left in it.
pub const REMOVE_SCHEMA: &str = include_str!("remove_schema.sql");
