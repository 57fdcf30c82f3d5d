//! Behaviours of backwhen on real PostgreSQL servers, a folder or file for each subject. They are one program, so that what
//! they share is compiled once: `cargo test --test servers` runs all, `cargo test --test servers expire::` one subject.

#![allow(clippy::disallowed_methods, reason = "tests spoil files and wait for clocks by themselves")]

mod capture;
mod cli;
mod connect;
mod crash;
mod ddl_triggers;
mod definitions;
mod demand;
mod drain;
mod encrypted;
mod expire;
mod identity;
mod journey;
mod left_out;
mod live;
mod loading;
mod metrics;
mod migrations;
mod part;
mod promises;
mod random;
mod replay;
mod retold;
mod rows;
mod security;
mod sink;
mod stores;
mod support;
mod support_dump;
mod support_server;
mod templates;
mod testing;
mod travel;
mod trouble;
