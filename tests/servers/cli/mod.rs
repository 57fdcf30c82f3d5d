//! The command line as a contract: its help, its exit codes, its JSON, its settings, its targets.

mod epochs;
mod examples;
mod help;
mod json;
mod opens;
mod recover;
mod settings;
mod versions;
