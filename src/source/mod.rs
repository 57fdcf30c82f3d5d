//! Where changes come from.

pub mod stream;
