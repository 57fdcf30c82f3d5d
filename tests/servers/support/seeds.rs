//! Numbers that the environment gives to a test.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the number in a variable of the environment; `None` if it is not set.
pub fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Returns the seed that `BACKWHEN_TEST_SEED` gives, or another one each time. A test prints its seed, so that a failure can
/// be had again.
pub fn seed() -> u64 {
    number_from("BACKWHEN_TEST_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        since.as_micros() as u64 % 1_000_000_000
    })
}
