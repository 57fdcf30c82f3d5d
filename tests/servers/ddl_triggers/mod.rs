//! What the event triggers on the source tell, and that they never stand in the application's way.

mod harmless;
mod installed;
mod pool;
mod published;
mod retold;
mod rows;
mod settings;
mod statements;
mod told;

pub use harmless::lock_publications;
pub use told::Source;
