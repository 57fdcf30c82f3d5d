//! What the event triggers on the source tell, and that they never stand in the application's way.

mod harmless;
mod installed;
mod retold;
mod rows;
mod statements;
mod told;

pub use told::Source;
