#![doc = include_str!("FORMAT.md")]

mod admission;
mod adopt;
mod block;
mod builder;
mod columns;
mod counts;
mod fault;
mod filter;
mod footer;
mod increments;
mod index;
mod kept;
mod logical;
mod lookup;
mod mirror;
mod name;
mod newest;
mod opening;
mod pages;
mod partial;
mod parts;
mod peek;
mod place;
mod reading;
mod record;
mod recovery;
mod relations;
mod seal;
mod seam;
mod sections;
mod segment;
mod summary;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use admission::Admission;
pub use adopt::adopt_increments;
pub use builder::{BlockBuilder, RawBlock, Received};
pub use counts::{ChangeCount, ChangeKind, Counts};
pub use footer::{Footer, read_footer};
pub use increments::{check_increment, fetch};
pub use kept::KeptBlocks;
pub use logical::{LogicalMessage, TransactionMessage};
pub use lookup::{ChangeIndex, ChosenBlocks, SoughtRows};
pub use mirror::{CopiedEnd, FollowedSegment, Mirrored, OpenSegmentEnd, mirror, open_segment_end};
pub use name::{SegmentHeader, SegmentName};
pub use opening::RecoveredJournal;
pub use partial::{Lookup, look_up};
pub use place::Journal;
pub use reading::{DecodedBlock, Event, Events, Place, SegmentBlocks};
pub use seal::seal;
pub use seam::{Confirmable, ContinuityBreak, Seam};
pub use sections::BlockExtent;
pub use segment::Segment;
pub use summary::{
    ClockSteps, IdleMark, Mark, RelationChange, RelationCounts, SegmentSummary, SequenceSamples,
    TransactionEntry,
};
pub use verify::{SegmentReport, check_digest, verify_segment};
pub use writer::{Durable, Writer};
