//! Every kind of row comes back exact to the byte: keys, values, names, tables, transactions.
//!
//! A theme is a file of SQL in sections; `story` runs it around an image, a folded checkpoint and a
//! moment in the middle, and compares `pg_dump` of source and recovered database each time.

mod encodings;
mod story;
mod themes;
mod volume;
