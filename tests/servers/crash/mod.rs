//! Death at every step: the process is killed at each failpoint and at random, the power is cut, and what
//! is found afterwards is the truth: no transaction missing, none twice, none torn.
//!
//! `BACKWHEN_SOAK_SECONDS` makes the random part go on for so long; `BACKWHEN_TEST_SEED` replays one.

mod points;
mod power;
mod random;
mod stored;
