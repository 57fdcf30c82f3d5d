#![doc = include_str!("FORMAT.md")]

mod block;
mod build;
mod cut;
mod digest;
mod directory;
mod id;
pub mod index;
mod pack;
mod read;
mod scratch;
mod sort;
#[cfg(test)]
mod tests;
mod verify;
mod write;

pub use build::{ImageBuilder, MAX_LINE};
pub use cut::{Cuts, TYPICAL as TYPICAL_BLOCK};
pub use digest::{BadRowsDigest, RowsDigest};
pub use directory::{BlockDirectory, Location, MemoryDirectory, PackUse};
pub use id::{BadBlockId, BlockId, BlockKind};
pub use index::{BlockEntry, TableImage};
pub use pack::{PackEntry, PackReader, object as pack_object, size_of as pack_size};
pub use read::{Blocks, TableReader, lines, read_index, read_rows};
pub use scratch::ScratchImages;
pub use sort::{SortedRows, Sorter};
pub use verify::{PackCheck, verify_pack};
pub use write::{PackStats, Packs};
