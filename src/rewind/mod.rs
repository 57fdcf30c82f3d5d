//! Puts the live database right in place: back to a moment, or without some transactions.
//!
//! [`ChangedRows`] reads from the journal which rows were touched since a moment, and all of their versions that matter.
//! [`solve`] decides which rows shall be what, and what is in the way. [`Amendment`] locks the live tables, reads on
//! until the history holds all that was committed in them, decides again, and changes the rows in one transaction by
//! [`source::amend`](crate::source::amend). The transaction goes through the stream like any other, so it can itself be
//! taken back.

mod catch_up;
mod changed;
mod conflicts;
mod difference;
mod exact;
mod except;
mod execute;
mod filter;
mod plan;
mod reset;
mod solve;
mod table;
mod template;
mod undo;

pub use catch_up::reading_beyond;
pub use conflicts::{ConflictReport, ConflictRule};
pub use difference::{AppliedChange, Difference, Direction};
pub use except::{DigestChange, Exception, ExceptionPlan, blocked};
pub use execute::{Amendment, Applied, PutBack};
pub use filter::Part;
pub use plan::TableCount;
pub use reset::MarkedState;
pub use solve::Aim;
pub use template::find_difference;
