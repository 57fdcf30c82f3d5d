//! Bad input, servers that are not ready, full disks and damaged files: each ends with the right exit
//! code and a message that says what, where and what to type next; nothing is lost, and nothing is
//! left behind.

mod budget;
mod capture;
mod clock;
mod copies;
mod damage;
pub mod disk;
mod failover;
mod formats;
mod init;
mod interrupted;
mod login;
mod losses;
mod moments;
mod monitoring;
mod network;
mod proof;
mod readiness;
mod resync;
mod target;
mod together;
mod tools;

/// Exit codes; they are a contract.
mod exit {
    pub const USAGE: i32 = 2;
    pub const UNAVAILABLE: i32 = 10;
    pub const OUTSIDE_WINDOW: i32 = 11;
    pub const DAMAGED: i32 = 12;
    pub const LOCKED: i32 = 13;
    pub const REFUSED: i32 = 14;
    pub const INTERRUPTED: i32 = 130;
}
