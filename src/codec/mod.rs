//! Bytes to model and back: pure, and never panicking on any input.

pub mod copy_binary;
pub mod copy_text;
pub mod key;
pub mod pgoutput;
pub mod retell;
pub mod row_digest;

#[cfg(test)]
mod hostile;
