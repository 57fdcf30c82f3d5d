//! The outlook of a history: how long a recovery would take, whether a person's needs are met, and how long the room lasts.
//!
//! Everything here follows from what was measured: the times of earlier verifications by recovery, and the times and sizes of
//! the segments and checkpoints that the history holds. What was not measured is unknown, and is said to be.

mod forecast;
mod needs;
mod next_checkpoint;
mod pace;

pub use forecast::{Forecast, Room};
pub use needs::{DiscoverNeed, Due, Needs, RecoverNeed};
pub use next_checkpoint::next_checkpoint_bytes;
pub use pace::RecoveryPace;
