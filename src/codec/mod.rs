//! Converts bytes to the types of the model and back: pure functions that never panic on any input.

pub mod copy_binary;
pub mod copy_text;
pub mod key;
pub mod pgoutput;
pub mod retell;
pub mod row_digest;

#[cfg(test)]
mod hostile;
